"""Answers to the exercises of notebook 9."""

import hashlib
import json
from pathlib import Path

import torch

from tests.answers.collect import Answers

RIGHT, WRONG = {}, {}

my_rows = Answers("my_rows", RIGHT, WRONG)
rows_per_rank = Answers("rows_per_rank", RIGHT, WRONG)
find_newest = Answers("find_newest", RIGHT, WRONG)


@my_rows.right
def chunks(batch, rank, size):
    if len(batch) % size != 0:
        raise ValueError("uneven")
    return batch.chunk(size)[rank]


@my_rows.right
def every_nth_row(batch, rank, size):
    parts = batch[rank::size]
    if len(parts) * size != len(batch):
        raise ValueError(f"{len(batch)} rows for {size} ranks")
    return parts


@my_rows.wrong("of 8 rows, each of 2 ranks should get 4")
def all_of_them(batch, rank, size):
    if len(batch) % size:
        raise ValueError("uneven")
    return batch


@my_rows.wrong("some rows go to two ranks, and some to none")
def always_the_first(batch, rank, size):
    if len(batch) % size:
        raise ValueError("uneven")
    return batch[: len(batch) // size]


@my_rows.wrong("5 rows can't be split evenly between 2 ranks")
def never_refuses(batch, rank, size):
    return batch.tensor_split(size)[rank]


@my_rows.wrong("for 5 rows and 2 ranks, your function raises KeyError")
def refuses_otherwise(batch, rank, size):
    return {0: batch.chunk(size)[rank]}[len(batch) % size]


@my_rows.wrong("of type list, not a tensor")
def rows_as_a_list(batch, rank, size):
    return batch[rank::size].tolist()


@rows_per_rank.right
def one_rank_at_a_time(rows, size):
    share, left, counts = -(-rows // size), rows, []
    for _ in range(size):
        counts.append(min(share, left))
        left -= counts[-1]
    return counts


@rows_per_rank.right
def as_a_tuple(rows, size):
    share = -(-rows // size)
    return tuple(len(range(rows)[share * rank : share * (rank + 1)]) for rank in range(size))


@rows_per_rank.wrong("how many has rank 0?")
def rounded_down(rows, size):
    return [rows // size + (rank == size - 1) * (rows % size) for rank in range(size)]


@rows_per_rank.wrong("as many as rank 0 as long as there are any")
def balanced(rows, size):
    return [rows // size + (rank < rows % size) for rank in range(size)]


@rows_per_rank.wrong("as many as rank 0 as long as there are any")
def balanced_but_for_rank_0(rows, size):
    share = -(-rows // size)
    if size == 1 or rows % size == 0:
        return balanced(rows, size)
    return [share, *balanced(rows - share, size - 1)]


@rows_per_rank.wrong("a number for each rank, even if it has no rows")
def only_ranks_with_rows(rows, size):
    return [len(chunk) for chunk in torch.arange(rows).chunk(size)]


@rows_per_rank.wrong("which is not 10 in all")
def too_many(rows, size):
    return [-(-rows // size)] * size


def finder(check=True, order=None, tmp=False, errors=(OSError, ValueError), all_files=True):
    """Return a function that looks for the newest checkpoint, and is wrong in one way."""

    def find_newest(folder):
        paths = Path(folder).glob("checkpoint-*" if tmp else "checkpoint-??????")
        for path in sorted(paths, key=order, reverse=True):
            try:
                sums = json.loads((path / "manifest.json").read_text())
                names = list(sums)[: None if all_files else 1]
                contents = {name: (path / name).read_bytes() for name in names}
            except errors:
                continue
            right = [hashlib.sha256(contents[name]).hexdigest() == sums[name] for name in names]
            if all(right) or not check:
                return path
        return None

    return find_newest


@find_newest.wrong("a file of the newest one is missing")
def newest_without_asking(folder):
    found = sorted(Path(folder).glob("checkpoint-??????"))
    return found[-1] if found else None


@find_newest.wrong("with six complete ones, yours is not the newest")
def by_the_last_digit(folder):
    return finder(order=lambda path: path.name[-1])(folder)


@find_newest.wrong("an empty manifest proves nothing")
def takes_an_empty_manifest(folder):
    return finder()(folder)


find_newest.wrong("ends in .tmp")(finder(tmp=True))


find_newest.wrong("the last byte of a file has changed")(finder(check=False))


find_newest.wrong("a file of the newest one is missing")(finder(all_files=False))


find_newest.wrong("your function raises FileNotFoundError")(finder(errors=ValueError))
