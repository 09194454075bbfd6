"""programs/train_many.py and what starts it, as notebooks 9 and 10 use them: real processes."""

import contextlib
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import nbformat
import pytest
import torch

from helper.compatibility import CheckpointError
from helper.distributed import load_sharded, save_sharded
from helper.history import History
from helper.reproducibility import set_deterministic
from helper.train import train_model
from tests.support.many import needs_fully_shard
from tools.course import OLDEST_TORCH, ROOT, list_lessons

sys.path.insert(0, str(ROOT / "notebooks"))

from programs import launch, train_many

TORCHRUN = "torchrun --standalone --nproc-per-node"
FIRST_CELL = "path"
LESSONS = {lesson.number: lesson for lesson in list_lessons()}


def cells(number):
    notebook = nbformat.read(LESSONS[number].path, as_version=4)
    return {cell.id: cell.source for cell in notebook.cells}


def sha256(text):
    """Return the SHA-256 in the last line."""
    return re.findall(r"SHA-256 (\w{64})$", text, re.M)[-1]


@pytest.fixture
def start(course, monkeypatch, capfd):
    """Return a function that launches a command in the folder of the notebooks."""
    monkeypatch.chdir(course)

    def start(command):
        run = launch.launch(command)
        run.shown = capfd.readouterr().out
        return run

    return start


def test_the_model_is_the_one_of_notebook_1():
    assert inspect.getsource(train_many.LeNet5).strip() == cells(1)["model-class"]


def test_with_one_process_it_is_train_model(loaders, capsys):
    """The same batches, losses, accuracies and states, to the last bit."""
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
        runs.append((model, optimizer, scheduler))
    history, saved = History(seed=5), []
    train_many.train(runs[0], history, loaders, 2, lambda: saved.append(history.position))
    model, optimizer, scheduler = runs[1]
    other = train_model(
        model, 2, *loaders, optimizer, "cpu", scheduler=scheduler, history=History(seed=5)
    )
    # `settings` describes arguments of train_model that train_many doesn't have: it leaves the dict
    # empty, and compares only the number and the size of the batches.
    assert history == replace(other, settings={})
    assert train_many.hash_run(runs[0]) == train_many.hash_run(runs[1])
    assert saved == ["1 epoch", "2 epochs"]


def test_it_saves_every_n_batches_and_continues_where_it_was_interrupted(loaders, capsys):
    def new():
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")

    class Interrupted(Exception):
        pass

    def save_and_interrupt():
        saved.append(len(history.minibatch_loss))
        if len(saved) == 3:
            raise Interrupted

    uninterrupted, run, saved = new(), new(), []
    train_many.train(uninterrupted, History(), loaders, 2, lambda: None)
    history = History()
    with pytest.raises(Interrupted):
        train_many.train(run, history, loaders, 2, save_and_interrupt, save_every=3)
    assert saved == [3, 6, 8]
    train_many.train(run, history, loaders, 2, lambda: None)
    assert train_many.hash_run(run) == train_many.hash_run(uninterrupted)


def test_a_run_whose_only_checkpoint_is_broken_does_not_begin_again(tmp_path, capsys):
    folder = tmp_path / "run"
    run, history = train_many.new_or_saved_run(folder, 1)
    assert not history.minibatch_loss
    save_sharded(folder, *run, history)
    next(folder.rglob("run.pt")).unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no complete checkpoint"):
            train_many.new_or_saved_run(folder, 1)


def test_a_different_batch_size_is_refused(loaders):
    history = History(minibatch_loss=[1.0], batches_per_epoch=31, batch_size=128)
    with pytest.raises(ValueError, match="8 batches of 50; this run began with 31 of 128"):
        train_many.train(train_many.new_run(1), history, loaders, 1, lambda: None)


def test_only_the_notebooks_about_many_processes_need_a_newer_pytorch():
    newer = {number for number, each in LESSONS.items() if each.oldest_torch > OLDEST_TORCH}
    assert newer == {9, 10}
    assert {number for number in LESSONS if "or newer" in cells(number)[FIRST_CELL]} == newer


