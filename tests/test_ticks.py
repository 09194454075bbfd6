"""A ✓ can turn into a ✗: cells that the tests add to the notebooks break what each one checks.

Those cells run with the notebooks, in `make test` and `pytest notebooks`. Here is how that works.
"""

import re
import subprocess
import sys

import nbformat
import pytest

from tests.support.breaks import BREAKS
from tests.support.careless import CARELESS
from tests.support.ticks import Break, Careless, add_cells, cells_with_a_tick, new_cell
from tools import run_tests
from tools.course import NOTEBOOKS, ROOT, list_chains, list_lessons, list_notebooks

LESSONS = [lesson.path for lesson in list_lessons()]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_cell_with_a_tick_is_broken(path):
    broken = {each.cells[-1] for each in BREAKS.get(path.stem, ())}
    assert broken == set(cells_with_a_tick(nbformat.read(path, as_version=4)))


def test_every_notebook_that_gets_cells_is_there():
    paths = {lesson.path for lesson in list_notebooks()}
    assert {NOTEBOOKS / f"{name}.ipynb" for name in [*BREAKS, *CARELESS]} <= paths


CHECK = 'print("✓" if weight == 1 else "✗", "the weight")'
# What is added after the check, and whether its cell fails.
ADDED = [
    (Break("a different weight", "weight = 2", ["check"], "✗", "weight = 1"), False),
    (Break("the cell before", "start = 2", ["set", "check"], "✗", "start = 1"), False),
    (Break("nothing is broken", "pass", ["check"], "✗", "weight = 1"), True),
    (Break("nothing is repaired", "weight = 2", ["check"], "✗"), True),
    (Break("repaired once more", "weight = 2", ["check"], "✗", "weight = 1"), False),
    (Break("an error", "weight = 1 / 0", ["check"], "✗", "weight = 1"), True),
    (
        Careless("as expected", "check", "print(injected.error_of('1 / 0'))", "division by zero\n"),
        False,
    ),
    (
        Careless("no error", "check", "print(injected.error_of('1 / 1'))", "division by zero\n"),
        True,
    ),
    (
        Careless(
            "stopped",
            "check",
            "print(injected.error_of('raise KeyboardInterrupt'))",
            "KeyboardInterrupt\n",
        ),
        False,
    ),
    (Careless("as committed", "check", "print(injected.run('check'))", "✓ the weight\n\n"), False),
]


@pytest.mark.slow
def test_a_break_that_is_not_noticed_and_one_that_is_not_repaired_fail(tmp_path):
    path = tmp_path / "small.ipynb"
    cells = {"start": "start = 1", "set": "weight = start", "check": CHECK, "after": CHECK}
    notebook = nbformat.v4.new_notebook()
    for name, source in cells.items():
        cell = new_cell(source, "✓ the weight\n" if source == CHECK else "")
        cell.id = name
        notebook.cells.append(cell)
    nbformat.write(notebook, path)
    add_cells(path, [added for added, _ in ADDED])

    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-rA", path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    outcomes = re.findall(r"^(PASSED|FAILED) .*::Cell (\d+)", done.stdout, re.M)
    failed = [outcome == "FAILED" for outcome, _ in sorted(outcomes, key=lambda each: int(each[1]))]
    assert failed == [False] * 4 + [fails for _, fails in ADDED] + [False], done.stdout


def test_a_notebook_without_the_cell_or_not_run_is_refused(tmp_path):
    path = tmp_path / "small.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[new_cell("pass")])
    nbformat.write(notebook, path)
    with pytest.raises(
        pytest.UsageError, match=r"small.ipynb has no cell gone: nothing to break\."
    ):
        add_cells(path, [Break("nothing to break", "pass", ["gone"], "✗")])
    notebook.cells[0].update(id="changed", execution_count=None)
    nbformat.write(notebook, path)
    with pytest.raises(pytest.UsageError, match=r"small.ipynb was not run: changed"):
        add_cells(path, [])


def test_every_notebook_is_in_one_chain_after_those_whose_files_it_uses():
    first, second = list_chains()
    assert sorted(first + second) == sorted(each for each in list_notebooks() if each.runs_here)
    for chain in (first, second):
        assert chain == [each for each in list_notebooks() if each in chain]
    assert [each.number for each in first][:3] == [1, 2, 3]


def test_a_part_that_fails_is_marked(capfd):
    part = run_tests.run_part("nothing there", ["tests/nothing_there.py"])
    assert part.status == 4
    assert str(part).startswith("✗")
    assert str(part).endswith("s  nothing there")
    assert "tests/nothing_there.py" in capfd.readouterr().err
