"""Audit what others use to save and continue runs, and write what was found to docs/audit.json.

    python -m tools.audit_frameworks                    # everything: half an hour
    python -m tools.audit_frameworks --missing          # what docs/audit.json doesn't have yet
    python -m tools.audit_frameworks --only lightning   # rows with this in their name

Each row is one audit of a script in audit/scripts/. The tools are installed in .venv-audit, from
requirements-audit.txt; that environment uses the PyTorch of .venv. This program needs neither.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "audit.json"
REQUIREMENTS = ROOT / "requirements-audit.txt"
ENVIRONMENT = ROOT / ".venv-audit"
PYTHON = ".venv-audit/bin/python"  # in the commands that are printed
# Kill each run inside the second epoch, and one step after it ended: 3 epochs of 8 steps.
STOPS = "13,17"


@dataclass
class Reason:
    """Why a row isn't exact, and what makes it exact. None stands for either value."""

    why: str
    add: str
    augmentation: bool | None = None
    workers: int | None = None


@dataclass
class Configuration:
    name: str  # as the script calls it
    description: str
    reasons: list[Reason] = field(default_factory=list)  # the first that fits a row counts


@dataclass
class Tool:
    name: str
    script: str
    package: str | None  # in requirements-audit.txt
    configurations: list[Configuration]


