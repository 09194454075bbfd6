"""One file that holds a whole training run.

It is what `torch.save` makes of a plain dict, PyTorch's own convention for a checkpoint:
{"format", "model", "optimizer", "scheduler", "history", "others", "description", "versions"}.
https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html
"""

import contextlib
import copy
import os
import pickle
import platform
import zipfile
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from helper.atomic import write_atomically
from helper.compatibility import CheckpointError, check_equal, describe_run, in_words
from helper.history import History, is_history
from helper.signals import SignalsWait
from helper.table import tabulate

FORMAT = "save, load, continue 2"


def save_checkpoint(path, model, optimizer, scheduler, history, **others):
    """Save a run in the file `path`; `scheduler` may be None. Missing folders are made.

    `others` are objects with `state_dict` and `load_state_dict`, saved by the names that you give
    them: `scaler=scaler`, for example.

    Raises a CheckpointError if the disk is full, the folder can't be written to, the parts don't
    belong together, a number is not finite, or a state holds what could not be loaded. The file
    that was there before is unchanged then, unless the message says otherwise.
    """
    with SignalsWait(), checkpoint_errors(f"{path} could not be saved, and is as it was before"):
        checkpoint = make_checkpoint(model, optimizer, scheduler, history, **others)
        error = write_atomically(path, lambda file: write(checkpoint, file))
    if error is not None:
        raise CheckpointError(
            f"{path} is saved and complete, but its folder could not be flushed to the disk "
            f"({error}): after a power cut, the checkpoint before it may be back."
        )


def make_checkpoint(model, optimizer, scheduler, history, **others):
    """Return a run as the dict that is saved, or raise an error if it should not be saved."""
    description = describe_run(model, optimizer, scheduler, **others)
    if name := find_not_finite(model, optimizer):
        raise ValueError(f"{name} is not finite: training has failed, load an older checkpoint")
    return {
        "format": FORMAT,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "history": history.state_dict(),
        "others": {name: other.state_dict() for name, other in others.items()},
        "description": description,
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
    }


def find_not_finite(model, optimizer):
    """Return the name of a parameter or a tensor of the optimizer that is not finite, or None."""
    tensors = dict(model.named_parameters())
    for number, state in enumerate(s for s in optimizer.state.values() if isinstance(s, dict)):
        tensors |= {f"{name} {number} of the optimizer": value for name, value in state.items()}
    for name, value in tensors.items():
        value = value.to_local() if hasattr(value, "to_local") else value  # of one rank of many
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            smallest, largest = torch.aminmax(value.detach())  # 30 times as fast as isfinite
            if not (smallest.isfinite() and largest.isfinite()):
                return name
    return None


def write(checkpoint, file):
    """Write a checkpoint to an open file, and make sure that it can be loaded."""
    if not torch.serialization.get_crc32_options():
        raise ValueError("without check sums: torch.serialization.set_crc32_options(True) first")
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # about a half-written archive; what happened is in its context
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
    file.flush()
    try:  # mapped, so no tensor is read
        check_parts(torch.load(file.name, map_location="cpu", mmap=True, weights_only=True))
    except Exception as error:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file.name)
        what = f"a state holds {', '.join(unsafe)}" if unsafe else error
        raise ValueError(f"{what}: keep tensors and Python's own values, as float(x)") from error


