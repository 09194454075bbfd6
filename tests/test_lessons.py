"""The notebooks in the order of their numbers, 2 before 10, for everything that lists them."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from tools import course, list_notebooks, make_exercises, make_site, student
from tools.course import ROOT, list_lessons

NAMES = ["1-first.ipynb", "2-second.ipynb", "9-many.ipynb", "10-more.ipynb"]
PATHS = [f"notebooks/{name}" for name in NAMES]
SOLUTIONS = [f"notebooks/solutions/{name}" for name in NAMES]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with four notebooks and their solutions, which run with every PyTorch."""
    folder = tmp_path / "project" / "notebooks"
    (folder / "solutions").mkdir(parents=True)
    for name in [*NAMES, "Untitled.ipynb"]:
        title = nbformat.v4.new_markdown_cell(f"# {name.partition('-')[0]} · Title", id="title")
        cell = nbformat.v4.new_code_cell("1 + 1", id="sum", execution_count=1)
        recap = nbformat.v4.new_markdown_cell("## Recap", id="recap")
        notebook = nbformat.v4.new_notebook(cells=[title, cell, recap])
        nbformat.write(notebook, folder / name)
        nbformat.write(notebook, folder / "solutions" / name)
    monkeypatch.setattr(course, "NEWER_TORCH", {})
    return folder.parent


def test_lessons_are_listed_by_their_numbers(project):
    lessons = list_lessons(project / "notebooks")
    assert [lesson.number for lesson in lessons] == [1, 2, 9, 10]
    assert [lesson.path.name for lesson in lessons] == NAMES
    solutions = list_lessons(project / "notebooks" / "solutions")
    assert [lesson.path.name for lesson in solutions] == NAMES


def test_a_lesson_knows_the_oldest_pytorch_that_runs_it(project, monkeypatch):
    monkeypatch.setattr(course, "NEWER_TORCH", {10: (2, 7)})
    lessons = list_lessons(project / "notebooks")
    assert [lesson.oldest_torch for lesson in lessons] == [(2, 6), (2, 6), (2, 6), (2, 7)]
    for release, number in {"2.6.0+cpu": 3, "2.7.1": 4, "2.15.0+cu132": 4}.items():
        monkeypatch.setattr(course, "version", lambda _, release=release: release)
        assert [lesson.runs_here for lesson in lessons].count(True) == number


def test_a_student_gets_them_in_this_order_and_keeps_a_notebook_of_before(
    project, monkeypatch, capsys
):
    monkeypatch.setattr(student, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setattr(student, "WORK", project / "work")
    mine = project / "work" / "7-many.ipynb"
    mine.parent.mkdir()
    mine.write_text("my answers")
    student.main()
    copied, _, begin = capsys.readouterr().out.partition("To begin:")
    assert copied.split() == [f"work/{name}" for name in NAMES]
    assert f"jupyter lab work/{NAMES[0]}" in begin
    assert mine.read_text() == "my answers"


def test_the_pages_follow_each_other_in_this_order(project, monkeypatch):
    monkeypatch.setattr(make_site, "ROOT", project)
    notebooks = make_site.read_notebooks()
    assert [*notebooks] == PATHS + SOLUTIONS
    assert ("Next", f"/{PATHS[3]}") in make_site.links_of(PATHS[2], notebooks)
    assert ("Previous", f"/{PATHS[1]}") in make_site.links_of(PATHS[2], notebooks)
    rows = re.findall(r"^\| \[(\d+) · ", make_site.all_pages(notebooks), re.M)
    assert rows == ["1", "2", "9", "10"]


def test_exercises_are_made_in_this_order(project, monkeypatch):
    made = []
    monkeypatch.setattr(make_exercises, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setattr(make_exercises, "SOLUTIONS", project / "notebooks" / "solutions")
    monkeypatch.setattr(make_exercises, "insert", lambda *_: None)
    monkeypatch.setattr(make_exercises, "exercise_cells", lambda solution, name: made.append(name))
    make_exercises.main()
    assert made == NAMES


def test_they_are_listed_in_this_order(project, monkeypatch, capsys):
    monkeypatch.setattr(list_notebooks, "ROOT", project)
    list_notebooks.main()
    assert capsys.readouterr().out.splitlines() == PATHS + SOLUTIONS
    monkeypatch.setattr(course, "NEWER_TORCH", {9: (99, 0)})
    list_notebooks.main()
    assert capsys.readouterr().out.splitlines() == [
        path for path in PATHS + SOLUTIONS if "/9-" not in path
    ]


@pytest.mark.slow
def test_pytest_collects_them_in_this_order(project):
    """Where none is named; `make test` names them."""
    for name in {*course.FOLDERS} - {"notebooks"}:
        (project / name).mkdir()
    shutil.copytree(ROOT / "tests" / "support", project / "tests" / "support")
    for path in [ROOT / "conftest.py", ROOT / "pyproject.toml", *ROOT.glob("tests/*.cfg")]:
        shutil.copy(path, project / path.relative_to(ROOT))
    shutil.copytree(ROOT / "tools", project / "tools")
    every = (project / "tools" / "course.py").read_text("utf-8")
    every = re.sub(r"^NEWER_TORCH = .*", "NEWER_TORCH = {}", every, flags=re.M)
    (project / "tools" / "course.py").write_text(every, "utf-8")
    for name in ("1-lenet5-train-and-save", "4-alexnet-train-and-save"):
        path = project / "notebooks" / f"{name}.ipynb"  # the arithmetic is that of their models
        shutil.copy(ROOT / "notebooks" / path.name, path)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    collected = re.findall(r"(notebooks/\S+)::Cell 0", done.stdout)
    assert [path for path in collected if path.endswith(tuple(NAMES))] == PATHS + SOLUTIONS
    stored = (ROOT / "notebooks" / path.name).read_bytes()
    assert path.read_bytes() == stored  # cells are added to copies only
