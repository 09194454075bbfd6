"""How long save_sharded and load_sharded take, over processes and sizes, next to one torch.save.

    .venv/bin/python benchmarks/distributed.py [--sizes 8 64 512] [--rounds 5] [--folder DIR]
    .venv/bin/python benchmarks/distributed.py --messages --processes 2 4 8

With --messages, nothing is timed: it counts the collectives of one save and their bytes, for two
sizes of model.

For each size (megabytes of parameters; the momentum is as large again), medians of a few rounds:

- disk: as many bytes written by one process, and flushed with fsync;
- torch.save: of one dict, and fsync; torch.load: of the file;
- 1, 2 and 4 processes: save_sharded and load_sharded, from the first rank that begins to the last
  that is done, how much of the saving is dcp.save itself, and how long a save in the background
  blocks.

Files are read from the system's memory, where they still are after they were written.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import helper.distributed
from helper.distributed import load_sharded, save_sharded, wait_for_save
from helper.history import History
from tests.support import many

PROCESSES = get_context("forkserver")
WIDTH = 1024  # a layer of 1024 x 1024 floats has 4 megabytes


def make_run(megabytes):
    """Return a model with that many megabytes of parameters, and an optimizer with momentum."""
    layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(megabytes // 4)]
    model = nn.Sequential(*layers)
    if dist.is_initialized():
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return model, optimizer


def measure(f, rounds, before=None):
    """Return the median seconds of a few calls, after one that doesn't count."""
    seconds = []
    for number in range(rounds + 1):
        if before is not None:
            before()
        start = time.perf_counter()
        f()
        if number > 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def write_and_flush(path, write):
    """Let `write(file)` write a file, and flush it to the disk."""
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def measure_one_file(megabytes, rounds, folder):
    """Return the seconds that the disk, torch.save and torch.load take."""
    path = Path(folder, "file.pt")
    content = os.urandom(megabytes * 2_000_000)
    disk = measure(lambda: write_and_flush(path, lambda file: file.write(content)), rounds)
    model, optimizer = make_run(megabytes)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save = measure(lambda: write_and_flush(path, lambda file: torch.save(state, file)), rounds)
    load = measure(lambda: torch.load(path, weights_only=True), rounds)
    path.unlink()
    return {"disk": disk, "save": save, "load": load}


def barrier():
    if dist.is_initialized():
        dist.barrier()


def be_a_rank(rank, size, megabytes, rounds, folder, results):
    """Measure on one rank of many; rank 0, which waits for all others, sends its seconds."""
    torch.set_num_threads(1)
    if size > 1:
        where = {"init_method": f"file://{folder}/store", "timeout": timedelta(seconds=300)}
        dist.init_process_group("gloo", rank=rank, world_size=size, **where)
    run = make_run(megabytes)
    dcp_seconds = []
    dcp_save = helper.distributed.dcp.save

    def timed_save(*arguments, **settings):
        start = time.perf_counter()
        dcp_save(*arguments, **settings)
        dcp_seconds.append(time.perf_counter() - start)

    helper.distributed.dcp.save = timed_save

    def save():
        save_sharded(Path(folder, "run"), *run, None, History(), keep=1)
        barrier()

    def save_in_background():
        save_sharded(Path(folder, "run"), *run, None, History(), keep=1, wait=False)

    def finish_and_meet():
        wait_for_save()
        barrier()

    def load():
        load_sharded(Path(folder, "run"), *run)
        barrier()

    seconds = {"save": measure(save, rounds, finish_and_meet)}
    seconds["load"] = measure(load, rounds, finish_and_meet)
    seconds["blocked by wait=False"] = measure(save_in_background, rounds, finish_and_meet)
    wait_for_save()
    seconds["dcp.save"] = statistics.median(dcp_seconds[1:])
    newest = max(Path(folder, "run").glob("checkpoint-??????"))
    seconds["metadata"] = (newest / ".metadata").stat().st_size
    if rank == 0:
        results.send(seconds)
    barrier()
    os._exit(0)


def measure_processes(size, megabytes, rounds, folder):
    """Return what `be_a_rank` measures with `size` processes."""
    Path(folder, "store").unlink(missing_ok=True)
    receive, send = PROCESSES.Pipe(duplex=False)
    ranks = [
        PROCESSES.Process(target=be_a_rank, args=(rank, size, megabytes, rounds, folder, send))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        for process in ranks:
            process.join()
        shutil.rmtree(Path(folder, "run"), ignore_errors=True)


def show_messages(sizes, folder):
    """Print what one save of two sharded models sends, for each number of processes."""
    for size in sizes:
        for layers in (2, 20):
            answers = many.run(size, many.count_messages, folder, layers)
            first, last = answers[0], answers[-1]
            print(f"{size} processes, {8 * layers} tensors:", flush=True)
            for who in ("ours", "dcp"):
                (calls, on_first), (_, on_last) = first[who], last[who]
                others = f"{on_last:,} on each other one"
                print(
                    f"    {who}: {calls} calls, {on_first:,} bytes on rank 0, {others}", flush=True
                )


def main():
    parser = argparse.ArgumentParser(description="Save and load over processes and sizes.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 512], help="megabytes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="on the disk that is to be measured")
    parser.add_argument("--messages", action="store_true", help="count them, and time nothing")
    arguments = parser.parse_args()
    if arguments.messages:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            show_messages(arguments.processes, Path(folder).resolve())
        return
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    print(f"PyTorch {torch.__version__}, {cores}; milliseconds")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = Path(folder).resolve()
        for megabytes in arguments.sizes:
            one_file = measure_one_file(megabytes, arguments.rounds, folder)
            show(f"{2 * megabytes} MB: one file", one_file)
            for size in arguments.processes:
                many = measure_processes(size, megabytes, arguments.rounds, folder)
                bytes_of_metadata = many.pop("metadata")
                show(f"{2 * megabytes} MB: {size} processes", many)
                print(f"    .metadata: {bytes_of_metadata:,} bytes")


def show(title, seconds):
    """Print a line of milliseconds."""
    times = ", ".join(f"{name} {1000 * value:.0f}" for name, value in seconds.items())
    print(f"{title}: {times}", flush=True)


if __name__ == "__main__":
    main()
