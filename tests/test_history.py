"""What a History says of a run, and what it knows of the file that it comes from."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from helper.checkpoint import load_checkpoint, save_checkpoint
from helper.history import History, is_valid_state
from tests.support.checkpoints import HISTORY, make


@pytest.mark.parametrize("seed", [0, 2**32 - 1, np.int64(7), np.uint8(7), torch.tensor(7)])
def test_every_integer_may_be_a_seed(seed):
    history = History(seed=seed)
    assert history.seed == int(seed)
    assert type(history.seed) is int  # what else could not be loaded again


@pytest.mark.parametrize("seed", [-1, 2**32, 10**700, 1.0, "123", None, True, np.True_, np.nan])
def test_anything_else_is_refused_at_once(seed):
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2\*\*32\), not "):
        History(seed=seed)


@pytest.mark.parametrize(
    ("losses", "epochs", "position", "batch"),
    [
        (0, 0, "0 epochs", 0),
        (2, 0, "0 epochs and 2 of 3 batches", 2),
        (3, 0, "0 epochs and 3 of 3 batches", 3),
        (3, 1, "1 epoch", 0),
        (4, 1, "1 epoch and 1 of 3 batches", 1),
        (6, 2, "2 epochs", 0),
    ],
)
def test_the_position(losses, epochs, position, batch):
    history = History(minibatch_loss=[0.5] * losses, train_acc=[1.0] * epochs, batches_per_epoch=3)
    assert (history.position, history.epoch, history.batch) == (position, epochs, batch)
    assert History(minibatch_loss=[0.5]).batch == 0  # of a loop of one's own, without batches


def test_a_history_continues_each_of_its_beginnings():
    history = History(**HISTORY)
    beginnings = [{}, {"minibatch_loss": [2.5], "settings": {}}, {"valid_acc": [40.0]}, HISTORY]
    for beginning in beginnings:
        assert history.continues(History(**{"seed": 5, **beginning}))
    for change in (
        {"seed": 6},
        {"minibatch_loss": [2.5, 1.0]},
        {"train_acc": [50.0, 60.0, 70.0]},
        {"learning_rate": [0.2]},
        {"settings": {"scheduler_every": "batch"}},
    ):
        assert not history.continues(History(**{"seed": 5, **change}))


def test_loading_a_state_replaces_all_that_is_saved():
    history = History(seed=1, train_acc=[1.0])
    history.load_state_dict(History(**HISTORY).state_dict())
    assert history == History(**HISTORY)
    assert history.state_dict() == HISTORY


@pytest.mark.parametrize(
    "change",
    [
        {"minibatch_loss": (0.5,)},
        {"minibatch_loss": [1]},
        {"train_acc": [np.float64(1)]},
        {"valid_acc": [torch.tensor(0.5)]},
        {"seed": 2**32},
        {"seed": True},
        {"batches_per_epoch": -1},
        {"batch_size": 1.0},
        {"settings": {"scheduler_every": 1}},
        {"settings": {1: "epoch"}},
        {"eval_modules": [b"frozen"]},
        {"eval_modules": "frozen"},
        {"note": "mine"},
    ],
)
def test_a_state_of_a_different_form(change):
    assert is_valid_state(HISTORY)
    assert not is_valid_state(HISTORY | change)
    assert not is_valid_state({name: HISTORY[name] for name in [*HISTORY][1:]})


def test_what_else_was_in_the_file(tmp_path):
    """train_model must know: it has no place for it, and would drop it from the file."""
    model, optimizer, scheduler = make(None, "Adam", "StepLR")
    others = {"average": AveragedModel(model), "scaler": torch.amp.GradScaler("cpu")}
    everything = {"optimizer": optimizer, "scheduler": scheduler, **others}
    path = tmp_path / "run.pt"
    save_checkpoint(path, model, optimizer, scheduler, History(**HISTORY), **others)
    for loaded in ([], ["optimizer"], ["optimizer", "scheduler", "average"], [*everything]):
        history = load_checkpoint(path, model, **{name: everything[name] for name in loaded})
        assert history.others == ("average", "scaler")
        assert set(history.not_loaded) == set(everything) - set(loaded)
        assert history == History(**HISTORY)  # neither is compared, shown or saved
        assert "average" not in repr(history) + str(history.state_dict())

    save_checkpoint(path, model, optimizer, None, History())
    history = load_checkpoint(path, model)
    assert (history.others, history.not_loaded) == ((), ("optimizer",))
