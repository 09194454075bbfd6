"""The batches of an epoch: the same from any batch on, in any process, and no worker is left."""

import contextlib
import functools
import itertools
import multiprocessing
import os
import queue
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    default_collate,
    get_worker_info,
)

from helper.batches import EpochBatches
from helper.reproducibility import Stream, compute_sha256
from helper.signals import kill
from tests.support.runs import BATCHES, LOADERS, Run, at_call, unseeded

WORKERS = {
    "0": {},
    "1": {"num_workers": 1},
    "2": {"num_workers": 2, "prefetch_factor": 3},
    "persistent": {"num_workers": 2, "persistent_workers": True},
}
GENERATORS = {
    "torch": unseeded,
    "random": random.Random,
    "numpy": np.random.default_rng,
    "RandomState": np.random.RandomState,
    "RandomState over PCG64": lambda: np.random.RandomState(np.random.PCG64()),
    "PCG64": np.random.PCG64,
}


def draw_from(generator):
    """Return a number that a generator of any kind draws."""
    if isinstance(generator, torch.Generator):
        return torch.rand((), generator=generator).item()
    if isinstance(generator, np.random.BitGenerator):
        generator = np.random.Generator(generator)
    return generator.uniform(0, 1)


class Holder:
    def __init__(self, held):
        self.held = held

    def __call__(self):
        return draw_from(self.held)


HOLDERS = {  # more of them in test_reproducibility.py
    "attribute": Holder,
    "partial": lambda generator: functools.partial(draw_from, generator),
    "bound method": lambda generator: Holder(generator).__call__,
    "default": lambda generator: lambda held=generator: draw_from(held),
}


class Examples(Dataset):
    """Example `i` is `i` plus what it draws; notes which were fetched, and by which process."""

    def __init__(self, number=64, draws=(), log=None):
        self.number, self.draws, self.log = number, draws, log
        self.offset = 0

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        if isinstance(self.log, list):
            self.log.append((os.getpid(), index))
        elif self.log is not None:
            note = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(note, f"{os.getpid()} {index}\n".encode())
            os.close(note)
        drawn = [draw() for draw in self.draws]
        return torch.tensor([index + self.offset, *drawn], dtype=torch.float64), index % 3


class Shuffled(Sampler):
    """An order that a generator of its own makes."""

    def __init__(self, number, draw):
        self.number, self.draw = number, draw

    def __len__(self):
        return self.number

    def __iter__(self):
        return iter(sorted(range(self.number), key=lambda _: self.draw()))


def read_log(log):
    """Return the pids and the indices that `Examples` noted."""
    lines = log if isinstance(log, list) else map(str.split, Path(log).read_text().splitlines())
    pids, indices = zip(*lines, strict=True)
    return [*map(int, pids)], [*map(int, indices)]


def fetch(loader, epoch=2, start=0, **settings):
    """Return the batches of an epoch, in a fresh view of the loader."""
    with contextlib.closing(EpochBatches(loader)) as batches:
        return [*batches.epoch(5, epoch, start, **settings)]


def indices_of(batches):
    return [int(index) for features, _ in batches for index in features[:, 0]]


def draws_globally():
    return torch.rand(()).item() + np.random.rand() + random.random()


# ---- The position ----


@pytest.mark.parametrize("workers", WORKERS)
def test_continuing_at_any_batch_fetches_that_batch_first(workers, tmp_path):
    def loader(log):
        return DataLoader(Examples(log=log), 8, shuffle=True, **WORKERS[workers])

    whole = fetch(loader(tmp_path / "whole"))
    order = indices_of(whole)
    for start in range(8) if workers == "0" else (3, 7):
        log = [] if workers == "0" else tmp_path / f"from {start}"
        rest = fetch(loader(log), start=start)
        assert compute_sha256(rest) == compute_sha256(whole[start:])
        pids, fetched = read_log(log)
        if workers in ("0", "1"):
            assert fetched == order[8 * start :]
        assert sorted(fetched) == sorted(order[8 * start :])
        assert (os.getpid() in pids) == (workers == "0")


# ---- The number of workers, and generators wherever they are ----


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_generators_are_found_and_seeded(kind, holder):
    def loader(place):
        draw = HOLDERS[holder](GENERATORS[kind]())
        if place == "sampler":
            return DataLoader(Examples(), 8, sampler=Shuffled(64, draw))
        if place == "batch sampler":
            return DataLoader(Examples(), batch_sampler=BatchSampler(Shuffled(64, draw), 8, False))
        if place == "collate_fn":
            return DataLoader(Examples(), 8, collate_fn=functools.partial(add_noise, draw=draw))
        return DataLoader(Examples(draws=[draw]), 8)

    for place in ("dataset", "collate_fn", "sampler", "batch sampler"):
        whole = fetch(loader(place))
        numbers = torch.cat([features[:, -1] for features, _ in whole])
        assert len({*numbers.tolist()}) >= 8  # it draws, and not the same in every batch
        assert compute_sha256(fetch(loader(place), start=3)) == compute_sha256(whole[3:])


