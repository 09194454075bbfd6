"""Accuracy and the confusion matrix, and the modes of a model."""

import pytest
import torch
from torch import nn

from helper.evaluation import compute_accuracy, compute_confusion_matrix


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


def test_each_module_keeps_its_own_mode():
    model = nn.Sequential(Echo(), nn.Sequential(nn.Dropout(), nn.Identity()).eval())
    model[1][1].train()
    compute_accuracy(model, BATCHES, "cpu")
    modes = [module.training for module in model.modules()]
    assert modes == [True, True, False, False, True]
