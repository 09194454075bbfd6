"""Wrong answers to the exercises about many processes, each with the hint that it gets."""

import hashlib
import json
from pathlib import Path

import torch


def all_of_them(batch, rank, size):
    if len(batch) % size:
        raise ValueError("uneven")
    return batch


def always_the_first(batch, rank, size):
    if len(batch) % size:
        raise ValueError("uneven")
    return batch[: len(batch) // size]


def never_refuses(batch, rank, size):
    return batch.tensor_split(size)[rank]


def refuses_otherwise(batch, rank, size):
    return {0: batch.chunk(size)[rank]}[len(batch) % size]


def rows_as_a_list(batch, rank, size):
    return batch[rank::size].tolist()


def rounded_down(rows, size):
    return [rows // size + (rank == size - 1) * (rows % size) for rank in range(size)]


def balanced(rows, size):
    return [rows // size + (rank < rows % size) for rank in range(size)]


def only_ranks_with_rows(rows, size):
    return [len(chunk) for chunk in torch.arange(rows).chunk(size)]


def too_many(rows, size):
    return [-(-rows // size)] * size


def balanced_but_for_rank_0(rows, size):
    share = -(-rows // size)
    if size == 1 or rows % size == 0:
        return balanced(rows, size)
    return [share, *balanced(rows - share, size - 1)]


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


def takes_an_empty_manifest(folder):
    return finder()(folder)


def newest_without_asking(folder):
    found = sorted(Path(folder).glob("checkpoint-??????"))
    return found[-1] if found else None


def by_the_last_digit(folder):
    return finder(order=lambda path: path.name[-1])(folder)


def side_by_side(pieces):
    return torch.cat([rows for _, rows in sorted(pieces, key=lambda p: p[0])], dim=1)


def as_they_come(pieces):
    return torch.cat([rows for _, rows in pieces])


def piece_list(pieces):
    return [rows for _, rows in pieces]


def only_matrices(pieces):
    return torch.vstack([rows for _, rows in sorted(pieces, key=lambda p: p[0])])


def floats_only(pieces):
    whole = torch.empty(sum(len(rows) for _, rows in pieces), *pieces[0][1].shape[1:])
    for first, rows in pieces:
        whole[first : first + len(rows)] = rows
    return whole


def reader(split=None, order=True, touch=False, all_pieces=False, cut=True, empty=True, times=1):
    """Return a function that reads the rows of a rank, and is wrong in one way."""

    def read_rows(pieces, shape, rank, size):
        begin, end = (split or by_shares)(shape[0], rank, size)
        rows = []
        for first, count, read in sorted(pieces, key=lambda p: p[0]) if order else pieces:
            low, high = max(begin, first), min(end, first + count)
            if low < high or (touch and low == high) or all_pieces:
                piece = [read() for _ in range(times)][0]
                rows.append(piece[max(0, low - first) : max(0, high - first)] if cut else piece)
        return torch.cat(rows) if rows else torch.empty(0, *(shape[1:] if empty else ()))

    return read_rows


def by_shares(rows, rank, size):
    share = -(-rows // size)
    return min(rows, share * rank), min(rows, share * (rank + 1))


def evenly(rows, rank, size):
    return rows * rank // size, rows * (rank + 1) // size


def rows_in_lists(pieces, shape, rank, size):
    return reader()(pieces, shape, rank, size).tolist()


def average_of_ranks(gradients, counts):
    return sum(gradients) / len(gradients)


def sum_of_ranks(gradients, counts):
    return sum(gradients)


def in_place(gradients, counts):
    for gradient, count in zip(gradients, counts, strict=True):
        gradient *= count / sum(counts)
    return sum(gradients)


def stacked(gradients, counts):
    return torch.stack(gradients)


WRONG_ABOUT_MANY = {
    "my_rows": {
        all_of_them: "of 8 rows, each of 2 ranks should get 4",
        always_the_first: "some rows go to two ranks, and some to none",
        never_refuses: "5 rows can't be split evenly between 2 ranks",
        refuses_otherwise: "for 5 rows and 2 ranks, your function raises KeyError",
        rows_as_a_list: "of type list, not a tensor",
    },
    "rows_per_rank": {
        rounded_down: "how many has rank 0?",
        balanced: "as many as rank 0 as long as there are any",
        balanced_but_for_rank_0: "as many as rank 0 as long as there are any",
        only_ranks_with_rows: "a number for each rank, even if it has no rows",
        too_many: "which is not 10 in all",
    },
    "find_newest": {
        newest_without_asking: "a file of the newest one is missing",
        by_the_last_digit: "with six complete ones, yours is not the newest",
        takes_an_empty_manifest: "an empty manifest proves nothing",
        finder(tmp=True): "ends in .tmp",
        finder(check=False): "the last byte of a file has changed",
        finder(all_files=False): "a file of the newest one is missing",
        finder(errors=ValueError): "your function raises FileNotFoundError",
    },
    "put_together": {
        side_by_side: "put rows below each other",
        as_they_come: "the first number of a pair says where",
        piece_list: "of type list, not a tensor",
        only_matrices: "put rows below each other",
        floats_only: "the type should be torch.int64",
    },
    "read_rows": {
        reader(split=evenly): "for rank 0 of 2, and 7 rows that 1 saved, the shape is [3, 2]",
        reader(order=False): "the wrong order",
        reader(touch=True): "reads a piece that holds none of its rows",
        reader(all_pieces=True): "reads a piece that holds none of its rows",
        reader(cut=False): "the shape is [7, 2], not [4, 2]",
        reader(empty=False): "the shape is [0], not [0, 2]",
        reader(times=2): "reads a piece twice",
        rows_in_lists: "of type list, not a tensor",
    },
    "average_gradients": {
        average_of_ranks: "each row should count alike, not each rank",
        sum_of_ranks: "for 2 equal parts, it is not their average",
        in_place: "your function changes the gradients",
        stacked: "the shape of one gradient",
    },
}
