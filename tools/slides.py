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
        ["state-md 2"],
        ["settings-md", "settings"],
        ["data-md", "data"],
        ["batch", "batch-after-md"],
        ["model-md", "model-class 6-13"],
        ["model-class 14-25"],
        ["initialize-md 2", "initialize"],
        ["train-md", "train"],
        ["plot-loss output"],
        ["plot-accuracy output"],
        ["examples output"],
        ["confusion output"],
        ["model-state"],
        ["optimizer-state"],
        ["optimizer-state-after-md 2", "scheduler-state"],
        ["save-md", "save"],
        ["sizes", "sizes-after-md 2"],
        ["one-file-md 2"],
        ["one-file-md 3", "save-checkpoint", "final output"],
        ["recap 3"],
    ],
    "2-lenet5-load-and-continue": [
        ["title 2-4"],
        ["model-md", "initialize 1-9"],
        ["untrained-after-md 3-4"],
        ["load-model", "load-optimizer"],
        ["warm-start-md", "check-md", "check"],
        ["check-after-md 3-4", "load-checkpoint 1-2", "load-checkpoint output"],
        ["check-checkpoint-md", "check-checkpoint output", "check-checkpoint-after-md 1"],
        ["continue-md 2-3"],
        ["stop"],
        ["stop-after-md 1", "continue"],
        ["plot-loss output"],
        ["plot-accuracy output"],
        ["learning-rate output", "learning-rate-after-md 1"],
        ["examples output"],
        ["confusion output"],
        ["proof-md 3", "uninterrupted", "train-uninterrupted output"],
        ["overlay output"],
        ["overlay-after-md 2", "proof output"],
        ["proof-after-md 2"],
        ["recap 3"],
    ],
    "3-resume-lab": [
        ["title 2-4"],
        ["worth-md", "save-lab output"],
        ["variants-md", "variants 1-7"],
        ["table-md", "worth-table output", "worth-after-md 3"],
        ["worth-figure output"],
        ["pitfalls-md 3-4", "same-seed code"],
        ["same-seed output", "same-seed-lesson 1"],
        ["looking-lesson 3-4", "another-order 1-4", "another-order-load code"],
        ["another-order-load output", "another-order-check output", "another-order-lesson 1"],
        ["another-order-lesson 3-4", "three-files code"],
        ["three-files-train", "three-files-lesson 1-2"],
        ["three-files-lesson 4-5", "new-rate code"],
        ["new-rate output", "new-rate-lesson 1"],
        ["new-rate-lesson 3-4", "flip code"],
        ["flip output", "flip-notice output", "flip-lesson 1-2"],
        ["flip-lesson 4-5"],
        ["overwrite output", "overwrite-lesson 1-2"],
        ["overwrite-lesson 4-5", "attack code"],
        ["attack-load", "attack-lesson 1"],
        ["mode-lesson 4-5"],
        ["wrong-side-run output", "wrong-side-lesson"],
        ["kernel-md 2", "killed-md 2"],
        ["killed output"],
        ["started-again output", "result output"],
        ["recap 3"],
    ],
}


def cells_of_slide(notebook, items):
    """Return the heading of a slide and its cells, cut to the parts that it shows.

    Raises KeyError for a cell that isn't there, ValueError for a part that is empty.
    """
    by_id = {cell.id: cell for cell in notebook.cells}
    cells = [part_of(by_id[item.partition(" ")[0]], item.partition(" ")[2]) for item in items]
    for number, cell in enumerate(cells):
        cell.id = f"{cell.id}-{number}"  # two parts of one cell may stand on a slide
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
