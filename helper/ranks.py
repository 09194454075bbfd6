"""What the ranks of a run do together: agree, compare, and share what one of them has.

A single process without a process group is rank 0 of 1, and can call all of it.

Everything here is sent over a process group of its own, made when the ranks first ask for it. So a
rank may be busy with a slow disk for longer than the timeout of training allows, and a background
save never mixes its messages with those of training.
"""

import hashlib
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)  # the longest wait for a rank that is slow to save or load
T = TypeVar("T")

# The group for saving, by the default group. It is forgotten when `destroy_process_group` ends it.
groups_for_saving = weakref.WeakKeyDictionary()


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process, and how many there are."""
    if dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def group_for_saving() -> dist.ProcessGroup | None:
    """Return the process group for saving and loading, or None without a process group.

    The first call makes it: all ranks must make that call. Its messages are small and live in
    ordinary memory, so it uses gloo, whatever training uses.
    """
    if not dist.is_initialized():
        return None
    default = dist.group.WORLD
    if default not in groups_for_saving:
        groups_for_saving[default] = dist.new_group(backend="gloo", timeout=TIMEOUT)
    return groups_for_saving[default]


# ---- Send ----


def all_gather(value: T) -> list[T]:
    """Return the values of all ranks, by rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group_for_saving())
    return values


def gather(value: T) -> list[T] | None:
    """Return the values of all ranks, by rank, on rank 0; on the other ranks, return None."""
    rank, size = rank_and_size()
    if not dist.is_initialized():
        return [value]
    values = [None] * size if rank == 0 else None
    dist.gather_object(value, values, dst=0, group=group_for_saving())
    return values


def broadcast(value: T) -> T:
    """Return the value of rank 0 on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=group_for_saving())
    return values[0]


def reduce_in_place(tensor: torch.Tensor, operation: dist.ReduceOp) -> torch.Tensor:
    """Replace each number by the largest, smallest or sum over all ranks; return the tensor."""
    if dist.is_initialized():
        dist.all_reduce(tensor, operation, group=group_for_saving())
    return tensor


def is_true_anywhere(value: bool) -> bool:
    """Return whether a value is true on at least one rank."""
    return reduce_in_place(torch.tensor(int(value)), dist.ReduceOp.MAX).item() == 1


# ---- Agree ----


def on_all_ranks(f: Callable[[], T]) -> T:
    """Call `f()` on every rank, and return its result; if it fails on one, raise on every rank."""
    result = failure = None
    try:
        result = f()
    except Exception as error:
        failure = error
    if is_true_anywhere(failure is not None):
        for rank, reason in enumerate(all_gather(reason_for(failure))):
            if reason is not None:
                raise RuntimeError(f"{reason} (rank {rank})") from failure
    return result


def reason_for(error: BaseException | None) -> str | None:
    """Return what an error says, in one line."""
    if error is None:
        return None
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def on_rank_zero(f: Callable[[], T]) -> T:
    """Call `f()` on rank 0 alone; return its result on every rank, or raise on every rank."""
    is_zero = rank_and_size()[0] == 0
    return broadcast(on_all_ranks(lambda: f() if is_zero else None))


# ---- Compare ----


def is_equal_on_all_ranks(value: Any) -> bool:
    """Return whether the `repr` of a value is that of rank 0, on every rank.

    Rank 0 sends 32 bytes, and every rank answers with one number, however large the value is.
    """
    digest = compute_digest(value)
    return not is_true_anywhere(digest != broadcast(digest))


def compute_digest(value: Any) -> bytes:
    """Return 32 bytes that differ if the `repr` of a value does."""
    return hashlib.sha256(repr(value).encode()).digest()


def merge_over_ranks(value: dict) -> dict:
    """Return the union of the nested dicts of all ranks, on every rank.

    If all are equal, nothing but a digest is sent. Otherwise, each distinct one is sent to rank 0
    once, by the first rank that has it. Raises a RuntimeError on every rank that names the first
    place in which two ranks contradict each other.
    """
    if is_equal_on_all_ranks(value):
        return value
    digest = compute_digest(value)
    is_first = all_gather(digest).index(digest) == rank_and_size()[0]
    values = gather(value if is_first else None)
    return on_rank_zero(lambda: merge_all(values))


def merge_all(values: list[dict | None]) -> dict:
    """Return the union of nested dicts, one for each rank. A None repeats an earlier one."""
    merged = {}
    for rank, value in enumerate(values):
        if value is not None:
            merged = merge(merged, value, rank)
    return merged


def merge(merged, value, rank: int, *path) -> Any:
    """Return the union of two nested values; what is in both must be equal."""
    if isinstance(merged, dict) and isinstance(value, dict):
        union = dict(merged)
        for key, item in value.items():
            union[key] = merge(merged[key], item, rank, *path, key) if key in merged else item
        return union
    if isinstance(merged, list) and isinstance(value, list) and len(merged) == len(value):
        pairs = enumerate(zip(merged, value, strict=True))
        return [merge(*pair, rank, *path, number) for number, pair in pairs]
    if repr(merged) != repr(value):
        raise ValueError(
            f"{'.'.join(map(str, path))} is {value!r:.80} on rank {rank}, and {merged!r:.80} on a "
            "rank before it"
        )
    return merged


def find_differing(hashes: dict[str, bytes], names: list[str]) -> tuple[set[str], set[str]]:
    """Compare tensors over the ranks by their SHA-256; return the names of two kinds.

    `hashes` are those of the tensors that this rank holds, and `names` those that any rank holds,
    in the same order on all ranks. The first set has the names of tensors that are not equal on
    all ranks that hold them. The second has the names that an earlier rank holds too.

    Ranks send 40 bytes a name, to be reduced; nothing is gathered.
    """
    rank, size = rank_and_size()
    holds = torch.tensor([name in hashes for name in names])
    first_holder = torch.where(holds, rank, size)
    reduce_in_place(first_holder, dist.ReduceOp.MIN)
    empty = bytes(32)
    mine = torch.tensor([[*hashes.get(name, empty)] for name in names], dtype=torch.uint8)
    expected = torch.where((first_holder == rank)[:, None], mine, 0)
    reduce_in_place(expected, dist.ReduceOp.MAX)
    differs = (holds & (mine != expected).any(dim=1)).to(torch.uint8)
    reduce_in_place(differs, dist.ReduceOp.MAX)
    differing = {name for name, differ in zip(names, differs.tolist(), strict=True) if differ}
    held_before = {
        name for name, first in zip(names, first_holder.tolist(), strict=True) if first < rank
    }
    return differing, held_before
