"""The batches of an epoch, from any batch on: the same ones, whichever process fetches them."""

import contextlib
import itertools
import os
from collections.abc import Iterator

import torch
import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from helper.reproducibility import (
    Stream,
    call_set_epoch,
    find_generators,
    find_parts,
    seed_batch,
    seed_loader,
)
from helper.signals import DeferredSignals, block_stop_signals, stop_signals_blocked

END = object()  # comes after the last batch


class EpochBatches:
    """The batches of a loader, as a function of `(seed, epoch, batch)`.

    A `DataLoader` is used through a view: a second DataLoader with the same dataset, collate
    function and worker settings, whose sampler yields the seed of each batch next to its indices.
    The process that fetches the batch, this one or a worker, seeds first. So an epoch can begin at
    any batch, and the number of workers changes nothing. This holds for subclasses of DataLoader
    too, unless they override `__iter__` or `_get_iterator`. Anything else (an `IterableDataset`, a
    list of batches) is fetched again from the start of the epoch, up to the batch that is wanted;
    there, the number of workers can change a run.

    Not covered are samplers that adapt to the losses, since all index lists of an epoch are drawn
    when it starts; random numbers that `worker_init_fn` draws; and generators that `find_parts`
    doesn't find (in global variables or sets, or behind a list of more than 1,000 entries) or that
    are created after a process has fetched its first batch.
    """

    def __init__(self, loader, signals: DeferredSignals | None = None, name: str = "train_loader"):
        """`signals` can stop the run between two batches; `name` is used in messages."""
        self.loader = loader
        self.signals = DeferredSignals() if signals is None else signals
        self.name = name
        self.keys = []  # what the view's sampler yields: ((seed, epoch, batch, stream), indices)
        self.view = make_view(loader, self.keys) if has_view(loader) else None
        self.iterator = None

    def epoch(
        self, seed: int, epoch: int, start: int = 0, stream: Stream = Stream.FETCH
    ) -> Iterator:
        """Yield the batches of an epoch (from 1), starting with batch `start` (from 0).

        Raises Stopped before or after a batch if a stop signal has come, and a ValueError if there
        are fewer batches than the loader's length, or a batch isn't `(features, targets)`.
        """
        self.signals.raise_if_pending()
        seed_loader(self.loader, seed, epoch, Stream.ORDER)
        try:
            if self.view is None:
                batches = itertools.islice(self.fetch_again(seed, epoch, stream), start, None)
            else:
                batches = self.fetch_from(start, seed, epoch, stream)
            for batch in batches:
                check_examples(batch, self.name)
                yield batch
        finally:
            if self.view is None or not self.view.persistent_workers:
                self.close()

    def fetch_from(self, start: int, seed: int, epoch: int, stream: Stream) -> Iterator:
        """Yield the batches of the view, starting with batch `start`."""
        self.keys.clear()
        num_batches = 0
        for indices in itertools.islice(index_sampler(self.loader), len(self.loader)):
            if num_batches >= start:
                self.keys.append(((seed, epoch, num_batches, stream), indices))
            num_batches += 1
        self.check_length(num_batches)
        self.open(self.view)
        while (batch := self.next_batch()) is not END:
            yield batch

    def fetch_again(self, seed: int, epoch: int, stream: Stream) -> Iterator:
        """Yield the batches of the loader itself, as many as its length says."""
        length = length_of(self.loader)
        generators = find_generators(find_parts(self.loader))
        self.open(self.loader)
        for number in itertools.count() if length is None else range(length):
            seed_batch(seed, epoch, number, stream, generators)
            batch = self.next_batch()
            if batch is END:
                self.check_length(number)
                return
            yield batch

    def check_length(self, num_batches: int) -> None:
        """Raise a ValueError if an epoch had fewer batches than the loader's length."""
        length = length_of(self.loader)
        if length is not None and num_batches < length:
            raise ValueError(
                f"{self.name} has {num_batches} batches, though its length is {length}. Correct "
                "the __len__ of its sampler or its dataset."
            )

    def open(self, loader) -> None:
        """Start the iteration over a loader, with workers that stop signals don't reach."""
        if self.view is None and getattr(loader, "_iterator", None) is not None:
            # Persistent workers that are already running draw from where they are.
            self.iterator = loader._iterator
            self.close()
        context = getattr(loader, "multiprocessing_context", None) or torch.multiprocessing
        workers = getattr(loader, "num_workers", 0)
        with stop_signals_blocked(context.get_start_method() if workers else "fork"):
            self.iterator = iter(loader)

    def next_batch(self):
        """Return the next batch, or END. Raises Stopped if a stop signal has come."""
        self.signals.raise_if_pending()
        workers = getattr(self.iterator, "_workers", [])
        with self.signals.waiting_for(workers, fetching=True):
            batch = next(self.iterator, END)
        self.signals.raise_if_pending()
        return batch

    def close(self) -> None:
        """End the workers, if there are any. One that doesn't answer within seconds is killed."""
        iterator, self.iterator = self.iterator, None
        if not hasattr(iterator, "_shutdown_workers"):
            return  # there are none
        (self.loader if self.view is None else self.view)._iterator = None
        with self.signals.waiting_for(iterator._workers, fetching=False):
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()  # workers that hang ignore SIGTERM, which PyTorch has sent
                worker.join()


