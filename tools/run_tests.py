"""Run all tests: the notebooks, in two chains at once, then the others.

    python -m tools.run_tests

The reports of the chains are shown when both have ended, a failed one last. The last lines say
whether every digit was compared and how long each part took.
"""

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tools.course import ROOT, list_chains

OTHERS = ["-n", "2", "--dist", "worksteal", "-m", "not kills", "--durations=40", "tests"]


class Part(NamedTuple):
    """A part that has ended: what it was, its exit status, how long it took and what it printed."""

    name: str
    status: int
    seconds: float
    report: str | None

    def __str__(self):
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{'✗' if self.status else '✓'} {minutes:2} min {seconds:2} s  {self.name}"


def run_part(name, arguments, **options):
    """Run pytest with these arguments."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, encoding="utf-8", **options)
    return Part(name, done.returncode, time.monotonic() - begun, done.stdout)


def run_chain(chain):
    """Run the notebooks of a chain; its report isn't shown yet."""
    name = "notebooks " + ", ".join(each.path.stem.partition("-")[0] for each in chain)
    paths = [each.path for each in chain]
    return run_part(name, paths, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def main():
    chains = list_chains()
    print("Two chains of notebooks run at once; their reports follow.", flush=True)
    with ThreadPoolExecutor(len(chains)) as pool:
        parts = sorted(pool.map(run_chain, chains), key=lambda part: part.status != 0)
    for part in parts:
        print(f"\n{part}\n{part.report}", flush=True)
    parts.append(run_part("the other tests", OTHERS))
    reports = "".join(part.report or "" for part in parts)
    print("", *sorted(set(re.findall(r"^Notebooks: .*", reports, re.M))), *parts, sep="\n")
    sys.exit(any(part.status for part in parts))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
