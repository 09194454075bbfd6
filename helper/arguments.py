"""Reject arguments that `train_model` can't use, before anything is trained."""

import inspect
import operator
import os

import numpy as np
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from helper.batches import length_of
from helper.compatibility import NEW_RUN, describe_optimizer, describe_run, describe_scheduler
from helper.history import History


def as_positive_integer(name: str, value) -> int:
    """Return a value as an int, or raise a ValueError. NumPy integers are accepted."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be a positive integer, not {value!r}.")
    if operator.index(value) < 1:
        raise ValueError(f"{name} must be a positive integer, not {value}.")
    return operator.index(value)


def check_arguments(trainer) -> None:
    """Raise a ValueError that names an unusable argument, and turn NumPy integers into ints."""
    if not isinstance(trainer.history, History):
        raise ValueError("history must be a History. A new run starts with History(seed=...).")
    trainer.num_epochs = as_positive_integer("num_epochs", trainer.num_epochs)
    for name in ("checkpoint_every", "logging_interval"):
        if getattr(trainer, name) is not None:
            setattr(trainer, name, as_positive_integer(name, getattr(trainer, name)))
    if trainer.checkpoint_every is not None and trainer.checkpoint_path is None:
        raise ValueError("checkpoint_every needs a checkpoint_path.")
    if trainer.save_in_background and trainer.checkpoint_path is None:
        raise ValueError("save_in_background needs a checkpoint_path.")
    check_loaders(trainer)
    check_optimizer(trainer.optimizer, trainer.model)
    if trainer.checkpoint_path is not None:
        if os.path.isdir(trainer.checkpoint_path) or not os.fspath(trainer.checkpoint_path):
            raise ValueError(f"checkpoint_path must name a file, not {trainer.checkpoint_path!r}.")
        describe_run(trainer.model, trainer.optimizer)  # raises for what can't be saved
    if trainer.scheduler_on not in ("valid_acc", "minibatch_loss"):
        raise ValueError('scheduler_on must be "valid_acc" or "minibatch_loss".')
    if trainer.scheduler_every not in ("epoch", "batch"):
        raise ValueError('scheduler_every must be "epoch" or "batch".')
    if trainer.scheduler is not None:
        check_scheduler(trainer)


def check_loaders(trainer) -> None:
    """Raise a ValueError for a loader that is missing or empty.

    The training loader must also have a length, and its batches must come in order.
    """
    for name in ("train_loader", "valid_loader", "test_loader"):
        loader = getattr(trainer, name)
        if not hasattr(loader, "__iter__"):
            raise ValueError(f"{name} must be a DataLoader, not {loader!r:.50}.")
        if length_of(loader) == 0:
            raise ValueError(
                f"{name} is empty. Check its dataset; with drop_last=True, a dataset smaller than "
                "one batch yields no batches."
            )
    if length_of(trainer.train_loader) is None:
        raise ValueError("train_loader has no length: give its dataset a __len__.")
    if not getattr(trainer.train_loader, "in_order", True):
        raise ValueError("train_loader must have in_order=True: the order of its batches matters.")


def check_optimizer(optimizer, model) -> None:
    """Raise a ValueError for an optimizer of a different model, or one that needs a closure."""
    if not hasattr(optimizer, "param_groups"):
        raise ValueError(f"optimizer must be a torch.optim optimizer, not {optimizer!r:.50}.")
    describe_optimizer(optimizer, model)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{type(optimizer).__name__} needs a closure for each step, but train_model steps "
            "without one. Use a different optimizer, or your own training loop."
        )


def check_scheduler(trainer) -> None:
    """Raise a ValueError for a scheduler that doesn't go with the other arguments."""
    scheduler = trainer.scheduler
    if not hasattr(scheduler, "step"):
        raise ValueError(f"scheduler must come from torch.optim.lr_scheduler, not {scheduler!r}.")
    describe_scheduler(scheduler, trainer.optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        if trainer.scheduler_every == "batch":
            raise ValueError('A ReduceLROnPlateau needs scheduler_every="epoch".')
        mode = "max" if trainer.scheduler_on == "valid_acc" else "min"
        if scheduler.mode != mode:
            raise ValueError(
                f'ReduceLROnPlateau has mode="{scheduler.mode}", but scheduler_on='
                f'"{trainer.scheduler_on}" needs mode="{mode}": an accuracy should rise, and a '
                "loss should fall."
            )

    history = trainer.history
    if trainer.scheduler_every == "batch":
        steps = trainer.num_epochs * len(trainer.train_loader) - len(history.minibatch_loss)
    else:
        steps = trainer.num_epochs - history.epoch
    excess = excess_steps(scheduler, max(steps, 0))
    if excess > 0:
        raise ValueError(
            f"The OneCycleLR schedule ends {excess} steps before epoch {trainer.num_epochs} does. "
            "Create it with total_steps for all epochs, or train fewer epochs. " + NEW_RUN
        )


def excess_steps(scheduler, steps: int) -> int:
    """Return how many of the next `steps` a OneCycleLR can't take, or 0 if that is unknown."""
    if isinstance(scheduler, OneCycleLR):
        return max(0, scheduler.last_epoch + steps - scheduler.total_steps)
    if isinstance(scheduler, ChainedScheduler):
        return max(excess_steps(part, steps) for part in scheduler._schedulers)
    if isinstance(scheduler, SequentialLR):
        # Each part steps from its milestone, where it is at step 0, to just before the next one.
        end = scheduler.last_epoch + steps
        starts = [0, *scheduler._milestones]
        ends = [*(milestone - 1 for milestone in scheduler._milestones), end]
        excess = 0
        for part, start, last in zip(scheduler._schedulers, starts, ends, strict=True):
            if isinstance(part, OneCycleLR):
                excess = max(excess, min(last, end) - start - part.total_steps)
        return excess
    return 0
