"""A training run that is spread over processes, saved in a folder with the promises of one file.

Each rank writes the tensors that it holds, with PyTorch's own engine, `dcp`; everything else goes
into one small file, and the SHA-256 of every file into another, which is written last.
https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
"""

import shutil
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor

from helper import atomic
from helper import checkpoint as one_file
from helper.compatibility import check_equal, describe_run
from helper.history import History
from helper.reproducibility import compute_sha256
from helper.signals import SignalsWait

RUN = "run.pt"  # beside the files of dcp, whose table of contents is .metadata
warnings.filterwarnings("ignore", ".*assuming the intent is to .* in a single process")


def save_sharded(folder, model, optimizer, scheduler, history, keep=2):
    """Save a run as a new checkpoint in `folder`, where the newest `keep` of them stay.

    Every rank calls it, whether `fully_shard` has sharded the model or not; so may one process
    without a process group. `scheduler` may be None. What is no tensor is taken from rank 0;
    tensors that are not sharded and differ between ranks (buffers, say) are saved for each.

    Raises a CheckpointError on every rank if saving fails on one: the disk is full, the parts don't
    belong together, a number is not finite, a state holds what could not be loaded, a rank died.
    No rank waits longer than the time-out of its process group. One run at a time uses a folder.
    """
    failed = f"Saving in {folder} failed, and the checkpoints before are as they were"
    folder, path, (rank, _) = Path(folder), None, rank_and_size()
    with SignalsWait(), one_file.checkpoint_errors(failed):
        if type(keep) is not int or keep < 1:
            raise ValueError(f"keep must be a whole number of at least 1, not {keep!r}")
        try:
            parts = (model, optimizer, scheduler, history)
            run, tensors = agree(lambda: take_apart(one_file.make_checkpoint(*parts)))
            run["differing"] = move_differing(tensors)
            path = agree_on(lambda: atomic.new_folder(folder))
            engine(dcp.save, tensors, storage_writer=Writer(path))
            sums = gather(agree(lambda: finish_files(path, run)))
            sums = {name: own[name] for own in sums for name in own}
            agree_on(lambda: atomic.publish_folder(path, sums, keep))
        except BaseException:
            if path is not None and rank == 0:
                shutil.rmtree(path, ignore_errors=True)  # not there any more if it has its name
            raise


def load_sharded(folder, model, optimizer=None, scheduler=None):
    """Load the newest complete checkpoint in `folder` on any number of ranks; return its History.

    Every rank calls it. Broken checkpoints are passed over, and rank 0 prints which and why. All or
    nothing: if anything fails on one rank, all parts stay as they were on all of them.

    This detects damage, not malice: the file `.metadata` is a pickle, and a forged one can run any
    program. Load only folders from people you trust.

    Raises a CheckpointError on every rank if there is no complete checkpoint, the newest belongs to
    another model, optimizer or scheduler, or a rank died.
    """
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts = {name: part for name, part in parts.items() if part is not None}
    failed = f"Loading from {folder} failed, and nothing was changed"
    with SignalsWait(), one_file.checkpoint_errors(failed):
        path = find_newest(Path(folder))
        run, states, tensors = agree(lambda: read_run(path, parts))
        engine(dcp.load, tensors, storage_reader=dcp.FileSystemReader(path))
        undo = agree(lambda: [one_file.remember(part) for part in parts.values()])
        try:
            agree(lambda: one_file.fill(parts, states))
        except BaseException:
            for put_back in undo:
                put_back()
            raise
    not_loaded = tuple(name for name in run["description"] if name not in parts)
    return History(**run["history"], not_loaded=not_loaded)


