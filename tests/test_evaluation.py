"""Accuracy and the confusion matrix, and the modes of a model."""

import pytest
import torch
from torch import nn

from helper.evaluation import compute_accuracy, compute_confusion_matrix


class Echo(nn.Module):
    """Predict the class in the first feature; in training mode, predict class 0."""

    def forward(self, x):
        classes = x[:, 0].long() * (not self.training)
        return nn.functional.one_hot(classes, 4).float()


# Five examples of the classes 0 1 2 3 3, in three batches. One 3 is predicted as a 1.
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


@pytest.mark.parametrize("targets", [torch.zeros(2), torch.zeros(2, 4).long()])
def test_wrong_targets_are_refused_and_the_mode_is_kept(targets):
    model = Echo().train()
    with pytest.raises(ValueError, match=r"data_loader must yield targets .* shape \[B\]"):
        compute_accuracy(model, [(torch.zeros(2, 1), targets)], "cpu")
    assert model.training


class Returns(nn.Module):
    """Return the same output for every batch."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    ("output", "description"),
    [
        (torch.zeros(4, 3, 4), r"float32 \[4, 3, 4\]"),
        (torch.zeros(1, 3), r"float32 \[1, 3\]"),
        ({"logits": torch.zeros(4, 3)}, "a dict with the keys logits"),
    ],
)
def test_no_accuracy_above_100_percent(output, description):
    batch = (torch.zeros(4, 1), torch.zeros(4).long())
    with pytest.raises(ValueError, match=rf"\[B, num_classes\]; .* returned {description}"):
        compute_accuracy(Returns(output), [batch], "cpu")


def test_confusion_matrix_has_a_row_per_true_label_even_for_missing_classes():
    matrix = compute_confusion_matrix(Echo(), BATCHES[1:], "cpu")
    assert matrix.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]


def test_each_module_keeps_its_own_mode():
    model = nn.Sequential(Echo(), nn.Sequential(nn.Dropout(), nn.Identity()).eval())
    model[1][1].train()
    compute_accuracy(model, BATCHES, "cpu")
    modes = [module.training for module in model.modules()]
    assert modes == [True, True, False, False, True]


class Merging(Echo):
    """Do more in train() than set the mode, like a LoRA layer that merges its weights."""

    def train(self, mode=True):
        self.is_merged = not mode
        return super().train(mode)


def test_a_model_with_a_train_method_of_its_own_is_back_in_its_mode():
    model = Merging().train()
    assert compute_accuracy(model, BATCHES, "cpu") == 80.0
    assert not model.is_merged
