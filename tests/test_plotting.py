"""The figures: what is drawn, the sentences, and the tables of the curves."""

import datetime
from dataclasses import replace

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from helper.history import History
from helper.plotting import (
    curves_as_tables,
    plot_accuracy,
    plot_confusion_matrix,
    plot_continuations,
    plot_training_loss,
    show,
    show_examples,
    worst_confusions,
)

HISTORY = History(
    minibatch_loss=[4.0, 3.0, 2.0, 2.0, 1.0, 1.0],
    train_acc=[50.0, 75.0],
    valid_acc=[40.0, 60.0],
    learning_rate=[0.1, 0.1],
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def sentences_of(figure):
    return figure.figure.sentences


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_each_average_is_drawn_at_the_last_loss_that_goes_into_it():
    figure, axes = plot_training_loss(HISTORY, averaging_iterations=3)
    losses, averages = axes.lines
    assert axes in figure.axes
    np.testing.assert_allclose(losses.get_xdata(), [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    np.testing.assert_allclose(averages.get_xdata(), [1, 4 / 3, 5 / 3, 2])
    np.testing.assert_allclose(averages.get_ydata(), [3, 7 / 3, 5 / 3, 4 / 3])
    assert legend_of(axes) == ["Minibatch loss", "Average of the last 3"]
    assert sentences_of(figure) == [
        "Loss from 4 in the first batch to 1.3, the average of the last 3 of 6 batches."
    ]


def test_the_curves_of_accuracy_differ_without_color():
    figure, axes = plot_accuracy(HISTORY)
    assert sentences_of(figure) == [
        "Training accuracy from 50.0% to 75.0%, validation accuracy from 40.0% to 60.0%, "
        "over epochs 1 to 2."
    ]
    train, valid = axes.lines
    assert train.get_xdata().tolist() == [1, 2]
    assert train.get_ydata().tolist() == [50, 75]
    assert valid.get_ydata().tolist() == [40, 60]
    assert train.get_linestyle() != valid.get_linestyle()
    assert train.get_marker() != valid.get_marker()


@pytest.mark.parametrize("plot", [plot_training_loss, plot_accuracy])
def test_the_mark_where_a_run_was_resumed(plot):
    figure, axes = plot(HISTORY, resumed_at=1)
    assert sentences_of(figure)[0].endswith(", resumed after epoch 1.")
    assert axes.lines[-1].get_xdata() == [1, 1]
    assert legend_of(axes)[-1] == "Resumed after epoch 1"


def test_two_marks_after_an_epoch_and_inside_one():
    figure, axes = plot_training_loss(HISTORY, resumed_at=[1, 1.5])
    assert sentences_of(figure)[0].endswith(", resumed after epoch 1 and inside epoch 2.")
    assert legend_of(axes)[-2:] == ["Resumed after epoch 1", "Resumed inside epoch 2"]
    first, second = axes.lines[-2:]
    assert first.get_linestyle() != second.get_linestyle()


@pytest.mark.parametrize(
    ("losses", "end"),
    [
        ([1.0, 0.0042], "to 0.0042, the average of the last 1 of 2 batches."),
        ([0.0] * 8, "to 0, the average of the last 4 of 8 batches."),
    ],
)
def test_a_small_loss_keeps_two_digits_and_a_short_run_has_an_average(losses, end):
    figure, axes = plot_training_loss(History(minibatch_loss=losses))
    assert sentences_of(figure)[0].endswith(end)
    assert len(axes.lines[1].get_xdata()) > len(losses) / 2


def test_a_wrong_continuation_and_an_exact_one_next_to_each_other():
    history = History(minibatch_loss=HISTORY.minibatch_loss, batches_per_epoch=3)
    wrong = History(minibatch_loss=[2.0, 1.5, 1.0])  # continues after epoch 1, without its losses
    figure, axes = plot_continuations(
        history, {"Wrong": (wrong, [1]), "Exact": (history, [1, 1.5])}
    )
    assert sentences_of(figure) == [
        "Wrong, resumed after epoch 1: 1 of 3 losses differ from the uninterrupted run's, "
        "by up to 0.5.",
        "Exact, resumed after epoch 1 and inside epoch 2: 0 of 6 losses differ from the "
        "uninterrupted run's.",
    ]
    (_, continued, *_), (differences, *_) = axes[0, 0].lines, axes[1, 0].lines
    np.testing.assert_allclose(continued.get_xdata(), [4 / 3, 5 / 3, 2])
    np.testing.assert_allclose(differences.get_ydata(), [0, 0.5, 0])
    assert axes[1, 1].lines[0].get_ydata().tolist() == [0] * 6
    for ax in axes.flat:
        bottom, _ = ax.get_ylim()
        assert (ax.get_yscale(), bottom < 0) in [("log", False), ("symlog", True)]  # zero is drawn
    marks = [[line for line in ax.lines if line.get_linestyle() in (":", "-.")] for ax in axes.flat]
    assert [len(lines) for lines in marks] == [1, 2, 1, 2]


def test_a_continuation_with_too_many_losses_is_refused():
    with pytest.raises(ValueError, match="'Longer' has 6 losses more than the uninterrupted run"):
        plot_continuations(
            History(minibatch_loss=HISTORY.minibatch_loss, batches_per_epoch=3),
            {"Longer": (History(minibatch_loss=2 * HISTORY.minibatch_loss), [1])},
        )


class Constant(nn.Module):
    """Predict class 1 for everything."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))

    def forward(self, x):
        return self.bias.expand(len(x), 3)


def batch(number, channels=1):
    return torch.linspace(-1, 1, number).reshape(-1, 1, 1, 1).expand(-1, channels, 4, 4), (
        torch.arange(number) % 3
    )


def test_examples_show_predicted_and_true_label_and_frame_the_mistakes():
    figure, axes = show_examples(Constant(), [batch(20)])
    assert len(figure.axes) == 15
    for number, ax in enumerate(axes.flat):
        assert ax.get_title() == f"P: 1  T: {number % 3}"
        assert ax.spines["left"].get_visible() == (number % 3 != 1)
        assert (ax.title.get_fontweight() == "bold") == (number % 3 != 1)
    assert axes[0, 0].images[0].get_array()[0, 0] == 0  # -1 is black
    mistakes = ", ".join(["0 taken for 1, 2 taken for 1"] * 5)
    assert sentences_of(figure) == [f"15 images, 10 of them mistakes (framed): {mistakes}."]


def test_examples_without_a_mistake():
    features, _ = batch(3)
    figure, _ = show_examples(Constant(), [(features, torch.ones(3).long())])
    assert sentences_of(figure) == ["3 images, no mistakes."]


def test_images_of_any_float_type_are_shown():
    features, targets = batch(3)
    _, axes = show_examples(Constant(), [(features.bfloat16(), targets)])
    assert axes[0, 1].images[0].get_array()[0, 0] == 0.5


def test_fewer_examples_than_fifteen_leave_no_empty_boxes():
    _, axes = show_examples(Constant(), [batch(4, channels=3)], class_names=["cat", "dog", "ox"])
    assert axes.flat[3].get_title() == "P: dog\nT: cat"
    assert [ax.axison for ax in axes.flat] == [True] * 4 + [False] * 11


def test_chosen_examples(loaders):
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    _, axes = show_examples(model, loaders[2], indices=torch.tensor([13, 7]))
    assert [ax.get_title()[-1] for ax in axes.flat[:2]] == ["3", "7"]


def test_confusion_matrix_is_drawn_and_described():
    matrix = np.array([[5, 1, 0], [0, 3, 0], [7, 2, 0]])
    figure, axes = plot_confusion_matrix(matrix, title="Now")
    assert sentences_of(figure) == [
        "Now: 8 of 18 right; most frequent mistakes: "
        "2 taken for 0 (7), 2 taken for 1 (2), 0 taken for 1 (1)."
    ]
    assert axes.get_xlabel() == "Predicted label"
    assert axes.get_ylabel() == "True label"
    shown = [text.get_text() for text in axes.texts if text.get_visible()]
    assert sorted(shown) == ["1", "2", "3", "5", "7"]
    np.testing.assert_array_equal(axes.images[0].get_array(), matrix)


def test_confusions_by_name_and_without_mistakes():
    assert worst_confusions([[1, 2], [0, 1]], ["cat", "dog"]) == "cat taken for dog (2)"
    figure, _ = plot_confusion_matrix(np.eye(3, dtype=int))
    assert sentences_of(figure) == ["3 of 3 right; most frequent mistakes: none."]


@pytest.mark.parametrize(
    ("mistakes", "end"),
    [
        ([5, 2, 2, 1], "(2)"),
        ([5, 2, 2, 2], "(2), and 1 more pair with 2"),
        ([2, 2, 2, 2, 2, 1], "(2), and 2 more pairs with 2"),
        ([3, 3], "(3)"),
    ],
)
def test_ties_with_the_last_mistake_that_is_named_are_counted(mistakes, end):
    matrix = np.zeros((3, 3), dtype=int)
    off_diagonal = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    for pair, number in zip(off_diagonal, mistakes, strict=False):
        matrix[pair] = number
    described = worst_confusions(matrix)
    assert described.endswith(end)
    assert described.count(" taken for ") == min(len(mistakes), 3)


def test_an_empty_history_is_refused():
    for plot in (plot_training_loss, plot_accuracy):
        with pytest.raises(ValueError, match="train first"):
            plot(History())


def test_show_prints_the_sentences_of_all_parts_of_a_figure(capsys):
    left, right = plt.figure().subfigures(1, 2)
    show_examples(Constant(), [batch(3)], figure=left, title="Before")
    show_examples(Constant(), [batch(2)], figure=right, title="After")
    show("And one more.")
    assert capsys.readouterr().out.splitlines() == [
        "Before: 3 images, 2 of them mistakes (framed): 0 taken for 1, 2 taken for 1.",
        "After: 2 images, 1 of them mistakes (framed): 0 taken for 1.",
        "And one more.",
    ]
    assert plt.get_fignums() == []  # shown once, and gone


def test_type_is_large_and_lines_are_thick():
    assert plt.rcParams["font.size"] >= 16
    assert plt.rcParams["lines.linewidth"] >= 3


def test_curves_can_be_read_as_tables():
    figure, _ = plot_accuracy(HISTORY, resumed_at=1)
    assert curves_as_tables(figure) == [
        {
            "header": ["Epoch", "Training", "Validation"],
            "rows": [["1", "50", "40"], ["2", "75", "60"]],
        }
    ]
    figure, _ = plot_training_loss(HISTORY, averaging_iterations=3)
    losses, averages = curves_as_tables(figure)
    assert losses["rows"][:2] == [["0.3333", "4"], ["0.6667", "3"]]
    assert averages["header"] == ["Epoch", "Average of the last 3"]
    figure, axes = plt.subplots()
    axes.plot(range(1000), label="long")
    (long,) = curves_as_tables(figure)
    assert long["header"] == ["x", "long"]
    assert [row[0] for row in long["rows"]][::12] == ["0", "999"]
    assert len(long["rows"]) == 13


def test_the_columns_of_a_table_have_names_where_axes_are_shared():
    history = replace(HISTORY, batches_per_epoch=3)
    continued = {title: (history, [1]) for title in ("left", "right")}
    figure, _ = plot_continuations(history, continued)
    headers = [table["header"] for table in curves_as_tables(figure)]
    assert all(name and not name.startswith("_") for header in headers for name in header)
    assert {header[0] for header in headers} == {"Epoch"}


DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["SGD", "Adam", "007"], ["SGD", "Adam", "007"]),
        ([datetime.date.fromisoformat(day) for day in DAYS], DAYS),
        (
            [datetime.datetime(2026, 1, 1, hour) for hour in (0, 6)],
            [DAYS[0], f"{DAYS[0]} 06:00:00"],
        ),
        (np.array(DAYS, "datetime64[D]"), DAYS),
        (np.array(DAYS, "datetime64[ns]"), DAYS),
        ([pd.Timestamp(day) for day in DAYS], DAYS),
        (pd.Series(pd.to_datetime(DAYS)), DAYS),
        (pd.Categorical(["low", "high"]), ["low", "high"]),
    ],
)
@pytest.mark.parametrize("names_on", ["x", "y"])
def test_names_and_dates_are_shown_and_kept_in_the_table(values, texts, names_on, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "get_backend", lambda: "inline")
    monkeypatch.setattr("IPython.display.display", lambda figure, metadata: shown.append(metadata))
    _, axes = plt.subplots()
    numbers = range(len(values))
    axes.plot(*((values, numbers) if names_on == "x" else (numbers, values)), label="run")
    axes.set_xlabel("x")
    show("One sentence.")

    rows = [[text, str(number)] for text, number in zip(texts, numbers, strict=True)]
    if names_on == "y":
        rows = [row[::-1] for row in rows]
    curves = [{"header": ["x", "run"], "rows": rows}]
    assert shown == [{"image/png": {"alt": "One sentence."}, "curves": curves}]


def test_an_empty_line_is_in_no_table():
    figure, axes = plt.subplots()
    axes.plot([], [], label="for the legend")
    assert curves_as_tables(figure) == []
