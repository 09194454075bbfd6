"""One file that holds a whole training run, and that is either complete or not there at all.

The file is what `torch.save` makes of a plain dict, PyTorch's own convention for a checkpoint:
{"model", "optimizer", "scheduler", "history", "versions"}.
https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html
"""

import contextlib
import copy
import dataclasses
import html
import os
import pickle
import platform
import re
import zipfile
from pathlib import Path

import psutil
import torch

from helper.history import History

PARTS = {"model", "optimizer", "scheduler", "history", "versions"}

# What does not tell one optimizer from another: settings that schedulers write beside its own, and
# settings that came with later releases of PyTorch.
FROM_SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}
FROM_RELEASES = {"maximize", "foreach", "capturable", "differentiable", "fused"}
# ReduceLROnPlateau: `verbose` is gone since release 2.7, `default_min_lr` came later.
NOT_IN_ALL_RELEASES = {"verbose", "default_min_lr"}


class CheckpointError(RuntimeError):
    """A checkpoint can't be saved or loaded; the message says why, and what to do."""


def save_checkpoint(path, model, optimizer, scheduler, history):
    """Save a run in the file `path`; `scheduler` may be None. Missing folders are made.

    The new checkpoint takes the place of an old one only when all of it is on the disk: whatever
    happens before that, a kill or a power cut included, leaves the old one as it was.

    Raises:
        CheckpointError: the disk is full, the folder can't be written to, or a state holds
            something that could not be loaded safely.
    """
    path = Path(path)
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "history": vars(history),
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
    }
    # In the same folder, because os.replace is atomic within one file system only.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        write_to_disk(checkpoint, temporary)
        check_safety(path, temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be saved ({error}). The checkpoint that was there before is "
            "unchanged. Make room, or choose another folder, and run this again."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # after success it is gone already
            temporary.unlink()


def write_to_disk(checkpoint, path):
    """Write a checkpoint and wait until the disk has it."""
    with open(path, "wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            # When writing breaks off, by a full disk or the stop button, PyTorch complains about
            # its own half-written archive; what happened is in the error's context.
            raise (error.__context__ or error) from None
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(path):
    """Delete what processes that were killed while they saved `path` left behind."""
    for leftover in path.parent.glob("*.tmp"):
        match = re.fullmatch(rf"{re.escape(path.name)}\.(\d+)\.tmp", leftover.name)
        if match and not psutil.pid_exists(int(match[1])):
            leftover.unlink(missing_ok=True)


def check_safety(path, temporary):
    """Raise a CheckpointError if the file `temporary` could not be loaded with weights_only."""
    if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(temporary):
        raise CheckpointError(
            f"{path} was not saved, because a state holds {', '.join(unsafe)}, which can't be "
            "loaded safely. Keep tensors, numbers, strings, lists and dicts in it only: float(x) "
            "instead of a NumPy number, for example."
        )


def sync_folder(folder):
    """Write the folder's list of names to the disk; otherwise a power cut may undo a rename."""
    if os.name == "posix":  # Windows can't open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_checkpoint(path, model, optimizer=None, scheduler=None, map_location="cpu"):
    """Load a run into `model`, `optimizer` and `scheduler`, and return its History.

    All or nothing: when anything does not fit, all three stay as they were. The states end up on
    the device of the model; `map_location` says where they are put while they are read.

    Raises:
        CheckpointError: there is no such file, it is damaged or no checkpoint, loading it would
            not be safe, or it belongs to another model, optimizer or scheduler.
    """
    checkpoint = read_checkpoint(path, map_location)
    try:
        check_model(path, checkpoint["model"], model)
        if optimizer is not None:
            check_optimizer(path, checkpoint["optimizer"], optimizer)
        if scheduler is not None:
            check_scheduler(path, checkpoint["scheduler"], scheduler)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of save_checkpoint: its states are not built like those of "
            f"PyTorch ({error}). Nothing was loaded."
        ) from error
    # The model comes last, because it is loaded into the tensors that it has; the others get new.
    named = {"scheduler": scheduler, "optimizer": optimizer, "model": model}
    parts = [part for part in named.values() if part is not None]
    states = [checkpoint[name] for name, part in named.items() if part is not None]

    # The model's tensors were checked one by one. Only what a layer saves besides them, by
    # get_extra_state, can be refused after tensors were overwritten, and makes a copy necessary.
    before = [part.state_dict() for part in parts]
    if any(name.endswith("_extra_state") for name in before[-1]):
        before[-1] = copy.deepcopy(before[-1])
    try:
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    except KeyboardInterrupt:
        load_states(parts, states)
        raise
    except Exception as error:
        load_states(parts, before)
        raise CheckpointError(f"{path} does not fit ({error}). Nothing was loaded.") from error
    return History(**checkpoint["history"])


def load_states(parts, states):
    """Load their states into model, optimizer and scheduler, however often stop is pressed."""
    done = False
    while not done:
        try:
            for part, state in zip(parts, states, strict=True):
                part.load_state_dict(state)
            done = True
        except KeyboardInterrupt:
            print("One moment: model, optimizer and scheduler are being loaded.")


def read_checkpoint(path, map_location="cpu"):
    """Return the dict in the file `path`, after making sure that it is the one that was saved."""
    path = Path(path)
    if not os.path.isfile(path):  # False for a folder that may not be opened, too
        raise CheckpointError(
            f"There is no checkpoint {path}. Run the notebook that saves it first: notebook 1 "
            "saves saved_data/checkpoint.pt, notebook 4 saved_data/alexnet.pt."
        )
    verify_content(path)
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused for safety: it holds more than tensors and plain values, and "
            "opening it could run any program. A checkpoint of save_checkpoint never does."
        ) from error
    except Exception as error:
        raise CheckpointError(
            f'{path} can\'t be read ({str(error).partition(".")[0]}). With map_location="cpu", '
            "a checkpoint that was saved on a GPU is read anywhere."
        ) from error
    if not is_checkpoint(checkpoint):
        raise CheckpointError(
            f"{path} can be read, but it is no checkpoint of save_checkpoint. If it is the state "
            "of a model alone, use model.load_state_dict(torch.load(path, weights_only=True))."
        )
    if checkpoint["scheduler"] is not None:
        checkpoint["scheduler"].pop("verbose", None)
    return checkpoint


