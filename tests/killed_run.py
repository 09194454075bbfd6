"""One training run in a process of its own, for the tests that kill it at a moment of their choice.

The network has dropout and the digits are augmented at random.
"""

import contextlib
import os
import signal
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from helper.checkpoint import load_checkpoint
from helper.dataset import get_dataloaders_mnist
from helper.evaluation import compute_sha256
from helper.history import History
from helper.train import train_model

BATCHES = 8  # in an epoch


def augment(batch):
    """Move each image by up to two pixels, and add noise."""
    features, targets = batch
    dx, dy = torch.randint(-2, 3, (2,)).tolist()
    return features.roll((dx, dy), dims=(2, 3)) + 0.1 * torch.randn_like(features), targets


def make_run(data_dir):
    """Return the loaders, and a fresh model with its optimizer and scheduler."""
    loaders = get_dataloaders_mnist(batch_size=500, image_size=28, data_dir=data_dir)
    loaders[0].collate_fn = augment
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
    return loaders, model, optimizer, scheduler


def sha256(model, optimizer, scheduler, history):
    states = (part.state_dict() for part in (model, optimizer, scheduler))
    return compute_sha256(*states, vars(history))


def at_call(number, action, then=lambda *_, **__: None):
    """Return a function that does `action` when it is called for the `number`-th time (from 0)."""
    calls = iter(range(number + 1))

    def call(*arguments, **settings):
        if next(calls, None) == number:
            action()
        return then(*arguments, **settings)

    return call


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_to(num_epochs, data_dir, checkpoint, result, die_in_batch=None, die_in_call=None):
    """Continue from the file `checkpoint` if it is there; write the hash of the end to `result`.

    The process kills itself before the optimizer's step of the batch `die_in_batch`, counted from
    0 over this process, or in the call `die_in_call`: `("os.fsync", 2)` is the third of its kind.
    """
    loaders, model, optimizer, scheduler = make_run(data_dir)
    history = History(seed=3)
    if Path(checkpoint).exists():
        history = load_checkpoint(checkpoint, model, optimizer, scheduler)
    with contextlib.ExitStack() as stack:
        if die_in_batch is not None:
            optimizer.register_step_pre_hook(at_call(die_in_batch, die))
        if die_in_call is not None:
            name, number = die_in_call
            module, _, function = name.rpartition(".")
            original = getattr(__import__(module), function)
            stack.enter_context(mock.patch(name, at_call(number, die, original)))
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        train_model(
            model,
            num_epochs,
            *loaders,
            optimizer,
            "cpu",
            scheduler=scheduler,
            history=history,
            checkpoint_path=checkpoint,
        )
    Path(result).write_text(sha256(model, optimizer, scheduler, history))