def rank_and_size():
    """Return the number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(value):
    """Return the values of all ranks, by rank, on every rank."""
    values = [value] * rank_and_size()[1]
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def agree(do):
    """Return what `do()` returns on this rank; if it fails on one, raise an error on every rank."""
    result = failure = None
    try:
        result = do()
    except Exception as error:
        failure = error
    reasons = gather(failure and (" ".join(str(failure).split()) or type(failure).__name__))
    for rank, reason in enumerate(reasons):
        if reason:
            raise RuntimeError(f"{reason} (rank {rank})") from failure
    return result


def agree_on(do):
    """Let rank 0 alone call `do()`, and return on every rank what it returns there."""
    return gather(agree(lambda: do() if rank_and_size()[0] == 0 else None))[0]


def replace_tensors(value, replace, *path):
    """Return nested dicts and lists with `replace(tensor, *path)` in the place of each tensor."""
    if isinstance(value, torch.Tensor):
        return replace(value, *path)
    if isinstance(value, dict):
        return {key: replace_tensors(item, replace, *path, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [replace_tensors(item, replace, *path, key) for key, item in enumerate(value)]
        return type(value)(items)
    return value


def take_apart(checkpoint):
    """Return a checkpoint with no numbers in its tensors, and the tensors of each part by name."""
    tensors = {}

    def take_out(tensor, part, *names):
        tensors.setdefault(part, {})[".".join(map(str, names))] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return replace_tensors(checkpoint, take_out), tensors


def move_differing(tensors):
    """Move tensors that are not sharded, and not as on rank 0, to a part of this rank's own.

    Returns their parts and names, for each rank.
    """
    rank, size = rank_and_size()
    whole = [(part, name, x) for part, own in tensors.items() for name, x in own.items()]
    whole = [at for at in whole if size > 1 and not isinstance(at[2], DTensor)]
    sums = gather(agree(lambda: {(part, name): compute_sha256(x) for part, name, x in whole}))
    differing = [[at for at in own if own[at] != sums[0].get(at)] for own in sums]
    for part, name in differing[rank]:
        tensors.setdefault(f"rank {rank}", {})[f"{part}.{name}"] = tensors[part].pop(name)
    return differing


def engine(do, tensors, **storage):
    """Call a function of dcp, which tells all ranks of an error by itself, but as no Exception."""
    try:
        do(tensors, **storage)
    except dcp.CheckpointException as error:
        rank, (reason, _) = next(iter(error.failures.items()))
        raise RuntimeError(f"{reason} (rank {rank})") from None


class Writer(dcp.FileSystemWriter):
    """Raises the disk's own error; dcp would tell the other ranks what torch.save makes of it."""

    def write_data(self, *arguments):
        try:
            return super().write_data(*arguments)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def finish_files(path, run):
    """Write what is no tensor, and return the SHA-256 of each file of this rank."""
    rank, _ = rank_and_size()
    paths = [*path.glob(f"__{rank}_*")]
    if rank == 0:
        with open(path / RUN, "xb") as file:
            one_file.write(run, file)
        paths += [path / RUN, path / ".metadata"]
    return atomic.flush_and_hash(paths)


def find_newest(folder):
    """Return the newest complete checkpoint, and let rank 0 print which are broken."""
    broken, (rank, size) = [], rank_and_size()
    for path in reversed(agree_on(lambda: atomic.numbered_folders(folder))):
        mine = atomic.find_damage(path, slice(rank, None, size))  # each rank looks at its share
        damage = next(filter(None, gather(mine)), None)
        if damage is None:
            return path
        broken.append(f"{path.name} is broken: {damage}")
        if rank == 0:
            print(f"{path} is passed over, because it is broken: {damage}", flush=True)
    raise RuntimeError("; ".join(["there is no complete checkpoint in it", *broken]))


def read_run(path, parts):
    """Return what is no tensor, the states of the parts, and those of their tensors to be read.

    The latter two share their tensors: sharded as the model is now, and still without numbers.
    """
    run = torch.load(path / RUN, map_location="cpu", weights_only=True)
    one_file.check_parts(run)
    check_equal(path, run["description"], describe_run(**parts))
    model = parts["model"].state_dict()
    groups = parts["optimizer"].param_groups if "optimizer" in parts else ()
    parameters = [parameter for group in groups for parameter in group["params"]]
    rank, size = rank_and_size()
    own = run["differing"][rank] if len(run["differing"]) == size else ()
    tensors = {}

    def make_room(saved, part, *names):
        name, like = ".".join(map(str, names)), None
        if part == "model":
            like = model.get(name)
        elif (part, names[0]) == ("optimizer", "state"):
            like = parameters[names[1]]
        if like is None or like.shape != saved.shape:  # a count of steps, for example
            like = torch.empty(saved.shape)
        key = f"rank {rank}.{part}.{name}" if (part, name) in own else f"{part}.{name}"
        tensors[key] = torch.empty_like(like, dtype=saved.dtype)
        return tensors[key]

    return run, {part: replace_tensors(run[part], make_room, part) for part in parts}, tensors
