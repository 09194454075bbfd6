"""The training loop, in which every batch is a function of `(seed, epoch, batch)`."""

import math
import sys
from types import SimpleNamespace

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from helper import reproducibility as use
from helper.checkpoint import find_not_finite, load_checkpoint, read_checkpoint, save_checkpoint
from helper.compatibility import CheckpointError, describe_run
from helper.evaluation import compute_accuracy
from helper.history import History
from helper.reproducibility import random_numbers_kept, seed_batch, seed_loader
from helper.signals import SignalsWait, Stopped


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

    Shows a progress bar, and leaves one line per epoch and the test accuracy at the end.

    Args:
        model: on `device` already. Parts of it that are in evaluation mode stay so.
        num_epochs: the total, at least 1: with a history of 2 epochs, 12 trains 10 more.
        train_loader, valid_loader, test_loader: yield `(features, targets)`. Datasets that have a
            method `to`, like those in helper/dataset.py, are moved to `device` once and stay there.
        scheduler: steps after every epoch, or with `scheduler_every="batch"` after every batch.
        scheduler_on: what a ReduceLROnPlateau looks at, "valid_acc" or "minibatch_loss" (the
            epoch's last one). Other schedulers look at nothing.
        seed: for a new run, in [0, 2**32). A continued run keeps the seed of its history.
        history: what `model`, `optimizer` and `scheduler` have behind them. It is extended in
            place, so that it stays in step with them.
        checkpoint_path: save a checkpoint in this file after every epoch, and when the run stops.
        checkpoint_every: also after every so many batches, counted over the whole run.
        logging_interval: also print the loss of every so many batches.

    All randomness of a batch comes from `(seed, epoch, batch)`, and the global random numbers are
    left as they were. So neither what happens between two calls nor where a run was cut can change
    its outcome. What can: another device, number of CPU threads or release of PyTorch, another
    number of workers if the data set draws in them, and generators or counters that a data set or
    a model keeps for itself.

    The stop button (SIGINT) and SIGTERM wait for the end of a step. The run is then in step after
    its last batch and saved in `checkpoint_path`, and the same call continues it. After an error,
    it is put back to its last checkpoint, or the message says that it must be made anew.

    Raises:
        ValueError: an argument is out of its range, or the training loader is not the one that the
            history began with.
        FloatingPointError: a loss, a parameter or a tensor of the optimizer is not finite.
        CheckpointError: the checkpoint can't be saved, or the parts don't belong together.
    """
    new = history is None
    history = History(seed=seed) if new else history
    # What the functions below hand to each other: all arguments, the losses that are still on the
    # device, how many batches the last checkpoint holds, and whether anything changed since.
    run = SimpleNamespace(**locals(), unread=[], saved=len(history.minibatch_loss), changed=False)
    check_arguments(run)
    if history.epoch >= num_epochs:
        print(f"Nothing to do: {history.epoch} of {num_epochs} epochs are done already.")
        return history

    with SignalsWait() as run.signals, random_numbers_kept(device), torch.enable_grad():
        try:
            prepare(run)
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


def check_arguments(run):
    """Raise a ValueError that names the argument that is out of its range."""
    for name in ("num_epochs", "checkpoint_every", "logging_interval"):
        value = getattr(run, name)
        if (name == "num_epochs" or value is not None) and (type(value) is not int or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    known = {"scheduler_on": ("valid_acc", "minibatch_loss"), "scheduler_every": ("epoch", "batch")}
    for name, (one, other) in known.items():
        if getattr(run, name) not in (one, other):
            raise ValueError(f'{name} must be "{one}" or "{other}", not {getattr(run, name)!r}.')
    if run.scheduler_every == "batch" and isinstance(run.scheduler, ReduceLROnPlateau):
        raise ValueError('A ReduceLROnPlateau looks at epochs: scheduler_every must be "epoch".')
    if run.checkpoint_every is not None and run.checkpoint_path is None:
        raise ValueError("checkpoint_every needs a checkpoint_path.")
    if type(run.history.seed) is not int or not 0 <= run.history.seed < 2**32:
        raise ValueError(f"seed must be a whole number in [0, 2**32), not {run.history.seed!r}.")


def prepare(run):
    """Check that the parts of a run belong together, and move the data to the device."""
    describe_run(run.model, run.optimizer, run.scheduler)
    for name in run.history.not_loaded:
        if getattr(run, name, None) is not None:
            raise ValueError(
                f"The history is that of a checkpoint whose {name} was not loaded. To continue "
                f"that run, load the {name}, too; to begin a new one, take a new History."
            )
    for loader in (run.train_loader, run.valid_loader, run.test_loader):
        if hasattr(getattr(loader, "dataset", None), "to"):
            loader.dataset.to(run.device)
    check_train_loader(run, run.train_loader, run.history)
    if not run.model.training:
        run.model.train()


def check_train_loader(run, loader, history):
    """Raise a ValueError unless a run can be continued with this loader, and began with it."""
    try:
        length = len(loader)
    except TypeError:
        raise ValueError(
            "train_loader has no length, so nothing tells where an epoch ends: give its data set "
            "a method __len__."
        ) from None
    if length < 1 or not getattr(loader, "in_order", True):
        raise ValueError("train_loader must have at least one batch, and not in_order=False.")
    # Its first batch, too, since 126 to 129 of 4,000 images a batch all make 31 batches.
    seed_loader(loader, history.seed, 1, use.ORDER)
    seed_batch(history.seed, 1, 0, use.FETCH)
    _, targets = next(fetch(loader, run.signals))
    size = len(targets) if targets.ndim else 1
    if not history.minibatch_loss:
        history.batches_per_epoch, history.batch_size = length, size
    elif (length, size) != (history.batches_per_epoch, history.batch_size):
        raise ValueError(
            f"train_loader has {length} batches, the first with {size} examples, and this run began "
            f"with {history.batches_per_epoch} batches and {history.batch_size} examples. Make it "
            "with the batch size and the data set that the run began with."
        )


def fetch(loader, signals):
    """Yield the batches of a loader. Only while it waits for one do signals act at once."""
    try:
        forget_workers(loader)
        with signals.act_at_once():
            batches = iter(loader)
        while True:
            with signals.act_at_once():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch
    finally:
        forget_workers(loader)


def forget_workers(loader):
    """End persistent workers: they would go on with the random numbers of the epoch before."""
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


def train_epoch(run):
    """Train those batches of an epoch that are not trained yet."""
    history, epoch, done = run.history, run.history.epoch + 1, run.history.batch
    if done == history.batches_per_epoch:
        return  # only its closing entry is missing
    seed_loader(run.train_loader, history.seed, epoch, use.ORDER)
    batches = fetch(run.train_loader, run.signals)
    title = f"Epoch: {epoch:03d}/{run.num_epochs:03d}"
    # A plain bar on stdout, gone at the end: a notebook stores nothing of it.
    look = {"leave": False, "file": sys.stdout, "ncols": 80, "mininterval": 0.5}
    with tqdm(desc=title, total=history.batches_per_epoch, initial=done, **look) as bar:
        for batch in range(history.batches_per_epoch):
            seed_batch(history.seed, epoch, batch, use.FETCH)
            features, targets = next(batches)
            if batch < done:
                continue  # trained before the run was cut
            seed_batch(history.seed, epoch, batch, use.STEP)
            loss = take_step(run, features.to(run.device), targets.to(run.device))
            bar.update()
            if run.logging_interval and batch % run.logging_interval == 0:
                text = f"Batch {batch:04d}/{history.batches_per_epoch:04d} | Loss: {loss:.4f}"
                bar.write(f"{title} | {text}", file=sys.stdout)
            trained = (epoch - 1) * history.batches_per_epoch + batch + 1
            if run.checkpoint_every and trained % run.checkpoint_every == 0:
                save(run)


def take_step(run, features, targets):
    """Let the optimizer take one step, and return the loss before it."""
    optimizer, history, run.changed = run.optimizer, run.history, True

    def compute_gradients():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(run.model(features), targets)
        loss.backward()
        return loss

    rate = learning_rate(run)
    if isinstance(optimizer, torch.optim.LBFGS):  # computes them several times in a step
        loss = optimizer.step(compute_gradients)
    else:
        loss = compute_gradients()
        optimizer.step()
    # Read later: reading a loss makes a GPU wait until it is computed.
    run.unread.append((loss.detach(), rate))
    if history.batch + len(run.unread) == history.batches_per_epoch:
        history.learning_rate.append(rate)
    if run.scheduler is not None and run.scheduler_every == "batch":
        run.scheduler.step()
    return loss


def learning_rate(run):
    return float(run.optimizer.param_groups[0]["lr"])


def close_epoch(run):
    """Compute the accuracies of an epoch whose batches are all trained, enter them, and save."""
    history = run.history
    read_losses(run)
    train_acc = accuracy(run, run.train_loader, use.TRAIN_ACCURACY)
    valid_acc = accuracy(run, run.valid_loader, use.VALID_ACCURACY)
    history.train_acc.append(train_acc)
    history.valid_acc.append(valid_acc)
    if isinstance(run.scheduler, ReduceLROnPlateau):
        on_validation = run.scheduler_on == "valid_acc"
        run.scheduler.step(valid_acc if on_validation else history.minibatch_loss[-1])
    elif run.scheduler is not None and run.scheduler_every == "epoch":
        run.scheduler.step()
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
    for loss, (_, rate) in zip(losses, unread, strict=True):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} in {position(run)}, at learning rate {rate:g}. Make the "
                "optimizer with a lower learning rate, or look at what is in this batch."
            )
        run.history.minibatch_loss.append(loss)


def position(run):
    """Name the batch that comes next or that failed; batches count from 0."""
    return f"epoch {run.history.epoch + 1}, batch {run.history.batch + len(run.unread)}"


def save(run):
    """Save a run if it has a path, after making sure that all its numbers are finite."""
    read_losses(run)
    if name := find_not_finite(run.model, run.optimizer):
        raise FloatingPointError(
            f"{name} is not finite before {position(run)}, at learning rate {learning_rate(run):g}."
            " Make the optimizer with a lower one, or look at what is in the batches before."
        )
    if run.checkpoint_path is not None:
        save_checkpoint(run.checkpoint_path, run.model, run.optimizer, run.scheduler, run.history)
        run.saved, run.changed = len(run.history.minibatch_loss), False


def stop(run):
    """Save a run that somebody stops, and say how to go on."""
    history, state = run.history, "it is in memory, and nothing is lost"
    try:
        if run.changed:
            save(run)
        if run.checkpoint_path is not None and run.saved:
            state = f"saved in {run.checkpoint_path}"
    except CheckpointError as error:
        state = f"it is in memory only, because {error}"
    except FloatingPointError as error:
        give_up(run, error)
        return
    where = f"epoch {history.epoch}"
    if history.batch:
        where = f"batch {history.batch} of {history.batches_per_epoch} in epoch {history.epoch + 1}"
    how = "Load that file to continue." if run.new else "Run this cell again to continue."
    print(f"Stopped after {where}: {state}. {how}")


def give_up(run, error):
    """Put a run that failed back to its last checkpoint, if it has one, and say what it is now."""
    if not run.changed or isinstance(error, CheckpointError):
        return  # nothing was trained since the last save, or only saving has failed
    history, path, run.unread = run.history, run.checkpoint_path, []
    failed = f"{type(error).__name__} in {position(run)}, at learning rate {learning_rate(run):g}:"
    try:
        saved = read_checkpoint(path)["history"] if path and run.saved else {"seed": None}
        # Never the file of another run.
        if (saved["seed"], saved.get("minibatch_loss")) == (
            history.seed,
            history.minibatch_loss[: run.saved],
        ):
            loaded = load_checkpoint(path, run.model, run.optimizer, run.scheduler)
            vars(history).update(vars(loaded))
            print(f"{failed} the run is as it was saved in {path}. Mend the cause, and continue.")
            return
    except CheckpointError as reason:
        failed += f" {reason}"
    print(f"{failed} make model, optimizer, scheduler and history anew, or load a checkpoint.")
