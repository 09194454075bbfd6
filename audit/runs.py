"""Starts the runs of a script, each in a folder of its own, and ends what they leave behind."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from audit.ledger import read_ledger

RECORD = Path(__file__).with_name("record.py")


@dataclass
class Options:
    """What to audit, and how."""

    script: Path
    arguments: list[str] = field(default_factory=list)
    again: str = ""  # arguments from the second start on
    links: list[str] = field(default_factory=list)  # PATH or PATH=NAME
    seed: int | None = None
    max_steps: int | None = None
    every: int = 1
    stops: list[int] | None = None
    signal: int = signal.SIGKILL
    timeout: float = 3600.0  # seconds, for each start
    without: tuple[str, ...] = ()  # pieces that are not recorded


@dataclass
class Run:
    """What one start of the script has left."""

    rows: list[dict]  # its ledger
    status: int  # its exit status, negative for a signal
    last_line: str  # of what it wrote to stderr: that of its traceback, if it has one
    timed_out: bool = False

    @property
    def steps(self) -> list[dict]:
        return [row for row in self.rows if "note" not in row]

    def notes(self, name: str) -> list[dict]:
        return [row for row in self.rows if row.get("note") == name]

    @property
    def was_killed(self) -> bool:
        return bool(self.notes("killed"))


class Runner:
    """Starts a script again and again, under `folder`; `show(text)` shows the progress."""

    def __init__(self, options: Options, folder: Path, show, start_process=None):
        self.options = options
        self.folder = folder
        self.show = show
        self.start_process = start_process or start_python
        self.started = 0  # runs so far
        self.planned = 2

    def new_folder(self, name: str) -> Path:
        """Return a new folder for one experiment; the script starts two folders below it."""
        folder = self.folder / name
        (folder / "run" / "here").mkdir(parents=True)
        (folder / "tmp").mkdir()
        for link in self.options.links:
            path, _, place = link.partition("=")
            target = folder / "run" / "here" / (place or Path(path).name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.abspath(path), target)
        return folder

    def run(
        self, folder: Path, again=False, kill_after=None, kill_after_save=False, reference=None
    ):
        """Start the script in a folder, wait for its end, and return its Run."""
        self.started += 1
        ledger = self.folder / f"ledger-{self.started}.jsonl"
        settings = {
            "script": str(self.options.script),
            "arguments": self.options.arguments
            + (shlex.split(self.options.again) if again else []),
            "run_folder": str(folder),
            "protected": protected_folders(self.options),
            "ledger": str(ledger),
            "reference": None if reference is None else str(reference),
            "seed": self.options.seed,
            "max_steps": self.options.max_steps,
            "every": self.options.every,
            "without": self.options.without,
            "kill_after": kill_after,
            "kill_after_save": kill_after_save,
            "signal": int(self.options.signal),
        }
        output = self.folder / f"stderr-{self.started}.txt"
        name = f"{os.getpid()}-{self.started}-{time.time_ns()}"
        process = self.start_process(
            settings, folder / "run" / "here", environment(folder, name), output
        )
        timed_out = not self.wait(process, ledger)
        if timed_out:
            process.kill()
        status = process.wait()
        end_descendants(process.pid, name)
        lines = output.read_text(errors="replace").strip().splitlines() if output.exists() else []
        return Run(read_ledger(ledger), status, lines[-1] if lines else "", timed_out), ledger

    def wait(self, process, ledger: Path) -> bool:
        """Wait for the end of a run and show its progress; return whether it came in time."""
        begin, shown = time.monotonic(), None
        while process.poll() is None:
            if time.monotonic() - begin > self.options.timeout:
                return False
            steps = count_lines(ledger)
            if steps != shown:
                self.show(f"run {self.started} of {self.planned}, step {steps}")
                shown = steps
            time.sleep(0.05)
        return True


def count_lines(path: Path) -> int:
    """Return how many lines a file has; it may not exist yet."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def start_python(settings: dict, folder: Path, environ: dict, output: Path):
    """Start a new Python with the recorder, in a process group of its own."""
    path = Path(settings["ledger"]).with_suffix(".settings.json")
    path.write_text(json.dumps(settings))
    with open(output, "wb") as errors:
        return subprocess.Popen(
            [sys.executable, str(RECORD), str(path)],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def environment(folder: Path, name: str) -> dict[str, str]:
    """Return the environment of a run: a temporary folder of its own, and PYTHONPATH made absolute."""
    environ = dict(os.environ, TMPDIR=str(folder / "tmp"), AUDIT_RUN=name)
    if "PYTHONPATH" in environ:
        paths = environ["PYTHONPATH"].split(os.pathsep)
        environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths if path)
    return environ


def protected_folders(options: Options) -> list[str]:
    """Return the folders that are the user's even if they lie among temporary files."""
    links = [os.path.abspath(link.partition("=")[0]) for link in options.links]
    return [str(options.script.parent), os.getcwd(), *links]


def end_descendants(pid: int, name: str) -> None:
    """Kill the workers and children that a run has left: its process group, and who inherited its name.

    A child with a process group of its own is found by its environment, where /proc shows it.
    """
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # there is nobody left
        pass
    mark = f"AUDIT_RUN={name}".encode()
    for process in Path("/proc").glob("[0-9]*") if Path("/proc/self").exists() else ():
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours
            continue


def remove(folder: Path) -> None:
    """Delete the folders of all runs. A link in them is deleted, not what it points to."""
    shutil.rmtree(folder, ignore_errors=True)
