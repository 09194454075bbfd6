"""One training run in a process of its own, for the tests that kill it.

The network has dropout and the digits are augmented at random; saving takes a good part of the
time, so that many kills hit it.
"""

import contextlib
import os
from pathlib import Path

import torch
from torch import nn

from helper.checkpoint import load_checkpoint
from helper.dataset import get_dataloaders_mnist
from helper.evaluation import compute_sha256
from helper.history import History
from helper.train import train_model


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
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
    return loaders, model, optimizer, scheduler


def sha256(model, optimizer, scheduler, history):
    states = (part.state_dict() for part in (model, optimizer, scheduler))
    return compute_sha256(*states, vars(history))


def train_to(num_epochs, data_dir, checkpoint, result):
    """Continue from the file `checkpoint` if it is there; write the hash of the end to `result`."""
    loaders, model, optimizer, scheduler = make_run(data_dir)
    history = History(seed=3)
    if Path(checkpoint).exists():
        history = load_checkpoint(checkpoint, model, optimizer, scheduler)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
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
    unfinished = Path(f"{result}.unfinished")
    unfinished.write_text(sha256(model, optimizer, scheduler, history))
    unfinished.replace(result)
