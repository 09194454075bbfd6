"""Copy the notebooks without outputs, and the programs they start, to work/.

    python -m tools.student

Files that are already in work/ are left as they are, so you can run this again after an update.
"""

import argparse
import shutil

import nbformat

from tools.course import NOTEBOOKS, ROOT, list_lessons

WORK = ROOT / "work"


def without_outputs(notebook):
    """Empty the cells' outputs, and point links to solutions to where they are."""
    notebook.metadata.pop("sha256", None)  # it vouches for outputs
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = cell.source.replace("](solutions/", "](../notebooks/solutions/")
    return notebook


def lessons_and_programs():
    """Return the notebooks of the course, and after them the programs that they start."""
    lessons = [lesson.path for lesson in list_lessons(NOTEBOOKS)]
    return [*lessons, *sorted(NOTEBOOKS.glob("programs/*.*"))]


def main():
    WORK.mkdir(exist_ok=True)
    for path in lessons_and_programs():
        name = path.relative_to(NOTEBOOKS)
        copy = WORK / name
        if copy.exists():
            print(f"work/{name} already exists and was left as it is")
            continue
        copy.parent.mkdir(exist_ok=True)
        if path.suffix == ".ipynb":
            nbformat.write(without_outputs(nbformat.read(path, as_version=4)), copy)
        else:
            shutil.copy(path, copy)
        print(f"work/{name}")
    print("\nTo begin:")
    print(f"    jupyter lab {next(WORK.glob('1-*.ipynb')).relative_to(WORK.parent).as_posix()}")
    print("(in the environment of the course; on Linux and macOS: .venv/bin/jupyter)")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
