"""The lecture's figures. Each function returns the Figure and its Axes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from helper.evaluation import compute_logits

plt.style.use(Path(__file__).with_name("projector.mplstyle"))


def plot_training_loss(history, resumed_at=None, averaging_iterations=20):
    """Plot the loss of every minibatch of a History, and its running average, over the epochs.

    `resumed_at` marks the epoch after which a run was continued.
    """
    if not history.minibatch_loss:
        raise ValueError("This history is empty: train first.")
    losses = np.asarray(history.minibatch_loss)
    per_epoch = history.batches_per_epoch or len(losses) / max(history.epoch, 1)
    epochs = np.arange(1, len(losses) + 1) / per_epoch
    window = min(averaging_iterations, len(losses))
    averages = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    centers = epochs[window // 2 :][: len(averages)]

    figure, axes = plt.subplots()
    axes.plot(epochs, losses, color="0.7", linewidth=1, label="Minibatch loss")
    axes.plot(centers, averages, label=f"Average of {window} minibatches")
    axes.set(xlabel="Epoch", ylabel="Loss (cross-entropy)", xlim=0, ylim=0)
    finish_curves(axes, resumed_at)
    return figure, axes


def plot_accuracy(history, resumed_at=None):
    """Plot training and validation accuracy over the epochs of a History, in percent.

    `resumed_at` marks the epoch after which a run was continued.
    """
    epochs = np.arange(1, history.epoch + 1)

    figure, axes = plt.subplots()
    axes.plot(epochs, history.train_acc, marker="o", label="Training")
    axes.plot(epochs, history.valid_acc, marker="s", linestyle="--", label="Validation")
    axes.set(xlabel="Epoch", ylabel="Accuracy (%)")
    finish_curves(axes, resumed_at)
    return figure, axes


def finish_curves(axes, resumed_at):
    """Add the mark where a run was resumed, whole epochs on the axis, and the legend."""
    if resumed_at is not None:
        label = f"Resumed after epoch {resumed_at}"
        axes.axvline(resumed_at, color="black", linestyle=":", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def show_examples(model, data_loader, class_names=None, indices=None, figure=None):
    """Show 15 images with predicted (P) and true (T) label; mistakes in bold and in a frame.

    `data_loader` yields images in [-1, 1], `[B, 1, H, W]` or `[B, 3, H, W]`; its first ones are
    shown, or those of its dataset that `indices` name. `figure` may be a subfigure to draw into.
    """
    if indices is None:
        features, targets = next(iter(data_loader))
    else:
        features, targets = zip(*(data_loader.dataset[int(i)] for i in indices), strict=True)
        features, targets = torch.stack(features), torch.as_tensor(targets)
    features, targets = features[:15], targets[:15]

    device = next(model.parameters()).device
    logits, _ = compute_logits(model, [(features, targets)], device)
    between = "  " if class_names is None else "\n"  # a name takes a line
    if class_names is None:
        class_names = range(logits.shape[1])

    if figure is None:
        figure = plt.figure(figsize=(10, 6.5))
    axes = figure.subplots(3, 5)
    for ax in axes.flat[len(targets) :]:
        ax.axis("off")
    images = (features.cpu().permute(0, 2, 3, 1).numpy() + 1) / 2
    for ax, image, predicted, target in zip(
        axes.flat, images, logits.argmax(dim=1).tolist(), targets.tolist(), strict=False
    ):
        right = predicted == target
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(
            f"P: {class_names[predicted]}{between}T: {class_names[target]}",
            fontsize=16,
            fontweight="normal" if right else "bold",
        )
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=not right, color="#D55E00", linewidth=6)
    return figure, axes


def plot_confusion_matrix(confusion_matrix, class_names=None, title=None, axes=None):
    """Draw a confusion matrix `[num_classes, num_classes]`, a row per true label, and print its
    three worst confusions in words; `title` stands above the figure and before the words."""
    from sklearn.metrics import ConfusionMatrixDisplay  # slow to import, and only this needs it

    if axes is None:
        _, axes = plt.subplots(figsize=(8, 7))
    display = ConfusionMatrixDisplay(np.asarray(confusion_matrix), display_labels=class_names)
    # The square root of the counts makes a single mistake visible beside a full diagonal.
    display.plot(
        ax=axes,
        cmap="Blues",
        colorbar=False,
        xticks_rotation="horizontal" if class_names is None else "vertical",
        im_kw={"norm": PowerNorm(0.5)},
    )
    for text in display.text_.flat:
        text.set(fontsize=16, visible=text.get_text() != "0")
    axes.set(xlabel="Predicted label", ylabel="True label", title=title)
    axes.grid(False)

    worst = worst_confusions(confusion_matrix, class_names)[:3]
    print(f"{title + ': ' if title else ''}{', '.join(worst) or 'no mistakes'}")
    return axes.figure, axes


def worst_confusions(confusion_matrix, class_names=None):
    """Put all mistakes into words, most frequent first: ["9 taken for 4: 7 times", ...]."""
    confusion_matrix = np.asarray(confusion_matrix)
    if class_names is None:
        class_names = range(len(confusion_matrix))
    mistakes = [
        (count, class_names[true], class_names[predicted])
        for (true, predicted), count in np.ndenumerate(confusion_matrix)
        if true != predicted and count > 0
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    return [
        f"{true} taken for {predicted}: {count} {'time' if count == 1 else 'times'}"
        for count, true, predicted in mistakes
    ]
