"""Run all tests: the notebooks, in two chains at once, then the others.

    python -m tools.run_tests

A chain's report is shown when both have ended, and one that failed last. The last lines say how
long each part took.
"""

import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from tools.course import ROOT, list_chains

PYTEST = [sys.executable, "-m", "pytest"]
OTHERS = ["-n", "2", "--dist", "worksteal", "-m", "not kills", "tests"]


class Part(NamedTuple):
    """What has ended: its name, the exit status, how long it took and what it printed."""

    name: str
    status: int
    seconds: float
    report: str = ""

    def __str__(self):
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{'✗' if self.status else '✓'} {self.name:50} {minutes:3}:{seconds:02} min"


def run_at_once(commands):
    """Run commands, by name, all at once, and return a part for each, those that failed last."""
    begun, parts, running = time.monotonic(), [], {}
    try:
        for name, command in commands.items():
            report = tempfile.TemporaryFile("w+", encoding="utf-8")
            process = subprocess.Popen(command, cwd=ROOT, stdout=report, stderr=subprocess.STDOUT)
            running[name] = process, report
        for name, (process, report) in running.items():
            status = process.wait()
            report.seek(0)
            parts.append(Part(name, status, time.monotonic() - begun, report.read()))
    finally:
        for process, report in running.values():
            process.wait()  # after Ctrl-C, which they have received as well, they clean up
            report.close()
    return sorted(parts, key=lambda part: part.status != 0)


def name_of(chain):
    """Return the name of a chain, such as "notebooks 1, 2, 3 and solutions"."""
    numbers = ", ".join(str(number) for number in dict.fromkeys(each.number for each in chain))
    return f"notebooks {numbers}, with their solutions"


def main():
    chains = {name_of(chain): [str(each.path) for each in chain] for chain in list_chains()}
    print("Two at once:", *chains, sep="\n    ", flush=True)
    parts = run_at_once({name: [*PYTEST, *paths] for name, paths in chains.items()})
    for part in parts:
        print(f"\n{part.name}\n{part.report}", flush=True)
    begun = time.monotonic()
    status = subprocess.run([*PYTEST, *OTHERS], cwd=ROOT).returncode
    parts.append(Part("the other tests", status, time.monotonic() - begun))
    print("", *parts, sep="\n")
    sys.exit(any(part.status for part in parts))


if __name__ == "__main__":
    main()