# What several rows have to add.
NOISE = "noise that is a function of the epoch and the index"
# How several of them fail.
INSIDE = "After a save at the end of an epoch, the run is exact. After a save inside one,"
AT_THE_END = "After a save inside an epoch, the run is exact. After a save at the end of one,"
TOOLS = [
    Tool(
        "Lightning",
        "lightning_run.py",
        "lightning",
        [
            Configuration(
                "plain",
                "DataLoader, ModelCheckpoint",
                [
                    Reason(
                        "A DataLoader has no state that Lightning could save, and the random state "
                        "isn't in its checkpoints, so the resumed run draws the order of its first "
                        "epoch again.",
                        "Return a StatefulDataLoader from train_dataloader, save the random state "
                        "in a callback, and give the Trainer max_steps instead of max_epochs.",
                        augmentation=False,
                    ),
                    Reason(
                        "A DataLoader has no state that Lightning could save, and the random state "
                        "isn't in its checkpoints, so the resumed run draws the order and the "
                        "noise of its first epoch again.",
                        "Return a StatefulDataLoader from train_dataloader, give the dataset a "
                        "state_dict with the random state of its worker, save the random state in "
                        "a callback, and give the Trainer max_steps instead of max_epochs.",
                    ),
                ],
            ),
            Configuration(
                "stateful",
                "StatefulDataLoader, dataset with a state, callback that saves the random state",
                [
                    Reason(
                        f"{AT_THE_END} the next epoch has the order of the first one: a Trainer "
                        "with max_epochs doesn't load the loader's state of that moment.",
                        "Give the Trainer max_steps, and max_epochs=-1. Then it loads that state "
                        "too.",
                    ),
                ],
            ),
            Configuration("best", "the same, max_steps instead of max_epochs"),
        ],
    ),
    Tool(
        "Accelerate",
        "accelerate_run.py",
        "accelerate",
        [
            Configuration(
                "plain",
                "save_state, load_state, skip_first_batches",
                [
                    Reason(
                        f"{INSIDE} the order is drawn "
                        "again, from the random state of the save, and batches of that order are "
                        "skipped.",
                        "Set use_seedable_sampler=True, and give the DataLoader a generator of its "
                        "own.",
                        augmentation=False,
                    ),
                    Reason(
                        f"{INSIDE} the order and the "
                        "noise are drawn again, from the random state of the save, and batches of "
                        "that order are skipped.",
                        "Set use_seedable_sampler=True, give the DataLoader a generator of its "
                        f"own, and use {NOISE}.",
                    ),
                ],
            ),
            Configuration(
                "stateful",
                "use_stateful_dataloader, use_seedable_sampler, a generator for the loader, "
                "dataset with a state",
                [
                    Reason(
                        f"{AT_THE_END} restoring the finished iterator of the workers uses up the "
                        "sampler, which is then one epoch ahead.",
                        "Use skip_first_batches instead of use_stateful_dataloader.",
                        augmentation=False,
                    ),
                    Reason(
                        f"{INSIDE} the noise differs: the loader is one batch ahead, so that of "
                        "the next batch was drawn before the save.",
                        f"Use skip_first_batches instead of use_stateful_dataloader, and {NOISE}.",
                        workers=0,
                    ),
                    Reason(
                        f"{AT_THE_END} restoring the finished iterator of the workers uses up the "
                        "sampler, which is then one epoch ahead.",
                        f"Use skip_first_batches instead of use_stateful_dataloader, and {NOISE}.",
                    ),
                ],
            ),
            Configuration(
                "best", "use_seedable_sampler, skip_first_batches, noise from epoch and index"
            ),
        ],
    ),
    Tool(
        "Trainer (transformers)",
        "transformers_run.py",
        "transformers",
        [
            Configuration(
                "plain",
                "resume_from_checkpoint, also saves after each epoch",
                [
                    Reason(
                        f"{INSIDE} the random state is "
                        "restored after the next batches are fetched, so their noise differs.",
                        f"Use {NOISE}, and a callback that tells the dataset the epoch.",
                        augmentation=True,
                        workers=0,
                    ),
                    Reason(
                        f"{INSIDE} the workers are seeded "
                        "before the random state is restored, and their own random states aren't "
                        "saved.",
                        f"Use {NOISE}, and a callback that tells the dataset the epoch.",
                        augmentation=True,
                    ),
                ],
            ),
            Configuration("best", "the same, and noise from epoch and index"),
        ],
    ),
    Tool(
        "Ignite",
        "ignite_run.py",
        "pytorch-ignite",
        [
            Configuration(
                "plain",
                "Engine, Checkpoint",
                [
                    Reason(
                        "Engine restores how many iterations are done, but neither the random "
                        "state nor the position in the data, so the resumed run begins with the "
                        "first batches of a new run.",
                        "Use DeterministicEngine, save torch.get_rng_state() too, set "
                        "trainer.state.rng_states = None after loading, and restore yours after "
                        "the first batch is fetched.",
                        augmentation=False,
                    ),
                    Reason(
                        "Engine restores how many iterations are done, but neither the random "
                        "state nor the position in the data, so the resumed run begins with the "
                        "first batches of a new run.",
                        "Use DeterministicEngine, save torch.get_rng_state() too, set "
                        "trainer.state.rng_states = None after loading, restore yours after the "
                        f"first batch is fetched, and use {NOISE}.",
                    ),
                ],
            ),
            Configuration(
                "deterministic",
                "DeterministicEngine, Checkpoint",
                [
                    Reason(
                        f"{INSIDE} the random state is "
                        "restored before the order of the epoch is drawn, so the order differs.",
                        "Save torch.get_rng_state() too, set trainer.state.rng_states = None after "
                        "loading, and restore yours after the first batch is fetched.",
                        augmentation=False,
                        workers=0,
                    ),
                    Reason(
                        f"{INSIDE} the random state is "
                        "restored before the order of the epoch is drawn, so order and noise "
                        "differ.",
                        "Save torch.get_rng_state() too, set trainer.state.rng_states = None after "
                        "loading, restore yours after the first batch is fetched, and use "
                        f"{NOISE}.",
                        workers=0,
                    ),
                    Reason(
                        f"{INSIDE} the new workers begin "
                        "with the random state that workers have when an epoch begins, so the "
                        "noise differs.",
                        f"Use {NOISE}.",
                        augmentation=True,
                    ),
                ],
            ),
            Configuration(
                "best", "the same, random state restored later, noise from epoch and index"
            ),
        ],
    ),
    Tool(
        "torchdata",
        "torchdata_run.py",
        "torchdata",
        [
            Configuration(
                "plain",
                "StatefulDataLoader in a plain loop",
                [
                    Reason(
                        "StatefulDataLoader restores order and position, but not the random state, "
                        "which it doesn't claim to do, so dropout differs.",
                        "Save torch.get_rng_state() too, restore it after iter(loader), and at the "
                        "end of an epoch save only after iter(loader) of the next one.",
                        augmentation=False,
                    ),
                    Reason(
                        "StatefulDataLoader restores order and position, but not the random state, "
                        "which it doesn't claim to do, so noise and dropout differ.",
                        "Save torch.get_rng_state() too, restore it after iter(loader), and at the "
                        "end of an epoch save only after iter(loader) of the next one.",
                        workers=0,
                    ),
                    Reason(
                        "StatefulDataLoader restores order and position, but not the random states "
                        "of this process and of the workers, so noise and dropout differ.",
                        "Save torch.get_rng_state() too, restore it after iter(loader), at the end "
                        "of an epoch save only after iter(loader) of the next one, and give the "
                        "dataset a state_dict with the random state of its worker.",
                    ),
                ],
            ),
            Configuration("best", "the same, random state saved by hand, dataset with a state"),
        ],
    ),
    Tool("this course", "course_run.py", None, [Configuration("plain", "train_model")]),
]