def add_noise(examples, draw):
    features, targets = default_collate(examples)
    return features + draw(), targets


@pytest.mark.parametrize("own", [random.Random, np.random.RandomState, np.random.default_rng])
def test_a_method_of_a_generator_itself(own):
    def loader():
        return DataLoader(Examples(draws=[own().random]), 8)

    assert compute_sha256(fetch(loader(), start=3)) == compute_sha256(fetch(loader())[3:])


def test_the_number_of_workers_changes_nothing():
    """Augmentation through all global and own generators, in dataset, collate and sampler."""

    def loader(**settings):
        held = [hold(make()) for hold in HOLDERS.values() for make in GENERATORS.values()]
        examples = Examples(draws=[*held, draws_globally])
        collate_fn = functools.partial(add_noise, draw=Holder(random.Random()))
        sampler = RandomSampler(examples, generator=unseeded())
        return DataLoader(examples, 8, sampler=sampler, collate_fn=collate_fn, **settings)

    hashes = {name: compute_sha256(fetch(loader(**WORKERS[name]))) for name in WORKERS}
    assert len({*hashes.values()}) == 1, hashes
    streams = {compute_sha256(fetch(loader(), stream=stream)) for stream in Stream}
    assert len(streams) == len(Stream)  # a use of its own has numbers of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"), [("two workers", "shuffled"), ("shuffled", "persistent workers")]
)
def test_a_run_moves_between_numbers_of_workers(first, second, tmp_path):
    whole = Run("one worker").train().sha256()
    for batch in (2, BATCHES - 1, 8):
        Run(first).stop_in(batch, tmp_path / "run.pt")
        assert Run(second).load(tmp_path / "run.pt").train().sha256() == whole


# ---- What workers see ----


class Epochs(Examples):
    def set_epoch(self, epoch):
        self.offset, self.draws = 100 * epoch, [random.Random(epoch).random]


class EpochSampler(Shuffled):
    def set_epoch(self, epoch):
        self.start = epoch

    def __iter__(self):
        return iter([(self.start + index) % self.number for index in range(self.number)])


def test_set_epoch_reaches_dataset_and_sampler_also_in_persistent_workers():
    for workers in WORKERS.values():
        dataset = Epochs(16)
        loader = DataLoader(dataset, 8, sampler=EpochSampler(16, None), **workers)
        with contextlib.closing(EpochBatches(loader)) as batches:
            for epoch in (1, 2, 3):
                first, second = batches.epoch(5, epoch)
                assert first[0][:, 0].tolist() == [100 * epoch + epoch + i for i in range(8)]
        new = DataLoader(Epochs(16), 8, sampler=EpochSampler(16, None), **workers)
        assert compute_sha256(fetch(new, 3, start=1)) == compute_sha256([second])


def test_a_generator_that_is_made_at_first_use_changes_no_order():
    class Lazy(Examples):
        def __getitem__(self, index):
            self.draws = self.draws or [random.Random().random]
            return super().__getitem__(index)

    loader = DataLoader(Lazy(), 8, sampler=RandomSampler(range(64), generator=unseeded()))
    assert indices_of(fetch(loader)) == indices_of(fetch(loader))


def move_offset(worker):
    information = get_worker_info()
    assert type(information.dataset) is Examples
    information.dataset.offset = 1000 * (1 + worker)


