"""How fast this project is, beside the lecture's way and beside PyTorch alone.

    make bench                                        or, with the options below:
    .venv/bin/python benchmarks/bench.py [--data-dir DIR] [--json FILE] [--growth] [--position]
                                        [--background]

The contenders take turns in one process, and medians are printed:

- lecture: torchvision's transforms, image by image, through a DataLoader without workers;
- bare: the same arithmetic over batches that are in memory as floats, or PyTorch's function alone;
- project: what the notebooks call.

An epoch here is one over a tenth of MNIST, so that turns are short. Real MNIST is used if it is in
DIR, as torchvision stores it; random images of the same shape if not.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BATCH_SIZE = 256
CONTENDERS = ("lecture", "bare", "project")

# What each contender does from nothing to its first batch, as a program of its own. {folder} holds
# MNIST in torchvision's layout.
LIBRARIES = "import torch, torchvision; import matplotlib.pyplot as plt\n"
FIRST_BATCH = {
    "lecture": """
from torchvision import datasets, transforms
transform = transforms.Compose([
    transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
train, valid, test = (datasets.MNIST({folder!r}, part, transform) for part in (True, True, False))
loader = torch.utils.data.DataLoader(train, 256, shuffle=True)
next(iter(loader))
""",
    "bare": """
import numpy as np
images = torch.from_numpy(np.fromfile({folder!r} + "/MNIST/raw/train-images-idx3-ubyte", "u1"))
images[16 : 16 + 256 * 28 * 28].view(256, 1, 28, 28).float()
""",
    "project": """
next(iter(get_dataloaders_mnist(256, source="mnist", data_dir={folder!r})[0]))
""",
}
FIRST_TIME = "next(iter(get_dataloaders_mnist(data_dir={folder!r})[0]))"


# Data: MNIST's own files, as small or as large as a measurement needs them.


def read_mnist(data_dir):
    """Return `(images, targets)`, uint8 `[70000, 28, 28]` and `[70000]`, or None if not there."""
    raw_folder = Path(data_dir) / "MNIST" / "raw"
    parts = []
    for part in ("train", "t10k"):
        files = (
            raw_folder / f"{part}-images-idx3-ubyte",
            raw_folder / f"{part}-labels-idx1-ubyte",
        )
        if not all(file.is_file() for file in files):
            return None
        images, targets = (np.fromfile(file, np.uint8) for file in files)
        parts.append((images[16:].reshape(-1, 28, 28), targets[8:]))
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def random_mnist():
    """Return random images and targets in the shapes of `read_mnist`."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (70_000, 28, 28), np.uint8)
    return images, generator.integers(0, 10, 70_000, np.uint8)


def write_mnist(folder, images, targets, num_train, num_test):
    """Write the first images as training set and the last as test set, in MNIST's format."""
    raw_folder = Path(folder) / "MNIST" / "raw"
    raw_folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("train", slice(0, num_train)), ("t10k", slice(-num_test, None))):
        for kind, array in (("images-idx3", images[chosen]), ("labels-idx1", targets[chosen])):
            header = np.array([0x800 + array.ndim, *array.shape], ">i4").tobytes()
            (raw_folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())


# Measuring


def take_turns(contenders, rounds):
    """Call each contender once a round, and return the median seconds of each.

    The first round warms up, and the order changes from round to round.
    """
    seconds = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            contenders[name]()
            if number > 0:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def imports_of_notebook_1():
    """Return a program that imports what notebook 1 does."""
    notebook = json.loads((ROOT / "notebooks" / "1-lenet5-train-and-save.ipynb").read_text())
    (cell,) = [cell for cell in notebook["cells"] if cell["id"] == "path"]
    nodes = ast.parse("".join(cell["source"])).body
    imports = [ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
    return "\n".join([f"import sys; sys.path.insert(0, {str(ROOT)!r})", *imports, ""])


def start(program, folder):
    """Run a Python program of its own, and wait for its end."""
    subprocess.run([sys.executable, "-c", program.format(folder=str(folder))], check=True)


def measure_startup(folder, rounds):
    """Measure the imports, and the way from nothing to the first batch, in fresh processes."""
    imports = {"lecture": LIBRARIES, "bare": LIBRARIES, "project": imports_of_notebook_1()}
    programs = {name: imports[name] + FIRST_BATCH[name] for name in CONTENDERS}
    starts = {name: partial(start, programs[name], folder) for name in CONTENDERS}

    def first_time():
        with tempfile.TemporaryDirectory() as empty:
            start(imports["project"] + FIRST_TIME, empty)

    rows = {
        "imports": take_turns(
            {name: partial(start, imports[name], folder) for name in ("bare", "project")}, rounds
        ),
        "first batch": take_turns(starts, rounds),
        "first batch, mnist-5k, no cache yet": take_turns({"project": first_time}, rounds),
    }
    if hasattr(os, "posix_fadvise"):  # Linux
        rows["first batch, files on disk only"] = {
            name: statistics.median(cold_seconds(starts[name], folder) for _ in range(rounds))
            for name in CONTENDERS
        }
    return rows


def cold_seconds(first_batch, folder):
    """Return how long `first_batch` takes after the system was asked to forget the files it reads.

    Files that another process has in use stay in memory. So this must run before this process
    imports PyTorch.
    """
    for place in (sysconfig.get_path("purelib"), folder, ROOT / "helper"):
        for file in Path(place).rglob("*"):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
    begin = time.perf_counter()
    first_batch()
    return time.perf_counter() - begin


def make_lenet5():
    """Return LeNet-5 as in notebook 1: 61,706 parameters."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def make_run(model):
    """Return the model and what trains it."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
    return model, optimizer, scheduler


def lecture_loaders(folder):
    """Return training, validation and test loader that open and resize image by image."""
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
    )
    train, test = (datasets.MNIST(folder, part, transform) for part in (True, False))
    num_train = len(train) * 9 // 10
    return (
        DataLoader(Subset(train, range(num_train)), BATCH_SIZE, shuffle=True, drop_last=True),
        DataLoader(Subset(train, range(num_train, len(train))), BATCH_SIZE),
        DataLoader(test, BATCH_SIZE),
    )


def bare_training(model, batches, optimizer, device):
    """Take a step per batch, and read the losses at the end."""
    import torch

    model.train()
    losses = []
    for features, targets in batches:
        loss = torch.nn.functional.cross_entropy(model(features.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def bare_accuracy(model, batches, device):
    """Return the percentage of examples that the model classifies correctly."""
    import torch

    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    with torch.no_grad():
        for features, targets in batches:
            predicted = model(features.to(device)).argmax(dim=1)
            right += (predicted == targets.to(device)).sum()
            count += len(targets)
    return 100 * right.item() / count


def measure_epoch(folder, rounds):
    """Measure training, evaluation, and the whole epoch with all its accuracies."""
    import torch

    from helper.dataset import get_dataloaders_mnist
    from helper.evaluation import compute_accuracy
    from helper.history import History
    from helper.train import Trainer, train_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaders = {
        "lecture": lecture_loaders(folder),
        "project": get_dataloaders_mnist(BATCH_SIZE, source="mnist", data_dir=folder),
    }
    for loader in loaders["project"]:
        loader.dataset.to(device)
    loaders["bare"] = [
        [(features.clone(), targets.clone()) for features, targets in loader]
        for loader in loaders["project"]
    ]
    runs = {name: make_run(make_lenet5().to(device)) for name in CONTENDERS}

    def train(name):
        model, optimizer, _ = runs[name]
        if name == "project":
            train, valid, test = loaders[name]
            trainer = Trainer(
                model=model,
                num_epochs=1,
                train_loader=train,
                valid_loader=valid,
                test_loader=test,
                optimizer=optimizer,
                device=device,
                history=History(),
            )
            with trainer.signals:
                trainer.prepare()
                trainer.train_epoch()
        else:
            bare_training(model, loaders[name][0], optimizer, device)

    def evaluate(name):
        accuracy = compute_accuracy if name == "project" else bare_accuracy
        accuracy(runs[name][0], loaders[name][0], device)

    def epoch(name):
        model, optimizer, scheduler = runs[name]
        if name == "project":
            train_model(model, 1, *loaders[name], optimizer, device, scheduler, history=History())
        else:
            bare_training(model, loaders[name][0], optimizer, device)
            accuracies = [bare_accuracy(model, loader, device) for loader in loaders[name]]
            scheduler.step(accuracies[1])

    rows = {}
    for what, do in (("training", train), ("evaluation", evaluate), ("whole epoch", epoch)):
        with contextlib.redirect_stdout(io.StringIO()):
            rows[what] = take_turns({name: partial(do, name) for name in CONTENDERS}, rounds)
    return rows


def write_and_sync(path, write):
    """Let `write` write to the file `path`, and wait until the disk has it."""
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def measure_checkpoint(name, model, folder, rounds, adam=False):
    """Measure saving and loading a run with SGD's momentum, or with the two moments of Adam."""
    import torch

    from helper.checkpoint import load_checkpoint, save_checkpoint
    from helper.history import History

    run = make_run(model)
    if adam:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        run = (model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    run[1].step()
    history = History(minibatch_loss=[0.5] * 1000)
    ours, bare, *three = (Path(folder) / f"{name}-{number}.pt" for number in range(5))
    save_checkpoint(ours, *run, history)
    checkpoint = torch.load(ours, weights_only=True)

    def save_three():
        for path, part in zip(three, run, strict=True):
            torch.save(part.state_dict(), path)

    def load_three():
        for path, part in zip(three, run, strict=True):
            part.load_state_dict(torch.load(path, weights_only=True))

    def load_one():
        saved = torch.load(bare, weights_only=True)
        for part_name, part in zip(("model", "optimizer", "scheduler"), run, strict=True):
            part.load_state_dict(saved[part_name])

    saving = {
        "lecture": save_three,
        "bare": lambda: write_and_sync(bare, lambda file: torch.save(checkpoint, file)),
        "project": lambda: save_checkpoint(ours, *run, history),
    }
    loading = {
        "lecture": load_three,
        "bare": load_one,
        "project": lambda: load_checkpoint(ours, *run),
    }
    size = f"{name}, {ours.stat().st_size / 1e6:.1f} MB"
    rows = {f"save {size}": take_turns(saving, rounds), f"load {size}": take_turns(loading, rounds)}
    for path in (ours, bare, *three):
        path.unlink()
    return rows


def measure_background(folder, rounds):
    """Return seconds for saves of AlexNet and Adam next to its training, a list for each name.

    Steps, `torch.save` and fsync, `save_checkpoint` and a save in the background take turns. Steps
    are taken for as long as the thread writes. "lost" is what that save has cost in all: the time
    that it blocks, and what the steps next to it take longer.
    """
    import torch
    from torchvision.models import alexnet

    from helper.background import BackgroundWriter
    from helper.checkpoint import make_checkpoint, save_checkpoint
    from helper.finite import find_not_finite
    from helper.history import History

    model, history = alexnet(num_classes=10), History(minibatch_loss=[0.5] * 1000)
    model.avgpool = torch.nn.Upsample(size=(6, 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    features, targets = torch.rand(16, 3, 64, 64), torch.arange(16) % 10
    bare, plain, ours = (Path(folder) / name for name in ("bare.pt", "plain.pt", "ours.pt"))
    writer = BackgroundWriter()

    def step():
        loss = torch.nn.functional.cross_entropy(model(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def save_bare():
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        write_and_sync(bare, lambda file: torch.save(states, file))

    def start_to_save():  # what Trainer.save does
        find_not_finite(model, optimizer)
        run = make_checkpoint(model, optimizer, None, history)
        writer.wait()
        writer.start(ours, run)

    names = ("step", "torch.save and fsync", "save_checkpoint", "blocked at first", "blocked")
    seconds = {name: [] for name in (*names, "step beside", "until written", "lost")}
    for _ in range(3):
        step()
    for number in range(rounds + 1):
        alone = [timed(step) for _ in range(5)]
        begin = time.perf_counter()
        blocked = timed(start_to_save)
        beside = []
        while writer.thread.is_alive():
            beside.append(timed(step))
        written = time.perf_counter() - begin
        writer.wait()
        if number == 0:
            seconds["blocked at first"].append(blocked)
            save_bare()  # from here on, every save replaces a file
            save_checkpoint(plain, model, optimizer, None, history)
            continue
        seconds["step"] += alone
        seconds["blocked"].append(blocked)
        seconds["step beside"] += beside
        seconds["until written"].append(written)
        seconds["lost"].append(written - len(beside) * statistics.median(alone))
        seconds["torch.save and fsync"].append(timed(save_bare))
        save_plain = partial(save_checkpoint, plain, model, optimizer, None, history)
        seconds["save_checkpoint"].append(timed(save_plain))
    for path in (bare, plain, ours):
        path.unlink()
    return seconds


def timed(action):
    """Return how many seconds an action takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def print_background(seconds):
    """Print medians and extremes, and what a save in the background costs next to a plain one."""
    print(f"{'AlexNet and Adam, 684.6 MB':30}{'median, s':>10}{'from':>8}{'to':>8}{'number':>8}")
    for name, values in seconds.items():
        row = f"{statistics.median(values):10.3f}{min(values):8.3f}{max(values):8.3f}"
        print(f"{name:30}{row}{len(values):8}")
    bare = statistics.median(seconds["torch.save and fsync"])
    for name in ("blocked", "lost"):
        print(f"{name}: {statistics.median(seconds[name]) / bare:.2f} x torch.save and fsync")


def measure_growth(folder):
    """Return what loading the data and training an epoch cost, in seconds and in bytes.

    Must be the first thing that a process does: memory that was freed before hides what is added.
    """
    import torch
    import torchvision.datasets  # noqa: F401  # a library's own memory is not the data's

    from helper.dataset import get_dataloaders_mnist
    from helper.history import History
    from helper.train import train_model

    before = memory("VmRSS")
    begin = time.perf_counter()
    loaders = get_dataloaders_mnist(BATCH_SIZE, source="mnist", data_dir=folder)
    loaded = time.perf_counter() - begin
    row = {
        "images": sum(len(loader.dataset) for loader in loaders),
        "load, s": loaded,
        "added, MB": (memory("VmRSS") - before) / 1e6,
        "peak of loading, MB": (memory("VmHWM") - before) / 1e6,
    }
    model, optimizer, _ = make_run(make_lenet5())
    with contextlib.redirect_stdout(io.StringIO()):
        train_model(model, 1, *loaders, optimizer, torch.device("cpu"), history=History())
    row["epoch, s"] = time.perf_counter() - begin - loaded
    row["peak of all, MB"] = (memory("VmHWM") - before) / 1e6
    return row


class Zeros:
    """So many examples of one number each; a whole batch is made at a time."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitems__(self, indices):
        import torch

        return torch.zeros(len(indices), 1), torch.zeros(len(indices), dtype=torch.int64)


def measure_position(num_batches, trained):
    """Return seconds and bytes from nothing to the first new batch, when `trained` are behind it.

    The epoch has `num_batches` batches of 128 shuffled examples.
    """
    from torch.utils.data import DataLoader

    from helper.batches import EpochBatches, identity_collate

    loader = DataLoader(Zeros(128 * num_batches), 128, shuffle=True, collate_fn=identity_collate)
    before = memory("VmRSS")
    begin = time.perf_counter()
    batches = EpochBatches(loader).epoch(seed=1, epoch=1, start=trained)
    next(batches)
    return {
        "first batch, s": time.perf_counter() - begin,
        "peak, MB": (memory("VmHWM") - before) / 1e6,
    }


def memory(name):
    """Return the bytes of memory that this process has (VmRSS) or ever had (VmHWM). Linux only."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


def in_a_fresh_process(function, *arguments):
    """Return what `function` returns when it is called in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# Printing


def format_table(rows):
    """Return the rows as a table: milliseconds, and the project's ratios to the other two."""
    lines = [
        f"{'median milliseconds':38}{'lecture':>10}{'bare':>10}{'project':>10}"
        f"{'to bare':>10}{'to lecture':>12}"
    ]
    for what, seconds in rows.items():
        cells = [f"{1000 * seconds[n]:10.1f}" if n in seconds else " " * 10 for n in CONTENDERS]
        ratios = [
            f"{seconds['project'] / seconds[n]:.2f} x" if n in seconds else ""
            for n in ("bare", "lecture")
        ]
        lines.append(f"{what:38}{''.join(cells)}{ratios[0]:>10}{ratios[1]:>12}")
    return "\n".join(lines)


def describe_machine(source):
    """Return what the figures depend on."""
    import torch
    import torchvision

    processors = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (processors.read_text().splitlines() if processors.is_file() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": (names or [platform.processor() or platform.machine()])[0],
        "threads": torch.get_num_threads(),
        "accelerator": "cuda" if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "images": source,
    }


def main():
    parser = argparse.ArgumentParser(description="How fast, beside the lecture's way and PyTorch.")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data", help="where MNIST may be")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument(
        "--growth", action="store_true", help="instead: time and memory for 1, 2, 4, 8 x MNIST"
    )
    parser.add_argument(
        "--position", action="store_true", help="instead: the first batch after N trained ones"
    )
    parser.add_argument(
        "--background", action="store_true", help="instead: saves of AlexNet next to its training"
    )
    arguments = parser.parse_args()

    if arguments.background:
        with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks", prefix="tmp-") as folder:
            print_background(measure_background(folder, rounds=9))
        return

    if arguments.position:
        print(f"{'batches':>10}{'trained':>10}{'first batch, s':>16}{'peak, MB':>12}")
        for num_batches, trained in [(1_100, 10), (1_100, 1_000)] + [
            (100_100, trained) for trained in (10, 1_000, 100_000)
        ]:
            rows = [in_a_fresh_process(measure_position, num_batches, trained) for _ in range(5)]
            seconds, peak = (statistics.median(row[name] for row in rows) for name in rows[0])
            print(f"{num_batches:10,}{trained:10,}{seconds:16.3f}{peak:12.0f}")
        return

    real = read_mnist(arguments.data_dir)
    source = "real MNIST" if real else "random, in MNIST's shapes"
    images, targets = real or random_mnist()
    # Beside the project, where its checkpoints go: /tmp may be memory instead of a disk.
    with tempfile.TemporaryDirectory(dir=ROOT / "benchmarks", prefix="tmp-") as folder:
        if arguments.growth:
            rows = {}
            for times in (1, 2, 4, 8):
                # Ten more, because 60,000 that are not MNIST's own would be taken for damaged.
                numbers = (60_000 * times + 10, 10_000 * times + 10)
                repeated = (np.tile(images, (times + 1, 1, 1)), np.tile(targets, times + 1))
                write_mnist(folder, *repeated, *numbers)
                del repeated
                rows[f"{times} x MNIST"] = row = in_a_fresh_process(measure_growth, folder)
                if times == 1:
                    print(f"{'':12}" + "".join(f"{name:>20}" for name in row))
                print(f"{times} x MNIST   " + "".join(f"{v:20,.1f}" for v in row.values()))
        else:
            write_mnist(folder, images, targets, 6_000, 1_000)
            rows = measure_startup(folder, rounds=3)  # before this process imports PyTorch
            rows |= measure_epoch(folder, rounds=15)
            rows |= measure_checkpoint("LeNet-5", make_lenet5(), folder, rounds=100)
            from torchvision.models import alexnet

            model = alexnet(num_classes=10)
            rows |= measure_checkpoint("AlexNet and Adam", model, folder, rounds=9, adam=True)
            print(format_table(rows), "\n")
            del model
            print_background(measure_background(folder, rounds=9))
    machine = describe_machine(source)
    print("\n" + ", ".join(f"{name}: {value}" for name, value in machine.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "seconds": rows}, indent=2))


if __name__ == "__main__":
    main()
