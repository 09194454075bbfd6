"""Answers to the exercises of notebook 10."""

import torch

from tests.answers.collect import Answers

RIGHT, WRONG = {}, {}

put_together = Answers("put_together", RIGHT, WRONG)
average_gradients = Answers("average_gradients", RIGHT, WRONG)
read_rows = Answers("read_rows", RIGHT, WRONG)


@put_together.right
def row_by_row(pieces):
    rows = {first + i: row for first, part in pieces for i, row in enumerate(part)}
    return torch.stack([rows[number] for number in sorted(rows)])


@put_together.wrong("put rows below each other")
def side_by_side(pieces):
    return torch.cat([rows for _, rows in sorted(pieces, key=lambda p: p[0])], dim=1)


@put_together.wrong("the first number of a pair says where")
def as_they_come(pieces):
    return torch.cat([rows for _, rows in pieces])


@put_together.wrong("of type list, not a tensor")
def piece_list(pieces):
    return [rows for _, rows in pieces]


@put_together.wrong("put rows below each other")
def only_matrices(pieces):
    return torch.vstack([rows for _, rows in sorted(pieces, key=lambda p: p[0])])


@put_together.wrong("the type should be torch.int64")
def floats_only(pieces):
    whole = torch.empty(sum(len(rows) for _, rows in pieces), *pieces[0][1].shape[1:])
    for first, rows in pieces:
        whole[first : first + len(rows)] = rows
    return whole


@average_gradients.right
def with_a_dot_product(gradients, counts):
    weights = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    whole = torch.tensordot(weights, torch.stack(gradients).double(), dims=1)
    return whole.to(gradients[0].dtype)


@average_gradients.wrong("each row should count alike, not each rank")
def average_of_ranks(gradients, counts):
    return sum(gradients) / len(gradients)


@average_gradients.wrong("for 2 equal parts, it is not their average")
def sum_of_ranks(gradients, counts):
    return sum(gradients)


@average_gradients.wrong("your function changes the gradients")
def in_place(gradients, counts):
    for gradient, count in zip(gradients, counts, strict=True):
        gradient *= count / sum(counts)
    return sum(gradients)


@average_gradients.wrong("the shape of one gradient")
def stacked(gradients, counts):
    return torch.stack(gradients)


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


read_rows.wrong("for rank 0 of 2, and 7 rows that 1 saved, the shape is [3, 2]")(
    reader(split=evenly)
)


read_rows.wrong("the wrong order")(reader(order=False))


read_rows.wrong("reads a piece that holds none of its rows")(reader(touch=True))


read_rows.wrong("reads a piece that holds none of its rows")(reader(all_pieces=True))


read_rows.wrong("the shape is [7, 2], not [4, 2]")(reader(cut=False))


read_rows.wrong("the shape is [0], not [0, 2]")(reader(empty=False))


read_rows.wrong("reads a piece twice")(reader(times=2))


@read_rows.wrong("of type list, not a tensor")
def rows_in_lists(pieces, shape, rank, size):
    return reader()(pieces, shape, rank, size).tolist()