def test_worker_init_fn_sees_the_users_dataset():
    loader = DataLoader(Examples(16), 8, num_workers=2, worker_init_fn=move_offset)
    assert [i // 1000 for i in indices_of(fetch(loader))] == [1] * 8 + [2] * 8


@pytest.mark.parametrize(("workers", "alive"), [("persistent", 2), ("2", 4)])
def test_persistent_workers_stay_from_epoch_to_epoch(workers, alive, tmp_path):
    loader = DataLoader(Examples(log=tmp_path / "log"), 8, **WORKERS[workers])
    with contextlib.closing(EpochBatches(loader)) as batches:
        for epoch in (1, 2):
            assert len([*batches.epoch(5, epoch)]) == 8
    pids, _ = read_log(tmp_path / "log")
    assert len({*pids}) == alive
    assert no_process_is_left(pids)
    assert loader._iterator is None  # nothing was started from the user's own loader


# ---- Other loaders ----


class Evens(DataLoader):
    """Has index lists of its own."""

    @property
    def _index_sampler(self):
        return [[*range(start, start + 16, 2)] for start in range(0, 64, 8)]


class Wrapped(DataLoader):
    """Has an iteration of its own, which changes the batches."""

    def __iter__(self):
        for features, targets in super().__iter__():
            yield features + torch.rand(()), targets


class Prefetching(DataLoader):
    """Fetches in a thread of its own, as a well-known recipe does."""

    def __iter__(self):
        batches, fetched = super().__iter__(), queue.Queue(2)

        def fetch():
            with contextlib.suppress(Exception):  # the death of the workers
                for batch in batches:
                    fetched.put(batch)
                fetched.put(None)

        threading.Thread(target=fetch, daemon=True).start()
        return iter(fetched.get, None)


class Around:
    """A wrapper that is no DataLoader."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(self.loader)


class Generating(Around):
    def __iter__(self):
        yield from self.loader


class Stream64(IterableDataset):
    def __init__(self, log=None):
        self.examples, self.generator = Examples(log=log), random.Random()

    def __len__(self):
        return 64

    def __iter__(self):
        for index in range(64):
            features, target = self.examples[index]
            yield features + self.generator.random(), target


@pytest.mark.parametrize(
    ("make", "again"),
    [
        (lambda log: Evens(Examples(80, [draws_globally], log), 8), False),
        (lambda log: Wrapped(Examples(log=log, draws=[draws_globally]), 8, shuffle=True), True),
        (lambda log: Wrapped(Examples(log=log), 8, shuffle=True, num_workers=0), True),
        (lambda log: DataLoader(Stream64(log), 8), True),
    ],
)
def test_subclasses_and_iterable_datasets(make, again):
    whole, log = fetch(make([])), []
    assert compute_sha256(fetch(make(log), start=5)) == compute_sha256(whole[5:])
    assert len(log) == (64 if again else 24)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "persistent"])
def test_subclasses_and_iterable_datasets_with_workers(workers, tmp_path):
    def loader(kind=DataLoader):
        examples = Examples(draws=[random.random], log=tmp_path / "log")
        return kind(examples, 8, shuffle=True, **WORKERS[workers])

    makers = [
        lambda: loader(Wrapped),
        lambda: loader(Prefetching),
        lambda: Around(loader()),
        lambda: Generating(loader()),
        lambda: DataLoader(Stream64(tmp_path / "log"), 8, **WORKERS["1"]),
    ]
    for make in makers:
        used = make()
        assert len([*used]) == 8  # it may have workers now
        with contextlib.closing(EpochBatches(used)) as batches:
            for epoch in (1, 2):
                whole = [*batches.epoch(5, epoch)]
                rest = fetch(make(), epoch, start=5)
                assert compute_sha256(rest) == compute_sha256(whole[5:])
        assert no_process_is_left(read_log(tmp_path / "log")[0])


def test_a_list_of_batches_is_a_loader():
    batches = fetch(DataLoader(Examples(), 8))
    assert fetch(batches, start=6)[0] is batches[6]
    run = Run(scheduler_every="epoch")
    run.loaders = [[*loader] for loader in run.loaders]
    whole = run.train().sha256()
    stopped = Run(scheduler_every="epoch")
    stopped.loaders = run.loaders
    assert stopped.stop_in(7).train().sha256() == whole


def test_items_that_are_batches_already():
    class Batches(Examples):
        def __getitem__(self, indices):
            return default_collate([super(Batches, self).__getitem__(i) for i in indices])

    def loader(**settings):
        dataset = Batches(draws=[draws_globally])
        sampler = BatchSampler(RandomSampler(dataset), 8, False)
        return DataLoader(dataset, batch_size=None, sampler=sampler, **settings)

    whole = fetch(loader())
    assert len(whole) == 8
    assert compute_sha256(fetch(loader(num_workers=2), start=3)) == compute_sha256(whole[3:])


class Reusing(Sampler):
    """Yields the same list, tensor or array again and again."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 8

    def __iter__(self):
        for start in range(0, 64, 8):
            for place in range(8):
                self.batch[place] = start + place
            yield self.batch


@pytest.mark.parametrize(
    "loader",
    [
        Evens(Examples(80), 8),
        *(
            DataLoader(Examples(), batch_sampler=Reusing(batch))
            for batch in ([0] * 8, torch.zeros(8, dtype=torch.int64), np.zeros(8, int))
        ),
    ],
)
def test_the_examples_are_those_that_pytorch_fetches(loader):
    assert indices_of(fetch(loader)) == indices_of(loader)


class WrongLength(SubsetRandomSampler):
    def __len__(self):
        return 64


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_sampler_that_yields_fewer_or_more_than_its_length(workers):
    fewer = DataLoader(Examples(), 8, sampler=WrongLength(range(40)), **WORKERS[workers])
    with pytest.raises(ValueError, match="train_loader has 5 batches, though its length is 8"):
        fetch(fewer)
    endless = DataLoader(Examples(200), 8, sampler=WrongLength(range(200)), **WORKERS[workers])
    assert len(fetch(endless)) == 8


class Missing(Stream64):
    def __len__(self):
        return 80


def test_an_iterable_dataset_that_yields_fewer_than_its_length():
    with pytest.raises(ValueError, match="has 8 batches, though its length is 10"):
        fetch(DataLoader(Missing(), 8))


class Growing(Sampler):
    """Has 5 batches in epoch 1 and another number after it."""

    def __init__(self, number):
        self.number, self.epoch = number, 1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 5 if self.epoch == 1 else self.number

    def __iter__(self):
        return iter([[0, 1]] * len(self))


@pytest.mark.parametrize("number", [4, 6])
def test_an_epoch_with_another_number_of_batches(number, tmp_path):
    run = Run(scheduler_every="epoch")
    run.loaders[0] = DataLoader(run.loaders[0].dataset, batch_sampler=Growing(number))
    message = f"train_loader has {number} batches in epoch 2, but 5 in the first"
    with pytest.raises(ValueError, match=message):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert run.history.position == "1 epoch"
    assert Run(scheduler_every="epoch").load(tmp_path / "run.pt").sha256() == run.sha256()


@pytest.mark.parametrize("loader", ["shuffled", "one worker"])
@pytest.mark.parametrize(("number", "position"), [(0, "3 of"), (1, "5 of")])
def test_a_dataset_that_raises_stop_iteration_ends_no_epoch(loader, number, position):
    run = Run(loader)
    own = run.loaders[number].collate_fn
    run.loaders[number].collate_fn = at_call(3, lambda: next(iter(())), own)
    with pytest.raises(ValueError, match="_loader has [23] batches, though its length is 5"):
        run.train(1)  # 2 where the first batch was looked at before
    assert run.history.position == f"0 epochs and {position} 5 batches"


def test_where_workers_are_used_nothing_is_fetched_before_training():
    """An open file of a dataset can't be shared with the workers that are started later."""
    for number, wrap in itertools.product(range(3), (lambda loader: loader, Around)):
        run, fetched = Run(), []
        note = functools.partial(fetched.append, 1)
        run.loaders[number] = LOADERS["one worker"]()
        for loader in run.loaders:
            loader.collate_fn = at_call(0, note, loader.collate_fn)
        run.loaders[number] = wrap(run.loaders[number])
        run.optimizer.register_step_pre_hook(fail)
        with pytest.raises(Broken):
            run.train(1)
        assert len(fetched) == (number > 0)  # the batch that is trained


# ---- No worker is left ----


def no_process_is_left(pids):
    left = multiprocessing.active_children()
    for child in left:
        child.kill()  # or a test that fails never ends
    for pid in {*pids} - {os.getpid()}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        return False
    return not left


class Hanging(Examples):
    """Blocks for ever at one example."""

    def __init__(self, log, example=64):
        super().__init__(log=str(log))
        self.example, self.never = example, multiprocessing.Pipe()

    def __getitem__(self, index):
        item = super().__getitem__(index)
        if index == self.example:
            self.never[0].recv()
        return item[0].float().expand(6), item[1]


def hanging_run(tmp_path, workers="2", kind=DataLoader, context=None, **settings):
    run = Run(scheduler_every="epoch")
    how = {"multiprocessing_context": context, **WORKERS[workers]}
    run.loaders[0] = kind(Hanging(tmp_path / "log", **settings), 8, **how)
    return run


class Broken(RuntimeError):
    pass


def fail(*_):
    raise Broken("on purpose")


@pytest.mark.parametrize(
    ("workers", "kind"), [("2", DataLoader), ("persistent", DataLoader), ("2", Prefetching)]
)
@pytest.mark.parametrize("end", ["returns", "raises", "stopped"])
def test_all_workers_are_gone(tmp_path, workers, kind, end):
    run = hanging_run(tmp_path, workers, kind)  # hangs nowhere: it has no example 64
    if end == "returns":
        run.train(1)
    elif end == "stopped":
        run.stop_in(3)
    else:
        run.optimizer.register_step_post_hook(at_call(3, fail))
        with pytest.raises(Broken):
            run.train(1)
    pids, _ = read_log(tmp_path / "log")
    assert len({*pids}) >= 2
    assert no_process_is_left(pids)


@pytest.mark.slow  # PyTorch gives each worker five seconds
@pytest.mark.parametrize("end", [pytest.param("raises", marks=pytest.mark.kills), "stopped"])
def test_a_worker_that_hangs_is_killed(tmp_path, end):
    run = hanging_run(tmp_path, "2", example=48)  # of batch 6, which is fetched ahead
    if end == "stopped":
        run.stop_in(3)
    else:
        run.optimizer.register_step_post_hook(at_call(3, fail))
        with pytest.raises(Broken):
            run.train(1)
    assert len(run.history.minibatch_loss) == 3 + (end == "stopped")
    pids, _ = read_log(tmp_path / "log")
    assert no_process_is_left(pids)


@pytest.mark.usefixtures("forkserver")
@pytest.mark.parametrize(
    ("workers", "context"), [("1", "fork"), ("persistent", "fork"), ("1", "forkserver")]
)
def test_a_second_signal_ends_the_waiting(tmp_path, monkeypatch, workers, context):
    run = hanging_run(tmp_path, workers, context=context, example=8)  # of batch 1
    iterator, errors = torch.utils.data.dataloader._MultiProcessingDataLoaderIter, []
    get = iterator._try_get_data

    def press_twice_and_wait(*arguments, **settings):
        if len(run.history.minibatch_loss) == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        try:
            return get(*arguments, **settings)
        except BaseException as error:
            errors.append(type(error.__cause__))
            raise

    monkeypatch.setattr(iterator, "_try_get_data", press_twice_and_wait)
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert len(errors) == 1
    assert errors != [queue.Empty]  # PyTorch looks every five seconds whether a worker is dead
    assert "Stopped after 0 epochs and 1 of 8 batches: the run is saved in" in run.printed
    assert no_process_is_left(read_log(tmp_path / "log")[0])


def answer(connection):
    connection.recv()
    connection.send("alive")


def test_a_worker_is_killed_even_when_its_forkserver_is_dead(forkserver):
    ours, theirs = multiprocessing.Pipe()
    worker = forkserver.Process(target=answer, args=(theirs,))
    worker.start()
    theirs.close()
    worker._popen.returncode = 255  # what poll() returns then
    kill(worker)
    with contextlib.suppress(OSError):
        ours.send("are you there?")
    with pytest.raises((EOFError, OSError)):
        ours.recv()


def test_a_second_signal_ends_fetching_without_workers():
    def press_twice_and_hang():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    run = Run()
    run.loaders[0].collate_fn = at_call(3, press_twice_and_hang, run.loaders[0].collate_fn)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert len(run.history.minibatch_loss) == 3
    assert run.train().sha256() == Run().train().sha256()


@pytest.mark.slow  # a fresh worker imports PyTorch
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_other_start_methods(context, forkserver, tmp_path):
    whole = fetch(DataLoader(Examples(draws=[draws_globally]), 8, shuffle=True))
    examples = Examples(draws=[draws_globally], log=str(tmp_path / "log"))
    settings = {"num_workers": 1, "multiprocessing_context": context}
    loader = DataLoader(examples, 8, shuffle=True, **settings)
    assert compute_sha256(fetch(loader, start=3)) == compute_sha256(whole[3:])
    assert no_process_is_left(read_log(tmp_path / "log")[0])


def test_loaders_of_the_runs_have_the_batches_that_the_tests_count():
    assert {len(make()) for make in LOADERS.values()} == {BATCHES}


class Standardized(Dataset):
    """Images of 3 x 224 x 224 numbers; a mean over so many is computed in parallel."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.randn(3, 224, 224)
        return (image - image.mean()) / image.std(), index


@pytest.mark.slow
def test_a_batch_is_computed_on_one_thread_wherever_it_is_fetched():
    """A worker has one thread. On a machine with one core, this can't fail."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))
    try:
        fetched = []
        for workers in (0, 2):
            loader = DataLoader(Standardized(), batch_size=4, num_workers=workers)
            with contextlib.closing(EpochBatches(loader)) as batches:
                fetched.append([features for features, _ in batches.epoch(1, 1)])
            assert torch.get_num_threads() == max(2, threads)
        assert all(map(torch.equal, *fetched))
    finally:
        torch.set_num_threads(threads)