@dataclass
class Row:
    """One audit."""

    tool: Tool
    configuration: Configuration
    augmentation: bool
    workers: int

    @property
    def name(self) -> str:
        noise = "augmentation" if self.augmentation else "no augmentation"
        return f"{self.tool.name}, {self.configuration.name}, {noise}, {self.workers} workers"

    @property
    def arguments(self) -> list[str]:
        """What comes after `python -m audit`."""
        script = ["--stops", STOPS, f"audit/scripts/{self.tool.script}"]
        augment = ["--augment"] if self.augmentation else []
        chosen = ["--configuration", self.configuration.name, *augment]
        return [*script, *chosen, "--workers", str(self.workers)]

    @property
    def command(self) -> str:
        return " ".join([PYTHON, "-m", "audit", *self.arguments])

    @property
    def reason(self) -> Reason | None:
        for reason in self.configuration.reasons:
            if reason.augmentation in (None, self.augmentation) and reason.workers in (
                None,
                self.workers,
            ):
                return reason
        return None


def list_rows() -> list[Row]:
    """Return all rows, in the order of the file."""
    return [
        Row(tool, configuration, augmentation, workers)
        for tool in TOOLS
        for configuration in tool.configurations
        for augmentation in (False, True)
        for workers in (0, 2)
    ]


def describe(row: Row, version: str, results: dict) -> dict:
    """Return what the file says about a row, from the results of its audit."""
    return {
        "tool": row.tool.name,
        "version": version,
        "configuration": "",
        "augmentation": row.augmentation,
        "workers": row.workers,
        "command": row.command,
        "status": results["status"],
        "stops": [describe_stop(stop) for stop in results["stops"]],
        "why": results.get("reason", ""),
        "add": "",
    }


def with_texts(row: Row, described: dict) -> dict:
    """Return what the file says about a row, with the texts that are written here."""
    texts = {"configuration": row.configuration.description}
    if described["status"] == 1 and row.reason is not None:
        texts |= {"why": row.reason.why, "add": row.reason.add}
    return described | texts


def describe_stop(stop: dict) -> dict:
    """Return what one stop has shown, as the audit's own results have it."""
    start = stop["starts"][-1]
    found = start["optimizers"][0] if start["optimizers"] else {}
    first = found.get("first_difference")
    return {
        "stop": stop["stop"],
        "killed_after": start["killed_after"],
        "restored_to": start["restored_to"],
        "differs": [piece for fault in stop["faults"] for piece in fault.split(", ")],
        "first_difference": first and {key: first[key] for key in ("step", "piece", "tensors")},
        "seen_twice": found.get("batches_seen_twice"),
        "never_seen": found.get("batches_never_seen"),
    }


