"""The training loop, in which every batch is a function of `(seed, epoch, batch)`."""

import math
import sys
from types import SimpleNamespace

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from helper import reproducibility as use
from helper.checkpoint import find_not_finite, load_checkpoint, read_checkpoint, save_checkpoint
from helper.compatibility import CheckpointError, describe_optimizer, describe_scheduler
from helper.evaluation import compute_accuracy
from helper.history import History
from helper.reproducibility import random_numbers_kept, seed_batch, seed_loader
from helper.signals import SignalsWait, Stopped, fetch

REMEDY = "Make the optimizer with a lower learning rate, or look at what is in the data there."


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
    scheduler_every="epoch",
    seed=123,
    history=None,
    checkpoint_path=None,
    checkpoint_every=None,
    logging_interval=None,
):
    """Train `model` until `num_epochs` epochs are done in total, and return the History.

    Args:
        model: on `device` already. Parts of it that are in evaluation mode stay so.
        num_epochs: the total, at least 1: with a history of 2 epochs, 12 trains 10 more.
        train_loader, valid_loader, test_loader: yield `(features, targets)`. Datasets that have a
            method `to`, like those in helper/dataset.py, are moved to `device` once.
        scheduler: steps after every epoch, or with `scheduler_every="batch"` after every batch.
        scheduler_on: what a ReduceLROnPlateau looks at, "valid_acc" or "minibatch_loss" (the last).
        seed: for a new run, in [0, 2**32). A continued run keeps the seed of its history.
        history: what the model has behind it; extended in place, so that it stays in step with it.
        checkpoint_path: save a checkpoint in this file after every epoch, and when the run stops.
        checkpoint_every: also after every so many batches, counted over the whole run.
        logging_interval: also print the loss of every so many batches.

    All randomness of a batch comes from `(seed, epoch, batch)`; the global random numbers are left
    as they were. What can change a run: another device, number of threads or release of PyTorch,
    another number of workers if the data set draws in them, and generators or counters that a data
    set or a model keeps for itself.

    The stop button (SIGINT) and SIGTERM wait for the end of a step; the run is saved then, and the
    same call continues it. After an error it is put back to its last checkpoint, or the message
    says that it must be made anew. Raises a ValueError for arguments that are out of range or don't
    belong to this history, a FloatingPointError for numbers that are not finite, and a
    CheckpointError if saving fails.
    """
    new = history is None
    history = History(seed=seed) if new else history
    # What the functions below hand to each other: all arguments, the losses that are still on the
    # device, how many batches the last checkpoint holds, and whether anything changed since.
    run = SimpleNamespace(**locals(), unread=[], saved=len(history.minibatch_loss), changed=False)
    run.rate = float(optimizer.param_groups[0].get("lr", 0.0))
    check_arguments(run)
    with SignalsWait() as run.signals, random_numbers_kept(device), torch.enable_grad():
        try:
            prepare(run)
            if history.epoch >= num_epochs:
                print(f"Nothing to do: {history.epoch} of {num_epochs} epochs are done already.")
                save(run)  # the last save may have failed
                return history
            while history.epoch < num_epochs:
                train_epoch(run)
                close_epoch(run)
            print(f"Test accuracy: {accuracy(run, test_loader, use.TEST_ACCURACY):.2f}%")
        except Stopped:
            stop(run)
        except BaseException as error:
            give_up(run, error)
            raise
    return history


def need(fits, message):
    """Raise a ValueError unless an argument fits."""
    if not fits:
        raise ValueError(message)


