"""Print the notebooks that run with the installed PyTorch, a line each, the lessons first.

    python -m tools.list_notebooks

In this order, each uses what those before it have saved. `make lab` opens the first.
"""

import argparse

from tools.course import ROOT, list_notebooks


def main():
    for lesson in list_notebooks(ROOT / "notebooks"):
        if lesson.runs_here:
            print(lesson.path.relative_to(ROOT).as_posix())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
