"""Which cells of the notebooks stand on which slide; nothing is copied, a slide shows the cells.

A slide is a list of items. An item is the id of a cell; which part of it may follow:

    "train"              all of the cell, code and outputs
    "train code"         its code without its outputs
    "train output"       its outputs without its code
    "model-class 4-12"   lines 4 to 12 of its code, without outputs
    "save-md 2-3"        the second and third paragraph of a Markdown cell (headings count)

The heading of a slide is the last one in the notebook up to the slide's first cell.
"""

import copy
import re
import textwrap

SLIDES = {
    "1-lenet5-train-and-save": [
        ["title 2-4"],
        ["initialize-md 2-3", "initialize 2-7"],
    ],
}


def cells_of_slide(notebook, items):
    """Return the heading of a slide and its cells, cut to the parts that it shows.

    Raises KeyError for a cell that isn't there, ValueError for a part that is empty.
    """
    by_id = {cell.id: cell for cell in notebook.cells}
    cells = [part_of(by_id[item.partition(" ")[0]], item.partition(" ")[2]) for item in items]
    first = notebook.cells.index(by_id[items[0].partition(" ")[0]])
    headings = [
        heading
        for cell in notebook.cells[: first + 1]
        if cell.cell_type == "markdown"
        for heading in re.findall(r"^#+ (.+)", cell.source, re.MULTILINE)
    ]
    return headings[-1], cells


def part_of(cell, part):
    """Return a copy of a cell with one part of it."""
    cell = copy.deepcopy(cell)
    if part in ("code", "output") and cell.cell_type == "code":
        if part == "code":
            cell.outputs = []
        else:
            cell.metadata["transient"] = {"remove_source": True}
    elif part:
        first, last = re.fullmatch(r"(\d+)(?:-(\d+))?", part).groups()
        chosen = slice(int(first) - 1, int(last or first))
        if cell.cell_type == "code":
            cell.source = textwrap.dedent("\n".join(cell.source.splitlines()[chosen]))
            cell.outputs = []
        else:
            cell.source = "\n\n".join(re.split(r"\n\s*\n", cell.source)[chosen])
        if not cell.source.strip():
            raise ValueError(f"The cell {cell.id!r} has no part {part}.")
    if cell.cell_type == "markdown":
        cell.source = re.sub(r"^#+ .+\n*", "", cell.source, flags=re.MULTILINE)
    for output in cell.get("outputs", []):
        output.get("metadata", {}).pop("curves", None)  # the page has them
    return cell
