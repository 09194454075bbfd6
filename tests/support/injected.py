"""What the cells call that the tests add to copies of the notebooks; a copy of it is beside them.

Everything runs in the notebook's own namespace, and its outputs are not shown.
"""

import re

import nbformat
from IPython import get_ipython
from IPython.utils.capture import capture_output

cells = {}  # the source of each code cell of this kernel's notebook, by its id


def read_cells(name):
    """Read the cells of this kernel's notebook."""
    notebook = nbformat.read(name, as_version=4)
    cells.update((cell.id, cell.source) for cell in notebook.cells if cell.cell_type == "code")


def run(cell_or_lines):
    """Run the cell of this id, or these lines, and return what is printed."""
    code = compile(cells.get(cell_or_lines, cell_or_lines), "<cell>", "exec")
    with capture_output() as captured:
        exec(code, get_ipython().user_ns)
    return re.sub(r"[^\n]*\r", "", captured.stdout)  # without progress bars, as nbval sees it


def error_of(cell):
    """Return the message of the error that a cell raises, or its name if it has none."""
    try:
        run(cell)
    except (Exception, KeyboardInterrupt) as error:
        return str(error) or type(error).__name__
    return "no error"


def see_break(before, names, after):
    """Break something, run cells, and print the ✓ and ✗ of the last one; then repair it."""
    try:
        run(before)
        printed = [run(name) for name in names]
    finally:
        run(after)
    print("".join(mark for mark in printed[-1] if mark in "✓✗"))
