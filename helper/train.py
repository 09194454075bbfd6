"""The training loop, in which every batch is a function of `(seed, epoch, batch)`.

`train_model` creates a `Trainer` and calls its `fit`. Two facts explain the rest:

- The history is the position. `history.epoch` is the number of finished epochs (the length of
  `train_acc`), and `history.batch` the number of batches trained since then. Both move when a loss
  or an accuracy is appended, so the position is exact after every step.
- `dirty` is True while the run has trained something that no checkpoint holds.
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from helper.arguments import check_arguments
from helper.background import BackgroundWriter
from helper.batches import EpochBatches
from helper.checkpoint import (
    load_checkpoint,
    make_checkpoint,
    set_aside_unless_earlier_state,
    write_checkpoint,
)
from helper.compatibility import CheckpointError, start_or_check_run
from helper.evaluation import compute_accuracy
from helper.finite import find_infinite, find_not_finite
from helper.history import History
from helper.reproducibility import Stream, preserve_rng_state, seed_batch
from helper.signals import DeferredSignals, Stopped
from helper.verification import checkpoint_errors, read_checkpoint

REMEDY = "Create the optimizer with a lower learning rate, or look at the data of that batch."


def train_model(
    model: nn.Module,
    num_epochs: int,
    train_loader: Iterable,
    valid_loader: Iterable,
    test_loader: Iterable,
    optimizer: Optimizer,
    device: torch.device | str,
    scheduler: LRScheduler | None = None,
    *,
    history: History,
    scheduler_on: str = "valid_acc",
    scheduler_every: str = "epoch",
    checkpoint_path: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    save_in_background: bool = False,
    logging_interval: int | None = None,
) -> History:
    """Train `model` until `num_epochs` epochs are done in total, and return its history.

    The fields of `Trainer` describe the arguments. A new run starts with `History(seed=...)`.

    All randomness of a batch comes from `(seed, epoch, batch)`, and the global random numbers are
    restored at the end. A run can still change with the device, the number of threads or the
    version of PyTorch; with a loader that `EpochBatches` lists as not covered; and with a model
    that keeps generators or counters outside of its `state_dict`.

    SIGINT (the stop button) and SIGTERM take effect between two batches. The run is saved if it has
    a `checkpoint_path`; then SIGINT raises a KeyboardInterrupt, and SIGTERM ends the process. The
    same call continues the run. An error between two steps saves it too; an error inside a step
    rolls it back to its last checkpoint.

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
        save_in_background=save_in_background,
        logging_interval=logging_interval,
    ).fit()


