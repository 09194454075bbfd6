"""The training loop: continuing is exact, whatever happens in between, and says what it does."""

import copy
import random
import re

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helper.checkpoint import CheckpointError
from helper.evaluation import compute_accuracy
from helper.reproducibility import compute_sha256
from helper.train import train_model


def train(run, num_epochs, loaders, **arguments):
    model, optimizer, scheduler = run
    return train_model(
        model, num_epochs, *loaders, optimizer, "cpu", scheduler=scheduler, **arguments
    )


def sha256(run, history):
    return compute_sha256(*(part.state_dict() for part in run), history.state_dict())


@pytest.fixture
def uninterrupted(new_run, loaders):
    """The hash over everything after 4 epochs in one go."""
    run = new_run()
    return sha256(run, train(run, 4, loaders))


def test_nothing_in_between_changes_the_outcome(new_run, loaders, uninterrupted):
    run = new_run()
    history = train(run, 2, loaders)
    next(iter(loaders[0]))
    compute_accuracy(run[0], loaders[1], "cpu")
    torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(99)
    history = train(run, 4, loaders, history=history)
    assert sha256(run, history) == uninterrupted


def test_the_global_random_numbers_are_left_alone(new_run, loaders):
    run = new_run()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    train(run, 1, loaders)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_epochs_of_neighbouring_seeds_have_nothing_in_common(new_run, loaders):
    def losses(seed):
        run = new_run()
        for group in run[1].param_groups:
            group["lr"] = 0  # so that only the randomness of an epoch makes its losses
        return train(run[:2] + (None,), 3, loaders, seed=seed).minibatch_loss

    first, second = losses(1), losses(2)
    assert not set(first) & set(second)
    assert len(set(first)) == len(first)


def test_num_epochs_is_the_total(new_run, loaders, capsys):
    run = new_run()
    history = train(run, 2, loaders)
    lines = re.findall(r"(Epoch: \d+/\d+) \| Train:", capsys.readouterr().out)
    assert lines == ["Epoch: 001/002", "Epoch: 002/002"]

    before = sha256(run, history)
    assert train(run, 2, loaders, history=history) is history
    assert capsys.readouterr().out == "Nothing to do: 2 of 2 epochs are done already.\n"
    assert sha256(run, history) == before

    train(run, 3, loaders, history=history)
    assert "Epoch: 003/003" in capsys.readouterr().out
    assert history.epoch == 3


def test_history_records_what_happened(new_run, loaders):
    model, optimizer, _ = run = new_run()
    history = train((model, optimizer, StepLR(optimizer, 1, gamma=0.5)), 3, loaders, seed=5)
    assert history.seed == 5
    assert len(history.minibatch_loss) == 3 * len(loaders[0])
    assert history.minibatch_loss[0] > history.minibatch_loss[-1] > 0
    assert history.learning_rate == [0.1, 0.05, 0.025]
    assert (history.batches_per_epoch, history.batch_size) == (len(loaders[0]), 50)
    assert (history.epoch, history.batch) == (3, 0)
    assert history.valid_acc[-1] == compute_accuracy(run[0], loaders[1], "cpu")
    assert len(history.train_acc) == len(history.valid_acc) == 3


@pytest.mark.parametrize("scheduler_on", ["valid_acc", "minibatch_loss"])
def test_plateau_scheduler_sees_what_it_is_told_to(new_run, loaders, scheduler_on):
    model, optimizer, _ = new_run()
    scheduler = ReduceLROnPlateau(optimizer, mode="max")
    history = train((model, optimizer, scheduler), 3, loaders, scheduler_on=scheduler_on)
    if scheduler_on == "valid_acc":
        assert scheduler.best == max(history.valid_acc)
    else:
        num_batches = len(loaders[0])
        assert scheduler.best == max(history.minibatch_loss[num_batches - 1 :: num_batches])


def test_logging_interval_prints_losses(new_run, loaders, capsys):
    history = train(new_run(), 1, loaders, logging_interval=5)
    printed = capsys.readouterr().out
    assert f"Epoch: 001/001 | Batch 0005/0008 | Loss: {history.minibatch_loss[5]:.4f}" in printed
    assert printed.count("Batch") == 2


def test_the_test_accuracy_stands_at_the_end(new_run, loaders, capsys):
    run = new_run()
    train(run, 1, loaders)
    accuracy = compute_accuracy(run[0], loaders[2], "cpu")
    assert capsys.readouterr().out.endswith(f"Test accuracy: {accuracy:.2f}%\n")


@pytest.mark.parametrize(
    ("num_epochs", "arguments", "message"),
    [
        (0, {}, "num_epochs must be a whole number of at least 1, not 0"),
        (2.5, {}, "num_epochs must be a whole number of at least 1, not 2.5"),
        (1, {"scheduler_on": "loss"}, 'scheduler_on: "valid_acc"'),
        (1, {"scheduler_every": "step"}, 'scheduler_every must be "epoch" or "batch"'),
        (1, {"scheduler_every": "batch"}, "ReduceLROnPlateau"),
        (1, {"checkpoint_every": 5}, "checkpoint_every needs a path"),
        (1, {"checkpoint_every": 0, "checkpoint_path": "x"}, "checkpoint_every must be a whole"),
        (1, {"logging_interval": -1}, "logging_interval must be a whole number of at least 1"),
        (1, {"seed": -1}, "seed must be a whole number"),
        (1, {"seed": 1.5}, "seed must be a whole number"),
    ],
)
def test_wrong_arguments_are_named(new_run, loaders, num_epochs, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(new_run(), num_epochs, loaders, **arguments)


class TransferCounter(TorchDispatchMode):
    """Counts the operations that bring a tensor from one device to another."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = filter(torch.is_tensor, tree_leaves((args, result)))
        self.count += len({tensor.device for tensor in tensors}) > 1
        return result


def test_a_device_gets_the_data_once_and_is_asked_for_the_losses_once(new_run, loaders):
    """On the device "meta", which computes nothing: asking it for a number is an error."""
    model, _, _ = new_run()
    model.to("meta")
    meta_loaders = copy.deepcopy(loaders)  # their datasets are moved
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(transfers.count))
    with TransferCounter() as transfers, pytest.raises(NotImplementedError, match="meta"):
        train_model(model, 1, *meta_loaders, optimizer, "meta")
    assert len(steps) == 8  # all batches of the epoch; then the losses are read
    assert steps[0] == steps[-1]

    loader = meta_loaders[2]
    seen = []
    model.register_forward_hook(lambda *_: seen.append(transfers.count))
    with TransferCounter() as transfers, pytest.raises(NotImplementedError, match="meta"):
        compute_accuracy(model, loader, "meta")
    assert len(seen) == len(loader) == 10
    assert seen[0] == seen[-1]


def test_wrong_wiring_is_refused_before_anything_is_trained(new_run, loaders):
    model, optimizer, scheduler = new_run()
    _, other_optimizer, other_scheduler = new_run()
    for run in ((model, other_optimizer, None), (model, optimizer, other_scheduler)):
        before = compute_sha256(model.state_dict())
        with pytest.raises(CheckpointError, match="Make it anew"):
            train(run, 1, loaders)
        assert compute_sha256(model.state_dict()) == before
