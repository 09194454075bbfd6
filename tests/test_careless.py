"""Notebooks in careless hands say what to do, before they compute anything.

What is careless later, with a trained model, is in tests/support/careless.py: those cells run with
the notebooks.
"""

import os
import re
from pathlib import Path

import nbformat
import pytest

from tools.course import list_lessons

LESSONS = {lesson.number: lesson.path for lesson in list_lessons()}


def source_of(number, cell):
    """Return the source of a cell of a notebook."""
    cells = nbformat.read(LESSONS[number], as_version=4).cells
    (source,) = [each.source for each in cells if each.id == cell]
    return source


@pytest.mark.parametrize("number", LESSONS)
def test_started_from_another_folder(number, tmp_path, monkeypatch):
    """An editor may start a notebook in the root of the course, where `helper` is found too."""
    (tmp_path / "helper").mkdir()
    monkeypatch.chdir(tmp_path)
    message = f"This notebook has to run in its own folder, and runs in {tmp_path}. .*notebooks/"
    with pytest.raises(FileNotFoundError, match=message):
        exec(source_of(number, "path"), {})


@pytest.mark.parametrize(
    ("number", "needed"),
    [
        (2, {"model.pt": 1, "optimizer.pt": 1, "scheduler.pt": 1, "checkpoint.pt": 1}),
        (3, {"checkpoint.pt": 1}),
        (5, {"alexnet.pt": 4, "alexnet-model.pt": 4}),
        (10, {"checkpoint.pt": 1, "many": 9}),
    ],
)
def test_without_the_notebook_before_it_a_notebook_says_what_to_do(
    number, needed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("saved_data").mkdir()
    code, names = source_of(number, "files"), {"os": os, "Path": Path}
    for missing, first in needed.items():
        for name in needed:
            Path("saved_data", name).touch()
        Path("saved_data", missing).unlink()
        message = f"There is no saved_data/{missing} yet: run notebook {first} first"
        with pytest.raises(FileNotFoundError, match=message) as error:
            exec(code, dict(names))
        for named in re.findall(r"\((\S+\.ipynb)\)", str(error.value)):
            assert named == LESSONS[first].name
    Path("saved_data", missing).touch()
    exec(code, dict(names))
