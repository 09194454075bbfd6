"""Make the exercises in notebooks/*.ipynb from notebooks/solutions/*.ipynb.

    python -m tools.make_exercises

The cells whose id begins with "exercise" go from a solution into the notebook of the same name,
before its recap, with `raise NotImplementedError` instead of each solved body. Cells that are
there already keep their outputs.
"""

import argparse
import ast

import nbformat

from tools.course import NOTEBOOKS, list_lessons

SOLUTIONS = NOTEBOOKS / "solutions"
HEADING = """## Exercises

{count} small functions, from easy to hard. Replace `raise NotImplementedError` with your code, \
run the cell, then run the one below it, which tests your function and prints a ✓ or a hint. \
Afterwards, compare your code with the [solutions](solutions/{name})."""


def is_exercise(cell):
    return cell.id.startswith("exercise")


def without_solution(source):
    """Return the source of a cell with one line in the place of its function's body.

    The docstring stays, and so does a cell that defines no function.
    """
    definitions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    if not definitions:
        return source
    (function,) = definitions
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    last_line_kept = first.end_lineno if has_docstring else first.lineno - 1
    return "\n".join(
        [*source.splitlines()[:last_line_kept], "    raise NotImplementedError  # your lines here"]
    )


def exercise_cells(solution, name):
    """Return the cells that belong into the notebook `name`, without outputs."""
    solved = list(filter(is_exercise, solution.cells))
    count = {2: "Two", 3: "Three"}[sum(cell.id.endswith("-check") for cell in solved)]
    heading = HEADING.format(count=count, name=name)
    cells = [nbformat.v4.new_markdown_cell(heading, id="exercises-md")]
    for cell in solved:
        if cell.cell_type == "code":
            cells.append(nbformat.v4.new_code_cell(without_solution(cell.source), id=cell.id))
        else:
            cells.append(nbformat.v4.new_markdown_cell(cell.source, id=cell.id))
    return cells


def insert(notebook, cells):
    """Put exercises before the recap of a notebook, in the place of those that it has."""
    present = {(cell.id, cell.source): cell for cell in notebook.cells}
    cells = [present.get((cell.id, cell.source), cell) for cell in cells]
    others = [cell for cell in notebook.cells if not is_exercise(cell)]
    recap = [cell.id for cell in others].index("recap")
    notebook.cells = [*others[:recap], *cells, *others[recap:]]


def main():
    for lesson in list_lessons(SOLUTIONS):
        solution = lesson.path
        path = NOTEBOOKS / solution.name
        if path.exists():
            notebook = nbformat.read(path, as_version=4)
            insert(notebook, exercise_cells(nbformat.read(solution, as_version=4), path.name))
            nbformat.write(notebook, path)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