def audit(row: Row, python: str) -> dict:
    """Audit a row's script and return the results, as `--json` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        command = [python, "-m", "audit", "--json", str(file), *row.arguments]
        # One thread: the results then don't depend on the number of cores.
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
        if not file.exists():
            raise SystemExit(f"{row.command} has failed:\n{done.stderr}")
        return json.loads(file.read_text())


def read_versions(python: str) -> dict[str, str]:
    """Return the versions of Python, PyTorch and the tools in an environment."""
    packages = ["torch", *(tool.package for tool in TOOLS if tool.package)]
    code = (
        "import json, platform, sys\n"
        "from importlib.metadata import PackageNotFoundError, version\n"
        "found = {'python': platform.python_version()}\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        found[name] = version(name)\n"
        "    except PackageNotFoundError:\n"
        "        pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True)
    versions = json.loads(done.stdout)
    versions["torch"] = versions["torch"].partition("+")[0]
    return versions


def version_of_course() -> str:
    """Return the version in CITATION.cff."""
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    return next(line.split(":")[1].strip(' "') for line in lines if line.startswith("version:"))


def measure(rows: list[Row], path: Path, python: str) -> None:
    """Audit these rows; after each, write all that is known to a file. Others in it are kept."""
    versions = read_versions(python)
    content = json.loads(path.read_text()) if path.exists() else {"rows": []}
    for number, row in enumerate(rows, 1):
        print(f"{number:3} of {len(rows)}  {row.name}", end=" ", flush=True)
        results = audit(row, python)
        version = versions[row.tool.package] if row.tool.package else version_of_course()
        content = {
            "date": datetime.date.today().isoformat(),
            "python": versions["python"],
            "torch": versions["torch"],
            "rows": [*content["rows"], describe(row, version, results)],
        }
        print(["✓", "✗", "could not be audited"][results["status"]], flush=True)
        write(content, path)
    write(content, path)  # with the texts that are written here


def write(content: dict, path: Path) -> None:
    """Write the rows in their order; of two with the same command, the later one."""
    known = {row["command"]: row for row in content["rows"]}
    rows = [with_texts(row, known[row.command]) for row in list_rows() if row.command in known]
    path.write_text(json.dumps({**content, "rows": rows}, indent=1, ensure_ascii=False) + "\n")


def make_environment() -> str:
    """Make .venv-audit, if it is missing or out of date, and return its Python."""
    python, stamp = str(ROOT / PYTHON), ENVIRONMENT / "installed.txt"
    if stamp.exists() and stamp.read_text() == REQUIREMENTS.read_text():
        return python
    print("Making .venv-audit from requirements-audit.txt. It uses the PyTorch of .venv.")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    packages = sysconfig.get_path("purelib")  # of .venv: `make` starts this program with it
    own = Path(output_of(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (own / "packages_of_venv.pth").write_text(f"{packages}\n")
    torch = output_of(python, "from importlib.metadata import version; print(version('torch'))")
    with tempfile.TemporaryDirectory() as folder:
        constraint = Path(folder) / "constraint.txt"  # or pip could install a second PyTorch
        constraint.write_text(f"torch=={torch}\n")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        files = ["--requirement", str(REQUIREMENTS), "--constraint", str(constraint)]
        subprocess.run([*install, *files], check=True)
    if (own / "torch").exists():
        raise SystemExit("pip has installed a second PyTorch in .venv-audit. Delete that folder.")
    stamp.write_text(REQUIREMENTS.read_text())
    return python


def output_of(python: str, code: str) -> str:
    """Return what a line of Python prints in an environment."""
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name")
    parser.add_argument("--missing", action="store_true", help="rows that the file doesn't have")
    parser.add_argument("--python", help="an environment with all tools, instead of .venv-audit")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FILE", help="docs/audit.json")
    chosen = parser.parse_args()
    rows = [row for row in list_rows() if chosen.only.lower() in row.name.lower()]
    if chosen.missing and chosen.to.exists():
        known = {row["command"] for row in json.loads(chosen.to.read_text())["rows"]}
        rows = [row for row in rows if row.command not in known]
    if not rows:
        print("There is nothing to audit: no row is missing, or none has this in its name.")
    measure(rows, chosen.to, chosen.python or make_environment())


if __name__ == "__main__":
    main()
