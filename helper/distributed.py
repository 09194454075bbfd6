"""A training run that is spread over processes, saved in a folder with the promises of one file.

Each rank writes the tensors that it holds, with PyTorch's own `dcp`. Rank 0 writes everything else
into one small file, and last of all the SHA-256 of every file into another one.
https://docs.pytorch.org/docs/stable/distributed.checkpoint.html

    save_sharded       every rank                               rank 0 alone
    ---------------------------------------------------------------------------------------------
    take_apart         checks its numbers, separates its
                       tensors from everything else
    (wait=False)       copies both; a thread does the rest
    make_whole         compares what isn't sharded with the     adds what others hold (pipeline
                       other ranks: it must be equal            stages)
    begin_folder                                                creates checkpoint-000040.tmp
    call_dcp           writes and hashes __<rank>_0.distcp      writes .metadata, the contents
    commit                                                      writes run.pt: all but tensors;
                                                                writes manifest.json, the hashes;
                                                                renames to checkpoint-000040
    delete_old                                                  in a thread: the next save waits

    load_sharded       every rank                               rank 0 alone
    ---------------------------------------------------------------------------------------------
    find_newest        hashes its share of the files            lists folders, renames broken ones
    read_run           reads run.pt, compares it with the run
    allocate           creates empty tensors for its rows
    call_dcp           reads its rows into them
    load_states        loads all parts, or puts all back if a
                       rank fails

Between two lines, the ranks tell each other whether one has failed: then all of them raise its
error. So no rank is left waiting for one that has given up.
"""

import contextlib
import copy
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.optim import Optimizer

from helper.arguments import as_positive_integer
from helper.atomic import flush
from helper.background import BackgroundCall
from helper.checkpoint import all_or_nothing, load_states
from helper.compatibility import CheckpointError, check_equal
from helper.finite import find_not_finite
from helper.folders import (
    HashingFileSystem,
    begin_folder,
    commit_folder,
    delete_old,
    find_damage,
    identity_of,
    is_committed,
    list_checkpoints,
    read_manifest,
    set_broken_aside,
    step_of,
)
from helper.history import History
from helper.merging import make_whole, merge_over_ranks
from helper.ranks import (
    all_gather,
    gather,
    group_for_saving,
    is_true_anywhere,
    on_all_ranks,
    on_rank_zero,
    rank_and_size,
    reason_for,
)
from helper.sharded import allocate, describe_by_name, take_apart
from helper.signals import DeferredSignals
from helper.verification import check_format, check_parts, checkpoint_errors

RUN = "run.pt"  # next to the files of dcp, whose table of contents is .metadata


def save_sharded(
    folder,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler,
    history: History,
    keep: int = 2,
    wait: bool = True,
    **others,
) -> None:
    """Save a run as a new checkpoint in `folder`, and delete all but the newest `keep` of them.

    Every rank calls it, whether its model is sharded, a stage of a pipeline with the names of the
    whole model, or a copy; a single process without a process group can call it too. `scheduler`
    may be None. `others` are objects with `state_dict` and `load_state_dict`, saved under the names
    that you give them: `scaler=scaler`. The checkpoint is named by its step, the number of losses
    in `history`. The curves are rank 0's. Buffers that differ between ranks are saved for each
    rank. Only one run at a time may use a folder.

    With `wait=False`, the run is copied in memory, training continues, and a thread does the rest.
    It takes the memory of one more run. `wait_for_save`, the next save and the next load wait for
    it, and raise its error.

    Raises a CheckpointError on every rank if saving fails on one: the disk is full, the parts don't
    belong together, a number is not finite, a state holds something that couldn't be loaded, a rank
    died, or ranks differ in something that must be equal: a parameter that isn't a DTensor, an
    optimizer's setting, the scheduler. The message says what is on the disk.
    """
    folder = Path(folder)

    def collect():
        run, tensors, may_differ = take_apart(model, optimizer, scheduler, history, **others)
        if name := find_not_finite(model, optimizer, others):
            raise ValueError(f"{name} is not finite. Training has failed: load an older checkpoint")
        if not wait:
            tensors = BlockingAsyncStager().stage(tensors)
            run = copy.deepcopy(run)
        return run, tensors, may_differ

    with DeferredSignals():
        wait_for_save()
        with checkpoint_errors(f"Saving in {folder} failed, and {AS_THEY_WERE}"):
            keep = as_positive_integer("keep", keep)
            run, tensors, may_differ = on_all_ranks(collect)
        is_zero = rank_and_size()[0] == 0

        def write_and_delete():
            write_checkpoint(folder, run, tensors, may_differ)
            if is_zero:
                delete_old(folder, keep)

        if not wait:
            background.start(write_and_delete)
            return
        write_checkpoint(folder, run, tensors, may_differ)
        if is_zero:  # the other ranks train meanwhile: a slow delete must not make them wait
            background.start(lambda: delete_old(folder, keep))


