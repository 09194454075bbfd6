"""The training loop, in which every batch is a function of `(seed, epoch, batch)`.

`train_model` makes a `Trainer` of its arguments and calls `fit`. Two facts carry everything: the
history is exact after every step, and `dirty` says whether the checkpoint is behind it.
"""

import math
import os
import sys
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from helper.arguments import check_arguments
from helper.batches import EpochBatches
from helper.checkpoint import (
    load_checkpoint,
    make_checkpoint,
    set_aside_unless_earlier,
    write_checkpoint,
)
from helper.compatibility import CheckpointError, check_same_run
from helper.evaluation import compute_accuracy
from helper.finite import find_infinite, find_not_finite
from helper.history import History
from helper.reproducibility import Stream, preserve_rng_state, seed_batch
from helper.signals import DeferredSignals, Stopped
from helper.verification import read_checkpoint

REMEDY = "Create the optimizer with a lower learning rate, or look at the data of that batch."


def train_model(
    model: nn.Module,
    num_epochs: int,
    train_loader,
    valid_loader,
    test_loader,
    optimizer: Optimizer,
    device: torch.device | str,
    scheduler: LRScheduler | None = None,
    *,
    history: History,
    scheduler_on: str = "valid_acc",
    scheduler_every: str = "epoch",
    checkpoint_path: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    logging_interval: int | None = None,
) -> History:
    """Train `model` until `num_epochs` epochs are done in total, and return its history.

    The fields of `Trainer` say what each argument is. A new run starts with `History(seed=...)`.

    All randomness of a batch comes from `(seed, epoch, batch)`; the global random numbers are left
    as they were. What can change a run: a different device, number of threads or version of
    PyTorch; what `EpochBatches` names; and generators or counters that a model keeps for itself.

    SIGINT (the stop button) and SIGTERM take effect between two batches: the run is saved, and the
    same call continues it. After an error between two steps, the run is saved too; after one in the
    middle of a step, it is rolled back to its last checkpoint.

    Raises a ValueError for arguments that can't be used or aren't those that this run began with, a
    FloatingPointError for a number that isn't finite, and a CheckpointError if saving fails.
    """
    return Trainer(
        model=model,
        num_epochs=num_epochs,
        train_loader=train_loader,
        valid_loader=valid_loader,
        test_loader=test_loader,
        optimizer=optimizer,
        device=device,
        scheduler=scheduler,
        history=history,
        scheduler_on=scheduler_on,
        scheduler_every=scheduler_every,
        checkpoint_path=checkpoint_path,
        checkpoint_every=checkpoint_every,
        logging_interval=logging_interval,
    ).fit()


