"""A training run that is spread over processes, saved in a folder with the promises of one file.

Each rank writes the tensors that it holds, with PyTorch's own `dcp`. Rank 0 writes everything else
into one small file, and last of all the SHA-256 of every file into another one.
https://docs.pytorch.org/docs/stable/distributed.checkpoint.html

    save_sharded       every rank                               rank 0 alone
    ---------------------------------------------------------------------------------------------
    collect            checks its numbers, sets its tensors
                       apart from everything else
    begin_folder                                                creates checkpoint-000007.tmp
    call_dcp           writes __<rank>_0.distcp                 writes .metadata, the contents
    write_metadata     flushes and hashes its files             writes run.pt: all but tensors
    commit_folder                                               writes manifest.json, the hashes;
                                                                renames to checkpoint-000007

    load_sharded       every rank                               rank 0 alone
    ---------------------------------------------------------------------------------------------
    find_newest        hashes its share of the files            lists folders, prints broken ones
    read_metadata      reads run.pt, compares it with the run
    allocate           creates empty tensors for its rows
    call_dcp           reads its rows into them
    load_states        loads all parts, or puts all back if a
                       rank fails

Between two lines, the ranks tell each other whether one has failed: then all of them raise its
error. So no rank is left waiting for one that has given up.
"""

import contextlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from helper.arguments import as_positive_integer
from helper.checkpoint import all_or_nothing, load_states, make_checkpoint, write_loadable
from helper.compatibility import check_equal, describe_run
from helper.finite import find_not_finite
from helper.folders import (
    begin_folder,
    commit_folder,
    find_damage,
    flush_and_hash,
    numbered_folders,
)
from helper.history import History
from helper.reproducibility import compute_sha256
from helper.signals import DeferredSignals
from helper.verification import check_format, check_parts, checkpoint_errors

RUN = "run.pt"  # next to the files of dcp, whose table of contents is .metadata
T = TypeVar("T")


def save_sharded(
    folder, model: nn.Module, optimizer: Optimizer, scheduler, history: History, keep: int = 2
) -> None:
    """Save a run as a new checkpoint in `folder`, and delete all but the newest `keep` of them.

    Every rank calls it, whether `fully_shard` has sharded the model or not; a single process
    without a process group can call it too. `scheduler` may be None. Anything that isn't a tensor
    is taken from rank 0; tensors that are not sharded and differ between ranks (buffers, say) are
    saved for each rank. A folder must be used by one run at a time.

    Raises a CheckpointError on every rank if saving fails on one: the disk is full, the parts don't
    belong together, a number is not finite, a state holds something that couldn't be loaded, a rank
    died. No rank waits longer than the timeout of its process group.
    """
    folder = Path(folder)
    message = f"Saving in {folder} failed, and the checkpoints before are as they were"
    with DeferredSignals(), checkpoint_errors(message):
        keep = as_positive_integer("keep", keep)

        def collect():
            checkpoint = make_checkpoint(model, optimizer, scheduler, history)
            if name := find_not_finite(model, optimizer):
                raise ValueError(
                    f"{name} is not finite. Training has failed: load an older checkpoint"
                )
            return split_off_tensors(checkpoint)

        run, tensors = on_all_ranks(collect)
        run["differing"] = separate_rank_local(tensors)
        path = on_rank_zero(lambda: begin_folder(folder))
        try:
            call_dcp(dcp.save, tensors, storage_writer=DiskErrorWriter(path))
            checksums = {}
            for of_one_rank in all_gather(on_all_ranks(lambda: write_metadata(path, run))):
                checksums |= of_one_rank
            on_rank_zero(lambda: commit_folder(path, checksums, keep))
        except BaseException:
            if rank_and_size()[0] == 0:
                shutil.rmtree(path, ignore_errors=True)  # if it doesn't have its final name yet
            raise


