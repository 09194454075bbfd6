"""Starts the runs of a script, each in an empty folder, and ends what they leave behind."""

import contextlib
import json
import os
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
    again: list[str] = field(default_factory=list)  # more arguments, from the second start on
    links: list[str] = field(default_factory=list)  # PATH or PATH=NAME
    seed: int | None = None
    max_steps: int | None = None
    every: int = 1
    stops: list[int] | None = None
    signal: int = 9  # SIGKILL, which Windows doesn't have
    timeout: float = 3600.0  # seconds, for each start


@dataclass
class Run:
    """What one start of the script has left."""

    rows: list[dict]  # its ledger
    status: int  # its exit status, negative for a signal
    error: str  # the last line of its traceback, or else of what it wrote to stderr
    timed_out: bool = False

    @property
    def steps(self) -> list[dict]:
        return [row for row in self.rows if "note" not in row]

    def notes(self, name: str) -> list[dict]:
        return [row for row in self.rows if row.get("note") == name]

    @property
    def was_killed(self) -> bool:
        return bool(self.notes("killed"))

    @property
    def has_saved(self) -> bool:
        return any(row.get("saved") for row in self.rows)


def name_of_link(link: str) -> str:
    """Return the name under which an input becomes visible: for `data/tiny.csv`, that one.

    Only an absolute path, or one that begins with `..`, is cut to its last part.
    """
    path, _, name = link.partition("=")
    path = os.path.normpath(path)
    return name or (Path(path).name if path.startswith((os.sep, "..")) else path)


class Runner:
    """Starts a script again and again, under `folder`; `show(text)` shows the progress."""

    def __init__(self, options: Options, folder: Path, show, start_process=None):
        self.options = options
        self.folder = folder
        self.work = folder / "work"  # the same path for every run: scripts may record it
        self.show = show
        self.start_process = start_process or start_python
        self.started = 0  # runs so far
        self.planned = 2
        self.ledger = None  # of the last run

    def new_folder(self) -> None:
        """Make an empty folder; the script starts two folders below it."""
        shutil.rmtree(self.work, ignore_errors=True)  # deletes links, not what they point to
        here = self.work / "run" / "here"
        here.mkdir(parents=True)
        (self.work / "tmp").mkdir()
        for link in self.options.links:
            path = link.partition("=")[0]
            target = Path(os.path.normpath(here / name_of_link(link)))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.abspath(path), target)

    def run(self, again=False, kill_after=None, kill_after_save=False, reference=None) -> Run:
        """Start the script, wait for its end, and return its Run."""
        self.started += 1
        options = self.options
        self.ledger = self.folder / f"ledger-{self.started}.jsonl"
        output = self.folder / f"stderr-{self.started}.txt"
        settings = {
            "script": str(options.script),
            "arguments": [*options.arguments, *(options.again if again else [])],
            "run_folder": str(self.work),
            "protected": protected_folders(options),
            "ledger": str(self.ledger),
            "reference": None if reference is None else str(reference),
            "seed": options.seed,
            "max_steps": options.max_steps,
            "every": options.every,
            "kill_after": kill_after,
            "kill_after_save": kill_after_save,
            "signal": int(options.signal),
        }
        name = f"{os.getpid()}-{self.started}-{time.time_ns()}"
        environ = environment(self.folder, self.work / "tmp", name)
        process = self.start_process(settings, self.work / "run" / "here", environ, output)
        timed_out = True
        try:
            timed_out = not self.wait(process)
        finally:  # also when the audit itself is stopped
            if timed_out:
                process.kill()
            status = process.wait()
            end_descendants(process.pid, name)
        rows = read_ledger(self.ledger)
        return Run(rows, status, error_of(rows, status, output), timed_out)

    def wait(self, process) -> bool:
        """Wait for the end of a run and show its progress; return whether it came in time."""
        begin, steps, read = time.monotonic(), 0, 0
        while process.poll() is None:
            if time.monotonic() - begin > self.options.timeout:
                return False
            if self.ledger.exists():
                with open(self.ledger, "rb") as file:
                    file.seek(read)
                    new = file.read()
                steps, read = steps + new.count(b'"step": '), read + len(new)
            self.show(f"run {self.started} of {self.planned}, step {steps}")
            time.sleep(0.02)
        return True


def error_of(rows: list[dict], status: int, output: Path) -> str:
    """Return why a run ended as it did: the last line of its traceback, or of its output."""
    for row in rows:
        if row.get("note") == "error":
            return row["text"].rstrip(".")
    lines = output.read_text(errors="replace").strip().splitlines() if output.exists() else []
    ending = f"status {status}" if status >= 0 else signal.Signals(-status).name
    return f"{lines[-1].strip()} ({ending})" if lines else ending


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


def environment(folder: Path, temporary: Path, name: str) -> dict[str, str]:
    """Return the environment of a run: temporary folders of its own, and an absolute PYTHONPATH."""
    environ = dict(os.environ, TMPDIR=str(temporary), AUDIT_RUN=name)
    environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "compiled"))
    if "PYTHONPATH" in environ:
        paths = environ["PYTHONPATH"].split(os.pathsep)
        environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths if path)
    return environ


def protected_folders(options: Options) -> list[str]:
    """Return the folders that are the user's even if they lie among temporary files."""
    links = [os.path.abspath(link.partition("=")[0]) for link in options.links]
    return [str(options.script.parent), os.getcwd(), *links]


def end_descendants(pid: int, name: str) -> None:
    """Kill the workers and children that a run has left: its process group, and who has its name.

    A child with a process group of its own is found by its environment, where /proc shows it.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):  # if there is nobody left
        os.killpg(pid, signal.SIGKILL)
    mark = f"AUDIT_RUN={name}".encode()
    while found := [process for process in processes() if mark in environment_of(process)]:
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:  # gone meanwhile
                continue


def processes() -> list[int]:
    """Return the ids of all processes, where the system shows them as files."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def environment_of(process: int) -> list[bytes]:
    """Return the environment with which a process was started, if this user may see it."""
    try:
        return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return []
