"""Whatever stops a run, a kill, the stop button or an error: it continues to the same end."""

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from killed_run import make_run, sha256, train_to

from helper.checkpoint import CheckpointError, load_checkpoint
from helper.history import History
from helper.train import train_model

NUM_EPOCHS = 12


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that need no seconds to import PyTorch: forked from one that has done it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "torch.utils.data", "tqdm", "psutil"])
    return context


def start(processes, *arguments):
    process = processes.Process(target=train_to, args=arguments)
    process.start()
    return process


@pytest.fixture(scope="module")
def uninterrupted(processes, data_dir, tmp_path_factory):
    """The hash at the end of the run that nothing stops, and the seconds that it takes."""
    start(processes, 1, data_dir, *two_files(tmp_path_factory)).join()  # PyTorch is imported now
    checkpoint, result = two_files(tmp_path_factory)
    begin = time.perf_counter()
    process = start(processes, NUM_EPOCHS, data_dir, checkpoint, result)
    process.join()
    assert process.exitcode == 0
    return result.read_text(), time.perf_counter() - begin


def two_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder / "run.pt", folder / "result"


def test_kill_minus_nine(processes, data_dir, uninterrupted, tmp_path):
    expected, seconds = uninterrupted
    moments = random.Random(0)
    runs = kills = kills_while_saving = 0
    while runs < 3 or kills < 30 or kills_while_saving < 3:
        folder = tmp_path / str(runs)
        folder.mkdir()
        checkpoint, result = folder / "run.pt", folder / "result"
        while not result.exists():
            process = start(processes, NUM_EPOCHS, data_dir, checkpoint, result)
            process.join(moments.uniform(0, 0.4 * seconds))
            if moments.random() < 0.3:  # then wait until it saves
                while process.exitcode is None and not any(folder.glob("*.tmp")):
                    pass
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
                kills_while_saving += any(folder.glob("*.tmp"))
        runs += 1
        assert process.exitcode in (0, -signal.SIGKILL)
        assert result.read_text() == expected
        assert load_checkpoint(checkpoint, *make_run(data_dir)[1:]).epoch == NUM_EPOCHS
        assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize("boundary", range(1, 6))
def test_a_fresh_process_continues_at_every_epoch_boundary(processes, data_dir, tmp_path, boundary):
    ends = []
    for name, steps in (("in one go", [6]), ("interrupted", [boundary, 6])):
        (tmp_path / name).mkdir()
        for num_epochs in steps:
            process = start(
                processes, num_epochs, data_dir, tmp_path / name / "run.pt", tmp_path / "result"
            )
            process.join()
            assert process.exitcode == 0
        ends.append((tmp_path / "result").read_text())
    assert ends[0] == ends[1]


@pytest.fixture
def run(data_dir):
    """A fresh run in this process, as a function that trains it with the history it is given."""
    loaders, *parts = make_run(data_dir)
    model, optimizer, scheduler = parts

    def train(history, num_epochs=NUM_EPOCHS, **arguments):
        return train_model(
            model,
            num_epochs,
            *loaders,
            optimizer,
            "cpu",
            scheduler=scheduler,
            history=history,
            **arguments,
        )

    train.parts = parts
    train.loaders = loaders
    return train


def test_the_stop_button_again_and_again(run, uninterrupted, data_dir, tmp_path, capsys):
    """Interrupt at random moments, check that all is at the last complete epoch, and go on."""
    _, *other_parts = make_run(data_dir)
    after_epoch = {0: sha256(*other_parts, History(seed=3))}
    history = History(seed=3)
    for epoch in range(1, NUM_EPOCHS + 1):
        other = make_run(data_dir)[1:]
        begin = time.perf_counter()
        train_to(epoch, data_dir, tmp_path / "other.pt", tmp_path / "result")
        epoch_seconds = time.perf_counter() - begin
        after_epoch[epoch] = sha256(*other, load_checkpoint(tmp_path / "other.pt", *other))
    assert after_epoch[NUM_EPOCHS] == uninterrupted[0]

    moments = random.Random(1)
    stops = 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # raises KeyboardInterrupt
    try:
        while history.epoch < NUM_EPOCHS:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.01, epoch_seconds))
            try:
                run(history, checkpoint_path=tmp_path / "run.pt")
            except KeyboardInterrupt:
                stops += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert sha256(*run.parts, history) == after_epoch[history.epoch]
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert stops >= 3
    assert sha256(*run.parts, history) == uninterrupted[0]
    assert "model, optimizer and scheduler are as they were after epoch" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.tmp"))
    other = make_run(data_dir)[1:]
    history = load_checkpoint(tmp_path / "run.pt", *other)
    assert sha256(*other, history) == uninterrupted[0]


def test_a_loss_that_is_not_finite_stops_the_run(run, tmp_path, capsys):
    history = run(History(seed=3), 2, checkpoint_path=tmp_path / "run.pt")
    before = sha256(*run.parts, history)
    good_collate_fn, batches = run.loaders[0].collate_fn, []

    def spoil_batch_5(batch):
        features, targets = good_collate_fn(batch)
        batches.append(None)
        return features * (float("nan") if len(batches) == 6 else 1), targets

    run.loaders[0].collate_fn = spoil_batch_5
    with pytest.raises(
        FloatingPointError, match=r"loss is nan in epoch 3, batch 5, at learning rate 0\.05"
    ):
        run(history, 4, checkpoint_path=tmp_path / "run.pt")
    assert sha256(*run.parts, history) == before
    assert "after epoch 2" in capsys.readouterr().out

    run.loaders[0].collate_fn = good_collate_fn
    loaded = load_checkpoint(tmp_path / "run.pt", *run.parts)
    assert sha256(*run.parts, loaded) == before


def test_an_error_while_saving_costs_one_epoch_and_nothing_else(run, tmp_path):
    history = run(History(seed=3), 1)
    before = sha256(*run.parts, history)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not be saved"):
        run(history, 2, checkpoint_path=tmp_path / "file" / "run.pt")
    assert sha256(*run.parts, history) == before
    assert torch.isfinite(next(run.parts[0].parameters())).all()
