"""The lecture's figures, each with a sentence that describes it.

Each function returns the Figure and its Axes, and makes a sentence from the numbers that it plots.
`show` shows the figure with its sentences.
"""

import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import nn

from helper.evaluation import compute_logits
from helper.history import History

# Smaller differences between losses are drawn between this and zero, on a linear scale.
SMALLEST_DIFFERENCE = 1e-6

plt.style.use(Path(__file__).with_name("projector.mplstyle"))


def show(*sentences: str) -> None:
    """Show the current figure, and print its sentences below it.

    Your own `sentences` come after those of the plotting functions. In a notebook, all of them are
    also the image's alt text, for students who can't see it, and the curves are saved as tables,
    which the course's web pages show.
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


def curves_as_tables(figure: Figure, points: int = 13) -> list[dict]:
    """Return the curves of a figure as tables, each a dict of a header and rows of strings.

    Curves with the same x values share a table. A long curve is sampled at `points` evenly spaced
    points. Lines that only mark a position, and empty ones, are skipped.
    """
    tables = {}
    for axes in figure.axes:
        x_label, y_label = labels_of(axes)
        for line in axes.lines:
            x, y = map(np.asarray, line.get_data())
            marks_a_position = len(x) > 1 and x[0] == x[-1]
            if len(x) == 0 or marks_a_position:
                continue
            sample = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
            key = (axes, *x)
            if key not in tables:
                rows = [[as_text(value)] for value in x[sample]]
                tables[key] = {"header": [x_label], "rows": rows}
            label = line.get_label()
            named = not label.startswith("_")  # Matplotlib's own names begin with an underscore
            tables[key]["header"].append(label if named else y_label)
            for row, value in zip(tables[key]["rows"], y[sample], strict=True):
                row.append(as_text(value))
    return list(tables.values())


def labels_of(axes: Axes) -> tuple[str, str]:
    """Return the labels of both axes; where axes are shared, only one of them may be labeled."""
    sharing_x = [axes, *axes.get_shared_x_axes().get_siblings(axes)]
    sharing_y = [axes, *axes.get_shared_y_axes().get_siblings(axes)]
    x_labels = filter(None, (each.get_xlabel() for each in sharing_x))
    y_labels = filter(None, (each.get_ylabel() for each in sharing_y))
    return next(x_labels, "x"), next(y_labels, "y")


def as_text(value) -> str:
    """Return a number with four significant digits, and a name or a date as it is."""
    if isinstance(value, numbers.Real):
        return f"{value:.4g}"
    return re.sub(r"[T ]00:00:00(\.0+)?$", "", str(value))  # a date needs no time of day


def describe(axes: Axes, sentence: str) -> None:
    """Keep a sentence with the figure that it describes."""
    figure = axes.figure.figure  # for a subfigure, the whole figure
    figure.sentences = [*getattr(figure, "sentences", ()), sentence]


def plot_training_loss(
    history: History,
    resumed_at: float | Sequence[float] | None = None,
    averaging_iterations: int = 20,
) -> tuple[Figure, Axes]:
    """Plot the loss of every minibatch of a History and its running average over the epochs.

    Each average is drawn at the last batch that goes into it. `resumed_at` marks the positions, in
    epochs, at which the run was interrupted and continued: 2 is the end of epoch 2, 2.5 the middle
    of epoch 3. Raises a ValueError if the history is empty.
    """
    if not history.minibatch_loss:
        raise ValueError("This history is empty: train first.")
    losses = np.asarray(history.minibatch_loss)
    per_epoch = history.batches_per_epoch or len(losses) / max(history.epoch, 1)
    epochs = np.arange(1, len(losses) + 1) / per_epoch
    window = min(averaging_iterations, (len(losses) + 1) // 2)  # a short run has a line too
    averages = np.convolve(losses, np.full(window, 1 / window), mode="valid")

    figure, axes = plt.subplots()
    axes.plot(epochs, losses, color="0.5", linewidth=1, label="Minibatch loss")
    axes.plot(epochs[window - 1 :], averages, label=f"Average of the last {window}")
    axes.set(xlabel="Epoch", ylabel="Loss (cross-entropy)", xlim=0, ylim=0)
    description = (
        f"Loss from {losses[0]:.2g} in the first batch to {averages[-1]:.2g}, the average of the "
        f"last {window} of {len(losses):,} batches"
    )
    finish_curves(axes, description, resumed_at)
    return figure, axes


def plot_accuracy(
    history: History, resumed_at: float | Sequence[float] | None = None
) -> tuple[Figure, Axes]:
    """Plot the training and validation accuracy of a History over its epochs, in percent.

    `resumed_at` marks the positions, in epochs, at which the run was interrupted and continued.
    Raises a ValueError if no epoch is finished.
    """
    if not history.train_acc:
        raise ValueError("This history has no finished epoch: train first.")
    train = history.train_acc
    valid = history.valid_acc
    epochs = np.arange(1, history.epoch + 1)

    figure, axes = plt.subplots()
    axes.plot(epochs, train, marker="o", label="Training")
    axes.plot(epochs, valid, marker="s", linestyle="--", label="Validation")
    axes.set(xlabel="Epoch", ylabel="Accuracy (%)")
    description = (
        f"Training accuracy from {train[0]:.1f}% to {train[-1]:.1f}%, validation accuracy from "
        f"{valid[0]:.1f}% to {valid[-1]:.1f}%, over epochs 1 to {len(train)}"
    )
    finish_curves(axes, description, resumed_at)
    return figure, axes


def plot_continuations(
    uninterrupted: History, continued: Mapping[str, tuple[History, Sequence[float]]]
) -> tuple[Figure, np.ndarray]:
    """Compare continued runs with the run that was never interrupted, a column for each.

    `continued` maps a title to a History and the positions, in epochs, at which that run was
    resumed. A History that lacks the first losses is aligned at the end. Above are the losses on a
    log axis, below the absolute differences on a symlog axis, which has a zero. Returns the Figure
    and its Axes `[2, len(continued)]`. Raises a ValueError if a run has more losses than the
    uninterrupted one.
    """
    reference = np.asarray(uninterrupted.minibatch_loss)
    epochs = np.arange(1, len(reference) + 1) / uninterrupted.batches_per_epoch
    figure, axes = plt.subplots(
        2, len(continued), sharex=True, sharey="row", squeeze=False, figsize=(14, 9)
    )
    for (above, below), (title, (history, resumed_at)) in zip(
        axes.T, continued.items(), strict=True
    ):
        losses = np.asarray(history.minibatch_loss)
        first = len(reference) - len(losses)
        if first < 0:
            raise ValueError(f"{title!r} has {-first} losses more than the uninterrupted run.")
        differences = np.abs(losses - reference[first:])
        above.plot(epochs, reference, color="C1", linewidth=6, label="Never interrupted")
        above.plot(epochs[first:], losses, color="black", linewidth=1, label="Continued")
        above.set(title=title, yscale="log")
        below.plot(epochs[first:], differences, "o", color="C0", markersize=5)
        below.set_yscale("symlog", linthresh=SMALLEST_DIFFERENCE)
        below.axhline(0, color="0.5", linewidth=1)
        below.set(xlabel="Epoch", xlim=0)
        for ax in (above, below):
            mark_cuts(ax, resumed_at)
        places = " and ".join(map(place_of_cut, resumed_at))
        differ = np.count_nonzero(differences)
        how_far = f", by up to {differences.max():.2g}" if differ else ""
        describe(
            above,
            f"{title}, resumed {places}: {differ:,} of {len(losses):,} losses differ from the "
            f"uninterrupted run's{how_far}.",
        )
    axes[0, 0].set_ylabel("Loss")
    axes[1, 0].set_ylabel("Absolute difference")
    axes[1, 0].set_ylim(bottom=-SMALLEST_DIFFERENCE / 2, top=max(1, axes[1, 0].get_ylim()[1]))
    axes[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes[0]:
        ax.legend()
    return figure, axes


def finish_curves(axes: Axes, description: str, resumed_at: float | Sequence[float] | None) -> None:
    """Mark where the run was resumed, label whole epochs, add the legend and the sentence."""
    if resumed_at is not None:
        cuts = np.atleast_1d(resumed_at)
        mark_cuts(axes, cuts)
        description += f", resumed {' and '.join(map(place_of_cut, cuts))}"
    describe(axes, f"{description}.")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def mark_cuts(axes: Axes, cuts: Iterable[float]) -> None:
    """Draw a vertical line at each position, in epochs, at which a run was resumed."""
    for cut in cuts:
        style = ":" if cut == int(cut) else "-."
        label = f"Resumed {place_of_cut(cut)}"
        axes.axvline(cut, color="black", linestyle=style, linewidth=2, label=label)


def place_of_cut(cut: float) -> str:
    """Return where a run was interrupted, in words: "after epoch 2" or "inside epoch 3"."""
    return f"after epoch {int(cut)}" if cut == int(cut) else f"inside epoch {int(cut) + 1}"


def show_examples(
    model: nn.Module,
    data_loader: Iterable,
    class_names: Sequence[str] | None = None,
    indices: Iterable[int] | None = None,
    figure: Figure | SubFigure | None = None,
    title: str | None = None,
) -> tuple[Figure | SubFigure, np.ndarray]:
    """Show 15 images with predicted (P) and true (T) labels; mistakes are bold and framed.

    `data_loader` yields images in [-1, 1], `[B, 1, H, W]` or `[B, 3, H, W]`. Its first ones are
    shown, or those that `indices` choose from its dataset. `figure` is drawn into; it can be a
    subfigure.
    """
    if indices is None:
        features, targets = next(iter(data_loader))
    else:
        examples = [data_loader.dataset[int(index)] for index in indices]
        features = torch.stack([image for image, _ in examples])
        targets = torch.as_tensor([target for _, target in examples])
    features = features[:15]
    targets = targets[:15]

    device = next(model.parameters()).device
    logits, _ = compute_logits(model, [(features, targets)], device)
    predictions = logits.argmax(dim=1).tolist()
    targets = targets.tolist()
    if class_names is None:
        separator = "  "
        class_names = range(logits.shape[1])
    else:
        separator = "\n"  # each name needs a line

    if figure is None:
        figure = plt.figure(figsize=(10, 6.5))
    axes = figure.subplots(3, 5)
    if figure.get_layout_engine() is not None:
        figure.get_layout_engine().set(wspace=0.1)  # so that frames don't touch
    for ax in axes.flat[len(targets) :]:
        ax.axis("off")
    images = (features.float().cpu().permute(0, 2, 3, 1).numpy() + 1) / 2
    mistakes = []
    for ax, image, predicted, target in zip(axes.flat, images, predictions, targets, strict=False):
        is_correct = predicted == target
        if not is_correct:
            mistakes.append(f"{class_names[target]} taken for {class_names[predicted]}")
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(
            f"P: {class_names[predicted]}{separator}T: {class_names[target]}",
            fontsize=16,
            fontweight="normal" if is_correct else "bold",
        )
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=not is_correct, color="#D55E00", linewidth=6)
    figure.suptitle(title)
    if mistakes:
        description = f"{len(mistakes)} of them mistakes (framed): {', '.join(mistakes)}"
    else:
        description = "no mistakes"
    describe(axes.flat[0], with_title(title, f"{len(targets)} images, {description}."))
    return figure, axes


def with_title(title: str | None, sentence: str) -> str:
    """Put the title of its part of the figure, if there is one, before a sentence."""
    return f"{title}: {sentence}" if title else sentence


def plot_confusion_matrix(
    confusion_matrix: np.ndarray,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    axes: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Draw a confusion matrix `[num_classes, num_classes]` with a row for each true class.

    Its sentence names the three most frequent mistakes, and says how many others tie with the last.
    """
    from sklearn.metrics import ConfusionMatrixDisplay  # slow to import, and only this needs it

    if axes is None:
        _, axes = plt.subplots(figsize=(8, 7))
    matrix = np.asarray(confusion_matrix)
    display = ConfusionMatrixDisplay(matrix, display_labels=class_names)
    # The square root of the counts keeps a single mistake visible next to a full diagonal.
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

    mistakes = worst_confusions(matrix, class_names)
    description = f"{matrix.trace()} of {matrix.sum()} right; most frequent mistakes: {mistakes}."
    describe(axes, with_title(title, description))
    return axes.figure, axes


def worst_confusions(
    confusion_matrix: np.ndarray, class_names: Sequence[str] | None = None, number: int = 3
) -> str:
    """Describe the most frequent mistakes: "9 taken for 4 (7), ..., and 4 more pairs with 2".

    `number` are named; the end counts the pairs that are as frequent as the last one named.
    Returns "none" if there are no mistakes.
    """
    matrix = np.array(confusion_matrix)
    names = range(len(matrix)) if class_names is None else class_names
    np.fill_diagonal(matrix, 0)
    pairs = sorted(np.argwhere(matrix).tolist(), key=lambda pair: -matrix[*pair])
    if not pairs:
        return "none"
    described = [
        f"{names[target]} taken for {names[predicted]} ({matrix[target, predicted]})"
        for target, predicted in pairs[:number]
    ]
    last = matrix[*pairs[:number][-1]]
    ties = sum(matrix[*pair] == last for pair in pairs[number:])
    if ties:
        described.append(f"and {ties} more {'pair' if ties == 1 else 'pairs'} with {last}")
    return ", ".join(described)
