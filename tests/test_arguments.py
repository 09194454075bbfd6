"""Arguments that can't be used are named before anything is trained."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset

from helper.history import History
from helper.reproducibility import compute_sha256
from helper.train import train_model
from tests.support.runs import NUM_EPOCHS, Run, interrupt


def refused(run, match, num_epochs=NUM_EPOCHS, **settings):
    """Expect a ValueError, and that nothing is trained, saved or printed."""
    before = compute_sha256(run.model.state_dict(), run.optimizer.state_dict())
    losses = [*run.history.minibatch_loss]
    with pytest.raises(ValueError, match=match):
        run.train(num_epochs, **settings)
    assert compute_sha256(run.model.state_dict(), run.optimizer.state_dict()) == before
    assert run.history.minibatch_loss == losses
    assert "\n" not in run.printed  # a progress bar at most


@pytest.mark.parametrize(
    ("num_epochs", "settings", "message"),
    [
        (0, {}, "num_epochs must be a positive integer, not 0"),
        (2.5, {}, "num_epochs must be a positive integer, not 2.5"),
        (2.0, {}, "num_epochs must be a positive integer, not 2.0"),
        (True, {}, "num_epochs must be a positive integer, not True"),
        (np.True_, {}, "num_epochs must be a positive integer"),
        (np.int64(-1), {}, "num_epochs must be a positive integer, not -1"),
        ("3", {}, "num_epochs must be a positive integer, not '3'"),
        (1, {"scheduler_on": "loss"}, 'scheduler_on must be "valid_acc" or "minibatch_loss"'),
        (1, {"scheduler_every": "step"}, 'scheduler_every must be "epoch" or "batch"'),
        (1, {"checkpoint_every": 5}, "checkpoint_every needs a checkpoint_path"),
        (1, {"checkpoint_every": 0, "checkpoint_path": "x"}, "checkpoint_every must be a pos"),
        (1, {"logging_interval": -1}, "logging_interval must be a positive integer, not -1"),
        (1, {"logging_interval": False}, "logging_interval must be a positive integer"),
        (1, {"checkpoint_path": ""}, "checkpoint_path must name a file, not ''"),
        (1, {"checkpoint_path": "."}, "checkpoint_path must name a file, not '.'"),
        *(
            (1, {"history": history}, "history must be a History")
            for history in (None, {}, History)
        ),
    ],
)
def test_numbers_and_words(num_epochs, settings, message):
    refused(Run(), message, num_epochs, **settings)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "5", None])
def test_seeds(seed):
    with pytest.raises(ValueError, match="seed must be an integer in"):
        History(seed=seed)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_integers_of_other_libraries(kind, tmp_path):
    run = Run(seed=kind(5))
    path = tmp_path / "run.pt"
    run.train(kind(1), checkpoint_path=path, checkpoint_every=kind(2), logging_interval=kind(3))
    assert Run().load(path).sha256() == run.sha256() == Run().train(1).sha256()


# ---- Loaders ----


def loader_of(features=None, targets=None, **settings):
    """Return a loader of 80 examples."""
    features = torch.randn(80, 6) if features is None else features
    targets = torch.arange(80) % 3 if targets is None else targets
    return DataLoader(TensorDataset(features, targets), 16, **settings)


class Dicts(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, index):
        return {"image": torch.randn(6), "label": index % 3}


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(6), torch.tensor(0))] * 80)


def empty():
    return Subset(loader_of().dataset, [])


def collated(collate_fn):
    return loader_of(collate_fn=collate_fn)


LOADERS = {
    "None": (lambda: None, "must be a DataLoader, not None"),
    "a dataset": (lambda: Dicts(), "must be a DataLoader, not <"),
    "nothing": (lambda: DataLoader(empty(), 16), "is empty"),
    "a list of nothing": (lambda: [], "is empty"),
    "less than a batch": (
        lambda: DataLoader(loader_of().dataset, 81, drop_last=True),
        "is empty. Check its dataset; with drop_last=True",
    ),
    "dicts": (lambda: DataLoader(Dicts(), 16), r"\(features, targets\) .* keys image, label"),
    "a list of dicts": (lambda: collated(lambda b: b), "not a list of 16"),
    "a tensor": (lambda: DataLoader(torch.randn(80, 6), 16), r"not float32 \[16, 6\]"),
    "three": (lambda: collated(lambda b: (torch.zeros(16, 6),) * 3), "not a tuple of 3"),
    "numbers": (lambda: collated(lambda b: (torch.zeros(16, 6), 3)), "not a tuple of 2: .*int"),
    "float targets": (lambda: loader_of(targets=torch.rand(80)), r"int64 .* yields float32 \[16\]"),
    "one-hot targets": (lambda: loader_of(targets=torch.eye(80)), r"yields float32 \[16, 80\]"),
    "a column": (lambda: loader_of(targets=torch.zeros(80, 1).long()), r"yields int64 \[16, 1\]"),
    "int32 targets": (lambda: loader_of(targets=torch.zeros(80).int()), r"yields int32 \[16\]"),
    "dense": (lambda: loader_of(targets=torch.zeros(80, 20).long()), r"shape \[B\].* \[16, 20\]"),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("number", range(3), ids=["train", "valid", "test"])
def test_loaders(kind, number):
    """The format of a training batch shows in the first step, which trains nothing then."""
    make, message = LOADERS[kind]
    run = Run()
    run.loaders[number] = make()
    refused(run, ("train", "valid", "test")[number] + f"_loader .*{message}")


def test_the_training_loader_needs_a_length_and_an_order():
    run = Run()
    run.loaders[0] = DataLoader(Endless(), 16)
    refused(run, "train_loader has no length: give its dataset a __len__")
    run.loaders = [*Run("two workers").loaders]
    run.loaders[0].in_order = False
    refused(run, "train_loader must have in_order=True")


class NoLength(Sampler):
    def __iter__(self):
        return iter(range(70))


def test_an_evaluation_loader_needs_no_length():
    run = Run()
    run.loaders[1] = DataLoader(Endless(), 16)
    run.loaders[2] = DataLoader(run.loaders[2].dataset, 16, sampler=NoLength())
    assert run.train(1).history.epoch == 1


# ---- Optimizers and schedulers ----


class NeedsClosure(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


class NeedsKeyword(torch.optim.SGD):
    def step(self, *, closure):
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, NeedsClosure, NeedsKeyword])
@pytest.mark.parametrize("scheduled", [False, True])
def test_an_optimizer_that_needs_a_closure(kind, scheduled):
    run = Run()
    run.optimizer = kind(run.model.parameters(), lr=0.1)
    run.scheduler = StepLR(run.optimizer, 1) if scheduled else None  # it wraps the method step
    refused(run, f"{kind.__name__} needs a closure .* your own training loop")


@pytest.mark.parametrize("part", ["optimizer", "scheduler"])
def test_a_part_that_is_something_else(part):
    run = Run()
    for value in (5, "SGD") if part == "scheduler" else (None, 5):
        setattr(run, part, value)
        with pytest.raises(ValueError, match=f"{part} must .* torch.optim"):
            run.train()
    assert run.history == History(seed=5)


def test_a_state_that_could_not_be_saved(tmp_path):
    run = Run(scheduler_every="epoch")
    run.model.register_buffer("mask", torch.ones(1).expand(4))
    refused(run, "mask could not be loaded again", checkpoint_path=tmp_path / "run.pt")
    assert run.train(1).history.epoch == 1  # where nothing is to be saved


def test_parts_that_do_not_belong_together():
    run, other = Run(), Run()
    run.scheduler = other.scheduler
    refused(run, "This scheduler belongs to a different optimizer. Create a new one")
    run.optimizer, run.scheduler = other.optimizer, None
    refused(run, "This optimizer belongs to a different model. Create a new one")


@pytest.mark.parametrize(
    ("mode", "scheduler_on", "message"),
    [
        ("min", "valid_acc", 'mode="min", but scheduler_on="valid_acc" needs mode="max"'),
        ("max", "minibatch_loss", 'mode="max", but .*"minibatch_loss" needs mode="min"'),
        ("max", "valid_acc", None),
        ("min", "minibatch_loss", None),
    ],
)
def test_the_mode_of_a_plateau(mode, scheduler_on, message):
    run = Run(scheduler_every="epoch")
    run.scheduler = ReduceLROnPlateau(run.optimizer, mode)
    if message:
        refused(run, message, scheduler_on=scheduler_on)
    else:
        run.train(2, scheduler_on=scheduler_on)
        losses = run.history.minibatch_loss[4::5]
        assert run.scheduler.best in (max(run.history.valid_acc), min(losses))
    run.scheduler = ReduceLROnPlateau(run.optimizer, "max")
    refused(run, 'A ReduceLROnPlateau needs scheduler_every="epoch"', 4, scheduler_every="batch")


def one_cycle(optimizer, total_steps):
    return OneCycleLR(optimizer, 0.05, total_steps=total_steps)


HORIZONS = {  # a scheduler that lasts for exactly so many steps
    "alone": one_cycle,
    "chained": lambda optimizer, steps: ChainedScheduler(
        [StepLR(optimizer, 2), one_cycle(optimizer, steps)], optimizer=optimizer
    ),
    "first of a sequence": lambda optimizer, steps: SequentialLR(
        optimizer, [one_cycle(optimizer, steps), StepLR(optimizer, 2)], [steps + 9]
    ),
    "last of a sequence": lambda optimizer, steps: SequentialLR(
        optimizer, [StepLR(optimizer, 2), one_cycle(optimizer, steps - 1)], [1]
    ),
}


@pytest.mark.parametrize("kind", HORIZONS)
@pytest.mark.parametrize(("every", "steps"), [("batch", 10), ("epoch", 2)])
@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning", "ignore:The epoch param")
def test_the_horizon_of_one_cycle(kind, every, steps, tmp_path):
    run = Run(scheduler_every=every)
    run.scheduler = HORIZONS[kind](run.optimizer, steps)
    excess = 5 if every == "batch" else 1
    refused(run, f"The OneCycleLR schedule ends {excess} steps before epoch 3 does", 3)
    run.train(1).train(2, checkpoint_path=tmp_path / "run.pt")  # reached exactly
    refused(run, f"ends {excess} steps before epoch 3 .* {'History'}", 3)
    run.train(2)
    assert run.printed.startswith("Nothing to do: 2 of 2 epochs")


def test_the_horizon_inside_an_epoch():
    run = Run()
    run.scheduler = one_cycle(run.optimizer, 10)
    run.stop_in(6, num_epochs=2)
    refused(run, "ends 5 steps before epoch 3 does", 3)
    assert run.train(2).history.epoch == 2


def test_a_schedule_that_begins_after_the_end_is_fine():
    run = Run()
    steps = SequentialLR(
        run.optimizer, [StepLR(run.optimizer, 2), one_cycle(run.optimizer, 3)], [14]
    )
    run.scheduler = steps
    assert run.train().history.epoch == NUM_EPOCHS


def test_what_is_refused_leaves_signals_and_modes_alone():
    model = nn.Linear(6, 3).eval()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match="closure"):
        train_model(model, 1, *Run().loaders, optimizer, "cpu", history=History())
    assert not model.training
    with pytest.raises(KeyboardInterrupt):
        interrupt()
