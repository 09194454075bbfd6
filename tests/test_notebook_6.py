"""Notebook 6: its recipe in another run that is killed, what stands beside it, its claims."""

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import types

import nbformat
import pytest
import torch
from torch.utils.data import DataLoader

from helper.checkpoint import load_checkpoint, save_checkpoint
from helper.history import History
from tests.support.claims import CLAIMS, is_true, outputs_of
from tools.course import ROOT, change_settings
from tools.run_notebooks import run

PATH = ROOT / "notebooks" / "6-your-own-run.ipynb"
CELLS = {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}
RECIPE = "\n\n\n".join(CELLS[f"recipe-{name}"] for name in ("batches", "files", "loop"))


# The recipe.


def test_the_recipe_has_40_lines_of_pytorch():
    assert len([line for line in RECIPE.splitlines() if line.strip()]) == 40
    imports = [
        n for n in ast.walk(ast.parse(RECIPE)) if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    names = {alias.name for statement in imports for alias in statement.names}
    assert names == {"os", "random", "zipfile", "numpy", "torch"}


# A run of another kind: other data, another model, noise from everywhere, other settings. It kills
# itself when it does something for the so-and-so-many-th time.
OTHER_RUN = """
import builtins
import hashlib
import io
import signal
import sys
from types import SimpleNamespace


class Waves(torch.utils.data.Dataset):
    def __len__(self):
        return 90

    def __getitem__(self, index):
        wave = torch.sin(torch.arange(20.0) * (1 + index % 3)) + 0.1 * torch.randn(20)
        return wave[None] * random.uniform(0.8, 1.2) + np.random.randn() * 0.1, index % 3


def die_at(number):
    calls = iter(range(1, number))

    def call(*_):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    return call


class DyingFile(io.FileIO):
    def write(self, data):
        written = super().write(data[: len(data) // 2])
        kill()
        return written + super().write(data[len(data) // 2 :])


def patched(name, before, after):
    own = getattr(os, name)

    def function(*arguments):
        before()
        own(*arguments)
        after()

    setattr(os, name, function)


def new_run():
    seed_all(5, "start")
    model = torch.nn.Sequential(
        torch.nn.Conv1d(1, 8, 5), torch.nn.BatchNorm1d(8), torch.nn.GELU(), torch.nn.Flatten(),
        torch.nn.Dropout(0.3), torch.nn.Linear(128, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=18)
    return SimpleNamespace(model=model, optimizer=optimizer, scheduler=scheduler)


def start(path, run, workers=0):
    loader = torch.utils.data.DataLoader(Waves(), 16, shuffle=True, num_workers=workers)
    train(path, run, loader, 3, 5, torch.device("cpu"), save_every=4)


def sha256(run):
    digest = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            value = value.numpy().tobytes()
        if isinstance(value, dict):
            value = [*value.items()]
        if isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add([part.state_dict() for part in vars(run).values()])
    return digest.hexdigest()


if __name__ == "__main__":
    workers, where, number = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    run = new_run()
    if where == "step":
        run.optimizer.register_step_post_hook(die_at(number))
    if where == "in a write":
        kill, builtins.open = die_at(number), DyingFile
    if where == "before fsync":
        patched("fsync", die_at(number), lambda: None)
    if where == "before replace":
        patched("replace", die_at(number), lambda: None)
    if where == "after replace":
        patched("replace", lambda: None, die_at(number))
    start("run.pt", run, workers)
    open("result", "w").write(sha256(run))
"""
NEVER = ("never", 0)


def start_other_run(folder, workers, kill, recipe=RECIPE):
    """Begin or continue the run in this folder; return the status, and the result if there is one.

    Its output goes to a file: the workers of a process that was killed would hold a pipe open.
    """
    script = folder / "own.py"
    script.write_text(f"{recipe}\n\n{OTHER_RUN}")
    command = [sys.executable, "own.py", *map(str, (workers, *kill))]
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    with open(folder / "output", "w") as output:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    assert done.returncode in (0, -signal.SIGKILL), (folder / "output").read_text()
    result = folder / "result"
    return done.returncode, result.read_text() if result.exists() else None


def end_of_other_run(folder, workers, kills, recipe=RECIPE):
    """Start the run until it is finished, and return its result."""
    folder.mkdir()
    for kill in kills:
        assert start_other_run(folder, workers, kill, recipe) == (-signal.SIGKILL, None)
    status, result = start_other_run(folder, workers, NEVER, recipe)
    assert status == 0
    assert {path.name for path in folder.iterdir()} >= {"own.py", "output", "run.pt", "result"}
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        (
            0,
            [
                *(("step", 1), ("step", 6), ("in a write", 9), ("before fsync", 1)),
                *(("before replace", 1), ("after replace", 1), ("step", 9)),
            ],
        ),
        (2, [("step", 7), ("after replace", 1)]),
    ],
)
def test_the_recipe_continues_another_run_exactly_after_kills(tmp_path, workers, kills):
    whole = end_of_other_run(tmp_path / "whole", workers, [])
    assert end_of_other_run(tmp_path / "killed", workers, kills) == whole


