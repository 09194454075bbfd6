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
    """`before` breaks something, then `cells` run; the last one prints these `marks`.

    `after` repairs it, the cells run once more, and print the marks of the committed notebook. The
    last cell of a counterexample prints a ✗ as it is, and a ✓ when it is broken.
    """

    what: str
    before: str
    cells: list
    marks: str
    after: str = "pass"

    @property
    def follows(self):
        """The id of the cell that the new one comes after."""
        return self.cells[-1]

    def source(self):
        """Return the new cell's lines."""
        before, after = (f'r"""\n{lines}\n"""' for lines in (self.before, self.after))
        return f"# Broken: {self.what}\ninjected.see_break({before}, {self.cells}, {after})"

    def printed(self, committed):
        """Return what the new cell prints, if the cell that it follows prints what is committed."""
        return f"broken:   {self.marks}\nrepaired: {marks_in(committed)}\n"


class Careless(NamedTuple):
    """After the cell `follows`, `lines` do something careless, and print `expected`."""

    what: str
    follows: str
    lines: str
    expected: str

    def source(self):
        """Return the new cell's lines."""
        return f"# Careless: {self.what}\n{self.lines}"

    def printed(self, _):
        """Return what the new cell prints."""
        return self.expected


def marks_in(text):
    """Return the ✓ and ✗ in a text, in their order."""
    return "".join(mark for mark in text if mark in "✓✗")


def cells_with_a_tick(notebook):
    """Return the ids of the cells that print a ✓, but for the answers to exercises."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.id for cell in code if "✓" in cell.source and not cell.id.startswith("exercise")]


def add_cells(path, added):
    """Add cells with their outputs to the copy of a notebook, each after the cell it follows.

    Raises a UsageError if the notebook doesn't have a cell that one of them needs, or has one that
    was not run: nbval wouldn't compare what it prints.
    """
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if unrun := [cell.id for cell in code if cell.execution_count is None]:
        raise pytest.UsageError(f"{path.name} was not run: {', '.join(unrun)}")
    if not added:
        return
    names = {cell.id for cell in code}
    for each in added:
        if missing := {each.follows, *getattr(each, "cells", ())} - names:
            raise pytest.UsageError(f"{path.name} has no cell {', '.join(missing)}: {each.what}.")

    cells = [new_cell(f"import injected\n\ninjected.read_cells({path.name!r})")]
    for cell in notebook.cells:
        cells.append(cell)
        outputs = "".join(output.get("text", "") for output in cell.get("outputs", []))
        following = [each for each in added if each.follows == cell.id]
        cells += [new_cell(each.source(), each.printed(outputs)) for each in following]
    notebook.cells = cells
    nbformat.write(notebook, path)
    shutil.copy(INJECTED, path.parent)


def new_cell(source, printed=""):
    """Return a code cell with what it prints; nbval compares only cells that have a count."""
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    return nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=1)
