"""A notebook in a kernel, cell by cell; and what each of its ✓ checks, broken on purpose."""

import contextlib
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient


@contextlib.contextmanager
def open_notebook(path):
    """Yield a function that runs a cell of a notebook, or other lines, and returns what is printed.

    The kernel starts in the notebook's folder. An error in a cell is raised as nbclient's
    CellExecutionError.
    """
    notebook = nbformat.read(path, as_version=4)
    sources = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code"}
    client = NotebookClient(
        notebook,
        timeout=None,
        resources={"metadata": {"path": path.parent}},
        extra_arguments=["--log-level=ERROR"],
    )

    def run(cell_or_lines):
        cell = nbformat.v4.new_code_cell(sources.get(cell_or_lines, cell_or_lines))
        notebook.cells.append(cell)
        client.execute_cell(cell, len(notebook.cells) - 1)
        return "".join(output.get("text", "") for output in cell.outputs)

    run.cells = sources
    run.counterexamples = tagged(notebook, "counterexample")
    run.reports = tagged(notebook, "report")  # their marks are what was found, not a verdict
    with client.setup_kernel():
        yield run


def tagged(notebook, tag):
    """Return the ids of the cells with a tag."""
    return {cell.id for cell in notebook.cells if tag in cell.metadata.get("tags", [])}


def run_up_to(run, last):
    """Run all cells up to the one of this name, and return what it prints."""
    for name in run.cells:
        printed = run(name)
        if name == last:
            return printed
    raise ValueError(f"There is no cell {last}.")


class Break(NamedTuple):
    """`before` breaks something, then `cells` run; the last one prints these `marks`.

    `after` repairs it, the cells run once more, and every mark is a ✓ again. The last cell of a
    counterexample prints a ✗ as it is, and a ✓ when it is broken.
    """

    what: str
    before: str
    cells: list
    marks: str
    after: str = "pass"


def marks_in(text):
    """Return the ✓ and ✗ in a text, in their order."""
    return "".join(mark for mark in text if mark in "✓✗")


def cells_with_a_tick(notebook):
    """Return the ids of the cells that print a ✓, but for the answers to exercises."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.id for cell in code if "✓" in cell.source and not cell.id.startswith("exercise")]


def run_and_break(path, breaks, patches=None, skip=()):
    """Run a notebook from top to bottom, and make each of its breaks after the last of its cells.

    `patches` are lines to run after a cell, by its id; cells in `skip`, exercises and figures are
    skipped. Returns the breaks that were noticed.
    """
    noticed = []
    with open_notebook(path) as run:
        for name, source in run.cells.items():
            if name in skip or name.startswith("exercise") or "show(" in source:
                continue
            usual = "✗" if name in run.counterexamples else "✓"
            printed = run(name)
            assert name in run.reports or set(marks_in(printed)) <= {usual}, name
            run((patches or {}).get(name, "pass"))
            for each in (each for each in breaks if each.cells[-1] == name):
                run(each.before)
                marks = marks_in([run(cell) for cell in each.cells][-1])
                assert marks == each.marks, f"{each.what}: {marks} instead of {each.marks}"
                run(each.after)
                marks = marks_in([run(cell) for cell in each.cells][-1])
                assert set(marks) == {usual}, f"{each.what}: not repaired"
                noticed.append(each)
    return noticed
