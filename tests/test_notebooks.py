"""The notebooks as files: run in order, nothing edited since, nothing of one machine in them."""

import ast
import copy
import re

import nbformat
import pytest

from tools.course import ROOT, list_lessons
from tools.run_notebooks import (
    CHEAT_SHEET,
    README_PICTURE,
    cheat_sheet,
    hash_code,
    hash_outputs,
    readme_picture,
    without_comments,
)

BY_NUMBER = {lesson.number: lesson.path for lesson in list_lessons()}
NOTEBOOKS = [*BY_NUMBER.values()]
SETTINGS = ["SOURCE", "RANDOM_SEED", "BATCH_SIZE", "NUM_EPOCHS"]


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def problems(notebook, lesson=True):
    """Return what is wrong with a committed notebook, a line each; nothing for a clean one.

    A lesson has settings and a result, a notebook with solutions has not.
    """
    found = []
    cells = code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("not run from top to bottom: run `make notebooks`")
    stamp = notebook.metadata.get("sha256", {})
    if stamp.get("code") != hash_code(notebook):
        found.append("a code cell or helper/ was edited since it ran: run `make notebooks`")
    if stamp.get("outputs") != hash_outputs(notebook):
        found.append("an output was edited: run `make notebooks`")

    for cell in cells:
        outputs, where = cell.outputs, f"in the cell {cell.id!r}"
        if any(output.output_type == "error" for output in outputs):
            found.append(f"an error {where}")
        if any(output.get("name") == "stderr" for output in outputs):
            found.append(f"something on stderr {where}")
        images = [output for output in outputs if "image/png" in output.get("data", {})]
        if bool(re.search(r"^show\(", cell.source, re.M)) != bool(images):
            found.append(f"show() without an image or the other way round {where}")
        for output in images:
            if not output.metadata.get("image/png", {}).get("alt"):
                found.append(f"an image without alternative text {where}")

    if "widgets" in notebook.metadata or "application/vnd.jupyter" in nbformat.writes(notebook):
        found.append("the state of a widget")
    for cell in notebook.cells:
        collapsed = cell.metadata.get("jupyter", {}) == {"source_hidden": True}
        if set(cell.metadata) - {"tags", *(["jupyter"] if collapsed else [])}:
            found.append(f"metadata of an editor in the cell {cell.id!r}")
        texts = [cell.source] + [
            output.get("text", "") + output.get("data", {}).get("text/plain", "")
            for output in cell.get("outputs", [])
        ]
        if re.search(
            r"(?<![\w.:/])/(home|root|Users|tmp|work|mnt|var)\b|[A-Z]:\\", "\n".join(texts)
        ):
            found.append(f"a path of one machine in the cell {cell.id!r}")

    if not lesson:
        return found
    parameters = tagged(notebook, "parameters")
    if len(parameters) != 1:
        found.append("not exactly one cell tagged `parameters`")
    elif missing := [
        name for name in SETTINGS if not re.search(f"^{name} = ", parameters[0].source, re.M)
    ]:
        found.append(f"no {', '.join(missing)} in the cell tagged `parameters`")
    if len(tagged(notebook, "result")) != 1:
        found.append("not exactly one cell tagged `result`")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_clean(path):
    assert problems(read(path)) == []


def edit_a_digit(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if re.search(r"\d", output.get("text", "")):
                output.text = re.sub(
                    r"\d", lambda m: str((int(m[0]) + 1) % 10), output.text, count=1
                )
                return


def clear_a_cell(notebook):
    code_cells(notebook)[4].update(outputs=[], execution_count=None)


def swap_two_cells(notebook):
    first, second = code_cells(notebook)[3:5]
    first.execution_count, second.execution_count = second.execution_count, first.execution_count


def edit_the_code(notebook):
    code_cells(notebook)[5].source += "\nprint(7)"


def take_an_image_away(notebook):
    for cell in code_cells(notebook):
        cell.outputs = [o for o in cell.outputs if "image/png" not in o.get("data", {})]


def take_an_alternative_text_away(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            output.get("metadata", {}).pop("image/png", None)


def print_to_stderr(notebook):
    output = nbformat.v4.new_output("stream", name="stderr", text="Warning")
    code_cells(notebook)[0].outputs.append(output)


def raise_an_error(notebook):
    output = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    code_cells(notebook)[0].outputs.append(output)


def name_a_path(notebook):
    notebook.cells[0].source += " See /home/me/model.pt."


def leave_a_widget(notebook):
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}


def lose_the_settings(notebook):
    tagged(notebook, "parameters")[0].metadata = {}


def rename_a_setting(notebook):
    cell = tagged(notebook, "parameters")[0]
    cell.source = cell.source.replace("BATCH_SIZE", "BATCH")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (edit_a_digit, "an output was edited"),
        (clear_a_cell, "not run from top to bottom"),
        (swap_two_cells, "not run from top to bottom"),
        (edit_the_code, "was edited since it ran"),
        (take_an_image_away, "show() without an image"),
        (take_an_alternative_text_away, "without alternative text"),
        (print_to_stderr, "stderr"),
        (raise_an_error, "an error"),
        (name_a_path, "a path of one machine"),
        (leave_a_widget, "widget"),
        (lose_the_settings, "tagged `parameters`"),
        (rename_a_setting, "no BATCH_SIZE"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_notebook_is_found(damage, expected):
    notebook = copy.deepcopy(read(BY_NUMBER[1]))
    damage(notebook)
    assert any(expected in problem for problem in problems(notebook))


def test_a_comment_makes_no_notebook_stale():
    notebook = copy.deepcopy(read(BY_NUMBER[1]))
    before = hash_code(notebook)
    code_cells(notebook)[5].source += "  # a comment\n\n# and another one"
    assert hash_code(notebook) == before
    code = """def f(x):\n    return x + 1  # why\n\n\n# a comment\ntext = "# none"\n"""
    assert without_comments(code) == """def f(x):\n    return x + 1\ntext = "# none\""""


@pytest.mark.parametrize(
    ("first_line", "number"),
    [("class LeNet5", 5), ("def new_alexnet", 2)],
    ids=["LeNet-5", "AlexNet"],
)
def test_the_model_is_the_same_in_all_notebooks_and_programs_that_have_it(first_line, number):
    sources = [cell.source for path in NOTEBOOKS for cell in code_cells(read(path))]
    programs = [path.read_text("utf-8") for path in (ROOT / "notebooks/programs").glob("*.py")]
    for program in programs:
        nodes = ast.parse(program).body
        sources += [ast.get_source_segment(program, node) for node in nodes]
    copies = [source for source in sources if source.startswith(first_line)]
    assert len(copies) == number
    assert len(set(copies)) == 1


def test_the_readme_shows_the_picture_of_the_notebook():
    assert README_PICTURE.read_bytes() == readme_picture(read(BY_NUMBER[2]))


def test_the_cheat_sheet_is_the_table_of_notebook_3():
    assert CHEAT_SHEET.read_text("utf-8") == cheat_sheet(read(BY_NUMBER[3]))
    rows = re.findall(r"^\|.*\|$", CHEAT_SHEET.read_text("utf-8"), re.M)
    assert len(rows) > 10
    assert {row.count("|") - row.count("\\|") for row in rows} == {4}  # symptom, cause, fix


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_recap_mirrors_the_objectives(path):
    objectives, recap = (
        [cell.source for cell in read(path).cells if text in cell.source]
        for text in ("**After this notebook you can**", "## Recap")
    )
    numbers = [re.findall(r"^\d+\.", source, re.M) for (source,) in (objectives, recap)]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) >= 3
