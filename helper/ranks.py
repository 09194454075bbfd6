"""What the ranks of a run do together: send values to each other, and raise errors together.

A single process without a process group is rank 0 of 1, and can call all of it.

Everything here is sent over a process group of its own, made when the ranks first ask for it. So a
rank may be busy with a slow disk for longer than the timeout of training allows, and a background
save never mixes its messages with those of training. Don't use it for anything else while a save
runs in the background.
"""

import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

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