def verify_content(path):
    """Compare a file of `torch.save` with the CRC sums that are in it; `torch.load` does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            # If two files stand one behind the other, zipfile reads the second, torch.load the
            # first.
            if min(record.header_offset for record in archive.infolist()) != 0:
                damaged = "its beginning"
    except Exception as error:  # whatever zipfile stumbles over, it is not what was saved
        raise CheckpointError(
            f"{path} is damaged, or it never was a checkpoint ({error or type(error).__name__}). "
            "Save it again, or load an older one."
        ) from error
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: the content of {damaged} is not what was saved. Save it again, "
            "or load an older one."
        )


def is_checkpoint(loaded):
    """Tell whether an object that was loaded has all the parts of a checkpoint."""
    return (
        isinstance(loaded, dict)
        and set(loaded) == PARTS
        and all(isinstance(loaded[part], dict) for part in PARTS - {"scheduler"})
        and isinstance(loaded["scheduler"], (dict, type(None)))
        and {"state", "param_groups"} <= set(loaded["optimizer"])
        and set(loaded["history"]) == {field.name for field in dataclasses.fields(History)}
    )


def check_model(path, saved, model):
    """Raise a CheckpointError unless the state `saved` fits `model`, tensor by tensor."""
    own = model.state_dict()
    if set(saved) != set(own):
        check_prefix(path, saved, own)
    for name in [*own, *saved]:
        if name not in saved or name not in own:
            where = "missing in the file" if name in own else "in the file only"
            raise CheckpointError(
                f"{path} belongs to another model: {name} is {where}. Initialise the model with "
                "the class and the arguments that it was saved with."
            )
        theirs, ours = in_words(saved[name]), in_words(own[name])
        if theirs != ours:
            raise CheckpointError(
                f"{path} belongs to another model: {name} is {theirs} in the file and {ours} in "
                "yours. Initialise the model with the arguments that it was saved with."
            )


def check_prefix(path, saved, own):
    """Raise a CheckpointError if one of two models is wrapped and the other one isn't."""
    for prefix, wrapper in (("module.", "torch.nn.DataParallel"), ("_orig_mod.", "torch.compile")):
        saved_has_it, own_has_it = (
            all(name.startswith(prefix) for name in state) for state in (saved, own)
        )
        if saved_has_it and not own_has_it:
            raise CheckpointError(
                f'In {path}, all names begin with "{prefix}", because the model was wrapped when '
                f"it was saved. Wrap yours, too: load_checkpoint(path, {wrapper}(model), ...)."
            )
        if own_has_it and not saved_has_it:
            raise CheckpointError(
                f'All names of your model begin with "{prefix}", because it is wrapped, and those '
                f"in {path} don't. Load into the model inside: "
                f"load_checkpoint(path, model.{prefix[:-1]}, ...)."
            )