def load_sharded(
    folder, model: nn.Module, optimizer=None, scheduler=None, step: int | None = None, **others
) -> History:
    """Load the newest complete checkpoint in `folder` on any number of ranks; return its History.

    With `step`, load the one of that step. Every rank calls it. A newer checkpoint that is broken
    is renamed and passed over, and rank 0 prints why. All or nothing: if anything fails on one
    rank, all parts stay as they were on all ranks.

    Buffers that were saved for each rank come back on the same number of ranks; on a different
    number, every rank gets those of the first.

    This detects damage, not malice: the file `.metadata` is a pickle, and a forged one can run any
    program. Load only folders from people you trust.

    Raises a CheckpointError on every rank if there is no complete checkpoint, the newest belongs to
    a different model, optimizer or scheduler, or a rank died.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **others}
    parts = {name: part for name, part in parts.items() if part is not None}
    message = f"Loading from {folder} failed, and nothing was changed"
    with DeferredSignals():
        wait_for_save()
        with checkpoint_errors(message):
            path = find_newest(Path(folder), step)
            expected = merge_over_ranks(on_all_ranks(lambda: describe_by_name(**parts)))
            run = on_all_ranks(lambda: read_run(path, expected))
            find_key = on_all_ranks(lambda: finder_of_keys(path, run["size"]))
            states, tensors = on_all_ranks(lambda: allocate(run, parts, find_key))
            call_dcp(dcp.load, tensors, storage_reader=dcp.FileSystemReader(path))
            with contextlib.ExitStack() as stack:
                # The ranks agree inside the block: if one fails, all of them put their parts back.
                on_all_ranks(lambda: stack.enter_context(all_or_nothing(parts)))
                on_all_ranks(lambda: load_states(parts, states))
    return History(
        **run["history"],
        not_loaded=tuple(name for name in run["description"] if name not in parts),
        others=tuple(run["others"]),
    )


# ---- In the background ----


def wait_for_save() -> None:
    """Wait until the last save is complete. Every rank calls it, also at the end of a program.

    Raises a CheckpointError on every rank if that save has failed on one.
    """
    with DeferredSignals(), checkpoint_errors("Waiting for the last save failed"):
        error = background.wait()
        if is_true_anywhere(error is not None):
            message = next(filter(None, all_gather(reason_for(error))))
            raise CheckpointError(f"{message}.") from error


background = BackgroundCall()  # the save of this process


# ---- Saving ----

AS_THEY_WERE = "the checkpoints before are as they were"


def write_checkpoint(folder: Path, run: dict, tensors: dict, may_differ: set[str]) -> None:
    """Write a run that was taken apart. Every rank calls it at the same time."""
    step = len(run["history"]["minibatch_loss"])
    path, identity = folder, None  # until the new folder has a name
    files = HashingFileSystem()
    try:
        run, tensors = make_whole(run, tensors, may_differ)
        path = on_rank_zero(lambda: begin_folder(folder, step))
        identity = identity_of(path)
        call_dcp(dcp.save, tensors, storage_writer=HashingWriter(path, files))
        checksums_by_rank = gather(files.checksums())
        on_rank_zero(lambda: commit(path, run, checksums_by_rank))
    except Exception as error:
        state = AS_THEY_WERE
        if path != folder:
            if is_committed(path, identity):
                state = f"the new one, {path.stem}, is complete"
            elif rank_and_size()[0] == 0:
                shutil.rmtree(path, ignore_errors=True)
        reason = reason_for(error)
        raise CheckpointError(f"Saving in {folder} failed, and {state}: {reason:.400}.") from error


class HashingWriter(dcp.FileSystemWriter):
    """Hashes what it writes, and raises the disk's own error.

    dcp would tell the other ranks what torch.save makes of it.
    """

    def __init__(self, path: Path, files: HashingFileSystem):
        super().__init__(path)
        self.fs = files

    def write_data(self, *arguments):
        try:
            return super().write_data(*arguments)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def commit(path: Path, run: dict, checksums_by_rank: list[dict[str, str]]) -> None:
    """Write everything but the tensors, and complete the folder."""
    checksums = {}
    for of_one_rank in checksums_by_rank:
        checksums |= of_one_rank
    files = HashingFileSystem()
    with files.create_stream(path / RUN, "xb") as file:
        torch.save(run, file)
        file.flush()
        flush(file.fileno())
    commit_folder(path, checksums | files.checksums())


def call_dcp(function: Callable, tensors: dict, **storage) -> None:
    """Call dcp.save or dcp.load. It tells all ranks of an error by itself, but as a BaseException.

    Without a process group, it warns that it works in a single process: that is on purpose here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*assuming the intent is to .* in a single process")
        try:
            function(tensors, process_group=group_for_saving(), **storage)
        except dcp.CheckpointException as error:
            rank, (reason, _) = next(iter(error.failures.items()))
            raise RuntimeError(f"{reason} (rank {rank})") from None


