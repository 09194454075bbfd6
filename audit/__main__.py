"""python -m audit [options] script.py [arguments of the script]"""

import argparse
import itertools
import json
import os
import shlex
import signal
import sys
from pathlib import Path

from audit.experiment import audit
from audit.report import format_report
from audit.runs import Options, name_of_link


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message):
        self.exit(2, f"python -m audit: {message} (see python -m audit --help)\n")


def parse_arguments(arguments: list[str]) -> tuple[Options, Path | None]:
    """Return the options, and the file for the results; exit with status 2 if they are wrong."""
    parser = Parser(
        prog="python -m audit",
        usage="%(prog)s [options] script.py [arguments of the script]",
        description="Is a training run that is killed and started again the same run?",
        epilog="Exit status: 0 it continues exactly, 1 it doesn't, 2 it could not be audited.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("script", type=script, help="the training script")
    add("arguments", nargs=argparse.REMAINDER, help="its arguments").required = False
    add("--again", default=[], type=words, metavar="'ARGS'", help="more, from the second start on")
    add("--link", action="append", default=[], type=link, metavar="PATH[=NAME]", help="an input")
    add("--seed", type=int, metavar="N", help="seed before the script starts")
    add("--max-steps", type=positive, metavar="N", help="end every run after N steps")
    add("--every", type=positive, default=1, metavar="N", help="hash every Nth step")
    add("--stops", type=steps, metavar="N,N", help="kill after these steps instead of chosen ones")
    add("--signal", default="KILL", choices=["KILL", "TERM", "INT"], help="what to kill it with")
    add("--json", type=output_file, metavar="FILE", help="also write the results to a file")
    add("--timeout", type=seconds, default=3600.0, metavar="SECONDS", help="for one start")
    given = vars(parser.parse_args(with_again_in_one_word(arguments)))
    json_file = given.pop("json")
    links = given.pop("link")
    names = [place_of(text) for text in links]
    if len(set(names)) < len(names):
        parser.error("argument --link: two inputs have the same name: use PATH=NAME")
    given["signal"] = getattr(signal, f"SIG{given['signal']}")
    return Options(links=links, **given), json_file


def with_again_in_one_word(arguments: list[str]) -> list[str]:
    """Return the arguments with `--again --resume` as `--again=--resume`.

    Otherwise argparse takes `--resume` for an option of the audit. What follows the script is the
    script's own.
    """
    for place, (option, value) in enumerate(itertools.pairwise(arguments)):
        if option == "--again":
            return [*arguments[:place], f"--again={value}", *arguments[place + 2 :]]
        if value.endswith(".py") and option != "--link":
            break
    return arguments


def script(text: str) -> Path:
    """Return the path of a script that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no script {text}")
    return Path(text).resolve()


def words(text: str) -> list[str]:
    """Return the arguments in a text, as a shell would split it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: {text}") from None


def link(text: str) -> str:
    """Return PATH or PATH=NAME, if the path exists and the name lies in the folder of the runs."""
    path, _, name = text.partition("=")
    if not Path(path).exists():
        raise argparse.ArgumentTypeError(f"there is no {path}")
    place = place_of(text)
    if not place.startswith("/work/") or place in ("/work/run", "/work/run/here", "/work/tmp"):
        raise argparse.ArgumentTypeError(f"{name or path} isn't a name below ../..: use PATH=NAME")
    return text


def place_of(text: str) -> str:
    """Return where an input becomes visible, if a run's folder is /work/run/here."""
    return os.path.normpath(os.path.join("/work/run/here", name_of_link(text)))


def output_file(text: str) -> Path:
    """Return the path of a file that can be written."""
    if not Path(text).absolute().parent.is_dir() or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} can't be written")
    return Path(text)


def positive(text: str) -> int:
    """Return a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def seconds(text: str) -> float:
    """Return a positive number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


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
            print(text, file=self.file, flush=True)

    def end(self) -> None:
        if self.file.isatty():
            print("\r" + 60 * " " + "\r", end="", file=self.file, flush=True)


def main(arguments: list[str]) -> int:
    """Audit a script, print the report, and return the exit status."""
    if not hasattr(signal, "SIGKILL"):
        print("The audit kills runs with SIGKILL, which Windows doesn't have: use Linux or macOS.")
        return 2
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
