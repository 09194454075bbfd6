"""Breaks what each ✓ of a notebook checks, in a kernel that runs it, and looks for the ✗."""

from typing import NamedTuple

import nbformat
from nbclient import NotebookClient


class Break(NamedTuple):
    """`before` breaks something, then `cells` run; the last one prints these `marks`.

    `after` mends it, the cells run once more, and every mark is a ✓ again.
    """

    what: str
    before: str
    cells: list
    marks: str
    after: str = "pass"


def marks_of(cell):
    """Return the ✓ and ✗ that a cell has printed, in their order."""
    text = "".join(output.get("text", "") for output in cell.outputs)
    return "".join(mark for mark in text if mark in "✓✗")


def cells_with_a_tick(notebook):
    """Return the ids of the cells that print a ✓, but for the answers to exercises."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.id for cell in code if "✓" in cell.source and not cell.id.startswith("exercise")]


def run_and_break(path, breaks, patches=None, skip=()):
    """Run a notebook from top to bottom, and make each of its breaks after the last of its cells.

    `patches` are lines to run after a cell, by its id; cells in `skip`, exercises and figures are
    left out. Returns the breaks that were noticed.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    client = NotebookClient(
        notebook,
        timeout=None,
        resources={"metadata": {"path": path.parent}},
        extra_arguments=["--log-level=ERROR"],
    )
    noticed = []
    with client.setup_kernel():

        def execute(source):
            cell = nbformat.v4.new_code_cell(source)
            notebook.cells.append(cell)
            client.execute_cell(cell, len(notebook.cells) - 1)
            return cell

        for name, cell in cells.items():
            if name in skip or name.startswith("exercise") or "show(" in cell.source:
                continue
            assert "✗" not in marks_of(execute(cell.source)), name
            execute((patches or {}).get(name, "pass"))
            for each in breaks:
                if each.cells[-1] != name:
                    continue
                for change, marks in [(each.before, each.marks), (each.after, "✓")]:
                    execute(change)
                    printed = marks_of([execute(cells[other].source) for other in each.cells][-1])
                    if marks == "✓":
                        assert set(printed) == {"✓"}, f"{each.what}: not mended"
                    else:
                        assert printed == marks, f"{each.what}: {printed} instead of {marks}"
                noticed.append(each)
    return noticed
