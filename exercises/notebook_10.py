"""The checks of the exercises in notebook 10."""

import torch

from exercises.check import Hint, exercise, need


@exercise
def check_put_together(call, folder):
    """Give it the pieces of tensors in any order."""
    whole = torch.arange(24.0).reshape(6, 4)
    for cuts in [(0, 3), (0, 2, 4), (0, 5), (0,)]:
        ends = [*cuts[1:], len(whole)]
        pieces = [(begin, whole[begin:end].clone()) for begin, end in zip(cuts, ends, strict=True)]
        for order in (pieces, pieces[::-1]):
            answer = call(list(order), when=f"with {len(pieces)} pieces, ")
            kind = type(answer).__name__
            need(isinstance(answer, torch.Tensor), f"the answer is of type {kind}, not a tensor.")
            shape = [*answer.shape]
            need(shape == [6, 4], f"the shape is {shape}, not [6, 4]: put rows under each other.")
            need(
                torch.equal(answer, whole),
                "all rows are there, in another order: the first number of a pair says where.",
            )
    return "a tensor of 6 rows comes out of 1, 2 and 3 pieces, in whichever order they are"


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
        need(isinstance(answer, torch.Tensor), f"the answer is of type {kind}, not a tensor.")
        need(answer.shape == right.shape, "the answer should have the shape of one gradient.")
        same = all(torch.equal(one, other) for one, other in zip(gradients, before, strict=True))
        need(same, "your function changes the gradients that it is given.")
        if not torch.allclose(answer, right, atol=1e-5):
            need(len(set(counts)) > 1, f"for {len(counts)} equal parts, it is not their average.")
            raise Hint(f"for parts of {counts} rows, each row should count alike, not each rank.")
    return "parts of 8 and 4 rows give the gradient of all 12, and so do equal parts"