def load_sharded(folder, model: nn.Module, optimizer=None, scheduler=None) -> History:
    """Load the newest complete checkpoint in `folder` on any number of ranks; return its History.

    Every rank calls it. Broken checkpoints are passed over, and rank 0 prints which and why. All or
    nothing: if anything fails on one rank, all parts stay as they were on all ranks.

    This detects damage, not malice: the file `.metadata` is a pickle, and a forged one can run any
    program. Load only folders from people you trust.

    Raises a CheckpointError on every rank if there is no complete checkpoint, the newest belongs to
    a different model, optimizer or scheduler, or a rank died.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts = {name: part for name, part in parts.items() if part is not None}
    message = f"Loading from {folder} failed, and nothing was changed"
    with DeferredSignals(), checkpoint_errors(message):
        path = find_newest(Path(folder))
        run = on_all_ranks(lambda: read_metadata(path, parts))
        states, tensors = on_all_ranks(lambda: allocate(run, parts))
        call_dcp(dcp.load, tensors, storage_reader=dcp.FileSystemReader(path))
        with contextlib.ExitStack() as stack:
            # The ranks agree inside the block: if one fails, all of them put their parts back.
            on_all_ranks(lambda: stack.enter_context(all_or_nothing(parts)))
            on_all_ranks(lambda: load_states(parts, states))
    not_loaded = tuple(name for name in run["description"] if name not in parts)
    return History(**run["history"], not_loaded=not_loaded)


# ---- What ranks do together ----


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process, and how many there are."""
    if dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_gather(value: T) -> list[T]:
    """Return the values of all ranks, by rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_all_ranks(f: Callable[[], T]) -> T:
    """Call `f()` on every rank, and return its result; if it fails on one, raise on every rank."""
    result = failure = reason = None
    try:
        result = f()
    except Exception as error:
        failure = error
        reason = " ".join(str(error).split()) or type(error).__name__
    for rank, reason_of_rank in enumerate(all_gather(reason)):
        if reason_of_rank is not None:
            raise RuntimeError(f"{reason_of_rank} (rank {rank})") from failure
    return result


def on_rank_zero(f: Callable[[], T]) -> T:
    """Call `f()` on rank 0 alone; return its result on every rank, or raise on every rank."""

    def call_on_rank_zero():
        return f() if rank_and_size()[0] == 0 else None

    return all_gather(on_all_ranks(call_on_rank_zero))[0]


def call_dcp(function: Callable, tensors: dict, **storage) -> None:
    """Call dcp.save or dcp.load. It tells all ranks of an error by itself, but as a BaseException.

    Without a process group, it warns that it works in a single process: that is on purpose here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*assuming the intent is to .* in a single process")
        try:
            function(tensors, **storage)
        except dcp.CheckpointException as error:
            rank, (reason, _) = next(iter(error.failures.items()))
            raise RuntimeError(f"{reason} (rank {rank})") from None


# ---- Saving ----


def split_off_tensors(checkpoint: dict) -> tuple[dict, dict]:
    """Return a checkpoint with empty tensors, on the device meta, and the real ones.

    The real ones are {part: {name: tensor}}.
    """
    tensors = {}

    def split_off(tensor, part, *names):
        of_part = tensors.setdefault(part, {})
        of_part[join_names(names)] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return replace_tensors(checkpoint, split_off), tensors


