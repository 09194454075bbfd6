"""Measure how well a model classifies."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from helper.batches import check_examples, describe


def compute_logits(
    model: nn.Module, data_loader: Iterable, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits `[N, num_classes]` and the targets `[N]` of all examples, on the CPU.

    The model runs in evaluation mode; at the end, each module is back in the mode it was in.
    Raises a ValueError for targets that aren't int64 `[B]` or logits that aren't
    `[B, num_classes]`.
    """
    model_mode = model.training
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    all_logits = []
    all_targets = []
    try:
        with torch.no_grad():
            for batch in data_loader:
                check_examples(batch, "data_loader")
                features, targets = batch
                logits = model(features.to(device))
                check_logits(logits, len(targets))
                all_logits.append(logits)
                all_targets.append(targets)
    finally:
        model.train(model_mode)  # for a model whose train() does more than set modes
        for module, mode in modes:
            module.training = mode
    return torch.cat(all_logits).cpu(), torch.cat(all_targets).cpu()


def check_logits(logits, num_examples: int) -> None:
    """Raise a ValueError unless a model has returned a row of logits for each example."""
    shape = getattr(logits, "shape", ())
    if len(shape) != 2 or shape[0] != num_examples:
        raise ValueError(
            f"The model must return logits of shape [B, num_classes]; for {num_examples} examples "
            f"it returned {describe(logits)}."
        )


def compute_accuracy(model: nn.Module, data_loader: Iterable, device: torch.device | str) -> float:
    """Return the percentage of examples in `data_loader` that the model classifies correctly."""
    logits, targets = compute_logits(model, data_loader, device)
    return 100.0 * (logits.argmax(dim=1) == targets).sum().item() / len(targets)


def compute_confusion_matrix(
    model: nn.Module, data_loader: Iterable, device: torch.device | str
) -> np.ndarray:
    """Return how often each class was predicted for each true class.

    The result is int64 `[num_classes, num_classes]`: a row for each true class, a column for each
    predicted one.
    """
    from sklearn.metrics import confusion_matrix  # slow to import, and only this needs it

    logits, targets = compute_logits(model, data_loader, device)
    return confusion_matrix(targets, logits.argmax(dim=1), labels=range(logits.shape[1]))
