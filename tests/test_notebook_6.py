"""Notebook 6: its recipe, copied into a different run that is stopped, killed and damaged."""

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import types
import zipfile

import nbformat
import numpy as np
import pytest
import torch

from helper.checkpoint import load_checkpoint, save_checkpoint
from helper.history import History
from tests.support.started import run_forked
from tools.course import ROOT

PATH = ROOT / "notebooks" / "6-your-own-run.ipynb"
CELLS = {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}
RECIPE = "\n\n\n".join(CELLS[f"recipe-{name}"] for name in ("batches", "files", "loop"))


# The recipe as text.


def test_the_recipe_is_short_and_needs_pytorch_and_numpy_only():
    assert len([line for line in RECIPE.splitlines() if line.strip()]) <= 105
    imports = [
        n for n in ast.walk(ast.parse(RECIPE)) if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    modules = {getattr(n, "module", None) or n.names[0].name for n in imports}
    top = {module.partition(".")[0] for module in modules}
    assert top == {"multiprocessing", "os", "random", "signal", "zipfile", "numpy", "torch"}


def test_programs_use_the_recipe_of_the_notebook():
    program = (ROOT / "notebooks" / "programs" / "recipe.py").read_text("utf-8")
    assert program.partition('"""\n\n')[2].split() == RECIPE.split()


# A run of another kind: other data, another model, noise from everywhere, other settings. Something
# ends it when it does something for the so-and-so-many-th time.
OTHER_RUN = """
import builtins
import hashlib
import io
import sys
import threading
from types import SimpleNamespace


class Waves(torch.utils.data.Dataset):
    fails_at = stuck_at = None

    def __len__(self):
        return 90

    def __getitem__(self, index):
        if index == self.fails_at:
            raise ValueError("no such wave")
        if index == self.stuck_at:
            threading.Event().wait()  # forever; the loader has a timeout
        wave = torch.sin(torch.arange(20.0) * (1 + index % 3)) + 0.1 * torch.randn(20)
        return wave[None] * random.uniform(0.8, 1.2) + np.random.randn() * 0.1, index % 3


def at(number, action):
    calls = iter(range(1, number))
    return lambda *_: action() if next(calls, None) is None else None


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("the loop fails")


class DyingFile(io.FileIO):
    def write(self, data):
        written = super().write(data[: len(data) // 2])
        in_the_middle()
        return written + super().write(data[len(data) // 2 :])


def patched(name, before, after):
    own = getattr(os, name)

    def function(*arguments):
        before()
        own(*arguments)
        after()

    setattr(os, name, function)


def new_run():
    seed_all(5)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(1, 8, 5), torch.nn.BatchNorm1d(8), torch.nn.GELU(), torch.nn.Flatten(),
        torch.nn.Dropout(0.3), torch.nn.Linear(128, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=18)
    return SimpleNamespace(model=model, optimizer=optimizer, scheduler=scheduler)


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
    workers, method, where, number = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    run, waves, options = new_run(), Waves(), {}
    if workers:
        options = {"num_workers": workers, "multiprocessing_context": method}
    if where == "step":
        run.optimizer.register_step_post_hook(at(number, kill))
    if where in ("SIGTERM", "SIGINT"):  # to the whole group, in the middle of a step
        stop = lambda: os.killpg(0, signal.Signals[where])
        run.optimizer.register_step_pre_hook(at(number, stop))
    if where == "in a write":
        in_the_middle, builtins.open = at(number, kill), DyingFile
    if where in ("fsync", "replace"):
        patched(where, at(number, kill), lambda: None)
    if where == "after replace":
        patched("replace", lambda: None, at(number, kill))
    if where == "error in the loop":
        run.optimizer.register_step_pre_hook(at(number, fail))
    if where == "error in the dataset":
        waves.fails_at = number
    if where == "stuck":
        waves.stuck_at, options["timeout"] = number, 5
    train("run.pt", run, Batches(waves, 16, 5), 3, "cpu", 4, **options)
    open("result", "w").write(sha256(run))
"""
NEVER = ("never", 0)
STATUS = {"SIGTERM": 143, "SIGINT": 130}
STATUS |= dict.fromkeys(["error in the loop", "error in the dataset", "stuck"], 1)


def start_other_run(folder, workers, end, recipe=RECIPE, forked=True):
    """Begin or continue the run in this folder; return its result if there is one.

    `workers` is a number and a start method. It's a fork of a process that has imported PyTorch,
    unless `forked` is False or its own workers are no forks. Its output goes to a file: the workers
    of a process that was killed would hold a pipe open.
    """
    script = folder / "own.py"
    script.write_text(f"{recipe}\n\n{OTHER_RUN}")
    arguments = [*map(str, (*workers, *end))]
    if forked and workers in (ALONE, FORK):
        status = run_forked("own.py", arguments, folder, folder / "output")
    else:
        environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
        with open(folder / "output", "w") as output:
            status = subprocess.run(
                [sys.executable, "own.py", *arguments],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).returncode
    wanted = 0 if end == NEVER else STATUS.get(end[0], -signal.SIGKILL)
    assert status == wanted, (folder / "output").read_text()
    result = folder / "result"
    return result.read_text() if result.exists() else None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of the run that nothing ends before it is done."""
    return start_other_run(tmp_path_factory.mktemp("whole"), ALONE, NEVER)


ALONE, FORK, SPAWN, FORKSERVER = (0, "none"), (2, "fork"), (2, "spawn"), (2, "forkserver")


@pytest.mark.slow
@pytest.mark.parametrize(
    "starts",
    [
        # How many workers it has, and what ends it; and the position at which the next one begins.
        [(ALONE, ("step", 1), 0), (ALONE, ("step", 6), 4), (ALONE, ("in a write", 9), 4)],
        [(ALONE, ("fsync", 1), 0), (ALONE, ("fsync", 2), 4), (ALONE, ("replace", 1), 4)],
        # Each save after the first renames twice: the old file, then the new one.
        [(ALONE, ("replace", 2), 4), (ALONE, ("after replace", 1), 4), (ALONE, ("step", 1), 4)],
        [(FORK, ("SIGTERM", 7), 7), (ALONE, ("SIGINT", 2), 9), (FORK, ("step", 1), 9)],
        pytest.param(
            [(SPAWN, ("SIGINT", 3), 3), (FORKSERVER, ("SIGTERM", 4), 7), (SPAWN, ("step", 6), 12)],
            marks=pytest.mark.kills,
        ),
        [(FORK, ("error in the loop", 6), 4), (ALONE, ("error in the loop", 1), 4)],
    ],
    ids=lambda starts: ", ".join(f"{end[0]} {end[1]}" for _, end, _ in starts),
)
def test_the_recipe_continues_a_different_run_exactly(tmp_path, whole, starts):
    for number, (workers, end, _) in enumerate(starts):
        assert start_other_run(tmp_path, workers, end) is None
        begun = re.search(r"beginning at step (\d+)", (tmp_path / "output").read_text())[1]
        assert int(begun) == (starts[number - 1][2] if number else 0)
    assert start_other_run(tmp_path, FORK, NEVER) == whole
    begun = re.search(r"beginning at step (\d+)", (tmp_path / "output").read_text())[1]
    assert int(begun) == starts[-1][2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "end"),
    [
        (FORK, ("error in the loop", 2)),
        (FORK, ("error in the dataset", 7)),
        pytest.param(FORK, ("stuck", 7), marks=pytest.mark.kills),
        (SPAWN, ("error in the loop", 2)),
        pytest.param(FORKSERVER, ("stuck", 7), marks=pytest.mark.kills),
    ],
    ids=str,
)
def test_a_run_with_workers_that_fails_ends(tmp_path, workers, end):
    """Without the workers being shut down, it would wait for them forever."""
    assert start_other_run(tmp_path, workers, end, forked=False) is None


# The recipe in this process.


@pytest.fixture
def recipe():
    """The recipe's functions and those of the other run."""
    names = {"__name__": "own"}
    exec(f"{RECIPE}\n\n{OTHER_RUN}", names)
    return types.SimpleNamespace(**names)


class Stop(Exception):
    """Ends a run in the middle."""


def ends_of_other_run(source, folder, steps):
    """Return the end of the other run, and its ends when it failed in each of these steps."""
    names = {"__name__": "own"}
    exec(f"{source}\n\n{OTHER_RUN}", names)

    def end(path, stop_in=None):
        run = names["new_run"]()
        taken = iter(range(1, stop_in or 10**6))

        def count(*_):
            if next(taken, None) is None:
                raise Stop

        run.optimizer.register_step_post_hook(count)
        with contextlib.suppress(Stop):
            names["train"](path, run, names["Batches"](names["Waves"](), 16, 5), 3, "cpu", 4)
        return names["sha256"](run)

    whole = end(folder / "whole.pt")
    stopped = []
    for step in steps:
        path = folder / f"stopped-{step}.pt"
        end(path, stop_in=step)
        stopped.append(end(path))
    return whole, stopped


@pytest.mark.slow
def test_the_recipe_continues_exactly_after_every_step(tmp_path):
    whole, stopped = ends_of_other_run(RECIPE, tmp_path, range(1, 19))
    assert stopped == [whole] * 18


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("seed_all(self.seed, step, 1)", "pass"),
        ("np.random.default_rng([self.seed, epoch])", "np.random"),
        ("part.load_state_dict(states[name])", "pass"),
    ],
)
def test_without_this_line_it_would_be_a_different_run(tmp_path, line, instead):
    assert RECIPE.count(line) == 1
    whole, (stopped,) = ends_of_other_run(RECIPE.replace(line, instead), tmp_path, [11])
    assert stopped != whole


