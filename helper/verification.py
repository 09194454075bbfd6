"""Verify that a file is a checkpoint, unchanged since it was saved."""

import contextlib
import os
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import torch

from helper.compatibility import CheckpointError, dtype_and_shape
from helper.history import History, is_valid_state

FORMAT = "save, load, continue 3"


def read_checkpoint(path: str | os.PathLike, map_location="cpu") -> dict:
    """Return the dict in the file `path`, after making sure that it is the one that was saved.

    Its tensors are mapped: they are read from the file when they are used. Raises a CheckpointError
    if the file is missing, damaged, unsafe to load, or not a checkpoint of this version.
    """
    if not os.path.isfile(path):  # also False inside a folder that you may not open
        raise CheckpointError(
            f"There is no checkpoint {path}. Run the notebook that saves it first: notebook 1 "
            "saves saved_data/checkpoint.pt, notebook 4 saved_data/alexnet.pt."
        )
    with checkpoint_errors(f"{path} is damaged or isn't a checkpoint; load an older one"):
        verify_content(path)
    with checkpoint_errors(f'{path} can\'t be read; if it is from a GPU, try map_location="cpu"'):
        try:
            checkpoint = torch.load(path, map_location=map_location, mmap=True, weights_only=True)
        except pickle.UnpicklingError:
            raise CheckpointError(
                f"{path} was refused for safety: it holds more than tensors and plain Python "
                "values, a whole model for example, and loading it could run any program. Save the "
                "model's state_dict() where the file was made, and load that."
            ) from None
    with checkpoint_errors(f"{path} can be read, but it wasn't written by save_checkpoint"):
        check_format(checkpoint)
        check_parts(checkpoint)
    return checkpoint


def verify_content(path) -> None:
    """Compare every record with its CRC-32 checksum, which `torch.load` doesn't do.

    Raises a ValueError if one differs, or if the archive isn't like those of `torch.save`.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            "it isn't a complete torch.save archive. (Neither is a file from before PyTorch 1.6 "
            "or a plain pickle, which torch.load may read.)"
        )
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        for record in records:
            # torch.save never compresses: a compressed record could expand without limit. And
            # PyTorch reads nothing from a record that MS-DOS marks as a folder (0x10).
            if record.compress_type != zipfile.ZIP_STORED or record.external_attr & 0x10:
                raise ValueError(f"torch.save never writes a record like {record.filename}")
        if sum(record.file_size for record in records) > os.path.getsize(path):
            raise ValueError("its records are larger than the file")
        # If two archives are concatenated, zipfile reads the second and torch.load the first.
        if min(record.header_offset for record in records) > 0:
            raise ValueError("its first record isn't at the start of the file")
        with ThreadPoolExecutor() as threads:  # zlib computes checksums in parallel
            for _ in threads.map(read_record, [archive] * len(records), records):
                pass  # raises the error of a damaged record


def read_record(archive, record) -> None:
    """Read a record of an archive, or raise a ValueError if it doesn't match its checksum."""
    try:
        with archive.open(record) as file:
            while file.read(2**20):
                pass
    except zipfile.BadZipFile:
        raise ValueError(f"the content of {record.filename} is not what was saved") from None


def check_format(content) -> None:
    """Raise a ValueError that says what a file holds, unless it is a checkpoint of this version."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}. Read it with torch.load")
    if content.get("format") == FORMAT:
        return
    if str(content.get("format", "")).startswith("save, load, continue"):
        raise ValueError(
            "an earlier version of this course saved it. Rerun the notebook that saves it"
        )
    load = "load_state_dict(torch.load(path, weights_only=True))"
    tensors = [name for name, value in content.items() if isinstance(value, torch.Tensor)]
    extra_states = [name for name in content if str(name).endswith("_extra_state")]
    if tensors and {*tensors, *extra_states} == set(content):
        raise ValueError(f"it is the state_dict of a model. Load it with model.{load}")
    if {"state", "param_groups"} <= set(content):
        raise ValueError(f"it is the state_dict of an optimizer. Load it with optimizer.{load}")
    if "last_epoch" in content:
        raise ValueError(f"it is the state_dict of a scheduler. Load it with scheduler.{load}")
    names = ", ".join(map(str, [*content][:8])) or "none"
    raise ValueError(f"it is a dict with these keys: {names}. Read it with torch.load")


def check_parts(checkpoint: dict) -> None:
    """Raise an error of any type if a part of a checkpoint is missing or malformed."""
    description = checkpoint["description"]
    for name, value in checkpoint["model"].items():
        if dtype_and_shape(value, name) != description["model"][name].partition(";")[0]:
            raise ValueError(f"{name} is not what its description says")
    if len(checkpoint["model"]) != len(description["model"]):
        raise ValueError("a tensor of the model is missing")

    groups = checkpoint["optimizer"]["param_groups"]
    num_parameters = sum(len(group["params"]) for group in groups)
    if num_parameters != len(description["optimizer"]) - 1:  # the other entry is its class
        raise ValueError("a parameter of the optimizer is missing")
    for number, state in checkpoint["optimizer"]["state"].items():
        if isinstance(number, int) and not isinstance(state, dict):
            raise ValueError("a state of the optimizer isn't a dict")

    if not all(isinstance(name, str) for name in checkpoint["scheduler"] or {}):
        raise ValueError("the state of the scheduler has names that aren't strings")
    if set(description) - {"model", "optimizer", "scheduler"} != set(checkpoint["others"]):
        raise ValueError("the other objects are not those in the description")
    if not all(isinstance(version, str) for version in checkpoint["versions"].values()):
        raise ValueError("a version isn't a string")
    if not is_valid_state(checkpoint["history"]):
        raise ValueError("the history holds something other than integers, floats and strings")
    history = History(**checkpoint["history"])
    if not 0 <= history.batch <= history.batches_per_epoch:
        raise ValueError("the history has more batches than its epochs can have")


@contextlib.contextmanager
def checkpoint_errors(message: str):
    """Turn an error in the block into a CheckpointError: `message`, a colon, and the reason."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{message}: {reason.rstrip('.'):.400}.") from error