def load_checkpoint(path, model, optimizer=None, scheduler=None, map_location="cpu", **others):
    """Load a run into `model`, `optimizer`, `scheduler` and `others`, and return its History.

    All or nothing: when anything does not fit, all of them stay as they were. The states end up on
    the device of the model; `map_location` says where they are put while they are read.

    Raises a CheckpointError if there is no such file, it is damaged or no checkpoint, loading it
    would not be safe, or it belongs to another model, optimizer or scheduler.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **others}
    parts = {name: part for name, part in parts.items() if part is not None}
    with SignalsWait(), checkpoint_errors(f"{path} could not be loaded, and nothing was changed"):
        own = describe_run(**parts)
        checkpoint = read_checkpoint(path, map_location)
        check_equal(path, checkpoint["description"], own)
        # A model copies the tensors that it is given; others may keep them, and they are still
        # those in the file, which somebody may overwrite.
        states = {**checkpoint, **checkpoint["others"]}
        states = {n: states[n] if n == "model" else copy.deepcopy(states[n]) for n in parts}
        undo = [remember(part) for part in parts.values()]
        try:
            fill(parts, states)
        except BaseException:
            for put_back in undo:
                put_back()
            raise
    not_loaded = tuple(name for name in checkpoint["description"] if name not in parts)
    return History(**checkpoint["history"], not_loaded=not_loaded)


def remember(part):
    """Return a function that puts a part of a run back to what it is now."""
    if isinstance(part, torch.optim.Optimizer):
        attributes = dict(vars(part))  # loading makes new dicts, and leaves these as they are
        return lambda: vars(part).update(attributes)
    if not isinstance(part, nn.Module):
        state = copy.deepcopy(part.state_dict())
        return lambda: part.load_state_dict(state)

    layers = [*part.modules()]
    slots = [(d, dict(d)) for layer in layers for d in (layer._parameters, layer._buffers)]
    tensors = [(t, t.detach().clone()) for t in (*part.parameters(), *part.buffers())]
    own = nn.Module.get_extra_state  # what a layer may save besides tensors
    layers = [layer for layer in layers if type(layer).get_extra_state is not own]
    extra = [(layer, copy.deepcopy(layer.get_extra_state())) for layer in layers]

    def put_back():
        for slot, before in slots:
            slot.update(before)
        for tensor, before in tensors:
            tensor.detach().copy_(before)
        for layer, before in extra:
            layer.set_extra_state(before)

    return put_back


def fill(parts, states):
    """Load the state of each part."""
    for name, part in parts.items():
        part.load_state_dict(states[name])
        if isinstance(part, torch.optim.Optimizer):
            keep_types(states[name], part)


def keep_types(saved, optimizer):
    """Give the tensors of an optimizer the types that were saved; PyTorch has cast them."""

    def convert(value, loaded):
        if isinstance(value, torch.Tensor):
            return loaded if loaded.dtype == value.dtype else value.to(loaded.device)
        if isinstance(value, dict):
            return {name: convert(value[name], loaded[name]) for name in value}
        if isinstance(value, (list, tuple)):
            return type(value)(map(convert, value, loaded))
        return value

    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, p in zip(numbers, parameters, strict=True):
        if number in saved["state"]:
            optimizer.state[p] = convert(saved["state"][number], optimizer.state[p])


def read_checkpoint(path, map_location="cpu"):
    """Return the dict in the file `path`, after making sure that it is the one that was saved.

    Its tensors are mapped: they are read from the file when they are used.
    """
    if not os.path.isfile(path):  # False for a folder that may not be opened, too
        raise CheckpointError(
            f"There is no checkpoint {path}. Run the notebook that saves it first: notebook 1 "
            "saves saved_data/checkpoint.pt, notebook 4 saved_data/alexnet.pt."
        )
    with checkpoint_errors(f"{path} is damaged, or no checkpoint; load an older one"):
        verify_content(path)
    with checkpoint_errors(f'{path} can\'t be read; map_location="cpu" helps with one from a GPU'):
        try:
            how = {"map_location": map_location, "mmap": True, "weights_only": True}
            checkpoint = torch.load(path, **how)
        except pickle.UnpicklingError:
            message = f"{path} was refused for safety: it could run any program."
            raise CheckpointError(message) from None
    with checkpoint_errors(f"{path} can be read, but it is no checkpoint of save_checkpoint"):
        check_parts(checkpoint)
    return checkpoint


def verify_content(path):
    """Compare a file of `torch.save` with the CRC sums that are in it; `torch.load` does not."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        # torch.save compresses nothing: a record that is larger than it looks is a trap. And of two
        # archives one behind the other, zipfile reads the second, torch.load the first.
        # PyTorch reads nothing of a record that is marked as a folder (bit 16).
        compressed = any(
            r.compress_type != zipfile.ZIP_STORED or r.external_attr & 16 for r in records
        )
        size = sum(record.file_size for record in records)
        if compressed or size > os.path.getsize(path) or min(r.header_offset for r in records):
            raise ValueError("its list of records is not one of torch.save")

        def is_intact(record):
            try:
                with archive.open(record) as file:
                    while file.read(2**20):
                        pass
            except zipfile.BadZipFile:
                return False
            return True

        with ThreadPoolExecutor() as threads:  # zlib computes CRC sums beside other threads
            for record, intact in zip(records, threads.map(is_intact, records), strict=True):
                if not intact:
                    raise ValueError(f"the content of {record.filename} is not what was saved")


def check_parts(checkpoint):
    """Raise any error unless an object that was loaded is built like a checkpoint."""
    described, groups = checkpoint["description"], checkpoint["optimizer"]["param_groups"]
    model = {name: in_words(value, name) for name, value in checkpoint["model"].items()}
    if not is_history(checkpoint["history"]):
        raise ValueError("the history holds something else than whole numbers and lists of floats")
    history = History(**checkpoint["history"])
    states = checkpoint["optimizer"]["state"].items()
    if not (
        checkpoint["format"] == FORMAT
        and 0 <= history.batch <= history.batches_per_epoch
        and model == {name: words.partition(";")[0] for name, words in described["model"].items()}
        and all(isinstance(state, dict) for number, state in states if isinstance(number, int))
        and sum(len(group["params"]) for group in groups) == len(described["optimizer"]) - 1
        and all(isinstance(name, str) for name in checkpoint["scheduler"] or {})
        and set(described) - {"model", "optimizer", "scheduler"} == set(checkpoint["others"])
        and all(isinstance(version, str) for version in checkpoint["versions"].values())
    ):
        raise ValueError("a part of it has another form")


@contextlib.contextmanager
def checkpoint_errors(message):
    """Turn every error in the block into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{message}: {reason:.300}.") from error


def describe_checkpoint(path, every_tensor=True):
    """Return a table of what is in a checkpoint, shown as HTML in a notebook, as text elsewhere.

    It has a row for every tensor, with shape, type and bytes, and for the total of each part, or
    the totals only. Below stand the position, the learning rate and the versions that wrote it.
    Raises a CheckpointError as `load_checkpoint` does for a file that can't be loaded.
    """
    with checkpoint_errors(f"{path} can't be described"):
        checkpoint = read_checkpoint(path)
        position = History(**checkpoint["history"]).position
        return tabulate(checkpoint, position, every_tensor)
