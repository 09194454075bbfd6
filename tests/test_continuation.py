"""A run that is cut after any batch continues as if nothing had happened, whatever its loaders."""

import random

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, RandomSampler, Sampler

import helper.train
from helper.evaluation import compute_accuracy
from tests.support.runs import BATCHES, LOADERS, NUM_EPOCHS, Run, at_call, interrupt

CUTS = dict.fromkeys(LOADERS, [1, 5, 9, 13])
CUTS["shuffled"] = [*range(NUM_EPOCHS * BATCHES)]
CUTS["two workers"] = CUTS["persistent workers"] = [1, 6, 13]  # one in each epoch
CUTS["one worker"] = [6]


@pytest.mark.parametrize(
    "loader",  # together, all but the first are slow
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "shuffled")) for name in LOADERS],
)
def test_cut_after_any_batch_and_continued_in_fresh_objects(loader, tmp_path):
    whole = Run(loader).train().sha256()
    for batch in CUTS[loader]:
        stopped = Run(loader).stop_in(batch, tmp_path / "run.pt")
        assert len(stopped.history.minibatch_loss) == batch + 1
        torch.rand(batch), np.random.rand(batch), random.random()  # somebody draws in between
        assert Run(loader).load(tmp_path / "run.pt").train().sha256() == whole
        assert stopped.train().sha256() == whole  # and in the same objects


class Own(Sampler):
    """Shuffles with a generator of its own."""

    def __init__(self, make):
        self.random = make()

    def __len__(self):
        return 70

    def __iter__(self):
        order = [*range(70)]
        self.random.shuffle(order)
        return iter(order)


class TakeTurns(Own):
    """Takes turns between samplers that it keeps in a list."""

    def __init__(self):
        self.samplers = [RandomSampler(range(35), generator=torch.Generator()) for _ in range(2)]

    def __iter__(self):
        for pair in zip(*self.samplers, strict=True):
            yield from pair


SAMPLERS = [
    TakeTurns,
    *(lambda kind=kind: Own(kind) for kind in (random.Random, np.random.default_rng)),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_with_generators_of_their_own(sampler, tmp_path):
    def run():
        run = Run()
        run.loaders[0] = DataLoader(run.loaders[0].dataset, 16, sampler=sampler())
        return run

    whole = run().train().sha256()
    for batch in (3, 8):
        run().stop_in(batch, tmp_path / "run.pt")
        assert run().load(tmp_path / "run.pt").train().sha256() == whole


@pytest.mark.parametrize("every", [1, 4, 7])
def test_checkpoints_inside_an_epoch(every, tmp_path, monkeypatch):
    positions = []
    write = helper.train.write_checkpoint

    def write_and_copy(path, run):
        write(path, run)
        positions.append(len(run["history"]["minibatch_loss"]))
        (tmp_path / f"{len(positions)}.pt").write_bytes((tmp_path / "run.pt").read_bytes())

    monkeypatch.setattr(helper.train, "write_checkpoint", write_and_copy)
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
    Run().stop_in(3, path)
    for batch in (4, 7, 8, 14):
        run = Run().load(path)
        run.stop_in(batch - len(run.history.minibatch_loss), path)
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


@pytest.mark.filterwarnings("error")
def test_stopped_in_the_first_evaluation_the_scheduler_warns_of_nothing(tmp_path):
    def run():
        run = Run(scheduler_every="epoch")
        run.scheduler = StepLR(run.optimizer, 1, gamma=0.5)
        return run

    stopped = run()
    stopped.loaders[1].collate_fn = at_call(1, interrupt, stopped.loaders[1].collate_fn)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(checkpoint_path=tmp_path / "run.pt")
    assert stopped.history.position == "0 epochs and 5 of 5 batches"
    assert run().load(tmp_path / "run.pt").train().sha256() == run().train().sha256()


def test_parts_in_evaluation_mode_stay_there():
    run = Run().train()
    modes = [run.model.training, run.model.frozen.training, run.model.frozen[1].training]
    assert modes == [True, False, False]
    compute_accuracy(run.model, run.loaders[1], "cpu")
    assert [m.training for m in run.model.frozen.modules()] == [False] * 3
    assert run.model.classify[0].training
    assert run.model.frozen[1].running_mean.eq(0).all()  # it has seen no batch