# ---- Loading ----


def find_newest(folder: Path, step: int | None) -> Path:
    """Return the newest complete checkpoint, or that of a step. Rank 0 renames broken ones."""
    rank, size = rank_and_size()
    reasons = ["there is no complete checkpoint in it"]
    if step is not None:
        reasons = [f"there is no complete checkpoint of step {step} in it"]
    for path in reversed(on_rank_zero(lambda: list_checkpoints(folder))):
        if step in (None, step_of(path)):
            damage = find_damage_on_any_rank(path)
            if damage is None:
                return path
            reasons.append(f"{path.name} is broken: {damage}")
            on_rank_zero(lambda path=path, damage=damage: set_broken_aside(path, damage))
    raise RuntimeError("; ".join(reasons))


def find_damage_on_any_rank(path: Path) -> str | None:
    """Let each rank verify its share of the files; return what is damaged, or None."""
    rank, size = rank_and_size()

    def read_on_rank_zero():
        try:
            return read_manifest(path), None
        except ValueError as error:
            return None, str(error)

    def verify_share(of_rank):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} isn't there for this rank. All ranks must see the same folder"
            )
        names = sorted(checksums)[of_rank::size]
        return find_damage(path, {name: checksums[name] for name in names})

    checksums, damage = on_rank_zero(read_on_rank_zero)
    if damage is not None:
        return damage
    damage = on_all_ranks(lambda: verify_share(rank))
    if not is_true_anywhere(damage is not None):
        return None
    damages = all_gather(damage)
    damaged = next(each for each in range(size) if damages[each] is not None)
    if on_rank_zero(lambda: verify_share(damaged)) is None:
        raise RuntimeError(
            f"in {path.name}, {damages[damaged]} for rank {damaged}, but not for rank 0. All ranks "
            "must see the same files"
        )
    return damages[damaged]


def read_run(path: Path, expected: dict) -> dict:
    """Return a run without its tensors, after making sure that it fits the current one."""
    run = torch.load(path / RUN, map_location="cpu", weights_only=True)
    check_format(run)
    check_parts(run)
    check_equal(run["description"], expected)
    return run


def finder_of_keys(path: Path, saved_size: int) -> Callable[[str], str]:
    """Return a function that says under which name dcp has a tensor for this rank."""
    rank, size = rank_and_size()
    saved = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    prefix = f"rank {rank}."

    def find_key(key):
        return prefix + key if size == saved_size and prefix + key in saved else key

    return find_key
