"""Check the claims of tests/support/claims.py on runs with other arithmetics and settings.

    python -m tools.claims              all of them: half an hour on two cores
    python -m tools.claims NAME...      some of them

Prints a line for each run, and exits with 1 if a claim is false or a ✗ was printed. The run with
all of MNIST needs its files in data/MNIST/raw, where torchvision downloads them.
"""

import argparse
import os
import sys

from tests.support.claims import CLAIMS, crosses, is_true, outputs_of
from tools.arithmetic import REFERENCE
from tools.course import ROOT, change_settings, list_lessons, temporary_course
from tools.run_notebooks import run

ALL = [lesson.number for lesson in list_lessons() if lesson.runs_here]
NO_VECTORS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
# By name: the environment, the settings, and the notebooks that run, in this order.
RUNS = {
    "reference": ({}, {}, ALL),
    "one-thread": ({"OMP_NUM_THREADS": "1"}, {}, ALL),
    "no-vector-instructions": (NO_VECTORS, {}, ALL),
    "seed-1": ({}, {"RANDOM_SEED": 1}, [1, 2, 3, 6, 8]),
    "seed-42": ({}, {"RANDOM_SEED": 42}, [1, 2, 3, 6, 8]),
    "seed-2025": ({}, {"RANDOM_SEED": 2025}, [1, 2, 3, 6, 8]),
    "lecture-batch-size": ({}, {"BATCH_SIZE": 256}, [1, 2, 3, 6]),
    "batch-size-1000": ({}, {"BATCH_SIZE": 1000}, [1, 2, 3]),
    "more-epochs": ({}, {"RANDOM_SEED": 7, "BATCH_SIZE": 250, "NUM_EPOCHS": 4}, [6]),
    "fewer-epochs": ({}, {"RANDOM_SEED": 7, "BATCH_SIZE": 10, "NUM_EPOCHS": 2}, [8]),
    "all-of-mnist": ({}, {"SOURCE": "mnist"}, [1, 2, 3]),
}


def failures(environment, settings, numbers):
    """Run notebooks in a copy of the course, and return what is false, a line each."""
    os.environ.update({**REFERENCE, **environment})
    done = {}
    with temporary_course(keep_data=True) as course:
        paths = {lesson.number: lesson.path for lesson in list_lessons(course / "notebooks")}
        for number in numbers:
            path = paths[number]
            change_settings(path, **settings)
            run(path, lambda notebook, _, number=number: done.update({number: notebook}))
    out = outputs_of(done)
    marks = [line for number, notebook in done.items() for line in crosses(number, notebook)]
    claims = [claim for claim in CLAIMS if claim.notebook in numbers]
    return marks + [
        f"notebook {claim.notebook}, cell {claim.cell}: {claim.words}"
        for claim in claims
        if not is_true(claim, out)
    ]


def main():
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    names = parser.parse_args().names or list(RUNS)
    if unknown := set(names) - set(RUNS):
        parser.error(f"there is no run called {', '.join(sorted(unknown))}")
    if "all-of-mnist" in names and not (ROOT / "data" / "MNIST" / "raw").is_dir():
        print("Not tried: all-of-mnist, because there is no data/MNIST/raw.")
        names.remove("all-of-mnist")
    results = {name: failures(*RUNS[name]) for name in names}
    for name, false in results.items():
        print("✗" if false else "✓", name, *false, sep="\n    " if false else " ")
    sys.exit(any(results.values()))


if __name__ == "__main__":
    main()