@pytest.mark.parametrize("number", [9, 10])
def test_an_older_pytorch_gets_one_sentence(number, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setattr(sys, "path", [*sys.path])
    source = cells(number)[FIRST_CELL]
    for release, fits in {"2.6.0+cpu": False, "2.7.1": True, "2.15.0+cu132": True}.items():
        code = source.replace("from importlib.metadata import version", "")
        names = {"version": lambda _, release=release: release}
        with (
            contextlib.nullcontext() if fits else pytest.raises(RuntimeError, match="2.7 or newer")
        ):
            exec(code, names)


# Errors


def test_processes_that_do_not_divide_the_batch(loaders, monkeypatch):
    """Notebook 9 starts three with torchrun."""
    monkeypatch.setattr(train_many, "rank_and_size", lambda: (0, 3))
    with pytest.raises(ValueError, match="A batch of 50 can't be split evenly among 3 processes"):
        train_many.train(train_many.new_run(1), History(), loaders, 1, lambda: None)


def test_without_torchrun(monkeypatch, capsys):
    """Notebook 9 starts it so, in a process of its own."""
    monkeypatch.setattr(sys, "argv", ["train_many.py", "never"])
    with pytest.raises(SystemExit):
        train_many.parse_arguments()
    assert "Start this file with torchrun: its first lines say how." in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_that_is_taken(start):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        run = start(
            f"torchrun --master-port {other.getsockname()[1]} programs/train_many.py saved_data/x"
        )
    assert run.status != 0
    assert run.shown.startswith("The port is taken")


@needs_fully_shard
@pytest.mark.slow
def test_the_error_of_the_rank_that_fails_is_printed_not_those_of_its_victims(start, course):
    # Rank 1 raises an error in its fourth step; rank 0 only loses its connection.
    text = (course / "programs" / "interrupted.py").read_text()
    text = text.replace(
        "os.kill(os.getpid(), signal.Signals[signal_name])", "raise KeyError('mine')"
    )
    (course / "programs" / "failing.py").write_text(text)
    run = start(f"{TORCHRUN} 2 programs/failing.py SIGTERM 1 4 saved_data/many --num-epochs 1")
    assert run.status != 0
    assert run.shown == "KeyError: 'mine'\n"


REPORT = """
Failures:
[1]:
  time      : 2026-11-26_01:22:23
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 21189)
  error_file: /tmp/error.json
  traceback : Traceback (most recent call last):
    File "train_many.py", line 226, in main
      train(run)
  RuntimeError: {}

------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-26_01:22:23
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 21191)
  error_file: /tmp/error.json
  traceback : Traceback (most recent call last):
    File "train_many.py", line 226, in main
      train(run)
  ValueError: {}

============================================================
"""


@pytest.mark.parametrize(
    ("other", "cause", "line"),
    [
        ("of gloo", "mine", "ValueError: mine"),
        # torchrun knows the second of a failure only, and may take a victim for its cause.
        ("mine", "of gloo", "RuntimeError: mine"),
        ("of gloo", "gloo too", "Rank 1: the connection to another rank is gone."),
    ],
)
def test_the_cause_is_the_one_that_is_not_a_lost_connection(capsys, other, cause, line):
    launch.explain(REPORT.format(other, cause))
    assert capsys.readouterr().out == f"{line}\n"


# Stops and kills


@needs_fully_shard
@pytest.mark.kills  # one kill is in notebook 10, and its proof
def test_killed_again_and_again_it_ends_as_the_uninterrupted_run(start):
    settings = "--num-epochs 2 --batch-size 400"  # 10 batches an epoch
    whole = start(f"{TORCHRUN} 2 programs/train_many.py saved_data/whole {settings}")
    interrupted = f"{TORCHRUN} 2 programs/interrupted.py SIGKILL {{}} 5"
    killed = f"{interrupted} saved_data/many {settings} --save-every 2"
    positions = []
    for rank in (1, 0):
        run = start(killed.format(rank))
        assert run.status != 0
        assert f"Rank {rank} was killed." in run.shown
        positions += re.findall(r"Loaded after (.*),", run.printed)
    assert positions == ["0 epochs and 4 of 10 batches"]
    last = start(f"{TORCHRUN} 2 programs/train_many.py saved_data/many {settings}")
    assert last.status == 0
    assert "Loaded after 0 epochs and 8 of 10 batches" in last.printed
    assert sha256(last.printed) == sha256(whole.printed)


@needs_fully_shard
@pytest.mark.slow
def test_torchrun_is_asked_to_stop_and_all_ranks_save_together(course, monkeypatch, capsys):
    monkeypatch.chdir(course)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*command, "programs/train_many.py", "saved_data/many", "--num-epochs", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline().startswith("Epoch: 001/500")
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    (position,) = re.findall(r"^Stopped after (.*), SHA-256", printed, re.M)
    set_deterministic()
    run = train_many.new_run(42)
    history = load_sharded("saved_data/many", *run)
    assert history.position == position
    assert train_many.hash_run(run) == sha256(printed)


def test_a_stop_is_answered_between_two_batches_of_an_evaluation(loaders):
    class Net(torch.nn.Sequential):
        evaluated = 0

        def forward(self, x):
            self.evaluated += not self.training
            if self.evaluated == stop_at:
                signal.raise_signal(signal.SIGTERM)
            return super().forward(x)

    def new():
        torch.manual_seed(1)
        model = Net(torch.nn.Flatten(), torch.nn.Linear(256, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")

    heard, saved, stop_at = [], [], 3
    run, uninterrupted, history = new(), new(), History()
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(run[0].evaluated))
    try:
        train_many.train(run, history, loaders, 1, lambda: saved.append(history.position))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [3]  # no batch was evaluated after the one in which the signal came
    assert saved == ["0 epochs and 8 of 8 batches"]
    assert history.learning_rate == history.train_acc == []
    stop_at, expected = None, History()
    train_many.train(run, history, loaders, 2, lambda: None)
    train_many.train(uninterrupted, expected, loaders, 2, lambda: None)
    assert history == expected
    assert train_many.hash_run(run) == train_many.hash_run(uninterrupted)


# The job for Slurm

SBATCH = ROOT / "notebooks" / "programs" / "train_many.sbatch"
FAKES = {
    # Plays one line of the history: a status, and the step of the checkpoint that is saved.
    "srun": """
        echo "$*" >>calls
        read -r status step < <(sed -n "$(wc -l <calls)p" history)
        mkdir -p saved_data/slurm/$(printf "checkpoint-%06d" "$step")
        mkdir -p saved_data/slurm/checkpoint-000999.tmp
        exit "$status"
    """,
    "scontrol": """
        if [ "$1" = requeue ]; then echo "$2" >>requeued; else echo first-machine; fi
    """,
}


@pytest.fixture
def submit(tmp_path):
    """Return a function that runs the script as a job; it returns whether the job comes back."""
    for name, program in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{program}")
        (tmp_path / name).chmod(0o755)

    def submit(job):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": job}
        environment |= {"SLURM_NNODES": "4", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_NODELIST": "x"}
        requeued = tmp_path / "requeued"
        requeued.write_text("")
        done = subprocess.run(["bash", SBATCH], cwd=tmp_path, env=environment, check=False)
        return done.returncode, requeued.read_text() == f"{job}\n"

    return submit


@pytest.mark.parametrize(
    ("history", "comes_back"),
    [
        ([(1, 8), (137, 90), (143, 500), (0, 600)], [True, True, True, False]),
        ([(1, 0), (1, 0)], [True, False]),
        ([(1, 500), (1, 500), (1, 500)], [True, True, False]),
    ],
)
def test_the_job_comes_back_while_there_is_progress(tmp_path, submit, history, comes_back):
    lines = [f"{status} {step}\n" for status, step in history]
    (tmp_path / "history").write_text("".join(lines))
    for (status, _), back in zip(history, comes_back, strict=True):
        assert submit("17017") == (status, back)
    calls = (tmp_path / "calls").read_text()
    assert calls.count("--rdzv-endpoint=first-machine:27017") == len(history)


def test_the_command_of_the_job_fits(monkeypatch):
    path = SBATCH
    options = re.search(r'train_many\.py ("\$run" .*)$', path.read_text(), re.M)[1].split()
    monkeypatch.setattr(sys, "argv", ["train_many.py", *options])
    monkeypatch.setattr(train_many.dist, "is_torchelastic_launched", lambda: True)
    arguments = train_many.parse_arguments()
    nodes, processes = (
        int(re.search(rf"{name}=(\d+)", path.read_text())[1])
        for name in ("--nodes", "--nproc-per-node")
    )
    assert arguments.batch_size % (nodes * processes) == 0