@dataclass(kw_only=True)
class Trainer:
    """What one call of `train_model` is given, and the steps that it consists of."""

    # The arguments
    model: nn.Module  # on `device` already; its parts in eval mode stay so
    num_epochs: int  # the total: with a history of 2 epochs, 12 trains 10 more
    # Each loader yields features [B, ...] and int64 targets [B], and train_loader has a length. A
    # dataset with a method `to`, like those in helper/dataset.py, is moved to `device`.
    train_loader: object
    valid_loader: object
    test_loader: object
    optimizer: Optimizer
    device: torch.device | str
    scheduler: LRScheduler | None = None
    history: History  # the run so far; extended in place, so that it stays in step with the model
    # What a ReduceLROnPlateau watches ("minibatch_loss": the last), and when a scheduler steps
    scheduler_on: str = "valid_acc"  # or "minibatch_loss"
    scheduler_every: str = "epoch"  # or "batch"
    checkpoint_path: str | os.PathLike | None = None  # saved after every epoch and on the way out
    checkpoint_every: int | None = None  # also saved every N batches, counted over the whole run
    logging_interval: int | None = None  # also prints the loss every N batches of an epoch

    # The state of this call
    dirty: bool = field(default=False, init=False)  # has it trained since the last save?
    half_done: bool = field(default=False, init=False)  # inside a step, or the end of an epoch?
    infinite: set[str] = field(default_factory=set, init=False)  # infinite tensors at the start
    checkpoint_file: str | None = field(default=None, init=False)  # the absolute checkpoint_path
    file_is_ours: bool = field(default=False, init=False)  # may that file be overwritten?
    signals: DeferredSignals = field(default_factory=DeferredSignals, init=False)
    train_batches: EpochBatches = field(init=False)  # what the loaders yield, epoch by epoch
    valid_batches: EpochBatches = field(init=False)
    test_batches: EpochBatches = field(init=False)

    def __post_init__(self):
        check_arguments(self)
        self.train_batches = EpochBatches(self.train_loader, self.signals, "train_loader")
        self.valid_batches = EpochBatches(self.valid_loader, self.signals, "valid_loader")
        self.test_batches = EpochBatches(self.test_loader, self.signals, "test_loader")
        if self.checkpoint_path is not None:
            self.checkpoint_file = os.path.abspath(self.checkpoint_path)

    def fit(self) -> History:
        """Train; save the run if it is stopped, and save it or roll it back if it fails."""
        with self.signals, preserve_rng_state(self.device), torch.enable_grad():
            try:
                self.prepare()
                self.train()
            except Stopped:
                self.save_and_report("Stopped", "Run this cell again to continue.")
            except BaseException as error:
                self.recover(error)
                raise
            finally:
                for batches in (self.train_batches, self.valid_batches, self.test_batches):
                    batches.close()
        return self.history

    def prepare(self) -> None:
        """Check that the arguments belong to the run in `history`, or start a new one."""
        self.infinite = find_infinite(self.model)
        for loader in (self.train_loader, self.valid_loader, self.test_loader):
            if hasattr(getattr(loader, "dataset", None), "to"):
                loader.dataset.to(self.device)
        check_same_run(self)

    def train(self) -> None:
        """Train all epochs that are not done yet, and print the test accuracy."""
        history = self.history
        if history.epoch >= self.num_epochs:
            print(f"Nothing to do: {history.epoch} of {self.num_epochs} epochs are done already.")
            self.save()  # the last save may have failed
            return
        while history.epoch < self.num_epochs:
            if history.batch < history.batches_per_epoch:
                self.train_epoch()
            self.finish_epoch()
        test_acc = self.compute_accuracy(self.test_batches, Stream.TEST_ACCURACY)
        print(f"Test accuracy: {test_acc:.2f}%")

    def train_epoch(self) -> None:
        """Train those batches of an epoch that are not trained yet."""
        history = self.history
        num_batches, start = history.batches_per_epoch, history.batch
        batches = self.train_batches.epoch(history.seed, history.epoch + 1, start)
        with progress_bar(self.title, num_batches, start) as bar:
            for batch, (features, targets) in enumerate(batches, start):
                seed_batch(history.seed, history.epoch + 1, batch, Stream.STEP)
                self.train_step(features.to(self.device), targets.to(self.device))
                bar.update()
                if self.logging_interval and batch % self.logging_interval == 0:
                    loss = history.minibatch_loss[-1]
                    line = f"{self.title} | Batch {batch:04d}/{num_batches:04d} | Loss: {loss:.4f}"
                    bar.write(line, file=sys.stdout)
                trained = len(history.minibatch_loss)
                if self.checkpoint_every and trained % self.checkpoint_every == 0:
                    self.save()

    def train_step(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Let the optimizer take one step, and enter the loss before it in the history."""
        learning_rate = self.learning_rate
        self.dirty = self.half_done = True
        loss = nn.functional.cross_entropy(self.model(features), targets)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"The loss is {loss.item()} in {self.position}. {REMEDY}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.scheduler is not None and self.scheduler_every == "batch":
            self.scheduler.step()
        self.history.minibatch_loss.append(loss.item())
        if self.history.batch == self.history.batches_per_epoch:
            self.history.learning_rate.append(learning_rate)
        self.half_done = False

    def finish_epoch(self) -> None:
        """Compute the accuracies of an epoch whose batches are all trained, and save."""
        history, title = self.history, self.title
        train_acc = self.compute_accuracy(self.train_batches, Stream.TRAIN_ACCURACY)
        valid_acc = self.compute_accuracy(self.valid_batches, Stream.VALID_ACCURACY)
        self.dirty = self.half_done = True
        if isinstance(self.scheduler, ReduceLROnPlateau):
            loss = history.minibatch_loss[-1]
            self.scheduler.step(valid_acc if self.scheduler_on == "valid_acc" else loss)
        elif self.scheduler is not None and self.scheduler_every == "epoch":
            self.scheduler.step()
        history.train_acc.append(train_acc)
        history.valid_acc.append(valid_acc)
        self.half_done = False
        self.save()
        print(f"{title} | Train: {train_acc:6.2f}% | Validation: {valid_acc:6.2f}%")

    def compute_accuracy(self, batches: EpochBatches, stream: Stream) -> float:
        """Return the accuracy in percent, on batches that are drawn from `(seed, epoch)`."""
        examples = batches.epoch(self.history.seed, self.history.epoch + 1, stream=stream)
        return compute_accuracy(self.model, examples, self.device)

    @property
    def title(self) -> str:
        """The epoch that is being trained, for what is printed."""
        return f"Epoch: {self.history.epoch + 1:03d}/{self.num_epochs:03d}"

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0].get("lr", 0.0))

    @property
    def position(self) -> str:
        """The batch that is next, or that failed (they count from 0), and the learning rate."""
        batch = f"epoch {self.history.epoch + 1}, batch {self.history.batch}"
        return f"{batch}, at learning rate {self.learning_rate:g}"

    # ---- Saving, and what happens to a run that doesn't reach its end ----

    def save(self) -> None:
        """Make sure that all numbers are finite, and save the run if it has a checkpoint_path."""
        if name := find_not_finite(self.model, self.optimizer, may_be_infinite=self.infinite):
            raise FloatingPointError(f"{name} is not finite before {self.position}. {REMEDY}")
        if self.checkpoint_file is None:
            return
        if not self.file_is_ours:
            set_aside_unless_earlier(self.checkpoint_file, self.history)
            self.file_is_ours = True
        run = make_checkpoint(self.model, self.optimizer, self.scheduler, self.history)
        write_checkpoint(self.checkpoint_file, run)
        self.dirty = False

    def save_and_report(self, event: str, advice: str) -> None:
        """Save a run that ends between two steps, and print where it is and what to do."""
        where = "in memory"
        try:
            if self.history.minibatch_loss:
                self.save()
                if self.checkpoint_path is not None:
                    where = f"saved in {self.checkpoint_path}"
        except CheckpointError as error:
            where = f"in memory only, because {error}"
        except FloatingPointError as error:
            self.roll_back(error)
            return
        print(f"{event} after {self.history.position}: the run is {where}. {advice}", flush=True)

    def recover(self, error: BaseException) -> None:
        """Save a run that failed between two steps; roll back one that failed inside a step."""
        if not self.dirty or isinstance(error, CheckpointError):
            return  # nothing was trained since the last save, or only saving has failed
        if self.half_done or isinstance(error, FloatingPointError):
            self.roll_back(error)
        else:
            self.save_and_report(type(error).__name__, "Fix the cause and run this cell again.")

    def roll_back(self, error: BaseException) -> None:
        """Put a run back to its last checkpoint, or say that it has none."""
        failure, path = f"{type(error).__name__} in {self.position}:", self.checkpoint_file
        advice = "recreate model, optimizer, scheduler and history, or load them from a checkpoint."
        try:
            if path is not None and os.path.isfile(path):
                saved = History(**read_checkpoint(path)["history"])
                if self.history.continues(saved):  # and isn't that of a different run
                    load_checkpoint(path, self.model, self.optimizer, self.scheduler)
                    self.history.load_state_dict(saved.state_dict())
                    advice = (
                        f"the run is back at {self.checkpoint_path}. Fix the cause and run this "
                        "cell again."
                    )
        except CheckpointError as reason:
            advice = f"{reason} Then {advice}"
        print(failure, advice, flush=True)


def progress_bar(title: str, total: int, done: int) -> tqdm:
    """Return a plain bar on stdout, gone at the end: a notebook stores nothing of it."""
    return tqdm(
        desc=title,
        total=total,
        initial=done,
        leave=False,
        file=sys.stdout,
        ncols=80,
        mininterval=0.5,
    )
