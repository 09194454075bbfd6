"""Seeds, determinism, and how well a model does."""

import hashlib
import os
import random

import numpy as np
import torch


def set_all_seeds(seed):
    """Seed Python, NumPy and PyTorch (CPU and all GPUs). `seed` is a whole number in [0, 2**32)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_deterministic():
    """Let PyTorch use deterministic algorithms only, or raise a RuntimeError where there is none.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def compute_logits(model, data_loader, device):
    """Return the logits `[N, num_classes]` and the targets `[N]` of all examples, on the CPU.

    The model works in evaluation mode and is put back into the mode that it was in.
    """
    was_training = model.training
    model.eval()
    logits, targets = [], []
    try:
        with torch.no_grad():
            for features, batch_targets in data_loader:
                logits.append(model(features.to(device)))
                targets.append(batch_targets)
    finally:
        model.train(was_training)
    return torch.cat(logits).cpu(), torch.cat(targets).cpu()


def compute_accuracy(model, data_loader, device):
    """Return how many percent of the examples in `data_loader` the model classifies correctly."""
    logits, targets = compute_logits(model, data_loader, device)
    return 100.0 * (logits.argmax(dim=1) == targets).sum().item() / len(targets)


def compute_confusion_matrix(model, data_loader, device):
    """Count how often each class was taken for each other one.

    Returns an int64 NumPy array `[num_classes, num_classes]`: a row for each true label, a column
    for each predicted label.
    """
    from sklearn.metrics import confusion_matrix  # slow to import, and only this needs it

    logits, targets = compute_logits(model, data_loader, device)
    return confusion_matrix(targets, logits.argmax(dim=1), labels=range(logits.shape[1]))


def compute_sha256(*states):
    """Return the SHA-256, as 64 hexadecimal digits, of nested dicts and lists of tensors.

    It covers names, numbers, and the type, shape and every bit of each tensor, but no device.
    """
    digest = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            add([str(value.dtype), *value.shape])
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict):
            add([*value.items()])
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}]".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{value!r};".encode())

    add(states)
    return digest.hexdigest()