def test_a_batch_is_computed_on_one_thread(recipe):
    """As in a worker; and the loop gets its threads back."""

    class Threads(recipe.Waves):
        def __getitem__(self, index):
            return torch.tensor(float(torch.get_num_threads())), index

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _, (features, _) = recipe.Batches(Threads(), 16, 5)[0]
        assert features.unique().tolist() == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_without_the_second_seed_the_number_of_workers_would_matter(tmp_path, whole):
    line = "seed_all(batches.seed, step, 2)"
    assert RECIPE.count(line) == 1
    assert start_other_run(tmp_path, FORK, NEVER, RECIPE.replace(line, "pass")) != whole


def test_nothing_is_fetched_twice_and_every_example_once_in_an_epoch(recipe):
    class Noted(recipe.Waves):
        def __getitem__(self, index):
            fetched.append(index)
            return super().__getitem__(index)

    fetched = []
    batches = recipe.Batches(Noted(), 16, 5)
    assert batches.per_epoch == 6
    for first, last in [(0, 7), (7, 12)]:
        steps = range(first, last)
        assert [step for step, _ in recipe.fetch(batches, steps)] == [*steps]
    assert sorted(fetched[:90]) == sorted(fetched[90:]) == [*range(90)]
    assert fetched[:90] != fetched[90:]