def check_arguments(run):
    """Raise a ValueError that names the argument that is out of its range."""
    seed, every, on = run.history.seed, run.scheduler_every, run.scheduler_on
    for name in ("num_epochs", "checkpoint_every", "logging_interval"):
        value = getattr(run, name)
        fits = (type(value) is int and value >= 1) or (value is None and name != "num_epochs")
        need(fits, f"{name} must be a whole number of at least 1, not {value!r}.")
    need(on in ("valid_acc", "minibatch_loss"), 'scheduler_on: "valid_acc" or "minibatch_loss".')
    need(every in ("epoch", "batch"), 'scheduler_every must be "epoch" or "batch".')
    fits = every == "epoch" or not isinstance(run.scheduler, ReduceLROnPlateau)
    need(fits, 'A ReduceLROnPlateau needs scheduler_every="epoch".')
    need(run.checkpoint_path or not run.checkpoint_every, "checkpoint_every needs a path.")
    need(type(seed) is int and 0 <= seed < 2**32, "seed must be a whole number in [0, 2**32).")


def prepare(run):
    """Check that the parts of a run belong together, and move the data to the device."""
    history, loader = run.history, run.train_loader
    describe_optimizer(run.optimizer, run.model)
    describe_scheduler(run.scheduler, run.optimizer)
    for name in history.not_loaded:
        message = f"The {name} of this history's checkpoint was not loaded: load it, or begin anew."
        need(getattr(run, name, None) is None, message)
    try:
        length = len(loader)
    except TypeError:
        raise ValueError("train_loader has no length: give its data set a __len__.") from None
    fits = length and getattr(loader, "in_order", True)
    need(fits, "train_loader must not be empty, and must have in_order=True.")
    for each in (loader, run.valid_loader, run.test_loader):
        if hasattr(getattr(each, "dataset", None), "to"):
            each.dataset.to(run.device)
    # The size of the first batch, too: 126 to 129 of 4,000 images a batch all make 31 batches.
    seed_loader(loader, history.seed, 1, use.ORDER)
    seed_batch(history.seed, 1, 0, use.FETCH)
    size = len(next(fetch(loader, run.signals))[1])
    if not history.minibatch_loss:
        history.batches_per_epoch, history.batch_size = length, size
    now, before = (length, size), (history.batches_per_epoch, history.batch_size)
    message = (
        "train_loader has {} batches, the first of {} examples; this run began with {} batches"
    )
    message += ", the first of {}. Mind its batch size and its data set."
    need(now == before, message.format(*now, *before))


def train_epoch(run):
    """Train those batches of an epoch that are not trained yet."""
    history, epoch, done = run.history, run.history.epoch + 1, run.history.batch
    total, title = history.batches_per_epoch, f"Epoch: {epoch:03d}/{run.num_epochs:03d}"
    if done == total:
        return  # only its closing entry is missing
    if not run.model.training:
        run.model.train()
    seed_loader(run.train_loader, history.seed, epoch, use.ORDER)
    batches = fetch(run.train_loader, run.signals)
    # A plain bar on stdout, gone at the end: a notebook stores nothing of it.
    look = {"leave": False, "file": sys.stdout, "ncols": 80, "mininterval": 0.5}
    with tqdm(desc=title, total=total, initial=done, **look) as bar:
        for batch in range(total):
            seed_batch(history.seed, epoch, batch, use.FETCH)
            examples = next(batches, None)
            need(examples, f"train_loader has {batch} batches, though its length is {total}.")
            if batch < done:
                continue  # trained before the run was cut
            seed_batch(history.seed, epoch, batch, use.STEP)
            loss = take_step(run, *(tensor.to(run.device) for tensor in examples))
            bar.update()
            if run.logging_interval and batch % run.logging_interval == 0:
                text = f"{title} | Batch {batch:04d}/{total:04d} | Loss: {loss:.4f}"
                bar.write(text, file=sys.stdout)
            every, trained = run.checkpoint_every, history.epoch * total + batch + 1
            if every and trained % every == 0:
                save(run)


def take_step(run, features, targets):
    """Let the optimizer take one step, and return the loss before it."""
    run.changed, run.rate = True, float(run.optimizer.param_groups[0].get("lr", 0.0))
    loss = torch.nn.functional.cross_entropy(run.model(features), targets)
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    run.unread.append((loss.detach(), run.rate))  # reading it now would make a GPU wait
    if run.history.batch + len(run.unread) == run.history.batches_per_epoch:
        run.history.learning_rate.append(run.rate)
    if run.scheduler is not None and run.scheduler_every == "batch":
        run.scheduler.step()
    return loss.detach()


