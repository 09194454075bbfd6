"""Small runs to save and load, and what must be equal afterwards."""

import contextlib
import os
import warnings

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

from helper.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from helper.history import History
from helper.reproducibility import compute_sha256

HISTORY = {
    "seed": 5,
    "minibatch_loss": [2.5, 1.25, 0.5, 0.2, 0.1],
    "train_acc": [50.0, 60.0],
    "valid_acc": [40.0, 30.0],
    "learning_rate": [0.1, 0.1],
    "batches_per_epoch": 2,
    "batch_size": 8,
    "settings": {"scheduler_every": "epoch"},
    "eval_modules": ["frozen"],
}
OPTIMIZERS = {
    "SGD": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "Adam": (optim.Adam, {}),
    "amsgrad": (optim.Adam, {"amsgrad": True}),
    "AdamW": (optim.AdamW, {}),
    "RMSprop": (optim.RMSprop, {"momentum": 0.9, "centered": True}),
    "Adagrad": (optim.Adagrad, {}),
    "Adadelta": (optim.Adadelta, {}),
    "NAdam": (optim.NAdam, {}),
    "RAdam": (optim.RAdam, {}),
    "Adamax": (optim.Adamax, {}),
    "Adafactor": (optim.Adafactor, {}),
    "ASGD": (optim.ASGD, {}),
    "Rprop": (optim.Rprop, {}),
}
SCHEDULERS = {
    "none": lambda optimizer: None,
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 3]),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.5),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=20, cycle_momentum="momentum" in optimizer.defaults
    ),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, cycle_momentum=False),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
    "SequentialLR": lambda optimizer: sequence(optimizer, "LinearLR", "StepLR"),
}


def sequence(optimizer, *names):
    return lr_scheduler.SequentialLR(
        optimizer, [SCHEDULERS[name](optimizer) for name in names], [2]
    )


def net(*sizes):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)))


class Tied(nn.Module):
    """A layer with one weight under two names, unless it is told otherwise."""

    def __init__(self, tied=True):
        super().__init__()
        self.encode = nn.Linear(4, 4, bias=False)
        self.decode = nn.Linear(4, 4, bias=False)
        if tied:
            self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x))


def make(model=None, optimizer="momentum", scheduler="none", two_groups=False):
    """Return a model (by default a new, small one), its optimizer and its scheduler, or None."""
    model = net(4, 3, 2) if model is None else model
    parameters = list(model.parameters())
    if two_groups:
        parameters = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.005}]
    optimizer_class, settings = OPTIMIZERS[optimizer]
    optimizer = optimizer_class(parameters, lr=0.01, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR steps the schedulers that it is made of
        return model, optimizer, SCHEDULERS[scheduler](optimizer)


def take_steps(model, optimizer, scheduler=None, num_steps=3):
    """Train a little, so that optimizer and scheduler have a state worth saving."""
    first = next(model.parameters())
    for _ in range(num_steps):
        optimizer.zero_grad()
        features = torch.randn(8, first.shape[-1], dtype=first.dtype)
        model(features).square().sum().backward()
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(50.0)
        elif scheduler is not None:
            scheduler.step()


def sha256(parts, history=None):
    return compute_sha256(
        *(part.state_dict() for part in parts if part is not None),
        None if history is None else history.state_dict(),
    )


@contextlib.contextmanager
def refused(parts, match=None):
    """Expect a CheckpointError, and that model, optimizer and scheduler stay as they were."""
    before = sha256(parts)
    with pytest.raises(CheckpointError, match=match):
        yield
    assert sha256(parts) == before


def assert_round_trip(old, new, path):
    """Save one run and load it into the other: they are equal, now and after more steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        take_steps(*old)
        save_checkpoint(path, *old, History(**HISTORY))
        assert load_checkpoint(path, *new) == History(**HISTORY)
        assert sha256(new) == sha256(old)
        for parts in (old, new):
            torch.manual_seed(3)
            take_steps(*parts)
    assert sha256(new) == sha256(old)


def assert_still_saved(path, expected, new_run):
    """The checkpoint at `path` is the one from before, and nothing else is in its folder."""
    new = new_run()
    history = load_checkpoint(path, *new)
    assert sha256(new, history) == expected
    assert os.listdir(path.parent) == [path.name]
