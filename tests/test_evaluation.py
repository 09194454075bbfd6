"""Seeds, accuracy, the confusion matrix, and a hash that notices every change."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from helper.evaluation import (
    compute_accuracy,
    compute_confusion_matrix,
    compute_sha256,
    set_all_seeds,
    set_deterministic,
)


class Echo(nn.Module):
    """Predict the class that stands in the first feature; say nothing of use in training mode."""

    def forward(self, x):
        classes = x[:, 0].long() * (not self.training)
        return nn.functional.one_hot(classes, 4).float()


# Three batches of a set of five: classes 0 1 2 3 3, of which one 3 is taken for a 1.
BATCHES = [
    (torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])),
    (torch.tensor([[2.0], [3.0]]), torch.tensor([2, 3])),
    (torch.tensor([[1.0]]), torch.tensor([3])),
]


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_counts_examples_not_batches_and_keeps_the_mode(training):
    model = Echo().train(training)
    assert compute_accuracy(model, BATCHES, "cpu") == 80.0
    assert model.training is training


def test_the_mode_is_kept_when_the_data_are_wrong():
    model = Echo().train()
    with pytest.raises(IndexError):
        compute_accuracy(model, [(torch.zeros(2), torch.zeros(2))], "cpu")
    assert model.training


def test_confusion_matrix_has_a_row_per_true_label_even_for_missing_classes():
    matrix = compute_confusion_matrix(Echo(), BATCHES[1:], "cpu")
    assert matrix.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]


def test_seeds_cover_python_numpy_and_torch():
    def draw():
        set_all_seeds(3)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()
    assert draw() != (set_all_seeds(4), random.random(), np.random.rand())[1:]


def test_deterministic_algorithms_are_on():
    set_deterministic()
    try:
        assert torch.are_deterministic_algorithms_enabled()
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    finally:
        torch.use_deterministic_algorithms(False)


def state():
    return {"weight": torch.arange(6.0).reshape(2, 3), "step": 1, "rates": [0.1, 0.2]}


def test_sha256_is_the_same_for_equal_states_wherever_they_lie_in_memory():
    other = state()
    other["weight"] = torch.arange(6.0).reshape(2, 3).t().contiguous().t()
    assert compute_sha256(state()) == compute_sha256(other)
    assert len(compute_sha256(state())) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.arange(6.0).reshape(3, 2)},
        {"weight": torch.arange(6, dtype=torch.int32).reshape(2, 3)},
        {"weight": torch.nextafter(torch.arange(6.0), torch.tensor(9.0)).reshape(2, 3)},
        {"weight": -torch.zeros(2, 3)},
        {"step": 1.0},
        {"rates": [0.1], "more": [0.2]},
        {"rates": [0.1, 0.2, []]},
        {"other": 1},
    ],
)
def test_sha256_notices_every_change(change):
    assert compute_sha256(state() | change) != compute_sha256(state())


def test_sha256_takes_every_type_of_tensor():
    for tensor in (torch.tensor(3.0), torch.zeros(0), torch.ones(2).bfloat16(), torch.tensor(True)):
        assert compute_sha256(tensor) == compute_sha256(tensor.clone())
