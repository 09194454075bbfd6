"""Starts a few ranks for a short experiment, without torchrun.

    results = on_ranks(2, task, *arguments)   # what task(*arguments) returns on each rank, by rank

The ranks are forked from a process that has imported PyTorch (Python's forkserver). Only the first
call has to wait for that import; after it, ranks start within a second. They live on this machine
and end with the task: for training, use torchrun.
"""

import multiprocessing
import os
from collections.abc import Callable, Collection

import torch
import torch.distributed as dist

# Windows has no fork: there, each rank imports PyTorch for itself.
context = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
KILLED = "it was killed"
store = None  # in a rank: the key-value store through which the ranks find each other


def on_ranks(size: int, task: Callable, *arguments, killed: Collection[int] = ()) -> list:
    """Return what `task(*arguments)` returns on each of `size` ranks of a process group.

    The task is a function of a module, not of a notebook. The ranks in `killed` have to die before
    they return anything; for them, the result is None. Raises a RuntimeError if any other rank
    fails, or if one of these doesn't.
    """
    if os.name != "nt":
        context.set_forkserver_preload(["torch._dynamo", "programs.train_many"])
    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    ranks = []
    try:
        for rank in range(size):
            receive, send = context.Pipe(duplex=False)
            values = (server.port, rank, size, send, task, arguments)
            process = context.Process(target=begin, args=values, daemon=True)
            process.start()
            send.close()
            ranks.append((process, receive))
        answers = [answer_of(process, receive) for process, receive in ranks]
        for process, _ in ranks:
            process.join()
    finally:
        for process, _ in ranks:
            process.kill()  # what is left after the stop button
    for rank, (_, failure) in enumerate(answers):
        if rank in killed and failure is None:
            raise RuntimeError(f"Rank {rank} was not killed.")
        if failure is not None and not (failure == KILLED and rank in killed):
            raise RuntimeError(f"Rank {rank} failed: {failure}")
    return [result for result, _ in answers]


def answer_of(process, receive) -> tuple:
    """Return a rank's result and None, or None and what went wrong."""
    try:
        return receive.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        return None, KILLED if code == -9 else f"it ended with exit code {code}"


def begin(port, rank, size, send, task, arguments):
    """Be one rank."""
    global store
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # a rank returns what it has to say; a notebook would mix it up
        os.dup2(nowhere, stream)
    torch.set_num_threads(1)  # several ranks share the cores
    try:
        store = dist.TCPStore("localhost", port)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        wait_for_all(rank, size)
        answer = task(*arguments), None
    except BaseException as error:  # dcp raises some that are not an Exception
        answer = None, f"{type(error).__name__}: {error}"
    send.send(answer)
    send.close()
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all(rank, size):
    """Wait until all ranks are connected: one that ends too early would break the others' start."""
    store.set(f"rank {rank} is connected", "")
    store.wait([f"rank {each} is connected" for each in range(size)])
