"""The lecture's figures, and each in words.

Each function returns the Figure and its Axes, and makes one sentence from the numbers that it
plots; `show` shows the figure with its sentences.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from helper.evaluation import compute_logits

plt.style.use(Path(__file__).with_name("projector.mplstyle"))


def show(*sentences):
    """Show the current figure, and print its sentences under it.

    `sentences` are yours; they come after those of the functions that plotted. In a notebook they
    are the alternative text of the image, too, for whoever can't see it, and its curves are kept
    as tables, which the web pages of the course show.
    """
    figure = plt.gcf()
    sentences = [*getattr(figure, "sentences", ()), *sentences]
    if "inline" in plt.get_backend():
        from IPython.display import display  # there is one in a notebook

        alt = {"alt": " ".join(sentences)}
        display(figure, metadata={"image/png": alt, "curves": curves_as_tables(figure)})
    else:
        plt.show()
    plt.close(figure)
    print(*sentences, sep="\n")


def curves_as_tables(figure, points=13):
    """Return the curves of a figure as tables, each a dict of a header and rows of strings.

    Curves over the same positions share a table; of a long one, some evenly spaced points stand
    in it. What only marks a position is left out.
    """
    tables = {}
    for axes in figure.axes:
        for line in axes.lines:
            x, y = (np.asarray(values, dtype=float) for values in line.get_data())
            if len(x) > 1 and x[0] == x[-1]:
                continue
            some = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
            new = {"header": [axes.get_xlabel()], "rows": [[f"{value:.4g}"] for value in x[some]]}
            table = tables.setdefault((axes, *x), new)
            table["header"].append(line.get_label())
            for row, value in zip(table["rows"], y[some], strict=True):
                row.append(f"{value:.4g}")
    return list(tables.values())


def tell(axes, sentence):
    """Keep a sentence with the figure that it tells."""
    figure = axes.figure.figure  # of a subfigure, the whole one
    figure.sentences = [*getattr(figure, "sentences", ()), sentence]


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
    axes.plot(epochs, losses, color="0.5", linewidth=1, label="Minibatch loss")
    axes.plot(centers, averages, label=f"Average of {window} minibatches")
    axes.set(xlabel="Epoch", ylabel="Loss (cross-entropy)", xlim=0, ylim=0)
    told = (
        f"Loss from {losses[0]:.2f} in the first batch to {averages[-1]:.2f}, the average of the "
    )
    finish_curves(axes, told + f"last {window} of {len(losses):,} batches", resumed_at)
    return figure, axes


def plot_accuracy(history, resumed_at=None):
    """Plot training and validation accuracy over the epochs of a History, in percent.

    `resumed_at` marks the epoch after which a run was continued.
    """
    if not history.train_acc:
        raise ValueError("No epoch of this history is done: train first.")
    epochs, train, valid = np.arange(1, history.epoch + 1), history.train_acc, history.valid_acc

    figure, axes = plt.subplots()
    axes.plot(epochs, train, marker="o", label="Training")
    axes.plot(epochs, valid, marker="s", linestyle="--", label="Validation")
    axes.set(xlabel="Epoch", ylabel="Accuracy (%)")
    told = f"Training accuracy from {train[0]:.1f}% to {train[-1]:.1f}%, validation accuracy from "
    told += f"{valid[0]:.1f}% to {valid[-1]:.1f}%, over epochs 1 to {len(train)}"
    finish_curves(axes, told, resumed_at)
    return figure, axes


def finish_curves(axes, told, resumed_at):
    """Add the mark where a run was resumed, whole epochs on the axis, the legend, the sentence."""
    if resumed_at is not None:
        label = f"Resumed after epoch {resumed_at}"
        axes.axvline(resumed_at, color="black", linestyle=":", label=label)
        told += f", {label.lower()}"
    tell(axes, f"{told}.")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def show_examples(model, data_loader, class_names=None, indices=None, figure=None, title=None):
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
    if figure.get_layout_engine() is not None:
        figure.get_layout_engine().set(wspace=0.1)  # frames side by side would make a grid
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
    figure.suptitle(title)
    mistakes = [
        f"{class_names[target]} taken for {class_names[predicted]}"
        for predicted, target in zip(logits.argmax(dim=1).tolist(), targets.tolist(), strict=True)
        if predicted != target
    ]
    told = f"{len(targets)} images, {len(mistakes)} of them in a frame, as mistakes: "
    told += (", ".join(mistakes) or "none") + "."
    tell(axes.flat[0], introduced(title, told))
    return figure, axes


def introduced(title, told):
    """Return a sentence with the title of its part of the figure, if it has one."""
    return f"{title}: {told}" if title else told


def plot_confusion_matrix(confusion_matrix, class_names=None, title=None, axes=None):
    """Draw a confusion matrix `[num_classes, num_classes]`, a row per true label.

    Its sentence names the three most frequent mistakes. `title` stands above the figure.
    """
    from sklearn.metrics import ConfusionMatrixDisplay  # slow to import, and only this needs it

    if axes is None:
        _, axes = plt.subplots(figsize=(8, 7))
    matrix = np.asarray(confusion_matrix)
    display = ConfusionMatrixDisplay(matrix, display_labels=class_names)
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

    told = f"{matrix.trace()} of {matrix.sum()} right; most frequent mistakes: "
    told += ", ".join(worst_confusions(matrix, class_names)[:3]) or "none"
    tell(axes, introduced(title, f"{told}."))
    return axes.figure, axes


def worst_confusions(confusion_matrix, class_names=None):
    """Put all mistakes into words, most frequent first: ["9 taken for 4 (7)", ...]."""
    matrix = np.array(confusion_matrix)
    names = range(len(matrix)) if class_names is None else class_names
    np.fill_diagonal(matrix, 0)
    pairs = sorted(np.argwhere(matrix).tolist(), key=lambda pair: -matrix[*pair])
    return [f"{names[t]} taken for {names[p]} ({matrix[t, p]})" for t, p in pairs]
