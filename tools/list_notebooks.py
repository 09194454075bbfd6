"""Print the notebooks that run with the installed PyTorch, a line each, the lessons first.

    python tools/list_notebooks.py

In this order, each uses what those before it have saved. `make lab` opens the first.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.course import ROOT, list_notebooks  # noqa: E402


def main():
    for lesson in list_notebooks(ROOT / "notebooks"):
        if lesson.runs_here:
            print(lesson.path.relative_to(ROOT).as_posix())


if __name__ == "__main__":
    main()