def check_optimizer(path, saved, optimizer):
    """Raise a CheckpointError unless the state `saved` comes from such an optimizer.

    PyTorch compares the number of parameters only, and matches them by position.
    """
    sizes = [
        [len(group["params"]) for group in groups]
        for groups in (saved["param_groups"], optimizer.param_groups)
    ]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"{path} belongs to another optimizer: the numbers of parameters in its groups are "
            f"{sizes[0]}, in yours {sizes[1]}. Make it from the same parameters as before."
        )

    defaults = set(optimizer.defaults)
    for theirs, ours in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        differ = (set(theirs) - set(ours) - defaults - FROM_SCHEDULERS) | (
            defaults - set(theirs) - FROM_RELEASES
        )
        if "amsgrad" in theirs:  # Adam is older than this setting
            differ.discard("decoupled_weight_decay")
        # Adam and AdamW have the same settings, and this one tells them apart.
        if theirs.get("decoupled_weight_decay", "?") == (not ours.get("decoupled_weight_decay")):
            differ.add("decoupled_weight_decay")
        if differ:
            raise CheckpointError(
                f"{path} belongs to another optimizer than {type(optimizer).__name__}, which "
                f"differs in {', '.join(sorted(differ))}. Make the one that was saved."
            )

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in saved["state"].get(number, {}).items():
            # A tensor with as many dimensions as the parameter has a number for each of its
            # elements, but for the rows and columns that Adafactor keeps.
            by_element = torch.is_tensor(value) and value.ndim == parameter.ndim
            if by_element and name not in ("row_var", "col_var") and value.shape != parameter.shape:
                raise CheckpointError(
                    f"{path} belongs to another optimizer: {name} of parameter {number} is "
                    f"{in_words(value)} in the file, the parameter is {in_words(parameter)}. Make "
                    "the optimizer from the same parameters in the same order."
                )


def check_scheduler(path, saved, scheduler):
    """Raise a CheckpointError unless the state `saved` comes from such a scheduler.

    PyTorch compares nothing: the state of one scheduler loads into any other.
    """
    if saved is None:
        raise CheckpointError(f"{path} was saved without a scheduler. Load it without one, too.")
    theirs, ours = names_in(saved), names_in(scheduler.state_dict())
    if theirs != ours:
        raise CheckpointError(
            f"{path} belongs to another scheduler than {type(scheduler).__name__}, which differs "
            f"in {', '.join(sorted(theirs ^ ours))}. Make the one that was saved."
        )


def names_in(state):
    """Return the names in a scheduler's state, and in those of the schedulers inside it."""
    names = {name for name in state if not name.startswith("_")} - NOT_IN_ALL_RELEASES
    for number, inner in enumerate(state.get("_schedulers", [])):
        names |= {f"{number}.{name}" for name in names_in(inner)}
    return names


def in_words(value):
    """Put a tensor's shape and type into words, or the type of anything else."""
    if torch.is_tensor(value):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def describe_checkpoint(path):
    """Return a table of what is in a checkpoint, shown as HTML in a notebook, as text elsewhere.

    It has a row for every tensor, with shape, type and bytes, and for the total of each part. Below
    stand the epochs done, the learning rate and the versions that wrote the file.

    Raises:
        CheckpointError: as load_checkpoint does for a file that can't be loaded.
    """
    checkpoint = read_checkpoint(path)
    optimizer_state = {
        f"{number}.{name}": value
        for number, state in checkpoint["optimizer"]["state"].items()
        for name, value in state.items()
    }
    rows = [("part", "name", "shape", "type", "bytes")]
    for part, state in (("model", checkpoint["model"]), ("optimizer", optimizer_state)):
        tensors = {name: value for name, value in state.items() if torch.is_tensor(value)}
        for name, tensor in tensors.items():
            shape, dtype = in_words(tensor).rsplit(" ", maxsplit=1)
            rows.append((part, name, shape, dtype, f"{tensor.nbytes:,}"))
        total = sum(tensor.nbytes for tensor in tensors.values())
        rows.append((part, f"all {len(tensors)} tensors", "", "", f"{total:,}"))

    history = History(**checkpoint["history"])
    rates = ", ".join(f"{float(g['lr']):g}" for g in checkpoint["optimizer"]["param_groups"])
    versions = ", ".join(f"{name} {number}" for name, number in checkpoint["versions"].items())
    return Table(
        rows,
        f"{history.epoch} epochs done with seed {history.seed}. Learning rate: {rates}. "
        f"Written by {versions}.",
    )


class Table:
    """Rows of strings, the first one the header, and a note, in Jupyter's two forms."""

    def __init__(self, rows, note):
        self.rows, self.note = rows, note

    def __repr__(self):
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False))
            + row[-1].rjust(widths[-1] + 2)
            for row in self.rows
        ]
        return "\n".join([*lines, self.note])

    def _repr_html_(self):
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows]
        header = rows[0].replace("td>", "th>")
        body = "".join(f"<tr>{row}</tr>" for row in rows[1:])
        return (
            f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self.note)}</p>"
        )
