"""What must stay the same while a run is continued: refused before anything is trained."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from helper.evaluation import compute_accuracy
from helper.history import History
from tests.support.runs import Run

NEW_RUN = r"start a new run from the loaded weights: History\(seed=\.\.\.\)"


def examples(number=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(number, 6, generator=generator)
    return TensorDataset(features, torch.randint(3, (number,), generator=generator))


class Transformed(Dataset):
    """A wrapper as people write it around what random_split returns."""

    def __init__(self, inner):
        self.parts, self.fetched = {"train": [inner]}, []

    def __len__(self):
        return len(self.parts["train"][0])

    def __getitem__(self, index):
        self.fetched.append(index)
        return self.parts["train"][0][index]


def run_on(dataset, batch_size=10):
    """Return a run that has trained one epoch on a dataset."""
    run = Run(scheduler_every="epoch")
    run.loaders[0] = DataLoader(dataset, batch_size, drop_last=True)
    return run.train(1)


@contextlib.contextmanager
def refused(run, match):
    """Expect a ValueError about what changed, and that nothing is trained, fetched or printed."""
    before = run.sha256()
    fetched = getattr(getattr(run.loaders[0], "dataset", None), "fetched", [])
    num_fetched = len(fetched)
    with pytest.raises(ValueError, match=f"(?s){match}.*{NEW_RUN}"):
        yield
    assert (run.sha256(), run.printed) == (before, "")
    assert len(fetched) == num_fetched


def subset(indices, seed=0):
    return Subset(examples(seed=seed), indices)


EVEN, ODD = range(0, 60, 2), range(1, 60, 2)
OTHER_DATA = {
    "3 more": (examples(), examples(63), "63 examples, but this run began with 60"),
    "split": (subset(EVEN), subset(ODD), "indices"),
    "order": (subset([*range(30)]), subset([*reversed(range(30))]), "indices"),
    "in a wrapper": (Transformed(subset(EVEN)), Transformed(subset(ODD)), "indices"),
    "nested": (Subset(subset(EVEN), range(20)), Subset(subset(ODD), range(20)), "indices"),
    "concatenated": (
        ConcatDataset([subset(EVEN), examples(30)]),
        ConcatDataset([subset(ODD), examples(30)]),
        "indices",
    ),
}


@pytest.mark.parametrize("kind", OTHER_DATA)
def test_a_different_dataset(kind):
    before, after, message = OTHER_DATA[kind]
    run = run_on(before)
    run.loaders[0] = DataLoader(after, 10, drop_last=True)
    with refused(run, f"train_loader.dataset is .*{message}"):
        run.train()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ((4000, 126), (4000, 129), "31 .*, the first with 129 .* 31 batches, the first with 126"),
        ((60, 10), (60, 12), "5 batches, the first with 12 .* 6 batches, the first with 10"),
        ((60, 10), (70, 10), "7 batches"),
    ],
)
def test_a_different_batch_size(before, after, message):
    run = run_on(examples(before[0]), before[1])
    run.loaders[0] = DataLoader(Transformed(examples(after[0])), after[1], drop_last=True)
    with refused(run, message):
        run.train()


def test_a_different_batch_size_of_a_list_of_batches():
    run = run_on(examples())
    run.loaders[0] = [*run.loaders[0]]
    del run.history.settings["train_loader.dataset"]
    run.loaders[0][0] = [part[:4] for part in run.loaders[0][0]]
    with refused(run, "6 batches, the first with 4"):
        run.train()


def one_cycle(run, total_steps=18):
    return OneCycleLR(run.optimizer, 0.1, total_steps=total_steps)


SCHEDULERS = {
    "every": (one_cycle, one_cycle, {"scheduler_every": "batch"}, {}, "scheduler_every is epoch"),
    "every, the reverse": (
        one_cycle,
        one_cycle,
        {},
        {"scheduler_every": "batch"},
        "scheduler_every is bat",
    ),
    "added": (lambda run: None, one_cycle, {}, {}, "is epoch, but .* no scheduler"),
    "dropped": (one_cycle, lambda run: None, {}, {}, "is no scheduler, but .* with epoch"),
    "on": (
        lambda run: ReduceLROnPlateau(run.optimizer, "max"),
        lambda run: ReduceLROnPlateau(run.optimizer, "min"),
        {},
        {"scheduler_on": "minibatch_loss"},
        "scheduler_on is minibatch_loss, but .* valid_acc",
    ),
    "class": (
        lambda run: ReduceLROnPlateau(run.optimizer, "max"),
        lambda run: StepLR(run.optimizer, 1),
        {},
        {},
        "scheduler_on is no ReduceLROnPlateau",
    ),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_different_scheduler(kind):
    first, second, before, after, message = SCHEDULERS[kind]
    run = Run(scheduler_every="epoch")
    run.loaders[0] = DataLoader(examples(), 10)
    run.scheduler = first(run)
    run.train(1, **before)
    run.scheduler = second(run)
    with refused(run, message):
        run.train(2, **after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.frozen.train(), "from frozen, frozen.0, .* to none"),
        (lambda model: model.normalize.eval(), "to normalize, frozen, frozen.0, ..."),
    ],
)
def test_a_different_mode_of_a_layer(change, message, tmp_path):
    Run().train(1, checkpoint_path=tmp_path / "run.pt")
    run = Run().load(tmp_path / "run.pt")
    change(run.model)
    with refused(run, f"The modules in eval mode .*{message}"):
        run.train()
    warm = Run().load(tmp_path / "run.pt")  # on purpose
    change(warm.model)
    warm.history = History(seed=7)
    assert warm.train(1, scheduler_every="epoch").history.epoch == 1


@pytest.mark.parametrize("part", ["optimizer", "scheduler"])
def test_a_part_that_was_not_loaded(part, tmp_path):
    from helper.checkpoint import load_checkpoint

    Run().train(1, checkpoint_path=tmp_path / "run.pt")
    run = Run()
    parts = {name: getattr(run, name) for name in ("model", "optimizer", "scheduler")}
    del parts[part]
    run.history = load_checkpoint(tmp_path / "run.pt", **parts)
    with refused(run, f"The {part} of this history's checkpoint was not loaded"):
        run.train()
    run.history = History(seed=5)  # a warm start is a new run
    assert run.train(1).history.epoch == 1


@pytest.mark.parametrize("load_it", [True, False])
def test_an_average_that_would_be_dropped(load_it, tmp_path):
    from torch.optim.swa_utils import AveragedModel

    from helper.checkpoint import load_checkpoint, save_checkpoint

    run = Run().train(1)
    average = {"average": AveragedModel(run.model)}
    save_checkpoint(tmp_path / "run.pt", *run.parts, run.history, **average)
    before = (tmp_path / "run.pt").read_bytes()
    loaded = average if load_it else {}
    run.history = load_checkpoint(tmp_path / "run.pt", *run.parts, **loaded)
    with refused(run, "also holds average"):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before


# ---- No false alarms ----


@pytest.fixture(scope="module")
def whole():
    return Run().train().sha256()


def evaluate(run):
    run.model.eval()


def evaluate_and_draw(run):
    compute_accuracy(run.model, run.loaders[1], "cpu")
    torch.rand(3), np.random.rand(3)
    next(iter(run.loaders[0]))


def recreate_loaders(run):
    run.loaders = Run("two workers").loaders


def change_modes_and_back(run):
    run.model.train()
    run.model.frozen.eval()


@pytest.mark.parametrize(
    "between",
    [
        evaluate,
        evaluate_and_draw,
        pytest.param(recreate_loaders, marks=pytest.mark.slow),
        change_modes_and_back,
    ],
)
@pytest.mark.parametrize("batch", [4, 7])
def test_what_cells_do_in_between_changes_nothing(between, batch, whole, tmp_path):
    run = Run().stop_in(batch, tmp_path / "run.pt")
    between(run)
    assert run.train().sha256() == whole
    run = Run()
    between(run)
    run.load(tmp_path / "run.pt")
    assert run.train().sha256() == whole
    assert [module.training for module in run.model.frozen.modules()] == [False] * 3


@pytest.mark.parametrize("make", [list, torch.tensor, np.array, lambda r: [*torch.tensor(r)]])
def test_equal_indices_of_any_type(make):
    twice = Subset(examples(), EVEN)  # one object, or two that are equal
    run = run_on(ConcatDataset([twice, twice]))
    run.loaders[0] = DataLoader(ConcatDataset([subset(EVEN), subset(make(EVEN))]), 10)
    assert run.train(2).history.epoch == 2

    run = run_on(Transformed(twice))
    log = run.loaders[0].dataset.fetched
    run.loaders[0] = DataLoader(Transformed(Subset(examples(), make(EVEN))), 10, drop_last=True)
    assert run.train(2).history.epoch == 2
    assert len(log) == 60  # an epoch and its accuracy: nothing was fetched to be compared


def test_indices_that_are_no_integers_are_compared_too():
    class Named(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, name):
            return examples()[int(name[1:])]

    names = [f"n{index}" for index in range(30)]
    run = run_on(Subset(Named(), names))
    run.loaders[0] = DataLoader(Subset(Named(), tuple(names)), 10, drop_last=True)
    assert run.train(2).history.epoch == 2
    run.loaders[0] = DataLoader(Subset(Named(), names[::-1]), 10, drop_last=True)
    with refused(run, "indices"):
        run.train(3)


def test_what_has_trained_nothing_may_still_change():
    run = Run()
    features, targets = examples().tensors
    run.loaders[0] = DataLoader(TensorDataset(features, targets.float()), 10)
    with pytest.raises(ValueError, match="float32"):
        run.train(1)
    run.loaders[0] = DataLoader(examples(63), 12)
    run.scheduler, run.scheduler_every = StepLR(run.optimizer, 1), "epoch"
    run.model.normalize.eval()
    assert run.train(1).history.batches_per_epoch == 6


class FrozenByTrain(nn.Module):
    """Its train() keeps a part in evaluation mode, and its eval() doesn't say so."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def train(self, mode=True):
        super().train(mode)
        self.model.normalize.eval()
        return self

    def forward(self, x):
        return self.model(x)


