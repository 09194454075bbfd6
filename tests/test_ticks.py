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
from tools.course import NOTEBOOKS, ROOT, Lesson, list_chains, list_lessons, list_notebooks

LESSONS = [lesson.path for lesson in list_lessons()]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_cell_with_a_tick_is_broken(path):
    broken = {each.cells[-1] for each in BREAKS.get(path.stem, ())}
    assert broken == set(cells_with_a_tick(nbformat.read(path, as_version=4)))


def test_every_notebook_that_gets_cells_is_there():
    paths = {lesson.path for lesson in list_notebooks()}
    assert {NOTEBOOKS / f"{name}.ipynb" for name in [*BREAKS, *CARELESS]} <= paths


# What is added to the cells set-NAME and check-NAME of a small notebook, and which cells fail then:
# the one that is added or one of these.
ADDED = {
    "a": (Break("a different weight", "weight = 2", ["check-a"], "✗", "weight = 1"), ""),
    "b": (Break("the cell before", "start = 2", ["set-b", "check-b"], "✗", "start = 1"), ""),
    "c": (Break("nothing is broken", "pass", ["check-c"], "✗"), "added"),
    "d": (Break("nothing is repaired", "weight = 2", ["check-d"], "✗"), "check-d"),
    "e": (Break("an error", "weight = 1 / 0", ["check-e"], "✗", "weight = 1"), "added"),
    "f": (Careless("the cell", "set-f", "print(injected.run('check-f'))", "✓ the weight\n\n"), ""),
    "g": (
        Careless("an error", "set-g", "print(injected.error_of('1 / 0'))", "division by zero\n"),
        "",
    ),
    "h": (
        Careless("no error", "set-h", "print(injected.error_of('1 / 1'))", "division by zero\n"),
        "added",
    ),
    "i": (
        Careless(
            "stopped",
            "set-i",
            "print(injected.error_of('raise KeyboardInterrupt'))",
            "KeyboardInterrupt\n",
        ),
        "",
    ),
    "j": (Careless("not put back", "set-j", "weight = 2", ""), "check-j"),
}


@pytest.mark.slow
def test_a_break_that_is_not_noticed_and_one_that_is_not_repaired_fail(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[new_cell("start = 1")])
    for name in ADDED:
        check = 'print("✓" if weight == 1 else "✗", "the weight")'
        notebook.cells += [new_cell("weight = start"), new_cell(check, "✓ the weight\n")]
        notebook.cells[-2].id, notebook.cells[-1].id = f"set-{name}", f"check-{name}"
    path = tmp_path / "small.ipynb"
    nbformat.write(notebook, path)
    added = [each for each, _ in ADDED.values()]
    breaks = [each for each in added if isinstance(each, Break)]
    add_cells(path, breaks, [each for each in added if isinstance(each, Careless)])

    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-rA", path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    cells = nbformat.read(path, as_version=4).cells
    failed = [cells[int(n)] for n in re.findall(r"^FAILED .*::Cell (\d+)", done.stdout, re.M)]
    names = [cell.id if "-" in cell.id else cell.source.partition("\n")[0] for cell in failed]
    expected = []
    for each, fails in ADDED.values():
        kind = type(each).__name__.replace("Break", "Broken")
        expected += [f"# {kind}: {each.what}"] if fails == "added" else fails.split()
    assert sorted(names) == sorted(expected), done.stdout


def test_a_notebook_without_the_cell_or_not_run_is_refused(tmp_path):
    path = tmp_path / "small.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[new_cell("pass")])
    nbformat.write(notebook, path)
    with pytest.raises(pytest.UsageError, match="small.ipynb doesn't have the cells gone"):
        add_cells(path, [Break("nothing to break", "pass", ["gone"], "✗")], [])
    notebook.cells[0].update(id="changed", execution_count=None)
    nbformat.write(notebook, path)
    with pytest.raises(pytest.UsageError, match="small.ipynb was not run: changed"):
        add_cells(path, [], [])


def test_every_notebook_is_in_one_chain_after_those_whose_files_it_uses():
    first, second = list_chains()
    assert sorted(first + second) == sorted(each for each in list_notebooks() if each.runs_here)
    for chain in (first, second):
        assert chain == [each for each in list_notebooks() if each in chain]
    assert [each.number for each in first][:3] == [1, 2, 3]


@pytest.mark.slow
def test_one_part_that_fails_fails_all(monkeypatch, capfd):
    lost = Lesson(1, NOTEBOOKS / "1-lost.ipynb", (2, 6))
    monkeypatch.setattr(run_tests, "list_chains", lambda: [[lost], [lost]])
    monkeypatch.setattr(run_tests, "OTHERS", ["--version"])
    with pytest.raises(SystemExit) as ended:
        run_tests.main()
    assert ended.value.code == 1
    lines = capfd.readouterr().out.splitlines()
    assert [(line[0], line.partition(" s  ")[2]) for line in lines[-3:]] == [
        ("✗", "notebooks 1"),
        ("✗", "notebooks 1"),
        ("✓", "the other tests"),
    ]
    assert "1-lost.ipynb" in "".join(lines)
