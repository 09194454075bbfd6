"""Write copies of the notebooks without outputs to work/, for those who want to answer first.

    python tools/student.py

What is in work/ already stays as it is, so it can be run again when the course has grown.
"""

import shutil
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "work"


def without_outputs(notebook):
    """Empty the cells' outputs, and lead links to solutions to where they are."""
    notebook.metadata.pop("sha256", None)  # it vouches for outputs
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = cell.source.replace("](solutions/", "](../notebooks/solutions/")
    return notebook


def main():
    WORK.mkdir(exist_ok=True)
    for path in sorted(path for path in (ROOT / "notebooks").iterdir() if path.is_file()):
        copy = WORK / path.name
        if copy.exists():
            print(f"work/{path.name} is there already, and stays as it is")
        elif path.suffix == ".ipynb":
            nbformat.write(without_outputs(nbformat.read(path, as_version=4)), copy)
            print(f"work/{path.name}")
        else:
            shutil.copy(path, copy)
            print(f"work/{path.name}")


if __name__ == "__main__":
    main()
