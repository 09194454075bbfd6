"""The minutes in a notebook's first cell are honest: 200 words and 8 lines of code a minute.

Exercises have minutes of their own, and a collapsed cell is one that nobody needs to read.
"""

import math
import re

import nbformat
import pytest

from tools.course import ROOT, list_lessons

LONGEST = {1: 25, 2: 35, 3: 30, 4: 20, 5: 30, 7: 30, 8: 30, 9: 30, 10: 25}  # minutes
LESSONS = [lesson for lesson in list_lessons() if lesson.number in LONGEST]
LAB = ROOT / "notebooks" / "3-resume-lab.ipynb"


def cells_of(path):
    return nbformat.read(path, as_version=4).cells


def words(cells):
    """Count the words of text cells; a link counts as its text, a picture as none."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    return len(re.sub(r"\]\([^)]*\)", "]", text).split())


def visible_lines(cells):
    """Count the lines of code cells that aren't collapsed, without empty ones.

    A prediction is one call that everyone knows after the first time: answering takes the time of
    the question above it.
    """
    sources = [
        cell.source
        for cell in cells
        if cell.cell_type == "code"
        and not cell.metadata.get("jupyter", {}).get("source_hidden")
        and not cell.id.startswith("expect-")
    ]
    return sum(bool(line.strip()) for line in "\n".join(sources).splitlines())


def minutes(cells):
    return words(cells) / 200 + visible_lines(cells) / 8


def without_exercises(cells):
    return [cell for cell in cells if not cell.id.startswith("exercise")]


def sections(cells):
    """Split cells at headings; return pairs of a heading and the text and code below it."""
    found = [("", [])]
    for cell in cells:
        if cell.cell_type == "code":
            found[-1][1].append(cell)
            continue
        for part in re.split(r"^(?=##)", cell.source, flags=re.M):
            if part.startswith("##"):
                found.append((part.partition("\n")[0], []))
            found[-1][1].append(nbformat.v4.new_markdown_cell(part))
    return found


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.path.stem)
def test_the_minutes_in_the_title_are_honest(lesson):
    cells = cells_of(lesson.path)
    (promised,) = re.findall(r"\*\*Time:\*\* (\d+) minutes to read", cells[0].source)
    counted = minutes(without_exercises(cells))
    assert counted <= int(promised) + 1
    assert int(promised) <= 5 * math.ceil(counted / 5)
    assert int(promised) <= LONGEST[lesson.number]
    name, readme = re.escape(lesson.path.name), (ROOT / "README.md").read_text("utf-8")
    (in_readme,) = re.findall(rf"{name}\).*\| (\d+) min \|", readme)
    assert in_readme == promised


def test_the_starred_sections_of_the_lab_take_as_long_as_it_says():
    cells = without_exercises(cells_of(LAB))
    (promised,) = re.findall(r"four sections marked ★ take (\d+) minutes to read", cells[0].source)
    starred = [content for heading, content in sections(cells) if heading.endswith("★")]
    assert len(starred) == 4
    counted = minutes([cell for content in starred for cell in content])
    assert counted <= int(promised) <= counted + 5


def test_the_lab_is_short():
    assert visible_lines(cells_of(LAB)) <= 145
    table = [cell for cell in cells_of(LAB) if cell.id == "table-md"]
    bars = sum(cell.source.split().count("|") for cell in table)
    assert words(cells_of(LAB)) - bars <= 2400


def test_the_first_state_dict_comes_within_a_third_of_notebook_1():
    cells = cells_of(LESSONS[0].path)
    first = next(i for i, cell in enumerate(cells) if "state_dict()" in cell.source)
    assert words(cells[:first]) <= words(cells) / 3
