"""The exercises: right, wrong, absurd and missing answers, and that they match their solutions."""

import copy
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
import torch

import audit.runs
from tests.answers import RIGHT, WRONG
from tests.answers.absurd import ABSURD, Unequal, raises
from tests.answers.solved import BLANK, CHECKS, SOLVED
from tests.support.forked import Forked, start_forkserver
from tests.test_notebooks import problems
from tools.course import NOTEBOOKS, list_lessons
from tools.make_exercises import (
    SOLUTIONS,
    exercise_cells,
    insert,
    is_exercise,
    without_solution,
)

LESSONS = [lesson.path.name for lesson in list_lessons(SOLUTIONS)]


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    """Return a function that gives a check an answer and returns the line that it prints.

    It fails if files, settings or random numbers have changed.
    """
    start_forkserver()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(audit.runs, "start_python", Forked)

    def ask(name, answer):
        before = torch.get_rng_state(), torch.is_grad_enabled()
        CHECKS[name](answer)
        printed = capsys.readouterr()
        assert printed.err == ""
        assert printed.out.count("\n") == 1
        assert len(printed.out) < 260
        assert torch.equal(torch.get_rng_state(), before[0])
        assert torch.is_grad_enabled() == before[1]
        assert torch.empty(0).device.type == "cpu"
        assert Path.cwd() == tmp_path
        assert tempfile.tempdir == str(tmp_path / "tmp")
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["tmp"]
        return printed.out.rstrip("\n")

    return ask


COUNTS = dict.fromkeys(LESSONS, 3) | {"10-many-processes-load-and-continue.ipynb": 3}


def test_there_are_three_exercises_to_a_notebook():
    assert [lesson.path.name for lesson in list_lessons()] == LESSONS
    assert len(CHECKS) == sum(COUNTS.values())
    for name, count in COUNTS.items():
        cells = read(SOLUTIONS / name).cells
        ids = [cell.id for cell in cells]
        end, exercises = 4 + 3 * count, range(1, count + 1)
        assert ids[3:end] == ["exercises-imports"] + [
            f"exercise-{number}{part}" for number in exercises for part in ("-md", "", "-check")
        ]
        assert all(id.startswith("try-it-") for id in ids[end:])
        levels = [re.match(r"\*\*\d · (\w+): ", cell.source) for cell in cells[4:end:3]]
        assert [level[1] for level in levels] == ["Easy", "Medium", "Hard"][:count]


@pytest.mark.parametrize("name", LESSONS)
def test_each_question_of_a_recap_has_its_answer(name):
    (recap,) = [cell.source for cell in read(NOTEBOOKS / name).cells if cell.id == "recap"]
    questions = re.findall(r"^- (.+)", recap.partition("**Try it**")[2], re.M)
    ids = [cell.id for cell in read(SOLUTIONS / name).cells if cell.id.startswith("try-it-")]
    answers = [id for id in ids if re.fullmatch(r"try-it-\d-md", id)]
    assert answers == [f"try-it-{number}-md" for number in range(1, len(questions) + 1)]
    assert ("try-it-md" in ids) == bool(questions)


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_is_right(ask, name):
    assert ask(name, SOLVED[name]).startswith("✓ ")


@pytest.mark.parametrize("name", CHECKS)
def test_a_missing_answer_is_no_error(ask, name):
    assert ask(name, BLANK[name]).startswith(f"Not answered yet: write {name} ")


def test_an_error_of_pytorch_is_no_missing_answer(ask):
    line = ask("optimizer_bytes", lambda _: torch.empty(1, device="meta").cpu())
    assert line.startswith("✗ for SGD with momentum, your function raises NotImplementedError: ")


@pytest.mark.parametrize("absurd", ABSURD)
@pytest.mark.parametrize("name", CHECKS)
def test_an_absurd_answer_gets_a_line(ask, name, absurd):
    line = ask(name, ABSURD[absurd])
    assert line.startswith("✗ "), line


def test_what_an_answer_prints_stays_in_one_line(ask):
    def prints(state):
        print("first", file=sys.stderr)
        print("second")
        print("third")
        return SOLVED["optimizer_bytes"](state)

    def prints_and_is_wrong(state):
        return prints(state) - 1

    assert ask("optimizer_bytes", prints) == ask("optimizer_bytes", SOLVED["optimizer_bytes"])
    line = ask("optimizer_bytes", prints_and_is_wrong)
    assert line.startswith("✗ too few bytes for SGD with momentum")
    assert line.endswith("(It printed: second)")


