"""A run of the recipe, which can send itself a signal in the middle of a step.

    python programs/own_run.py PATH [--workers 2] [--step 20 --signal SIGTERM [--group]]

The same command begins the run and continues it, and PATH.step holds the largest step saved so far.
The data are waves of three kinds with fresh noise in every epoch, the model has dropout and
BatchNorm, and the learning rate changes at every step.
"""

import argparse
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import recipe
import torch
from recipe import Batches, seed_all, train
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset

SEED, NUM_EPOCHS = 123, 3


class Waves(Dataset):
    """Waves `[20]` and their kinds in [0, 3), with noise from three random generators."""

    def __len__(self):
        return 250

    def __getitem__(self, index):
        kind = index % 3
        wave = torch.sin(torch.arange(20.0) * (kind + 1) / 2) + 0.5 * torch.randn(20)
        return random.uniform(0.8, 1.2) * wave + 0.1 * np.random.randn(), kind


def new_run(num_steps, seed=SEED):
    """Return a run that has learned nothing yet."""
    seed_all(seed)
    hidden = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential(hidden, nn.Linear(32, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = OneCycleLR(optimizer, max_lr=0.01, total_steps=num_steps)
    return SimpleNamespace(model=model, optimizer=optimizer, scheduler=scheduler)


def save_and_note(path, run, step, save=recipe.save):
    """Save the run, then write the largest step saved so far into a text file next to it."""
    save(path, run, step)
    note = Path(f"{path}.step")
    if not note.exists() or step > int(note.read_text()):
        temporary = Path(f"{note}.tmp")
        temporary.write_text(f"{step}\n")
        temporary.replace(note)  # an outer loop never reads half a number


def send_signal(optimizer, step, number, to_group):
    """Send a signal to this process, or to all processes of its group, in the middle of a step."""
    taken = 0

    def count_and_send(*_):
        nonlocal taken
        taken += 1
        if taken == step:
            if to_group:
                os.killpg(0, number)
            else:
                os.kill(os.getpid(), number)

    optimizer.register_step_pre_hook(count_and_send)


def main():
    parser = argparse.ArgumentParser(description="Begin or continue a run of the recipe.")
    parser.add_argument("path", nargs="?", default="run.pt", help="the checkpoint")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=NUM_EPOCHS)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--step", type=int, help="the step of this process in which it is stopped")
    parser.add_argument("--signal", default="SIGTERM", help="the signal that stops it")
    parser.add_argument("--group", action="store_true", help="the workers get the signal too")
    arguments = parser.parse_args()

    torch.use_deterministic_algorithms(True)
    recipe.save = save_and_note  # `train` calls it; in a script of your own, extend `save`
    batches = Batches(Waves(), arguments.batch_size, arguments.seed)
    run = new_run(arguments.epochs * batches.per_epoch, arguments.seed)
    if arguments.step is not None:
        number = signal.Signals[arguments.signal]
        send_signal(run.optimizer, arguments.step, number, arguments.group)
    options = {"num_workers": arguments.workers}
    train(arguments.path, run, batches, arguments.epochs, "cpu", 5, **options)


if __name__ == "__main__":
    main()
