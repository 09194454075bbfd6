"""Notebooks in careless hands: no wrong result without a word."""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from helper.checkpoint import describe_checkpoint
from tests.support.ticks import open_notebook, run_up_to
from tests.test_ticks import FEW
from tools.course import change_settings, list_lessons

FIRST, SECOND = "1-lenet5-train-and-save.ipynb", "2-lenet5-load-and-continue.ipynb"
FOURTH, FIFTH = "4-alexnet-train-and-save.ipynb", "5-alexnet-load-and-continue.ipynb"
NOTEBOOKS = [lesson.path for lesson in list_lessons()]


def refused(run, cell):
    """Return the message of the error that a cell raises."""
    with pytest.raises(CellExecutionError) as error:
        run(cell)
    return error.value.evalue


@pytest.mark.slow
def test_started_from_another_folder(course):
    """An editor may start a notebook in the root of the course, where `helper` is found, too."""
    with open_notebook(course / FIRST) as run:
        run("import os; os.chdir('..')")
        message = refused(run, "path")
    assert message.startswith("This notebook has to run in its own folder, and runs in ")
    assert "notebooks/" in message


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_looks_where_it_is(path):
    first = [cell for cell in nbformat.read(path, as_version=4).cells if cell.id == "path"]
    assert 'if not os.path.isdir("../helper"):' in first[0].source


@pytest.mark.slow
def test_the_pair_in_careless_hands(course):
    change_settings(course / FIRST, NUM_EPOCHS=1)
    change_settings(course / SECOND, NUM_EPOCHS=2)
    with open_notebook(course / FIRST) as run:
        run_up_to(run, "final")

    with open_notebook(course / SECOND) as run:
        run_up_to(run, "go-on")
        # Run once more before the training: nothing of the checkpoint is left in the model.
        run("initialize")
        assert "Nothing is loaded yet" in refused(run, "continue")
        run("load-checkpoint")
        # Settings that are not those of notebook 1.
        run("BATCH_SIZE = 100")
        run("data")
        assert "Check its batch size and its dataset." in refused(run, "continue")
        run("BATCH_SIZE = 128")
        run("data")
        run("RANDOM_SEED = 7")
        assert "Notebook 1 ran with RANDOM_SEED = 123" in refused(run, "load-checkpoint")
        run("RANDOM_SEED = 123")
        # All of it twice, and the proof is the same.
        for _ in range(2):
            for cell in ["load-checkpoint", "continue", "uninterrupted", "compare"]:
                run(cell)
            assert run("proof").count("✓") == 2


@pytest.mark.slow
def test_the_large_pair_in_careless_hands(course):
    change_settings(course / FOURTH, NUM_EPOCHS=1)
    with open_notebook(course / FOURTH) as run:
        for cell in ["path", "settings", "data"]:
            run(cell)
        run(FEW)
        for cell in ["new-alexnet", "initialize", "disk", "optimizer", "train"]:
            run(cell)
        # The optimizer anew, and with it the model: the next run begins where the first one did.
        loss = run("print(history.minibatch_loss)")
        run("optimizer")
        run("train")
        assert run("print(history.minibatch_loss)") == loss
        run("NUM_EPOCHS = 2")
        run("train")
        run("save-model")

    stale = course / "saved_data" / "alexnet-continued.pt"
    stale.write_bytes((course / "saved_data" / "alexnet-model.pt").read_bytes())
    change_settings(course / FIFTH, NUM_EPOCHS=1)
    with open_notebook(course / FIFTH) as run:
        for cell in ["path", "settings", "files", "data"]:
            run(cell)
        run(FEW)
        run("new-alexnet")
        run("new-run")
        run("RANDOM_SEED = 7")
        assert "Notebook 4 ran with RANDOM_SEED = 123" in refused(run, "load-checkpoint")
        run("RANDOM_SEED = 123")
        run("load-checkpoint")
        # Fewer epochs than are done: nothing to do, and what is saved is this run all the same.
        # What was there is kept, whether the cell that sets it aside was run or not.
        printed = run("continue")
        assert "Nothing to do: 2 of 1 epochs are done already." in printed
        assert "renamed to alexnet-continued.previous.pt." in printed
        assert "2 epochs done" in repr(describe_checkpoint(stale, every_tensor=False))
    kept = course / "saved_data" / "alexnet-continued.previous.pt"
    assert kept.read_bytes() == (course / "saved_data" / "alexnet-model.pt").read_bytes()


def printed_by(path, skip=(), after=None):
    """Return what each cell of a notebook prints; `after` are lines to run after a cell, by id."""
    printed = {}
    with open_notebook(path) as run:
        for name in run.cells:
            if name not in skip and not name.startswith("exercise"):
                printed[name] = run(name)
                run((after or {}).get(name, "pass"))
    return printed


def runs_twice(path, checkpoint=None, **how):
    """Assert that a second run prints the same, and keeps the checkpoint that the first one left.

    The file is recognized by its number: two equal runs save the same bytes.
    """
    printed = printed_by(path, **how)
    if checkpoint is None:
        assert printed_by(path, **how) == printed
        return
    number = checkpoint.stat().st_ino
    assert printed_by(path, **how) == printed
    assert checkpoint.with_suffix(".previous.pt").stat().st_ino == number
    assert checkpoint.stat().st_ino != number


@pytest.mark.slow
def test_a_second_run_of_the_pair_prints_the_same(course, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    change_settings(course / FIRST, NUM_EPOCHS=1)
    change_settings(course / SECOND, NUM_EPOCHS=2)
    runs_twice(course / FIRST)
    runs_twice(course / SECOND, course / "saved_data" / "continued.pt")
    runs_twice(course / "solutions" / SECOND, course / "saved_data" / "try-it.pt")


@pytest.mark.slow
def test_a_second_run_of_the_large_pair_prints_the_same(course, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    change_settings(course / FOURTH, NUM_EPOCHS=1)
    change_settings(course / FIFTH, NUM_EPOCHS=2)
    skip = {"one-step", "layers", "plot-bytes", "half", "measure", "blocked"}
    for name, checkpoint in [(FOURTH, "alexnet.pt"), (FIFTH, "alexnet-continued.pt")]:
        path = course / "saved_data" / checkpoint
        runs_twice(course / name, path, skip=skip, after={"data": FEW})