def test_an_error_in_the_function_is_told_with_its_name(ask):
    line = ask("optimizer_bytes", raises(TypeError("no such thing")))
    assert line == "✗ for SGD with momentum, your function raises TypeError: no such thing"
    assert "takes 0 positional arguments but 2 were given" in ask("save_atomically", lambda: 1)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_asks_for_the_function_itself(ask, name):
    for answer in (42, "text", None, ..., Unequal()):
        assert ask(name, answer) == (
            f"✗ pass the function {name} itself to the check, without calling it."
        )


@pytest.mark.slow
def test_a_solution_is_right_whatever_the_settings_of_the_notebook(ask):
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad():
            for name, solution in SOLVED.items():
                assert ask(name, solution).startswith("✓ ")
    finally:
        torch.use_deterministic_algorithms(False)


def marks_of(name):
    """Return the marks of an exercise's tests: an audit starts a script six times."""
    return [pytest.mark.slow] if name == "repair" else []


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        pytest.param(name, answer, hint, id=f"{name}-{answer.__name__}", marks=marks_of(name))
        for name, wrong in WRONG.items()
        for answer, hint in wrong.items()
    ],
)
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_wrong_answer_gets_its_hint(ask, name, answer, hint):
    line = ask(name, answer)
    assert line.startswith("✗ ")
    assert hint in line


def test_each_exercise_has_two_hints_of_its_own():
    assert set(WRONG) == set(CHECKS)
    for wrong in WRONG.values():
        assert len(set(wrong.values())) >= 2


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        pytest.param(name, answer, id=f"{name}-{answer.__name__}", marks=marks_of(name))
        for name, right in RIGHT.items()
        for answer in right
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of files that an answer leaves open
def test_another_right_answer_is_right(ask, name, answer):
    assert ask(name, answer).startswith("✓ ")


@pytest.mark.parametrize("name", LESSONS)
def test_exercises_and_solutions_have_not_drifted_apart(name):
    if not (NOTEBOOKS / name).exists():
        pytest.skip("this notebook is not there yet")
    notebook = read(NOTEBOOKS / name)
    made = copy.deepcopy(notebook)
    insert(made, exercise_cells(read(SOLUTIONS / name), name))
    assert made == notebook, "run `make notebooks`"


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_solution_is_clean_and_right(name):
    solution = read(SOLUTIONS / name)
    assert problems(solution, lesson=False) == []
    lines = [cell.outputs[0].text for cell in solution.cells if cell.id.endswith("-check")]
    assert [line[0] for line in lines] == ["✓"] * COUNTS[name]


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_exercises_are_unanswered(name):
    if not (NOTEBOOKS / name).exists():
        pytest.skip("this notebook is not there yet")
    checks = [c for c in read(NOTEBOOKS / name).cells if c.id.startswith("exercise-")]
    lines = [cell.outputs[0].text for cell in checks if cell.id.endswith("-check")]
    assert [line.partition(":")[0] for line in lines] == ["Not answered yet"] * COUNTS[name]


def test_exercises_go_before_the_recap_once_and_keep_their_outputs():
    new = nbformat.v4.new_markdown_cell
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [new("# Title", id="title"), new("## Recap", id="recap")]
    cells = exercise_cells(read(SOLUTIONS / LESSONS[0]), LESSONS[0])
    insert(notebook, cells)
    ids = [cell.id for cell in notebook.cells]
    assert ids == ["title", *(cell.id for cell in cells), "recap"]
    assert f"(solutions/{LESSONS[0]})" in notebook.cells[1].source

    notebook.cells[2].execution_count = 5
    insert(notebook, exercise_cells(read(SOLUTIONS / LESSONS[0]), LESSONS[0]))
    assert [cell.id for cell in notebook.cells] == ids
    assert notebook.cells[2].execution_count == 5


def test_nothing_of_a_solution_stays_in_its_exercise():
    source = 'def f(\n    a,\n    b,\n):\n    """Add."""\n    c = a + b\n    return c'
    last = "    raise NotImplementedError  # your lines here"
    blank = f'def f(\n    a,\n    b,\n):\n    """Add."""\n{last}'
    assert without_solution(source) == blank
    assert without_solution("def f(a):\n    return a") == f"def f(a):\n{last}"
    assert without_solution("import os") == "import os"
    for name in LESSONS:
        for cell in read(SOLUTIONS / name).cells:
            if is_exercise(cell) and cell.source.startswith("def "):
                solved = cell.source.splitlines()
                assert without_solution(cell.source).splitlines()[:-1] == solved[:2]
                assert 1 <= len(solved) - 2 <= 8