def replace_tensors(value, replace: Callable, *path) -> Any:
    """Return nested dicts and lists with `replace(tensor, *path)` in the place of each tensor."""
    if isinstance(value, torch.Tensor):
        return replace(value, *path)
    if isinstance(value, dict):
        return {key: replace_tensors(item, replace, *path, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [replace_tensors(item, replace, *path, key) for key, item in enumerate(value)]
        return type(value)(items)
    return value


def join_names(names) -> str:
    """Return the name of a tensor in a part from its keys in the nested dicts."""
    return ".".join(map(str, names))


def separate_rank_local(tensors: dict) -> list[list[tuple[str, str]]]:
    """Move tensors that are not sharded, and not as on rank 0, to a part for this rank alone.

    Returns their parts and names, for each rank.
    """
    rank, size = rank_and_size()
    if size == 1:
        return [[]]

    def hash_unsharded():
        hashes = {}
        for part, of_part in tensors.items():
            for name, tensor in of_part.items():
                if not isinstance(tensor, DTensor):
                    hashes[part, name] = compute_sha256(tensor)
        return hashes

    hashes_by_rank = all_gather(on_all_ranks(hash_unsharded))
    on_rank_0 = hashes_by_rank[0]
    differing = []
    for hashes in hashes_by_rank:
        differing.append([key for key in hashes if hashes[key] != on_rank_0.get(key)])
    for part, name in differing[rank]:
        rank_local = tensors.setdefault(f"rank {rank}", {})
        rank_local[f"{part}.{name}"] = tensors[part].pop(name)
    return differing


class DiskErrorWriter(dcp.FileSystemWriter):
    """Raises the disk's own error; dcp would tell the other ranks what torch.save makes of it."""

    def write_data(self, *arguments):
        try:
            return super().write_data(*arguments)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def write_metadata(path: Path, run: dict) -> dict[str, str]:
    """Write `run` on rank 0, and return the SHA-256 of each file of this rank, by its name."""
    rank, _ = rank_and_size()
    paths = [*path.glob(f"__{rank}_*")]
    if rank == 0:
        with open(path / RUN, "xb") as file:
            write_loadable(run, file)
        paths += [path / RUN, path / ".metadata"]
    return flush_and_hash(paths)


# ---- Loading ----


def find_newest(folder: Path) -> Path:
    """Return the newest complete checkpoint; rank 0 prints which newer ones are broken."""
    rank, size = rank_and_size()
    reasons = ["there is no complete checkpoint in it"]
    for path in reversed(on_rank_zero(lambda: numbered_folders(folder))):
        local_damage = find_damage(path, slice(rank, None, size))  # each rank reads its share
        damages = [damage for damage in all_gather(local_damage) if damage is not None]
        if not damages:
            return path
        reasons.append(f"{path.name} is broken: {damages[0]}")
        if rank == 0:
            print(f"{path} is passed over, because it is broken: {damages[0]}", flush=True)
    raise RuntimeError("; ".join(reasons))


def read_metadata(path: Path, parts: dict) -> dict:
    """Return a checkpoint with empty tensors, after making sure that it fits the run."""
    run = torch.load(path / RUN, map_location="cpu", weights_only=True)
    check_format(run)
    check_parts(run)
    check_equal(run["description"], describe_run(**parts))
    return run


def allocate(run: dict, parts: dict) -> tuple[dict, dict]:
    """Return the states of the parts, and the tensors in them by the names that dcp reads.

    The tensors are sharded as the model is now, and have no numbers yet. Both results share them.
    """
    rank, size = rank_and_size()
    same_size = len(run["differing"]) == size
    rank_local = run["differing"][rank] if same_size else []
    model_state = parts["model"].state_dict()
    parameters = []
    if "optimizer" in parts:
        for group in parts["optimizer"].param_groups:
            parameters += group["params"]
    tensors = {}

    def allocate_tensor(saved, part, *names):
        name = join_names(names)
        like = None
        if part == "model":
            like = model_state.get(name)
        elif part == "optimizer" and names[0] == "state":
            like = parameters[names[1]]
        if like is None or like.shape != saved.shape:  # a count of steps, for example
            like = torch.empty(saved.shape)
        key = f"{part}.{name}"
        if (part, name) in rank_local:
            key = f"rank {rank}.{key}"
        tensors[key] = torch.empty_like(like, dtype=saved.dtype)
        return tensors[key]

    states = {part: replace_tensors(run[part], allocate_tensor, part) for part in parts}
    return states, tensors
