"""A run that is cut after any batch continues as if nothing had happened, whatever its loaders."""

import random

import numpy as np
import pytest
import torch
from runs import BATCHES, LOADERS, NUM_EPOCHS, Run, at_call, interrupt
from torch.utils.data import DataLoader, IterableDataset

from helper.evaluation import compute_accuracy
from helper.history import History
from helper.reproducibility import ORDER, seed_loader

CUTS = range(NUM_EPOCHS * BATCHES)


def cut(run, batch, path):
    """Train until a stop arrives while the step of this batch is taken."""
    run.optimizer.register_step_post_hook(at_call(batch, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint_path=path)
    assert len(run.history.minibatch_loss) == batch + 1
    return run


FEW = ("shuffled", "two workers")  # the others are slow together


@pytest.mark.parametrize(
    "loader",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in LOADERS],
)
def test_cut_after_any_batch_and_continued_in_fresh_objects(loader, tmp_path):
    whole = Run(loader).train().sha256()
    for batch in CUTS if loader == "shuffled" else CUTS[1::4]:
        stopped = cut(Run(loader), batch, tmp_path / "run.pt")
        torch.rand(batch), np.random.rand(batch), random.random()  # somebody draws in between
        assert Run(loader).load(tmp_path / "run.pt").train().sha256() == whole
        assert stopped.train().sha256() == whole  # and in the same objects


def test_the_number_of_workers_is_the_same_run_if_only_the_collate_function_draws():
    """In the workers, the data set draws from their own numbers: with them, it is another run."""

    def order(loader):
        loader = LOADERS[loader]()
        seed_loader(loader, 5, 1, ORDER)
        return torch.cat([targets for _, targets in loader]).tolist()

    assert order("shuffled") == order("one worker") == order("two workers")


@pytest.mark.parametrize("every", [1, 4, 7])
def test_checkpoints_inside_an_epoch(every, tmp_path, monkeypatch):
    import helper.train

    positions = []
    save = helper.train.save_checkpoint

    def save_and_note(path, *run):
        save(path, *run)
        positions.append(len(run[-1].minibatch_loss))
        (tmp_path / f"{len(positions)}.pt").write_bytes(path.read_bytes())

    monkeypatch.setattr(helper.train, "save_checkpoint", save_and_note)
    whole = Run().train(checkpoint_path=tmp_path / "run.pt", checkpoint_every=every).sha256()
    batches = range(1, NUM_EPOCHS * BATCHES + 1)
    expected = [b for b in batches if b % every == 0] + [b for b in batches if b % BATCHES == 0]
    assert positions == sorted(expected)
    assert Run().train().sha256() == whole  # saving changes nothing
    for number in range(1, len(positions) + 1):
        assert Run().load(tmp_path / f"{number}.pt").train().sha256() == whole


def test_a_second_resume_after_the_first(tmp_path):
    whole = Run().train().sha256()
    path = tmp_path / "run.pt"
    cut(Run(), 3, path)
    for batch in (4, 7, 8, 14):
        run = Run().load(path)
        run.optimizer.register_step_post_hook(
            at_call(batch - len(run.history.minibatch_loss), interrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run.train(checkpoint_path=path)
        assert len(run.history.minibatch_loss) == batch + 1
    assert Run().load(path).train().sha256() == whole


def test_a_scheduler_by_epoch_and_one_by_batch():
    run = Run(scheduler_every="epoch").train()
    assert run.scheduler.last_epoch == NUM_EPOCHS
    run = Run().train()
    assert run.scheduler.last_epoch == NUM_EPOCHS * BATCHES
    one_cycle = Run()
    rates = []
    for step in range(NUM_EPOCHS * BATCHES):
        rates.append(one_cycle.scheduler.get_last_lr()[0])
        one_cycle.optimizer.step()
        if step < NUM_EPOCHS * BATCHES - 1:
            one_cycle.scheduler.step()
    assert run.history.learning_rate == rates[BATCHES - 1 :: BATCHES]


def test_parts_in_evaluation_mode_stay_there():
    run = Run().train()
    modes = [run.model.training, run.model.frozen.training, run.model.frozen[1].training]
    assert modes == [True, False, False]
    compute_accuracy(run.model, run.loaders[1], "cpu")
    assert [m.training for m in run.model.frozen.modules()] == [False] * 3
    assert run.model.classify[0].training
    assert run.model.frozen[1].running_mean.eq(0).all()  # it has seen no batch


def test_a_model_in_evaluation_mode_is_trained_in_training_mode():
    whole = Run().train().sha256()
    run = Run().train(2)
    run.model.eval()
    assert run.train().sha256() != whole  # `frozen` is in training mode now: it was not kept
    assert all(module.training for module in run.model.modules())


class Numbers(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(6), torch.tensor(0))] * 80)


class CountedNumbers(Numbers):
    def __len__(self):
        return 80


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(Numbers(), 16), "train_loader has no length"),
        (
            lambda: DataLoader(torch.utils.data.Subset(LOADERS["shuffled"]().dataset, []), 16),
            "empty",
        ),
        (
            lambda: DataLoader(LOADERS["shuffled"]().dataset, 14),
            "5 batches, the first of 14 .* 5 batches, the first of 16",
        ),
        (
            lambda: DataLoader(LOADERS["shuffled"]().dataset, 10),
            "7 batches, the first of 10 .* 5 batches",
        ),
    ],
)
def test_a_loader_that_is_not_that_of_the_run_is_refused(loader, message):
    run = Run().train(1)
    before = run.sha256()
    run.loaders[0] = loader()
    with pytest.raises(ValueError, match=message):
        run.train()
    assert run.sha256() == before
    assert run.printed == ""


class MissingNumbers(CountedNumbers):
    def __len__(self):
        return 100


def test_a_loader_with_fewer_batches_than_its_length():
    run = Run()
    run.loaders[0] = DataLoader(MissingNumbers(), 16)
    with pytest.raises(ValueError, match="has 5 batches, though"):
        run.train(1)


def test_an_iterable_data_set_with_a_length_will_do():
    run = Run()
    run.loaders[0] = DataLoader(CountedNumbers(), 16)
    assert run.train(1).history.epoch == 1


def test_workers_that_answer_out_of_order_are_refused():
    run = Run()
    run.loaders[0] = LOADERS["two workers"]()
    run.loaders[0].in_order = False
    with pytest.raises(ValueError, match="in_order"):
        run.train()


@pytest.mark.parametrize("missing", ["optimizer", "scheduler"])
def test_a_history_whose_optimizer_or_scheduler_was_not_loaded(missing, tmp_path):
    from helper.checkpoint import load_checkpoint

    Run().train(1, checkpoint_path=tmp_path / "run.pt")
    run = Run()
    parts = {name: getattr(run, name) for name in ("model", "optimizer", "scheduler")}
    parts.pop(missing)
    run.history = load_checkpoint(tmp_path / "run.pt", **parts)
    with pytest.raises(ValueError, match=f"The {missing} of this history's checkpoint was not"):
        run.train()
    run.history = History(seed=5)  # a warm start is a new run
    assert run.train(1).history.epoch == 1
