"""One run of what the ranks hold: what they must agree on, and what they may have for themselves.

Usually all ranks hold the same but for the shards of DTensors, and 32 bytes show that. Ranks that
hold different layers (a pipeline) have their dicts merged. A name stands for one thing: if two
ranks mean different things by it, loading could only get it wrong, so it isn't saved.
"""

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from helper.compatibility import dtype_and_shape
from helper.history import History
from helper.ranks import (
    all_gather,
    broadcast,
    gather,
    is_true_anywhere,
    rank_and_size,
    reduce_in_place,
)
from helper.reproducibility import compute_sha256
from helper.sharded import UNSHARDED, position_of

OTHER_NAMES = (
    "Ranks that hold different layers must give them different names, those of the whole model. A "
    "parameter that is spread over ranks must be a DTensor: see fully_shard and parallelize_module"
)
SAME_SETTINGS = (
    "It must be the same on all ranks. Give every rank's optimizer the same groups in the same "
    "order (a group may be empty), and every rank's scheduler the same numbers"
)


def make_whole(run: dict, tensors: dict, may_differ: set[str]) -> tuple[dict, dict]:
    """Return the run with what other ranks hold, and the tensors that this rank writes.

    Tensors that differ between ranks are moved to a part for this rank alone, unless it is the
    first that has them. Raises a ValueError on every rank if others differ.
    """
    rank, size = rank_and_size()
    to_merge = {**run, "history": position_of(History(**run["history"])), "size": size}
    try:
        merged = merge_over_ranks(to_merge)
        check_meshes(merged["layouts"], tensors)
    except ValueError as error:
        raise ValueError(f"{error}. {advice(str(error))}") from error
    tensors = {part: dict(of_part) for part, of_part in tensors.items()}
    separate_rank_local(merged["layouts"], tensors, may_differ)
    return {**merged, "history": run["history"]}, tensors


def advice(contradiction: str) -> str:
    """Return what to do about two ranks that contradict each other."""
    if contradiction.startswith("history"):
        return "All ranks must save the same run at the same step"
    if contradiction.startswith(("optimizer.param_groups", "scheduler", "others")):
        return SAME_SETTINGS
    return OTHER_NAMES


def check_meshes(layouts: dict[str, dict[str, str]], tensors: dict) -> None:
    """Raise a ValueError on every rank for a name with different numbers on different meshes.

    With tensor parallelism and FSDP together, some tensors are equal on several meshes.
    """
    several = {key for key, layout in layouts.items() if len(layout) > 1}
    if not several:
        return
    pieces = {}
    for part, of_part in tensors.items():
        for name, tensor in of_part.items():
            if f"{part}.{name}" in several:
                pieces |= hash_pieces(f"{part}.{name}", tensor)
    merge_over_ranks(pieces)


def hash_pieces(key: str, tensor) -> dict[str, str]:
    """Return the SHA-256 of what this rank holds of a tensor, by the name and the place in it."""
    if not isinstance(tensor, DTensor):
        return {f"{key} from {[0] * tensor.dim()} on": short_hash(tensor)}
    sha256 = short_hash(tensor.to_local())
    chunks = tensor.__create_chunk_list__()  # the one of this rank
    return {f"{key} from {[*chunk.offsets]} on": sha256 for chunk in chunks}


def short_hash(tensor) -> str:
    """Return a SHA-256 as it is shown in an error: 64 bits are enough to find a difference."""
    return f"SHA-256 {compute_sha256(tensor)[:16]}"


def separate_rank_local(layouts: dict, tensors: dict, may_differ: set[str]) -> None:
    """Move tensors that are not sharded, and differ between ranks, to a part for this rank alone.

    The first rank that has one keeps it in its part. Raises a ValueError on every rank if a
    tensor differs that must not.
    """
    rank, size = rank_and_size()
    if size == 1:
        return
    unsharded = {}
    for part, of_part in tensors.items():
        for name, tensor in of_part.items():
            if not isinstance(tensor, DTensor):
                unsharded[f"{part}.{name}"] = bytes.fromhex(compute_sha256(tensor))
    if is_equal_on_all_ranks(sorted(unsharded.items())):
        return
    names = sorted(key for key, layout in layouts.items() if UNSHARDED in layout)
    differing, held_before = find_differing(unsharded, names)
    refused = sorted(differing & unsharded.keys() - may_differ)
    if is_true_anywhere(refused != []):
        name = next(filter(None, all_gather(refused[:1])))[0]
        raise ValueError(f"{name} differs between ranks. {OTHER_NAMES}")
    rank_local = tensors.setdefault(f"rank {rank}", {})
    for key in differing & held_before & unsharded.keys():
        part, _, name = key.partition(".")
        rank_local[key] = tensors[part].pop(name)


# ---- Comparing ----


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
    once, by the first rank that has it. Raises a ValueError on every rank that names the first
    place in which two ranks contradict each other.
    """
    if is_equal_on_all_ranks(value):
        return value
    digest = compute_digest(value)
    is_first = all_gather(digest).index(digest) == rank_and_size()[0]
    values = gather(value if is_first else None)
    merged, contradiction = broadcast(merge_all(values) if values else None)
    if contradiction is not None:
        raise ValueError(contradiction)
    return merged


def merge_all(values: list[dict | None]) -> tuple[dict | None, str | None]:
    """Return the union of nested dicts, one for each rank, or the first contradiction.

    A None in the list repeats an earlier dict.
    """
    merged = {}
    try:
        for rank, value in enumerate(values):
            if value is not None:
                merged = merge(merged, value, rank)
    except ValueError as error:
        return None, str(error)
    return merged, None


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
            f"{'.'.join(map(str, path))} is {show(value)} on rank {rank} and {show(merged)} on an "
            "earlier rank"
        )
    return merged


def show(value) -> str:
    """Return a value as it is shown in an error, a tensor by its type and shape."""
    return dtype_and_shape(value) if isinstance(value, torch.Tensor) else f"{value!r:.80}"


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
