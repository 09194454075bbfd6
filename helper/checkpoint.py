"""One file that holds a whole training run.

`torch.save` writes it from a plain dict, PyTorch's own convention for checkpoints:
{"format", "model", "optimizer", "scheduler", "history", "others", "description", "versions"}.
https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html
"""

import contextlib
import copy
import os
import platform
import sys

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from helper.atomic import FolderNotFlushed, atomic_file
from helper.compatibility import CheckpointError, check_equal, describe_run
from helper.finite import find_not_finite
from helper.history import History
from helper.signals import DeferredSignals
from helper.table import Table, tabulate
from helper.verification import (
    FORMAT,
    check_format,
    check_parts,
    checkpoint_errors,
    read_checkpoint,
)

# ---- Saving ----


def save_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    history: History,
    **others,
) -> None:
    """Save a run in the file `path`; `scheduler` may be None. Missing folders are created.

    `others` are objects with `state_dict` and `load_state_dict`, saved under the names that you
    give them: `scaler=scaler`, for example.

    Raises a CheckpointError if the disk is full, the folder can't be written to, the parts don't
    belong together, a state holds something that couldn't be loaded, or a number is not finite (see
    `find_not_finite`). In that case the previous file is unchanged, unless the message
    says otherwise.
    """
    with checkpoint_errors(f"{path} could not be saved and is unchanged"):
        checkpoint = make_checkpoint(model, optimizer, scheduler, history, **others)
        if name := find_not_finite(model, optimizer, others):
            raise ValueError(f"{name} is not finite. Training has failed: load an older checkpoint")
    write_checkpoint(path, checkpoint)


def make_checkpoint(model, optimizer, scheduler, history, **others) -> dict:
    """Return a run as the dict that is saved. It shares its tensors with the run."""
    return {
        "format": FORMAT,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "history": history.state_dict(),
        "others": {name: other.state_dict() for name, other in others.items()},
        "description": describe_run(model, optimizer, scheduler, **others),
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
    }


def write_checkpoint(path, checkpoint: dict) -> None:
    """Save a checkpoint as it is, or raise a CheckpointError."""
    with (
        DeferredSignals(),
        checkpoint_errors(f"{path} could not be saved and is unchanged"),
    ):
        try:
            with atomic_file(path) as file:
                write_loadable(checkpoint, file)
        except FolderNotFlushed as error:
            raise CheckpointError(
                f"{path} is saved and complete, but its folder could not be flushed to the disk "
                f"({error}): after a power failure, the previous checkpoint may be back."
            ) from error


def write_loadable(checkpoint: dict, file) -> None:
    """Write a checkpoint to an open file, and make sure that it can be loaded."""
    if not torch.serialization.get_crc32_options():
        raise ValueError("checksums are off. Call torch.serialization.set_crc32_options(True)")
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # PyTorch complains about a half-written archive; the disk's own error is its context.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    file.flush()
    try:  # mapped, so no tensor is read
        check_parts(torch.load(file.name, map_location="cpu", mmap=True, weights_only=True))
    except Exception as error:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file.name)
        reason = f"a state holds {', '.join(unsafe)}" if unsafe else error
        raise ValueError(
            f"{reason}. Keep only tensors and plain Python values in it, such as float(x)"
        ) from error


def set_aside_unless_earlier_state(path: str | os.PathLike, history: History) -> None:
    """Rename the file `path`, unless it holds an earlier state of this run: nothing is lost.

    It is renamed if it holds a later state, a different run, objects that `train_model` wouldn't
    save (a scaler), or something else altogether. Prints the new name. Raises a CheckpointError if
    the file can't be renamed.
    """
    path = os.path.realpath(path)
    if not os.path.isfile(path):
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        check_format(content)
        if history.continues(History(**content["history"])) and not content["others"]:
            return
    except Exception as error:  # torch.load raises errors of many types for what it can't read
        reason = f"can't be read as a checkpoint ({type(error).__name__})"
    else:
        reason = "holds something that this run would not save again"
        del content  # it keeps the file open
    start, suffix = os.path.splitext(path)
    names = (f"{start}.previous{number}{suffix}" for number in ("", *range(2, 1_000_000)))
    new_path = next(name for name in names if not os.path.lexists(name))
    with checkpoint_errors(f"{path} can't be renamed and is unchanged"):
        os.rename(path, new_path)
    line = f"{os.path.basename(path)} {reason}: renamed to {os.path.basename(new_path)}."
    tqdm.write(line, file=sys.stdout)  # keeps a progress bar intact


# ---- Loading ----


