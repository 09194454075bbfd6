"""Prepare the folder demo/ for a lecture.

    python -m tools.demo

The notebooks that are run live have no outputs there, the others do, and demo/saved_data/ holds
what notebook 1 saves, so that notebook 2 can be started at once. An existing demo/ is replaced;
notebooks/, its saved_data/ and work/ are left as they are.
"""

import argparse
import os
import shutil

import nbformat

from tools.arithmetic import REFERENCE
from tools.course import ROOT, temporary_course
from tools.run_notebooks import run
from tools.student import NOTEBOOKS, lessons_and_programs, without_outputs

DEMO = ROOT / "demo"
FIRST = "1-lenet5-train-and-save.ipynb"
LIVE = {FIRST, "2-lenet5-load-and-continue.ipynb", "3-resume-lab.ipynb"}


def make_demo(demo=DEMO):
    """Create the folder `demo`; an existing one is replaced once the new one is complete."""
    with temporary_course(keep_data=True) as course:
        run(course / "notebooks" / FIRST, lambda *_: None)
        new = course / "demo"
        new.mkdir()
        shutil.copytree(course / "notebooks" / "saved_data", new / "saved_data")
        for path in lessons_and_programs():
            copy = new / path.relative_to(NOTEBOOKS)
            copy.parent.mkdir(exist_ok=True)
            if path.name in LIVE:
                nbformat.write(without_outputs(nbformat.read(path, as_version=4)), copy)
            else:
                shutil.copy(path, copy)
        if demo.exists():
            shutil.rmtree(demo)
        shutil.move(new, demo)


def main():
    os.environ["TQDM_DISABLE"] = "1"  # nobody watches the bars inside the kernel
    os.environ.setdefault("OMP_WAIT_POLICY", REFERENCE["OMP_WAIT_POLICY"])
    make_demo()
    print("\ndemo/ is ready, with what notebook 1 saves. Begin with:")
    print(f"    .venv/bin/jupyter lab demo/{FIRST}   (or jupyter, in an activated environment)")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
