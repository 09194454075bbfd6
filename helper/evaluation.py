"""How well a model does."""

import torch


def compute_logits(model, data_loader, device):
    """Return the logits `[N, num_classes]` and the targets `[N]` of all examples, on the CPU.

    The model works in evaluation mode; then each module is put back into the mode it was in.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    logits, targets = [], []
    try:
        with torch.no_grad():
            for features, batch_targets in data_loader:
                logits.append(model(features.to(device)))
                targets.append(batch_targets)
    finally:
        model.train(modes[0][1])
        for module, was_training in modes:
            module.training = was_training
    return torch.cat(logits).cpu(), torch.cat(targets).cpu()


def compute_accuracy(model, data_loader, device):
    """Return how many percent of the examples in `data_loader` the model classifies correctly."""
    logits, targets = compute_logits(model, data_loader, device)
    return 100.0 * (logits.argmax(dim=1) == targets).sum().item() / len(targets)


def compute_confusion_matrix(model, data_loader, device):
    """Count how often each class was taken for each other one, as an int64 NumPy array
    `[num_classes, num_classes]`: a row for each true label, a column for each predicted one."""
    from sklearn.metrics import confusion_matrix  # slow to import, and only this needs it

    logits, targets = compute_logits(model, data_loader, device)
    return confusion_matrix(targets, logits.argmax(dim=1), labels=range(logits.shape[1]))
