"""Bring the folder demo/ into the state from which a lecture begins.

    python tools/demo.py

The notebooks that are run live stand there without outputs, the others with theirs, and
demo/saved_data/ holds what notebook 1 saves, so that notebook 2 can be started at once. What was in
demo/ before is replaced; notebooks/, its saved_data/ and work/ stay as they are.
"""

import os
import shutil
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.arithmetic import REFERENCE  # noqa: E402
from tools.course import ROOT, temporary_course  # noqa: E402
from tools.run_notebooks import run  # noqa: E402
from tools.student import without_outputs  # noqa: E402

DEMO = ROOT / "demo"
FIRST = "1-lenet5-train-and-save.ipynb"
LIVE = {FIRST, "2-lenet5-load-and-continue.ipynb", "3-resume-lab.ipynb"}


def make_demo(demo=DEMO):
    """Make the folder `demo` anew; the one that is there is replaced when the new one is done."""
    with temporary_course(keep_data=True) as course:
        run(course / "notebooks" / FIRST, lambda *_: None)
        new = course / "demo"
        new.mkdir()
        shutil.copytree(course / "notebooks" / "saved_data", new / "saved_data")
        for path in sorted(path for path in (ROOT / "notebooks").iterdir() if path.is_file()):
            if path.name in LIVE:
                nbformat.write(without_outputs(nbformat.read(path, as_version=4)), new / path.name)
            else:
                shutil.copy(path, new / path.name)
        if demo.exists():
            shutil.rmtree(demo)
        shutil.move(new, demo)


def main():
    os.environ["TQDM_DISABLE"] = "1"  # nobody watches the bars inside the kernel
    os.environ.setdefault("OMP_WAIT_POLICY", REFERENCE["OMP_WAIT_POLICY"])
    make_demo()
    print("\ndemo/ is ready, with what notebook 1 saves. Begin with:")
    print(f"    jupyter lab demo/{FIRST}")


if __name__ == "__main__":
    main()