@dataclass(kw_only=True)
class Trainer:
    """The arguments of one call of `train_model`, and the steps that it takes."""

    # The arguments
    model: nn.Module  # on `device` already; frozen parts in eval mode stay in eval mode
    num_epochs: int  # the total: with a history of 2 epochs, 12 trains 10 more
    # Each loader yields features [B, ...] and int64 targets [B]. If its dataset has a method `to`,
    # like those in helper/dataset.py, the dataset is moved to `device`.
    train_loader: Iterable  # must have a length
    valid_loader: Iterable
    test_loader: Iterable
    optimizer: Optimizer
    device: torch.device | str
    scheduler: LRScheduler | None = None
    history: History  # the run so far; extended in place, so that it stays in step with the model
    # What a ReduceLROnPlateau watches: "valid_acc", or "minibatch_loss", that of the last batch.
    scheduler_on: str = "valid_acc"
    # When the scheduler steps: after every "epoch" or after every "batch".
    scheduler_every: str = "epoch"
    checkpoint_path: str | os.PathLike | None = None  # saved after every epoch and at a stop
    checkpoint_every: int | None = None  # also saved every N batches, counted over the whole run
    # Keep training while a thread writes the file. This takes memory for a copy of the model,
    # optimizer and scheduler. If a write fails, the next save or the end raises the error.
    save_in_background: bool = False
    logging_interval: int | None = None  # prints the loss of batches 0, N, 2N, ... of each epoch

    # The state of this call
    dirty: bool = field(default=False, init=False)  # True if it has trained since the last save
    half_done: bool = field(default=False, init=False)  # True inside a step or an epoch's end
    infinite_at_start: set[str] = field(default_factory=set, init=False)  # names of tensors
    # The absolute path, in case the working directory changes. Messages show checkpoint_path.
    checkpoint_file: str | None = field(default=None, init=False)
    may_overwrite: bool = field(default=False, init=False)  # True once the file there is ours
    writer: BackgroundWriter = field(default_factory=BackgroundWriter, init=False)
    # What `num_entries` was when the writer started; None if it has nothing to write.
    being_written: int | None = field(default=None, init=False)
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
        # At its end, this block delivers the signals that it has deferred. enable_grad, because the
        # call may come from inside a torch.no_grad() block.
        with self.signals, preserve_rng_state(self.device), torch.enable_grad():
            try:
                self.prepare()
                self.train()
                self.finish_saving()
            except Stopped:
                self.save_and_report("Stopped", "Run this cell again to continue.")
            except BaseException as error:
                self.recover(error)
                raise
            finally:
                self.writer.close()  # a traceback that is kept would keep its copy of the run
                for batches in (self.train_batches, self.valid_batches, self.test_batches):
                    batches.close()
        return self.history

    def prepare(self) -> None:
        """Move the datasets to the device; start the run in `history`, or check that it matches."""
        self.infinite_at_start = find_infinite(self.model)
        for loader in (self.train_loader, self.valid_loader, self.test_loader):
            if hasattr(getattr(loader, "dataset", None), "to"):
                loader.dataset.to(self.device)
        # Also sets the model's training mode, and records batches_per_epoch in a new history.
        start_or_check_run(self)

    def train(self) -> None:
        """Train all epochs that are not done yet, and print the test accuracy."""
        history = self.history
        if history.epoch >= self.num_epochs:
            print(f"Nothing to do: {history.epoch} of {self.num_epochs} epochs are done already.")
            self.save()  # the last save may have failed
            return
        while history.epoch < self.num_epochs:
            # A run can be stopped between the last batch of an epoch and its accuracies.
            if history.batch < history.batches_per_epoch:
                self.train_epoch()
            self.finish_epoch()
        test_acc = self.epoch_accuracy(self.test_batches, Stream.TEST_ACCURACY)
        print(f"Test accuracy: {test_acc:.2f}%")

    def train_epoch(self) -> None:
        """Train the remaining batches of an epoch."""
        history = self.history
        epoch = history.epoch + 1
        num_batches = history.batches_per_epoch
        start = history.batch  # the batches before it are trained already
        batches = self.train_batches.epoch(history.seed, epoch, start, num_batches=num_batches)
        with progress_bar(self.title, num_batches, start) as bar:
            for batch, (features, targets) in enumerate(batches, start):
                seed_batch(history.seed, epoch, batch, Stream.STEP)
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
        """Take one step on features `[B, ...]` and int64 targets `[B]`, and record its loss.

        Raises a FloatingPointError if the loss isn't finite.
        """
        learning_rate = self.learning_rate
        # Even the forward pass changes a model: BatchNorm updates its running statistics.
        self.dirty = True
        self.half_done = True
        loss = nn.functional.cross_entropy(self.model(features), targets)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"The loss is {loss.item()} in {self.current_batch}. {REMEDY}")
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
        history = self.history
        title = self.title  # of this epoch: it changes when train_acc is appended
        train_acc = self.epoch_accuracy(self.train_batches, Stream.TRAIN_ACCURACY)
        valid_acc = self.epoch_accuracy(self.valid_batches, Stream.VALID_ACCURACY)
        # Nothing has changed up to here, so an error while computing accuracies loses nothing.
        self.dirty = True
        self.half_done = True
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if self.scheduler_on == "valid_acc":
                self.scheduler.step(valid_acc)
            else:
                self.scheduler.step(history.minibatch_loss[-1])
        elif self.scheduler is not None and self.scheduler_every == "epoch":
            self.scheduler.step()
        history.train_acc.append(train_acc)
        history.valid_acc.append(valid_acc)
        self.half_done = False
        self.save()
        print(f"{title} | Train: {train_acc:6.2f}% | Validation: {valid_acc:6.2f}%")

    def epoch_accuracy(self, batches: EpochBatches, stream: Stream) -> float:
        """Return the accuracy in percent, with randomness that comes from `(seed, epoch)`."""
        return compute_accuracy(self.model, self.seeded_batches(batches, stream), self.device)

    def seeded_batches(self, batches: EpochBatches, stream: Stream) -> Iterator:
        """Yield all batches, and seed before the model sees each: it may draw in eval mode too."""
        seed, epoch = self.history.seed, self.history.epoch + 1
        for batch, examples in enumerate(batches.epoch(seed, epoch, stream=stream)):
            seed_batch(seed, epoch, batch, Stream.EVALUATION)
            yield examples

    @property
    def title(self) -> str:
        """The epoch that is being trained, for what is printed."""
        return f"Epoch: {self.history.epoch + 1:03d}/{self.num_epochs:03d}"

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first parameter group, or 0.0 if the optimizer has none."""
        return float(self.optimizer.param_groups[0].get("lr", 0.0))

    @property
    def current_batch(self) -> str:
        """The batch that is next, or that failed (counted from 0), and the learning rate."""
        history = self.history
        is_end = 0 < history.batches_per_epoch == history.batch
        batch = "after its last batch" if is_end else f"batch {history.batch}"
        return f"epoch {history.epoch + 1}, {batch}, at learning rate {self.learning_rate:g}"

    # ---- Saving, stopping and recovering ----

    def save(self) -> None:
        """Make sure that all numbers are finite, and save the run if it has a checkpoint_path."""
        name = find_not_finite(self.model, self.optimizer, may_be_infinite=self.infinite_at_start)
        if name is not None:
            raise FloatingPointError(f"{name} is not finite at {self.current_batch}. {REMEDY}")
        if self.checkpoint_file is None:
            return
        if not self.may_overwrite:
            set_aside_unless_earlier_state(self.checkpoint_file, self.history)
            self.may_overwrite = True
        with checkpoint_errors(f"{self.checkpoint_path} could not be saved"):
            run = make_checkpoint(self.model, self.optimizer, self.scheduler, self.history)
        if self.save_in_background:
            self.finish_saving()
            self.writer.start(self.checkpoint_file, run)
            self.being_written = self.num_entries
        else:
            write_checkpoint(self.checkpoint_file, run)
            self.dirty = False

    def finish_saving(self) -> None:
        """Wait for a save in the background, if there is one; raise a CheckpointError if it failed.

        Only now is the file known to be complete. So only now can `dirty` become False, and only if
        nothing has been trained since the write started, not even half a step.
        """
        being_written, self.being_written = self.being_written, None
        self.writer.wait()
        if being_written == self.num_entries and not self.half_done:
            self.dirty = False

    @property
    def num_entries(self) -> int:
        """How many losses and accuracies the history has. Training only appends to them."""
        return len(self.history.minibatch_loss) + len(self.history.train_acc)

    def save_and_report(self, event: str, advice: str) -> None:
        """Save a run that ends between two steps, and print where it is and what to do."""
        where = "in memory"
        try:
            if self.history.minibatch_loss:  # otherwise nothing has been trained
                with contextlib.suppress(CheckpointError):  # the save below takes its place
                    self.finish_saving()
                self.save()
                self.finish_saving()
                if self.checkpoint_path is not None:
                    where = f"saved in {self.checkpoint_path}"
        except CheckpointError as error:
            where = f"in memory only: {str(error).rstrip('.')}"
        except FloatingPointError as error:
            self.roll_back(error)
            return
        print(f"{event} after {self.history.position}: the run is {where}. {advice}", flush=True)

    def recover(self, error: BaseException) -> None:
        """Save a run that failed between two steps; roll back one that failed inside a step."""
        try:
            self.finish_saving()
        except CheckpointError as reason:
            print(reason, flush=True)
        if not self.dirty or isinstance(error, CheckpointError):
            return  # nothing was trained since the last save, or only saving has failed
        if self.half_done or isinstance(error, FloatingPointError):
            self.roll_back(error)
        else:
            self.save_and_report(type(error).__name__, "Fix the cause and run this cell again.")

    def roll_back(self, error: BaseException) -> None:
        """Load the last checkpoint into the run, and print where it is now or what to do."""
        failure = f"{type(error).__name__} in {self.current_batch}"
        advice = (
            "Recreate the model, optimizer, scheduler and history, or load them from a checkpoint."
        )
        try:
            if self.load_last_checkpoint():
                advice = f"The run is back at {self.checkpoint_path}. Fix the cause and run this "
                advice += "cell again."
        except CheckpointError as reason:
            advice = f"{reason} {advice}"
        print(f"{failure}. {advice}", flush=True)

    def load_last_checkpoint(self) -> bool:
        """Load the checkpoint of this run, and return whether there is one."""
        if self.checkpoint_file is None or not os.path.isfile(self.checkpoint_file):
            return False
        saved = History(**read_checkpoint(self.checkpoint_file)["history"])
        if not self.history.continues(saved):
            return False  # the file belongs to a different run
        load_checkpoint(self.checkpoint_file, self.model, self.optimizer, self.scheduler)
        self.history.load_state_dict(saved.state_dict())
        return True


def progress_bar(title: str, total: int, done: int) -> tqdm:
    """Return a plain progress bar on stdout that erases itself, so notebooks don't store it."""
    return tqdm(
        desc=title,
        total=total,
        initial=done,
        leave=False,
        file=sys.stdout,
        ncols=80,
        mininterval=0.5,
    )