class SeededDataset(Dataset):
    """A dataset of whole batches: it seeds all random numbers, then fetches and collates one."""

    def __init__(self, loader: DataLoader):
        self.dataset = loader.dataset
        self.collate_fn = loader.collate_fn
        self.has_batches = loader.batch_sampler is not None
        self.process = None  # the one in which the following were found
        self.parts = []
        self.generators = []
        self.epoch = None  # that `parts` were told

    def __getitem__(self, key):
        (seed, epoch, batch, stream), indices = key
        if self.process != os.getpid():
            self.process, self.epoch = os.getpid(), None
            self.parts = find_parts(self.dataset, self.collate_fn)
            self.generators = find_generators(self.parts)
        if self.epoch != epoch:
            self.epoch = epoch
            call_set_epoch(self.parts, epoch)  # a worker's copy of the dataset must learn of it too
        seed_batch(seed, epoch, batch, stream, self.generators)
        return self.collate_fn(self.fetch(indices))

    def fetch(self, indices):
        """Return what a DataLoader hands to its collate function."""
        if not self.has_batches:
            return self.dataset[indices]
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]


class StartWorker:
    """A `worker_init_fn` that does what every worker needs, then calls the user's own."""

    def __init__(self, worker_init_fn):
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        block_stop_signals()  # a forkserver that was already running hasn't passed them on
        information = get_worker_info()
        # Show the user's dataset, not ours; PyTorch lets nobody set it in the usual way.
        object.__setattr__(information, "dataset", information.dataset.dataset)
        if self.worker_init_fn is not None:
            self.worker_init_fn(worker_id)


def has_view(loader) -> bool:
    """Return whether a loader's batches can be fetched by their indices."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader).__iter__ is DataLoader.__iter__
        and type(loader)._get_iterator is DataLoader._get_iterator
    )


def make_view(loader: DataLoader, keys: list) -> DataLoader:
    """Return a DataLoader that fetches the batches of another one, those that `keys` name."""
    settings = {}
    if loader.num_workers > 0:
        settings["worker_init_fn"] = StartWorker(loader.worker_init_fn)
        for name in ("multiprocessing_context", "persistent_workers", "prefetch_factor"):
            settings[name] = getattr(loader, name)
    return DataLoader(
        SeededDataset(loader),
        batch_size=None,
        sampler=keys,
        collate_fn=identity_collate,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        **settings,
    )


def identity_collate(batch):
    """Collate nothing: the dataset returns whole batches."""
    return batch


def index_sampler(loader: DataLoader):
    """Return what yields the indices of each batch, or of each item if there are no batches."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def check_examples(batch, name: str) -> None:
    """Raise a ValueError unless a batch consists of features `[B, ...]` and int64 targets `[B]`."""
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not all(isinstance(part, torch.Tensor) for part in batch):
        raise ValueError(
            f"{name} must yield pairs (features, targets) of tensors, not {describe(batch)}. Let "
            "its dataset return such pairs, or make them in its collate_fn."
        )
    features, targets = batch
    if targets.dtype != torch.int64 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"{name} must yield targets of type int64 and shape [B], the number of the class of "
            f"each example; it yields {describe(targets)} with features {[*features.shape]}."
        )


def describe(batch) -> str:
    """Return what a batch is, in a few words."""
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {[*batch.shape]}"
    if isinstance(batch, dict):
        return f"a dict with the keys {', '.join(map(str, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}: {', '.join(map(describe, batch[:3]))}"
    return f"a {type(batch).__name__}"


def length_of(loader) -> int | None:
    """Return how many batches a loader has, or None if it doesn't know."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def first_batch(batches: EpochBatches, seed: int) -> tuple:
    """Fetch and check the first batch of epoch 1."""
    with contextlib.closing(batches.epoch(seed, 1)) as epoch:
        return next(epoch)


def first_batch_size(batches: EpochBatches, seed: int) -> int:
    """Return the number of examples in the first batch of epoch 1, or 0 if that isn't known.

    126 to 129 of 4,000 images a batch all make 31 batches: only this number tells them apart. From
    a loader with a view, nothing is fetched for it.
    """
    if batches.view is None:
        _, targets = first_batch(batches, seed)
        return len(targets)
    seed_loader(batches.loader, seed, 1, Stream.ORDER)
    indices = next(iter(index_sampler(batches.loader)), None)
    return len(indices) if hasattr(indices, "__len__") else 0