def test_a_seed_of_numpy_makes_the_same_run(recipe):
    for seed in (np.int64(5), True + 4):
        (_, (mine, _)) = recipe.Batches(recipe.Waves(), 16, seed)[8]
        (_, (other, _)) = recipe.Batches(recipe.Waves(), 16, 5)[8]
        assert torch.equal(mine, other)


@pytest.fixture
def saved(recipe, tmp_path):
    """A file with 3 steps, and its predecessor with 2."""
    path = tmp_path / "run.pt"
    for step in (2, 3):
        recipe.save(path, recipe.new_run(), step)
    return path


def flip(path):
    """Flip a bit in the largest record of a file."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        content[content.index(archive.read(largest))] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["flipped", "cut", "empty", "gone"],
)
def test_a_damaged_file_is_replaced_by_the_one_before(recipe, saved, damage, capsys):
    damage(saved)
    broken = saved.exists()
    assert recipe.load(saved, recipe.new_run()) == 2
    printed = capsys.readouterr().out
    assert f"falling back to {saved}.1\n" in printed
    assert "beginning at step 2\n" in printed
    assert saved.with_suffix(".pt.bad").exists() == broken  # the machine may be at fault
    recipe.save(saved, recipe.new_run(), 4)  # the broken file isn't taken for the one before
    assert (recipe.read(saved)["step"], recipe.read(f"{saved}.1")["step"]) == (4, 2)


def test_two_damaged_files_are_an_error_and_change_nothing(recipe, saved):
    flip(saved)
    flip(saved.with_name("run.pt.1"))
    run = recipe.new_run()
    before = recipe.sha256(run)
    with pytest.raises(ValueError, match="checksums"):
        recipe.load(saved, run)
    assert recipe.sha256(run) == before


def test_what_could_not_be_loaded_is_refused_at_the_first_save(recipe, saved):
    run = recipe.new_run()
    run.optimizer.param_groups[0]["lr"] = np.float64(0.01)
    with pytest.raises(Exception, match="Weights only load failed"):
        recipe.save(saved, run, 4)
    assert (recipe.read(saved)["step"], recipe.read(f"{saved}.1")["step"]) == (3, 2)


def test_a_save_that_fails_leaves_both_files(recipe, saved, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        recipe.save(saved, recipe.new_run(), 4)
    assert (recipe.read(saved)["step"], recipe.read(f"{saved}.1")["step"]) == (3, 2)


def test_it_flushes_and_reads_before_it_renames(recipe, saved, monkeypatch):
    done = []
    for module, name in ((os, "fsync"), (torch, "load"), (os, "replace")):
        own = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, own=own, name=name, **k: (done.append(name), own(*a, **k))[1]
        )
    recipe.save(saved, recipe.new_run(), 4)
    assert done == ["fsync", "load", "replace", "replace"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_stop_button_works_again_afterwards(recipe, tmp_path, fails):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run = recipe.new_run()
    if fails:
        path = tmp_path / "run.pt"
        path.write_text("not a checkpoint")
        error = FileNotFoundError  # there is no predecessor
    else:
        path, error = tmp_path / "run.pt", SystemExit
        run.optimizer.register_step_pre_hook(
            recipe.at(2, lambda: signal.raise_signal(signal.SIGTERM))
        )
    with pytest.raises(error):
        recipe.train(path, run, recipe.Batches(recipe.Waves(), 16, 5), 3, "cpu", 4)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT} == set()
    if not fails:
        assert recipe.read(path)["step"] == 2


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