def load_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    map_location: torch.device | str = "cpu",
    **others,
) -> History:
    """Load a run into `model`, `optimizer`, `scheduler` and `others`, and return its History.

    All or nothing: if anything doesn't fit, all of them stay as they were. The states end up on the
    device of the model; `map_location` says where they are put while they are read.

    Raises a CheckpointError if there is no such file, it is damaged or isn't a checkpoint, loading
    it wouldn't be safe, or it belongs to a different model, optimizer or scheduler.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **others}
    parts = {name: part for name, part in parts.items() if part is not None}
    with (
        DeferredSignals(),
        checkpoint_errors(f"{path} could not be loaded, and nothing was changed"),
    ):
        expected = describe_run(**parts)
        checkpoint = read_checkpoint(path, map_location)
        check_equal(checkpoint["description"], expected)
        with all_or_nothing(parts):
            load_states(parts, {**checkpoint, **checkpoint["others"]})
    return History(
        **checkpoint["history"],
        not_loaded=tuple(name for name in checkpoint["description"] if name not in parts),
        others=tuple(checkpoint["others"]),
    )


@contextlib.contextmanager
def all_or_nothing(parts: dict):
    """Restore all parts of a run to their current state if the block raises an error."""
    restores = [snapshot(part) for part in parts.values()]
    try:
        yield
    except BaseException:
        for restore in restores:
            restore()
        raise


def snapshot(part):
    """Return a function that restores a part of a run to its current state."""
    if isinstance(part, nn.Module):
        return snapshot_module(part)
    if isinstance(part, Optimizer):
        attributes = dict(vars(part))  # loading replaces these dicts, and doesn't change them
        return lambda: vars(part).update(attributes)
    state = copy.deepcopy(part.state_dict())
    return lambda: part.load_state_dict(state)


def snapshot_module(module):
    """Return a function that restores a module to its current state, tensor by tensor."""
    layers = [*module.modules()]
    slots = [(slot, dict(slot)) for m in layers for slot in (m._parameters, m._buffers)]
    tensors = [(t, t.detach().clone()) for t in (*module.parameters(), *module.buffers())]
    # Some layers save more than tensors.
    own = nn.Module.get_extra_state
    with_extra_state = [m for m in layers if type(m).get_extra_state is not own]
    extra_states = [(m, copy.deepcopy(m.get_extra_state())) for m in with_extra_state]

    def restore():
        for slot, before in slots:  # a layer may have replaced a tensor
            slot.update(before)
        for tensor, before in tensors:
            tensor.detach().copy_(before)
        for layer, before in extra_states:
            layer.set_extra_state(before)

    return restore


def load_states(parts: dict, states: dict) -> None:
    """Load the state of each part."""
    for name, part in parts.items():
        if isinstance(part, Optimizer):
            load_optimizer(part, states[name])
        elif name == "model":
            part.load_state_dict(states[name])  # copies each tensor
        else:
            part.load_state_dict(copy.deepcopy(states[name]))  # it may keep what it is given


def load_optimizer(optimizer: Optimizer, state: dict) -> None:
    """Load a copy of a state into an optimizer, and keep the dtype each tensor was saved with.

    A copy, because the tensors in `state` are mapped from the file, which may be overwritten later.
    PyTorch casts tensors of the state to the dtype of their parameter: with bfloat16 parameters,
    that would round the float32 values `mu_product` of NAdam and `eta` of ASGD.
    """
    state = copy.deepcopy(state)
    optimizer.load_state_dict(state)
    # The saved run has taken steps. Without this line, the next scheduler step would warn.
    optimizer._opt_called = True
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state["state"]:
            loaded = optimizer.state[parameter]
            optimizer.state[parameter] = with_saved_types(state["state"][number], loaded)


def with_saved_types(saved, loaded):
    """Return the loaded value, with the saved tensors wherever loading changed their dtypes."""
    if isinstance(saved, torch.Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict):
        return {name: with_saved_types(saved[name], loaded[name]) for name in saved}
    if isinstance(saved, (list, tuple)):
        return type(saved)(map(with_saved_types, saved, loaded))
    return saved


# ---- Looking into a file ----


def describe_checkpoint(path: str | os.PathLike, every_tensor: bool = True) -> Table:
    """Return a table of what is in a checkpoint, shown as HTML in a notebook, as text elsewhere.

    Each part has a row with its total; with `every_tensor`, each tensor also has a row with its
    shape, type and bytes. Below the table are the position, the learning rate and the versions that
    wrote the file.
    Raises a CheckpointError for a file that `load_checkpoint` wouldn't load.
    """
    with checkpoint_errors(f"{path} can't be described"):
        checkpoint = read_checkpoint(path)
        position = History(**checkpoint["history"]).position
        return tabulate(checkpoint, position, every_tensor)
