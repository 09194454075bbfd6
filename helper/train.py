"""The training loop, in which every epoch is a function of `(seed, epoch)` and nothing else."""

import contextlib
import copy
import math
import random
import sys

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from helper.checkpoint import load_states, save_checkpoint
from helper.evaluation import compute_accuracy, set_all_seeds
from helper.history import History


def train_model(
    model,
    num_epochs,
    train_loader,
    valid_loader,
    test_loader,
    optimizer,
    device,
    scheduler=None,
    scheduler_on="valid_acc",
    seed=123,
    history=None,
    checkpoint_path=None,
    logging_interval=None,
):
    """Train `model` until `num_epochs` epochs are done in total, and return the History.

    Shows a progress bar, and leaves one line per epoch and the test accuracy at the end.

    Args:
        model: on `device` already.
        num_epochs: the total, at least 1: with a history of 2 epochs, 12 trains 10 more, and
            2 nothing.
        train_loader, valid_loader, test_loader: yield `(features, targets)`. Datasets that have a
            method `to`, like those in helper/dataset.py, are moved to `device` once and stay there.
        scheduler: steps after every epoch.
        scheduler_on: what a ReduceLROnPlateau looks at, "valid_acc" or "minibatch_loss" (the
            epoch's last one). Other schedulers look at nothing.
        seed: for a new run, from 0 on. A continued run keeps the seed of its history.
        history: of the epochs that `model`, `optimizer` and `scheduler` have behind them. It is
            extended in place, so that it stays in step with them.
        checkpoint_path: save a checkpoint in this file after every epoch.
        logging_interval: also print the loss of every so many batches.

    Shuffling, dropout and augmentation draw from `(seed, epoch)`, and the global random numbers
    are left as they were. So nothing that happens between two calls can change the outcome. What
    can: another device, another number of CPU threads, another release of PyTorch.

    When an epoch is interrupted, by the stop button or by an error, model, optimizer and scheduler
    are put back to the end of the epoch before, where the history is, too: the same call again
    continues to the same result.

    Raises:
        ValueError: an argument is out of its range.
        FloatingPointError: a loss is not finite.
        CheckpointError: the checkpoint can't be saved.
    """
    if not isinstance(num_epochs, int) or num_epochs < 1:
        raise ValueError(f"num_epochs must be a whole number of at least 1, not {num_epochs!r}.")
    if scheduler_on not in ("valid_acc", "minibatch_loss"):
        raise ValueError(
            f'scheduler_on must be "valid_acc" or "minibatch_loss", not {scheduler_on!r}.'
        )
    run_again = "Run this cell again to continue." if history is not None else ""
    if history is None:
        history = History(seed=seed)
    if history.epoch >= num_epochs:
        print(f"Nothing to do: {history.epoch} of {num_epochs} epochs are done already.")
        return history

    for loader in (train_loader, valid_loader, test_loader):
        if hasattr(getattr(loader, "dataset", None), "to"):
            loader.dataset.to(device)

    parts = [part for part in (model, optimizer, scheduler) if part is not None]
    with global_random_numbers_kept(device), torch.enable_grad():
        while history.epoch < num_epochs:
            epoch = history.epoch + 1
            progress = f"Epoch: {epoch:03d}/{num_epochs:03d}"
            learning_rate = optimizer.param_groups[0]["lr"]
            before = copy.deepcopy([part.state_dict() for part in parts])
            try:
                seed_epoch(history.seed, epoch, train_loader)
                losses = train_one_epoch(
                    model, train_loader, optimizer, device, progress, logging_interval
                )
                check_losses(losses, epoch, learning_rate)
                train_acc = compute_accuracy(model, train_loader, device)
                valid_acc = compute_accuracy(model, valid_loader, device)
                step_scheduler(scheduler, valid_acc if scheduler_on == "valid_acc" else losses[-1])

                done = History(
                    history.seed,
                    history.minibatch_loss + losses,
                    history.train_acc + [train_acc],
                    history.valid_acc + [valid_acc],
                    history.learning_rate + [learning_rate],
                )
                if checkpoint_path is not None:
                    save_checkpoint(checkpoint_path, model, optimizer, scheduler, done)
                vars(history).update(vars(done))
            except BaseException:  # the stop button included
                if history.epoch < epoch:
                    load_states(parts, before)
                print(
                    f"Stopped in epoch {epoch}: model, optimizer and scheduler are as they were "
                    f"after epoch {history.epoch}. {run_again}"
                )
                raise
            print(f"{progress} | Train: {train_acc:6.2f}% | Validation: {valid_acc:6.2f}%")

        print(f"Test accuracy: {compute_accuracy(model, test_loader, device):.2f}%")
    return history


def train_one_epoch(model, train_loader, optimizer, device, progress, logging_interval=None):
    """Take one optimizer step per batch, and return the loss of each as a list of floats."""
    model.train()
    losses = []
    # A plain bar on stdout, gone at the end: a notebook stores nothing of it.
    with tqdm(
        train_loader, progress, leave=False, file=sys.stdout, ncols=80, mininterval=0.5
    ) as batches:
        for batch, (features, targets) in enumerate(batches):
            logits = model(features.to(device))
            loss = torch.nn.functional.cross_entropy(logits, targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            # Read at the end: reading a loss makes a GPU wait until it is computed.
            losses.append(loss.detach())
            if logging_interval and batch % logging_interval == 0:
                batches.write(
                    f"{progress} | Batch {batch:04d}/{len(train_loader):04d} | Loss: {loss:.4f}",
                    file=sys.stdout,
                )
    return torch.stack(losses).tolist()


def check_losses(losses, epoch, learning_rate):
    """Raise a FloatingPointError that names the first batch whose loss is not finite."""
    for batch, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} in epoch {epoch}, batch {batch}, at learning rate "
                f"{learning_rate:g}. Make the optimizer with a lower learning rate, or look at "
                "what is in this batch."
            )


def step_scheduler(scheduler, metric):
    """Let a scheduler, or None, take its step at the end of an epoch."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(metric)
    elif scheduler is not None:
        scheduler.step()


def seed_epoch(seed, epoch, train_loader):
    """Make shuffling, dropout and augmentation of an epoch depend on `(seed, epoch)` alone."""
    # Mixed, so that epoch 2 of seed 123 is not epoch 1 of seed 124. Source:
    # https://numpy.org/doc/stable/reference/random/bit_generators/generated/numpy.random.SeedSequence.html
    epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    set_all_seeds(epoch_seed)
    # A loader or its sampler may bring a generator of its own.
    for source in (train_loader, getattr(train_loader, "sampler", None)):
        if getattr(source, "generator", None) is not None:
            source.generator.manual_seed(epoch_seed)


@contextlib.contextmanager
def global_random_numbers_kept(device):
    """Put the global generators of Python, NumPy and PyTorch back to where they were before."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    device = torch.device(device)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
