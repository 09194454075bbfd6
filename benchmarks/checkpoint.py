"""How long saving and loading a checkpoint takes, beside PyTorch alone and beside the bare disk.

    .venv/bin/python benchmarks/checkpoint.py

The contenders take turns in one process, and medians are printed.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from helper.checkpoint import load_checkpoint, save_checkpoint
from helper.history import History

ROUNDS = {"LeNet-5": 100, "AlexNet": 11}


def make_lenet5():
    """Return a model with the layers of notebook 1: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5),
        nn.Conv2d(6, 16, 5),
        nn.Linear(400, 120),
        nn.Linear(120, 84),
        nn.Linear(84, 10),
    )


def make_alexnet():
    """Return AlexNet for ten classes: 57 million parameters."""
    from torchvision.models import alexnet

    return alexnet(num_classes=10)


def fill_momentum(model, optimizer):
    """Take one step, after which the optimizer has a momentum for every parameter."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def write_and_sync(path, write):
    """Let `write` write to the file `path`, and wait until the disk has it."""
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


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


def measure(name, make_model, folder):
    """Print the times of saving and of loading one model with SGD's momentum."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=1)
    history = History(minibatch_loss=[0.5] * 1000)
    fill_momentum(model, optimizer)

    ours, bare, same, raw = (folder / name for name in ("ours.pt", "bare.pt", "same.pt", "raw"))
    save_checkpoint(ours, model, optimizer, scheduler, history)
    checkpoint = torch.load(ours, weights_only=True)
    content = ours.read_bytes()

    def save_beside():
        beside = bare.with_suffix(".new")
        write_and_sync(beside, lambda file: torch.save(checkpoint, file))
        os.replace(beside, bare)

    saving = take_turns(
        {
            "torch.save + fsync": lambda: write_and_sync(
                same, lambda file: torch.save(checkpoint, file)
            ),
            "the same beside the old": save_beside,
            "as many bytes + fsync": lambda: write_and_sync(raw, lambda file: file.write(content)),
            "save_checkpoint": lambda: save_checkpoint(ours, model, optimizer, scheduler, history),
        },
        ROUNDS[name],
    )
    loading = take_turns(
        {
            "torch.load": lambda: torch.load(bare, weights_only=True),
            "load_checkpoint": lambda: load_checkpoint(ours, model, optimizer, scheduler),
        },
        ROUNDS[name],
    )
    print(f"\n{name}, {len(content):,} bytes, median of {ROUNDS[name]} rounds")
    for times in (saving, loading):
        reference = next(iter(times.values()))
        for contender, seconds in times.items():
            print(f"  {contender:24}{1000 * seconds:10.2f} ms{seconds / reference:8.2f} x")


def main():
    print(f"PyTorch {torch.__version__}, Python {platform.python_version()}, ", end="")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads")
    # Beside the project, where its checkpoints go: /tmp may be memory instead of a disk.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        for name, make_model in (("LeNet-5", make_lenet5), ("AlexNet", make_alexnet)):
            measure(name, make_model, Path(folder))


if __name__ == "__main__":
    main()
