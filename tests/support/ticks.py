"""Cells that the tests add to copies of the notebooks, to see each ✓ fail and to be careless.

They run in the kernel of the notebook's one execution, where nbval compares what they print.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

INJECTED = Path(__file__).with_name("injected.py")


class Break(NamedTuple):
    """`before` breaks something, then `cells` run, and the last one prints these `marks`.

    `after` repairs it. All of this comes right before the first of the cells, so that they run next
    as they are in the notebook: nbval sees whether they print what they should.
    """

    what: str
    before: str
    cells: list
    marks: str
    after: str = "pass"

    def new_cell(self):
        """Return the cell that does this."""
        before, after = (f'r"""\n{lines}\n"""' for lines in (self.before, self.after))
        call = f"injected.see_break({before}, {self.cells}, {after})"
        return new_cell(f"# Broken: {self.what}\n{call}", f"{self.marks}\n")


class Careless(NamedTuple):
    """`lines` that do something careless and print `expected`, after a cell."""

    what: str
    cell: str
    lines: str
    expected: str

    def new_cell(self):
        """Return the cell that does this."""
        return new_cell(f"# Careless: {self.what}\n{self.lines}", self.expected)


def cells_with_a_tick(notebook):
    """Return the ids of the cells that print a ✓, but for the answers to exercises, and reports.

    A report says what was found; its marks are those of what it reads.
    """
    return [
        cell.id
        for cell in notebook.cells
        if cell.cell_type == "code"
        and "✓" in cell.source
        and not cell.id.startswith("exercise")
        and "report" not in cell.metadata.get("tags", [])
    ]


def add_cells(path, breaks, careless):
    """Add cells to the copy of a notebook, with what they print.

    Raises a UsageError if the notebook doesn't have a cell that one of them needs, or has one that
    was not run: nbval wouldn't compare what it prints.
    """
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if unrun := [cell.id for cell in code if cell.execution_count is None]:
        raise pytest.UsageError(f"{path.name} was not run: {', '.join(unrun)}")
    needed = {name for each in breaks for name in each.cells} | {each.cell for each in careless}
    if missing := needed - {cell.id for cell in code}:
        raise pytest.UsageError(f"{path.name} doesn't have the cells {', '.join(missing)}")
    if not needed:
        return

    cells = [new_cell(f"import injected\n\ninjected.read_cells({path.name!r})")]
    for cell in notebook.cells:
        cells += [each.new_cell() for each in breaks if each.cells[0] == cell.id]
        cells.append(cell)
        cells += [each.new_cell() for each in careless if each.cell == cell.id]
    notebook.cells = cells
    nbformat.write(notebook, path)
    shutil.copy(INJECTED, path.parent)


def new_cell(source, printed=""):
    """Return a code cell with what it prints; nbval compares only cells that have a count."""
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    return nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=1)
