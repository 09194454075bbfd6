"""Whatever stops a run, a kill, the stop button or an error: it continues to the same end."""

import multiprocessing
import signal

import pytest
import torch
from killed_run import BATCHES, at_call, make_run, sha256, train_to

from helper.checkpoint import CheckpointError, load_checkpoint
from helper.history import History
from helper.train import train_model

NUM_EPOCHS = 3


@pytest.fixture(scope="module")
def start(data_dir):
    """A function that trains in a fresh process, forked from one that has imported PyTorch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "torch.utils.data", "tqdm", "psutil"])

    def start(num_epochs, folder, **moment):
        arguments = (num_epochs, data_dir, folder / "run.pt", folder / "result")
        process = context.Process(target=train_to, args=arguments, kwargs=moment)
        process.start()
        process.join()
        return process.exitcode

    return start


@pytest.fixture(scope="module")
def uninterrupted(start, data_dir, tmp_path_factory):
    """The hash after each epoch of the run that nothing stops."""
    folder = tmp_path_factory.mktemp("run")
    hashes = [sha256(*make_run(data_dir)[1:], History(seed=3))]
    for num_epochs in range(1, NUM_EPOCHS + 1):
        assert start(num_epochs, folder) == 0
        hashes.append((folder / "result").read_text())
    return hashes


MOMENTS = [{"die_in_batch": batch} for batch in range(NUM_EPOCHS * BATCHES)]
MOMENTS += [
    {"die_in_call": (name, number)}
    for name in ("torch.save", "os.fsync", "os.replace")
    for number in range(NUM_EPOCHS)
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(map(str, moment.values())))
def test_kill_minus_nine(start, uninterrupted, tmp_path, moment):
    assert start(NUM_EPOCHS, tmp_path, **moment) == -signal.SIGKILL
    assert start(NUM_EPOCHS, tmp_path) == 0
    assert (tmp_path / "result").read_text() == uninterrupted[-1]
    assert not list(tmp_path.glob("*.tmp"))


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


def test_the_stop_button_in_every_batch(run, uninterrupted, data_dir, tmp_path, capsys):
    """Each batch is interrupted once: all is at the last complete epoch then, and goes on."""
    history = History(seed=3)
    for epoch in range(NUM_EPOCHS):
        for batch in range(BATCHES):
            hook = at_call(batch, lambda: signal.raise_signal(signal.SIGINT))
            handle = run.parts[1].register_step_pre_hook(hook)
            with pytest.raises(KeyboardInterrupt):
                run(history, epoch + 1, checkpoint_path=tmp_path / "run.pt")
            handle.remove()
            assert history.epoch == epoch
            assert sha256(*run.parts, history) == uninterrupted[epoch]
            assert f"as they were after epoch {epoch}" in capsys.readouterr().out
        run(history, epoch + 1, checkpoint_path=tmp_path / "run.pt")
    assert sha256(*run.parts, history) == uninterrupted[-1]
    assert not list(tmp_path.glob("*.tmp"))
    other = make_run(data_dir)[1:]
    history = load_checkpoint(tmp_path / "run.pt", *other)
    assert sha256(*other, history) == uninterrupted[-1]


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