class Stop(Exception):
    """Ends a run in the middle."""


def ends_of_other_run(folder, recipe):
    """Return the end of the other run, and its end when it was stopped in each of its steps."""
    names = {"__name__": "own"}
    exec(f"{recipe}\n\n{OTHER_RUN}", names)

    def end(path, stop_in=None):
        run = names["new_run"]()
        steps = iter(range(1, stop_in or 10**6))

        def count(*_):
            if next(steps, None) is None:
                raise Stop

        run.optimizer.register_step_post_hook(count)
        with contextlib.suppress(Stop):
            names["start"](path, run)
        return names["sha256"](run)

    whole = end(folder / "whole.pt")
    stopped = []
    for step in range(1, 19):
        path = folder / f"stopped-{step}.pt"
        end(path, stop_in=step)
        stopped.append(end(path))
    return whole, stopped


@pytest.mark.slow
def test_the_recipe_continues_exactly_after_every_step(tmp_path):
    whole, stopped = ends_of_other_run(tmp_path, RECIPE)
    assert stopped == [whole] * 18


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "seed_all(seed, epoch, 0)",
        "seed_all(seed, epoch, batch + 1)",
    ],
)
def test_each_seed_of_the_recipe_is_needed(tmp_path, line):
    assert RECIPE.count(line) == 1
    whole, stopped = ends_of_other_run(tmp_path, RECIPE.replace(line, "pass"))
    assert stopped != [whole] * 18


@pytest.fixture
def recipe():
    """The recipe's functions, and a small run with a checkpoint."""
    names = types.SimpleNamespace()
    exec(RECIPE, vars(names))
    model = torch.nn.Linear(3, 2)
    run = types.SimpleNamespace(model=model, optimizer=torch.optim.AdamW(model.parameters()))
    return names, run


