"""The checks of the exercises in notebook 10."""

import torch

from exercises.check import Hint, exercise, require

# A weight, a bias, a counter for each of six rows, and what is too large for a float.
WHOLE = [
    torch.arange(24.0).reshape(6, 4),
    torch.arange(6.0),
    torch.arange(6) + 2**60,
    torch.arange(48, dtype=torch.float64).reshape(6, 4, 2),
]


@exercise
def check_put_together(call, folder):
    """Give it the pieces of tensors of several shapes and types, in any order."""
    for whole in WHOLE:
        for cuts in [(0, 3), (0, 2, 4), (0, 5), (0,)]:
            ends = [*cuts[1:], len(whole)]
            pieces = [(cut, whole[cut:end].clone()) for cut, end in zip(cuts, ends, strict=True)]
            what = f"with {len(pieces)} pieces of a tensor of shape {[*whole.shape]}, "
            for order in (pieces, pieces[::-1]):
                compare_rows(call(list(order), when=what), whole, what)
    return "tensors of 6 rows come out of 1, 2 and 3 pieces, in whichever order they are"


def compare_rows(answer, right, what):
    """Raise a hint unless a tensor is the right one."""
    kind = type(answer).__name__
    require(isinstance(answer, torch.Tensor), f"{what}the answer is of type {kind}, not a tensor.")
    shape, right_shape = [*answer.shape], [*right.shape]
    hint = f"{what}the shape is {shape}, not {right_shape}"
    require(shape == right_shape, f"{hint}: put rows below each other.")
    dtype = answer.dtype
    require(dtype == right.dtype, f"{what}the type should be {right.dtype}, not {dtype}.")
    same_rows = answer.unique(dim=0).equal(right.unique(dim=0))
    hint = f"{what}all rows are there, in the wrong order: the first number of a pair says where."
    require(answer.equal(right) or not same_rows, hint)
    require(answer.equal(right), f"{what}these are not the right rows.")


@exercise
def check_average_gradients(call, folder):
    """Average over parts of one size and of different sizes."""
    torch.manual_seed(1)
    features, targets = torch.randn(12, 3), torch.randn(12)
    weight = torch.zeros(3, requires_grad=True)

    def gradient(rows):
        loss = (features[rows] @ weight - targets[rows]).square().mean()
        return torch.autograd.grad(loss, weight)[0]

    right = gradient(slice(None))
    for counts in [(6, 6), (4, 4, 4), (8, 4), (1, 11), (12,)]:
        ends = torch.tensor(counts).cumsum(0).tolist()
        parts = [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]
        gradients = [gradient(part) for part in parts]
        before = [each.clone() for each in gradients]
        answer = call(gradients, list(counts), when=f"for parts of {counts} rows, ")
        kind = type(answer).__name__
        require(isinstance(answer, torch.Tensor), f"the answer is of type {kind}, not a tensor.")
        require(answer.shape == right.shape, "the answer should have the shape of one gradient.")
        same = all(torch.equal(one, other) for one, other in zip(gradients, before, strict=True))
        require(same, "your function changes the gradients that it is given.")
        if not torch.allclose(answer, right, atol=1e-5):
            require(
                len(set(counts)) > 1, f"for {len(counts)} equal parts, it is not their average."
            )
            raise Hint(f"for parts of {counts} rows, each row should count alike, not each rank.")
    return "parts of 8 and 4 rows give the gradient of all 12, and so do equal parts"


@exercise
def check_read_rows(call, folder):
    """Cut tensors for some number of ranks, and let another number of ranks load them."""
    for whole in [torch.arange(14.0).reshape(7, 2), torch.arange(7) + 2**60, torch.ones(6, 1, 2)]:
        for saved_by in (1, 2, 3, 4):
            for size in (1, 2, 3, 4, 8):
                for rank in range(size):
                    ask_for_rows(call, whole, saved_by, rank, size)
    return (
        "7 rows that 1 to 4 ranks have saved are loaded by 1 to 8, and nothing is read for nothing"
    )


def ask_for_rows(call, whole, saved_by, rank, size):
    """Let one rank read its rows, and see which pieces it reads."""
    wanted = rows_of(len(whole), rank, size)
    what = f"for rank {rank} of {size}, and {len(whole)} rows that {saved_by} saved, "
    reads, needed, pieces = [], [], []
    for other in range(saved_by):
        held = rows_of(len(whole), other, saved_by)
        piece = whole[held.start : held.stop].clone()

        def read(held=held, piece=piece):
            reads.append(held)
            return piece

        pieces.insert(0, (held.start, len(held), read))  # the last one first
        if {*held} & {*wanted}:
            needed.append(held)
    answer = call(pieces, tuple(whole.shape), rank, size, when=what)
    right = whole[wanted.start : wanted.stop]
    kind = type(answer).__name__
    require(isinstance(answer, torch.Tensor), f"{what}the answer is of type {kind}, not a tensor.")
    shape, right_shape = [*answer.shape], [*right.shape]
    require(shape == right_shape, f"{what}the shape is {shape}, not {right_shape}.")
    if len(right):
        compare_rows(answer, right, what)
    useless = [held for held in reads if held not in needed]
    require(not useless, f"{what}yours reads a piece that holds none of its rows.")
    require(len(reads) <= len(needed), f"{what}yours reads a piece twice.")


def rows_of(rows, rank, size):
    """Return the rows that fully_shard gives to a rank."""
    share = -(-rows // size)
    return range(min(rows, rank * share), min(rows, (rank + 1) * share))
