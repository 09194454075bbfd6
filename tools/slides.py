"""Which cells of the notebooks are on which slide. Nothing is copied: a slide shows the cells.

A slide is a list of items. An item is the id of a cell, and may name a part of it:

    "train"              all of the cell, code and outputs
    "train code"         its code without its outputs
    "train output"       its outputs without its code
    "script output 2-9"  lines 2 to 9 of what it prints
    "model-class 4-12"   lines 4 to 12 of its code, without outputs
    "save-md 2-3"        the second and third paragraph of a Markdown cell (headings count)

The heading of a slide is the last one in the notebook up to the slide's first cell.
"""

import copy
import re
import textwrap

SLIDES = {
    "1-lenet5-train-and-save": [
        ["title 2-3"],
        ["data code"],
        ["data output", "batch-after-md"],
        ["model-md", "model-class 6-13"],
        ["model-class 14-25"],
        ["state-md", "model-state code"],
        ["model-state output"],
        ["initialize-md 2", "initialize"],
        ["optimizer-question-md", "optimizer-new code"],
        ["optimizer-new output"],
        ["loop"],
        ["optimizer-state output"],
        ["optimizer-state-after-md 2"],
        ["train"],
        ["train-after-md 2"],
        ["plot-loss output"],
        ["examples output"],
        ["confusion output"],
        ["confusion-after-md 1"],
        ["save-md", "save"],
        ["one-file-md 2"],
        ["one-file-answer-md 1"],
        ["one-file-answer-md 2"],
        ["one-file-answer-md 3", "plain-save"],
        ["plain-load"],
        ["plain-after-md"],
        ["describe-after-md", "final output"],
        ["recap 3"],
    ],
    "2-lenet5-load-and-continue": [
        ["title 2-4"],
        ["model-md 2-3"],
        ["initialize 1-9", "untrained-md"],
        ["untrained output", "untrained-after-md 3-4"],
        ["load-model", "load-optimizer"],
        ["check-md", "check", "check-after-md 1"],
        ["check-after-md 3", "lecture code"],
        ["lecture output"],
        ["lecture-after-md 3", "load-checkpoint 3-5", "load-checkpoint output"],
        ["hash-md"],
        ["hash output"],
        ["continue-md", "go-on 4-12"],
        ["stop-md", "stop code"],
        ["stop output"],
        ["stop-after-md 1", "continue output"],
        ["proof-md", "uninterrupted code"],
        ["overlay-md"],
        ["overlay output"],
        ["overlay-after-md 1"],
        ["compare output", "counterexample output", "proof output"],
        ["proof-after-md 2"],
        ["plain-md 2"],
        ["plain-loop 3-13"],
        ["plain-continue"],
        ["plot-accuracy output"],
        ["recap 3"],
    ],
    "3-resume-lab": [
        ["title 2-4"],
        ["worth-md", "save-lab output"],
        ["variants-md", "variants 1-5"],
        ["worth-table output"],
        ["worth-figure output"],
        ["worth-after-md 1-2"],
        ["pitfalls-md 3-4", "same-seed code"],
        ["same-seed output", "same-seed-lesson 1-2"],
        ["looking-lesson 4-5", "other-model code"],
        ["other-model output", "other-model-lesson 1-2"],
        ["another-order-lesson 3-4"],
        ["view output", "view-lesson 2"],
        ["view-lesson 4-5"],
        ["strict output", "strict-lesson 2"],
        ["strict-lesson 4-5", "mode code"],
        ["mode output", "mode-lesson 2"],
        ["mode-lesson 5-6"],
        ["overwrite output", "overwrite-lesson 2"],
        ["overwrite-lesson 4-5"],
        ["flip output"],
        ["flip-lesson 4-5", "attack 6-14"],
        ["attack output", "attack-lesson 1"],
        ["refused", "refused-md"],
        ["kernel-md 2", "killed-md 2"],
        ["killed output"],
        ["started-again output", "result output"],
        ["recap 3"],
    ],
    "7-the-audit": [
        ["title 2-4"],
        ["ledger-md 2"],
        ["train 8-18"],
        ["first-row output"],
        ["weights-only-md 2-3"],
        ["weights-only output"],
        ["weights-only-after-md 1-2"],
        ["weights-only-after-md 3"],
        ["tool-md 2-3"],
        ["tool-md 4", "script output 11-20"],
        ["script output 22-34"],
        ["audit-md"],
        ["audit output"],
        ["audit-after-md 1-2"],
        ["audit-after-md 3", "fix-order 8-10"],
        ["fix-order output"],
        ["fix-order-after-md"],
        ["rate-after-md 1", "fix-schedule code"],
        ["fix-schedule output", "fix-result output"],
        ["sets-md 2-3", "sets code"],
        ["sets output", "sets-after-md 1"],
        ["sets-after-md 2-3"],
        ["lie-md 2-3", "flip 1-4"],
        ["lie-question-md"],
        ["lie output", "lie-found output"],
        ["lie-loss output", "lie-after-md 2-3"],
        ["others-md 3-4"],
        ["others-after-md 1-2"],
        ["statuses output"],
        ["ci-after-md 1-3"],
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
        cell.id = f"{cell.id}-{number}"  # two parts of one cell may be on a slide
    first = notebook.cells.index(by_id[items[0].partition(" ")[0]])
    headings = [
        heading
        for cell in notebook.cells[: first + 1]
        if cell.cell_type == "markdown"
        for heading in re.findall(r"^#+ (.+)", cell.source, re.MULTILINE)
    ]
    return headings[-1], cells


def lines(part):
    """Return the slice that a part such as "4-12" or "output 4-12" names."""
    first, last = re.fullmatch(r"(?:output )?(\d+)(?:-(\d+))?", part).groups()
    return slice(int(first) - 1, int(last or first))


def part_of(cell, part):
    """Return a copy of a cell with one part of it."""
    cell = copy.deepcopy(cell)
    if part in ("code", "output") and cell.cell_type == "code":
        if part == "code":
            cell.outputs = []
        else:
            cell.metadata["transient"] = {"remove_source": True}
    elif part.startswith("output "):
        cell.metadata["transient"] = {"remove_source": True}
        (output,) = cell.outputs
        output.text = textwrap.dedent("\n".join(output.text.splitlines()[lines(part)]))
        if not output.text.strip():
            raise ValueError(f"The cell {cell.id!r} has no part {part}.")
    elif part:
        chosen = lines(part)
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