def test_a_train_method_of_the_models_own():
    def run(modes):
        run = Run()
        run.model = FrozenByTrain(run.model)
        if "train" in modes:
            run.model.train()
        run.train(1)
        if "eval" in modes:
            run.model.eval()
        return run.train()

    assert run("train").sha256() == run("train, eval").sha256()
    run = run("eval")  # it has begun without train()
    assert run.model.model.normalize.training
    assert run.model.model.frozen.training is False


class Wrapper(nn.Module):
    """What DataParallel and torch.compile do to the names."""

    def __init__(self, model, name):
        super().__init__()
        self.add_module(name, model)
        self.name = name

    def forward(self, x):
        return getattr(self, self.name)(x)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_wrappers_change_no_names_of_modes(name):
    run = Run(scheduler_every="epoch").train(1)
    inside = run.model
    run.model = Wrapper(inside, name)
    run.train(2)
    for number, model in enumerate((run.model, inside), 3):
        model.eval()
        assert run.train(number).history.epoch == number
        assert inside.classify.training
    assert not inside.frozen.training
    inside.normalize.eval()
    with refused(run, "eval mode have changed .* to normalize"):
        run.train(5)
    new = Run(scheduler_every="epoch")
    new.model = Wrapper(new.model.eval(), name)
    new.train(1)
    assert all(module.training for module in new.model.modules())


def test_the_history_of_a_loop_of_ones_own():
    """It has a position, and no settings to compare."""
    run = Run(scheduler_every="epoch")
    run.history = History(seed=5, minibatch_loss=[1.0] * 3, batches_per_epoch=5, batch_size=16)
    run.model.frozen.train()
    assert run.train(1).history.eval_modules == []
    assert run.history.settings["scheduler_every"] == "epoch"
    for number in range(2):
        run.history = History(seed=5, minibatch_loss=[1.0] * 3, batches_per_epoch=5 + number)
        expected = pytest.raises(ValueError, match="began with 6") if number else None
        with expected or contextlib.nullcontext():
            run.train(1)
    assert run.history.minibatch_loss == [1.0] * 3


def test_a_dataset_that_fills_a_cache_is_the_same():
    class Lazy(Dataset):
        def __init__(self):
            self.cache, self.file = {}, None

        def __len__(self):
            return 60

        def __getitem__(self, index):
            self.file = self.file or examples()  # opened in the process that reads it
            return self.cache.setdefault(index, self.file[index])

    assert run_on(Lazy()).train(2).history.epoch == 2
