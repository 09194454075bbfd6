"""python -m audit [options] script.py [arguments of the script]"""

import argparse
import json
import signal
import sys
from pathlib import Path

from audit.experiment import audit
from audit.report import format_report
from audit.runs import Options


def parse_arguments(arguments: list[str]) -> tuple[Options, Path | None]:
    """Return the options, and the file for the results; exits with status 2 if they can't be used."""
    parser = argparse.ArgumentParser(
        prog="python -m audit",
        usage="%(prog)s [options] script.py [arguments of the script]",
        description="Is a training run that is killed and started again the same run?",
        epilog="Exit status: 0 it continues exactly, 1 it doesn't, 2 it could not be audited.",
    )
    add = parser.add_argument
    add("script", type=Path, help="the training script")
    add("arguments", nargs=argparse.REMAINDER, help="its arguments, in every start")
    add("--again", default="", metavar="'ARGS'", help="arguments from the second start on")
    add("--link", action="append", default=[], metavar="PATH[=NAME]", help="an input to be there")
    add("--seed", type=int, metavar="N", help="seed before the script starts")
    add("--max-steps", type=positive, metavar="N", help="end every run after N steps")
    add("--every", type=positive, default=1, metavar="N", help="hash every Nth step")
    add("--stops", type=steps, metavar="N,N", help="kill after these steps instead of chosen ones")
    add("--signal", default="KILL", choices=["KILL", "TERM", "INT"], help="what to kill it with")
    add("--json", type=Path, metavar="FILE", help="also write the results to a file")
    add("--timeout", type=float, default=3600.0, metavar="SECONDS", help="for one start")
    given = parser.parse_args(arguments)
    if not given.script.is_file():
        sys.exit(usage_error(f"There is no script {given.script}."))
    for link in given.link:
        if not Path(link.partition("=")[0]).exists():
            sys.exit(usage_error(f"--link: there is no {link.partition('=')[0]}."))
    options = Options(
        script=given.script.resolve(),
        arguments=given.arguments,
        again=given.again,
        links=given.link,
        seed=given.seed,
        max_steps=given.max_steps,
        every=given.every,
        stops=given.stops,
        signal=getattr(signal, f"SIG{given.signal}"),
        timeout=given.timeout,
    )
    return options, given.json


def usage_error(message: str) -> int:
    """Print one line, and return the status for it."""
    print(f"python -m audit: {message}", file=sys.stderr)
    return 2


def positive(text: str) -> int:
    """Return a positive integer."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be a positive integer")
    return int(text)


def steps(text: str) -> list[int]:
    """Return the steps of a list like 7,20."""
    return [positive(part) for part in text.split(",")]


class Progress:
    """Shows on stderr what is running: in one line of a terminal, otherwise a line for each run."""

    def __init__(self, file):
        self.file, self.last_run = file, None

    def show(self, text: str) -> None:
        if self.file.isatty():
            print(f"\r{text:60}", end="", file=self.file, flush=True)
        elif (run := text.partition(",")[0]) != self.last_run:
            self.last_run = run
            print(run, file=self.file, flush=True)

    def end(self) -> None:
        if self.file.isatty():
            print("\r" + 60 * " " + "\r", end="", file=self.file, flush=True)


def main(arguments: list[str]) -> int:
    """Audit a script, print the report, and return the exit status."""
    options, json_file = parse_arguments(arguments)
    progress = Progress(sys.stderr)
    results = audit(options, progress.show)
    progress.end()
    print(format_report(results))
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1))
    return results["status"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
