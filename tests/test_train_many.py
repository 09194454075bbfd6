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

from helper.distributed import load_sharded
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


@needs_fully_shard
@pytest.mark.slow
def test_processes_that_do_not_divide_the_batch(start):
    run = start(f"{TORCHRUN} 3 programs/train_many.py saved_data/never")
    assert run.status != 0
    assert run.shown == (
        "ValueError: A batch of 128 can't be split evenly among 3 processes. Use a number of "
        "processes that divides it, or a different batch size.\n"
    )
    errors, _, _ = run.errors.partition("torch/distributed/elastic")  # then come torchrun's
    assert errors.count("Traceback") == 1
    assert errors.count("ValueError: ") == 1
    assert not os.path.exists("saved_data/never")


def test_without_torchrun(start):
    run = start("python programs/train_many.py saved_data/never")
    assert run.status != 0
    assert run.shown == "Start this file with torchrun: its first lines say how.\n"


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
def test_only_the_rank_that_fails_first_prints_its_error(start, course):
    # Rank 1 raises an error in its fourth step; rank 0 only loses its connection.
    text = (course / "programs" / "interrupted.py").read_text()
    text = text.replace(
        "os.kill(os.getpid(), signal.Signals[signal_name])", "raise KeyError('mine')"
    )
    (course / "programs" / "failing.py").write_text(text)
    run = start(f"{TORCHRUN} 2 programs/failing.py SIGTERM 1 4 saved_data/many --num-epochs 1")
    assert run.status != 0
    assert run.shown == "KeyError: 'mine'\n"
    errors, _, _ = run.errors.partition("torch/distributed/elastic")
    assert errors.count("Traceback") == 1
    assert "Rank 1 failed first:" in errors
    assert "gloo" not in errors


# Stops and kills


@needs_fully_shard
@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_the_uninterrupted_run(start):
    settings = "--num-epochs 2 --batch-size 400"  # 10 batches an epoch
    whole = start(f"{TORCHRUN} 2 programs/train_many.py saved_data/whole {settings}")
    interrupted = f"{TORCHRUN} 2 programs/interrupted.py SIGKILL {{}} 5"
    killed = f"{interrupted} saved_data/many {settings} --save-every 2"
    positions = []
    for rank in (1, 0, 1):
        run = start(killed.format(rank))
        assert run.status != 0
        assert f"Rank {rank} was killed." in run.shown
        positions += re.findall(r"Loaded after (.*),", run.printed)
    assert positions == ["0 epochs and 4 of 10 batches", "0 epochs and 8 of 10 batches"]
    last = start(f"{TORCHRUN} 2 programs/train_many.py saved_data/many {settings}")
    assert last.status == 0
    assert "Loaded after 1 epoch and 2 of 10 batches" in last.printed
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


def test_the_slurm_script_is_bash_and_its_command_fits(monkeypatch):
    path = ROOT / "notebooks" / "programs" / "train_many.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    options = re.search(r"train_many\.py (.*?) \|\|", path.read_text())[1].split()
    monkeypatch.setattr(sys, "argv", ["train_many.py", *options])
    monkeypatch.setattr(train_many.dist, "is_torchelastic_launched", lambda: True)
    arguments = train_many.parse_arguments()
    nodes, processes = (
        int(re.search(rf"{name}=(\d+)", path.read_text())[1])
        for name in ("--nodes", "--nproc-per-node")
    )
    assert arguments.batch_size % (nodes * processes) == 0