def close_epoch(run):
    """Compute the accuracies of an epoch whose batches are all trained, enter them, and save."""
    history, scheduler = run.history, run.scheduler
    read_losses(run)
    train_acc = accuracy(run, run.train_loader, use.TRAIN_ACCURACY)
    valid_acc = accuracy(run, run.valid_loader, use.VALID_ACCURACY)
    history.train_acc.append(train_acc)
    history.valid_acc.append(valid_acc)
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(valid_acc if run.scheduler_on == "valid_acc" else history.minibatch_loss[-1])
    elif scheduler is not None and run.scheduler_every == "epoch":
        scheduler.step()
    save(run)
    title = f"Epoch: {history.epoch:03d}/{run.num_epochs:03d}"
    print(f"{title} | Train: {train_acc:6.2f}% | Validation: {valid_acc:6.2f}%")


def accuracy(run, loader, purpose):
    """Return the accuracy of the model, in percent, on data that is drawn from `(seed, epoch)`."""
    seed_loader(loader, run.history.seed, run.history.epoch + 1, purpose)
    return compute_accuracy(run.model, fetch(loader, run.signals), run.device)


def read_losses(run):
    """Enter the losses in the history; raise a FloatingPointError for one that is not finite."""
    unread, run.unread = run.unread, []
    losses = torch.stack([loss for loss, _ in unread]).tolist() if unread else []
    for loss, (_, run.rate) in zip(losses, unread, strict=True):
        if not math.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss} in {position(run)}. {REMEDY}")
        run.history.minibatch_loss.append(loss)


def position(run):
    """Name the batch that comes next or that failed (they count from 0), and the last rate."""
    batch = run.history.batch + len(run.unread)
    return f"epoch {run.history.epoch + 1}, batch {batch}, at learning rate {run.rate:g}"


def save(run):
    """Save a run if it has a path, after making sure that all its numbers are finite."""
    read_losses(run)
    if name := find_not_finite(run.model, run.optimizer):
        raise FloatingPointError(f"{name} is not finite before {position(run)}. {REMEDY}")
    if run.checkpoint_path is not None:
        save_checkpoint(run.checkpoint_path, run.model, run.optimizer, run.scheduler, run.history)
        run.saved, run.changed = len(run.history.minibatch_loss), False


def stop(run):
    """Save a run that somebody stops, and say how to go on."""
    path, how = run.checkpoint_path, "Run this cell again to continue."
    try:
        if run.unread or run.history.minibatch_loss:
            save(run)
        state = f"it is saved in {path}." if path and run.saved else "it is in memory."
    except CheckpointError as error:
        state = f"it is in memory only, because {error}"
    except FloatingPointError as error:
        return give_up(run, error)
    if run.new:
        how = "Load it to continue." if path and run.saved else "Its history is lost: begin anew."
    return print(f"Stopped after {run.history.position}: {state} {how}", flush=True)


def give_up(run, error):
    """Put a run that failed back to its last checkpoint, if it has one, and say what it is now."""
    if not run.changed or isinstance(error, CheckpointError):
        return  # nothing was trained since the last save, or only saving has failed
    history, path, failed = run.history, run.checkpoint_path, f"{type(error).__name__} in "
    failed += f"{position(run)}:"
    result = "make model, optimizer, scheduler and history anew, or load them."
    run.unread, own = [], (history.seed, history.minibatch_loss[: run.saved])
    try:
        saved = read_checkpoint(path)["history"] if path and run.saved else None
        if saved and (saved["seed"], saved["minibatch_loss"]) == own:  # not that of another run
            loaded = load_checkpoint(path, run.model, run.optimizer, run.scheduler)
            vars(history).update(vars(loaded))
            result = f"the run is as in {path}. Mend the cause, and continue."
    except CheckpointError as reason:
        result = f"{reason} Then {result}"
    print(failed, result, flush=True)