def test_the_recipe_refuses_a_flipped_bit(recipe, tmp_path):
    names, run = recipe
    path = tmp_path / "run.pt"
    names.save(path, run, 3)
    assert names.load(path, run, "cpu") == 3
    content = bytearray(path.read_bytes())
    content[content.index(run.model.weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged: load an older one"):
        names.load(path, run, "cpu")


def test_a_save_of_the_recipe_that_fails_leaves_the_file_before_it(recipe, tmp_path, monkeypatch):
    names, run = recipe
    path = tmp_path / "run.pt"
    names.save(path, run, 3)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        names.save(path, run, 4)
    assert names.load(path, run, "cpu") == 3


def test_the_recipe_flushes_before_it_renames(recipe, tmp_path, monkeypatch):
    names, run = recipe
    done = []
    for name in ("fsync", "replace"):
        own = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, own=own, name=name: (done.append(name), own(*a)))
    names.save(tmp_path / "run.pt", run, 3)
    assert done == ["fsync", "replace"]


def test_a_position_of_ones_own_goes_into_a_checkpoint(tmp_path):
    """As the notebook says of `save_checkpoint(..., position=position)` with an empty History."""

    class Position:
        step = 0

        def state_dict(self):
            return {"step": self.step}

        def load_state_dict(self, state):
            self.step = state["step"]

    def new_run():
        model = torch.nn.Linear(2, 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1), None

    saved, loaded = Position(), Position()
    saved.step = 7
    save_checkpoint(tmp_path / "run.pt", *new_run(), History(), position=saved)
    load_checkpoint(tmp_path / "run.pt", *new_run(), position=loaded)
    assert loaded.step == 7


# The loaders with workers.


@pytest.fixture
def digits(monkeypatch):
    """The module beside the notebook, and a loader of its digits that come with a seed."""
    monkeypatch.syspath_prepend(str(ROOT / "notebooks"))
    from programs import augmented_digits

    images, targets = torch.rand(10, 1, 6, 6), torch.arange(10)

    def loader(workers, **settings):
        torch.manual_seed(7)
        data = augmented_digits.SeededDigits(images, targets)
        batches = augmented_digits.SeededBatches(len(data), 4)
        return DataLoader(data, batch_sampler=batches, num_workers=workers, **settings)

    return augmented_digits, loader


def test_moved_digits_keep_their_pixels_and_move_by_two_at_most(digits):
    module, _ = digits
    image = torch.zeros(1, 9, 9)
    image[0, 4, 4] = 1
    places = set()
    for seed in range(300):
        moved = module.move(image, torch.Generator().manual_seed(seed))
        assert moved.sum() == 1
        places.add(tuple(moved[0].nonzero()[0].tolist()))
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_every_digit_is_once_in_an_epoch_and_a_new_epoch_is_another(digits):
    _, loader = digits
    batches = loader(0)
    assert len(batches) == 3
    epochs = [torch.cat([targets for _, targets in batches]).tolist() for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [*range(10)]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_find_the_digits_and_change_nothing(digits, start):
    _, loader = digits
    alone = list(loader(0))
    shared = list(loader(2, multiprocessing_context=start))
    assert len(alone) == len(shared)
    for one, other in zip(alone, shared, strict=True):
        assert all(map(torch.equal, one, other))


# The job for Slurm.

FAKE_SRUN = '#!/bin/sh\necho srun "$@" >> calls\nexit {status}\n'
FAKE_SCONTROL = '#!/bin/sh\necho scontrol "$@" >> calls\n'


@pytest.mark.parametrize(("status", "comes_back"), [(0, False), (143, True), (1, False)])
def test_the_job_for_slurm_comes_back_after_sigterm_only(tmp_path, status, comes_back):
    for name, program in [("srun", FAKE_SRUN.format(status=status)), ("scontrol", FAKE_SCONTROL)]:
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    script = ROOT / "docs" / "train.sbatch"
    done = subprocess.run(["bash", script], cwd=tmp_path, env=environment)
    assert done.returncode == status
    calls = ["srun python train.py"] + ["scontrol requeue 17"] * comes_back
    assert (tmp_path / "calls").read_text().splitlines() == calls
    options = re.findall(r"^#SBATCH --(\S+?)(?:=|$)", script.read_text(), re.MULTILINE)
    assert {"signal", "requeue", "open-mode"} <= set(options)


# The notebook.


@pytest.mark.slow
def test_the_claims_hold_with_other_settings(course):
    path = course / PATH.name
    change_settings(path, RANDOM_SEED=7, BATCH_SIZE=250, NUM_EPOCHS=4)
    executed = []
    run(path, lambda notebook, _: executed.append(notebook))
    out = outputs_of({6: executed[0]})
    assert "✗" not in "".join(out.values())
    claims = [claim for claim in CLAIMS if claim.notebook == 6]
    assert [claim.words for claim in claims if not is_true(claim, out)] == []
    assert "helper" not in (course / "saved_data" / "own-run.py").read_text()
