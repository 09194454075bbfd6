"""Yield the batches of an epoch, starting at any batch; they are the same in every process."""

import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator

import numpy as np
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
from helper.signals import (
    DeferredSignals,
    block_stop_signals,
    kill,
    stop_signals_blocked,
    tell_of_death,
)

END = object()  # comes after the last batch


class EpochBatches:
    """The batches of a loader, as a function of `(seed, epoch, batch)`.

    A `DataLoader` is used through a view: a second DataLoader with the same dataset, collate
    function and worker settings, whose sampler yields the seed of each batch next to its indices.
    The process that fetches the batch, this one or a worker, seeds first. So an epoch can begin at
    any batch, and the number of workers changes nothing. This holds for subclasses of DataLoader
    too, unless they override `__iter__` or `_get_iterator`. Anything else (an `IterableDataset`, a
    list of batches) is fetched again from the start of the epoch, up to the batch that is needed;
    in that case, the number of workers can change a run.

    Four things are not covered: samplers that adapt to the losses, since all indices of an epoch
    are drawn when it starts; samplers that count how often they are iterated (give them a method
    `set_epoch`); random numbers that `worker_init_fn` draws; and generators that `find_parts` can't
    find (in global variables or sets, or in a list of more than 1,000 entries) or that are
    created after a process has fetched its first batch of an epoch.
    """

    def __init__(
        self, loader: Iterable, signals: DeferredSignals | None = None, name: str = "train_loader"
    ):
        """`signals` can stop the run between two batches; `name` is used in messages."""
        self.loader = loader
        self.signals = DeferredSignals() if signals is None else signals
        self.name = name
        self.keys = []  # what the view's sampler yields: ((seed, epoch, batch, stream), indices)
        self.view = make_view(loader, self.keys) if has_view(loader) else None
        self.iterator = None
        self.workers = []  # the processes of this iterator

    def epoch(
        self,
        seed: int,
        epoch: int,
        start: int = 0,
        stream: Stream = Stream.FETCH,
        num_batches: int | None = None,
    ) -> Iterator:
        """Yield the batches of an epoch (from 1), starting with batch `start` (from 0).

        Raises Stopped before or after a batch if a stop signal has come. Raises a ValueError if the
        epoch has fewer batches than the loader's length, if that length isn't `num_batches` (when
        given), or if a batch isn't `(features, targets)`.
        """
        self.signals.raise_if_pending()
        seed_loader(self.loader, seed, epoch, Stream.ORDER)
        length = length_of(self.loader)
        if num_batches is not None and length != num_batches:
            raise ValueError(
                f"{self.name} has {length} batches in epoch {epoch}, but {num_batches} in the "
                "first. All epochs of a run must have the same number of batches."
            )
        try:
            if self.view is None:
                batches = self.iterate_loader(length, seed, epoch, stream)
                batches = itertools.islice(batches, start, None)
            else:
                batches = self.iterate_view(length, start, seed, epoch, stream)
            for batch in batches:
                check_examples(batch, self.name)
                yield batch
        finally:
            # Persistent workers of the view stay for the next epoch; others end with this one.
            if self.view is None or not self.view.persistent_workers:
                self.close()

    def iterate_view(self, length: int | None, start: int, seed, epoch, stream) -> Iterator:
        """Yield the batches of the view, starting with batch `start`."""
        self.keys.clear()
        num_batches = 0
        for indices in itertools.islice(index_sampler(self.loader), length):
            if num_batches >= start:
                key = (seed, epoch, num_batches, stream)
                self.keys.append((key, copy_indices(indices)))
            num_batches += 1
        self.check_length(num_batches, length)
        self.open(self.view)
        for number in range(start, num_batches):
            batch = self.next_batch()
            if batch is END:  # the dataset raised StopIteration
                self.check_length(number, num_batches)
            yield batch
        self.signals.raise_if_pending()

    def iterate_loader(self, length: int | None, seed, epoch, stream) -> Iterator:
        """Yield the loader's own batches from the first one, and seed before each is fetched."""
        generators = find_generators(find_parts(self.loader))
        self.open(self.loader)
        numbers = itertools.count() if length is None else range(length)
        for number in numbers:
            seed_batch(seed, epoch, number, stream, generators)
            batch = self.next_batch()
            if batch is END:
                self.check_length(number, length)
                return
            yield batch
        self.signals.raise_if_pending()

    def check_length(self, num_batches: int, length: int | None) -> None:
        """Raise a ValueError if an epoch has fewer batches than the loader's length."""
        if length is not None and num_batches < length:
            raise ValueError(
                f"{self.name} has {num_batches} batches, though its length is {length}. Fix "
                "the __len__ of its sampler or its dataset."
            )

    def open(self, loader: Iterable) -> None:
        """Start iterating over a loader; stop signals don't reach its workers."""
        if self.view is None:
            end_persistent_workers(loader)  # they would continue from their own random state
        before = multiprocessing.active_children()
        with stop_signals_blocked(start_method_of(loader)):
            self.iterator = iter(loader)
        started = [child for child in multiprocessing.active_children() if child not in before]
        self.workers = started or self.workers  # persistent workers are already running
        if started and start_method_of(loader) == "forkserver":
            threading.Thread(target=tell_of_death, args=(started,), daemon=True).start()

    def next_batch(self):
        """Return the next batch, or END. Raises Stopped if a stop signal has come."""
        self.signals.raise_if_pending()
        with self.signals.waiting_for(self.workers, fetching=True):
            batch = next(self.iterator, END)
        self.signals.raise_if_pending()
        return batch

    def close(self) -> None:
        """Shut down the workers, if any, and kill those that don't exit within 5 seconds."""
        iterator, workers = self.iterator, self.workers
        self.iterator, self.workers = None, []
        with self.signals.waiting_for(workers, fetching=False):
            if self.view is None:
                end_persistent_workers(self.loader)
            else:
                self.view._iterator = None
            if hasattr(iterator, "_shutdown_workers"):
                iterator._shutdown_workers()
            iterator = None  # a generator that holds a loader's iterator shuts it down now
            for worker in workers:
                kill(worker)  # SIGTERM, which PyTorch has sent, is blocked there
                worker.join()


class SeededDataset(Dataset):
    """A dataset of whole batches: it seeds all random numbers, then fetches and collates one."""

    def __init__(self, loader: DataLoader):
        self.dataset = loader.dataset
        self.collate_fn = loader.collate_fn
        self.has_batches = loader.batch_sampler is not None
        self.found_for = None  # the process, epoch and stream that `generators` belong to
        self.generators = []

    def __getitem__(self, key):
        (seed, epoch, batch, stream), indices = key
        if self.found_for != (os.getpid(), epoch, stream):
            self.found_for = (os.getpid(), epoch, stream)
            # A worker has its own copy of the dataset. set_epoch may replace its generators.
            call_set_epoch(find_parts(self.dataset, self.collate_fn), epoch)
            self.generators = find_generators(find_parts(self.dataset, self.collate_fn))
        seed_batch(seed, epoch, batch, stream, self.generators)
        with one_thread():
            return self.collate_fn(self.fetch(indices))

    def fetch(self, indices):
        """Return what a DataLoader passes to its collate function."""
        if not self.has_batches:
            return self.dataset[indices]
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]


@contextlib.contextmanager
def one_thread():
    """Compute on one thread in this block, as a DataLoader's workers do.

    More threads add up numbers in a different order, and may round differently.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class WorkerInit:
    """A `worker_init_fn` that does what every worker needs, then calls the user's own."""

    def __init__(self, worker_init_fn):
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        block_stop_signals()  # a forkserver doesn't pass on the mask of this process
        information = get_worker_info()
        # Show the user's dataset, not ours; PyTorch doesn't let us set it the usual way.
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
    """Return a DataLoader that fetches the batches of `loader` that are listed in `keys`."""
    settings = {}
    if loader.num_workers > 0:
        settings["worker_init_fn"] = WorkerInit(loader.worker_init_fn)
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


def copy_indices(indices):
    """Return a copy of the indices of a batch, because a sampler may reuse the same list."""
    if isinstance(indices, list):
        return list(indices)
    if isinstance(indices, torch.Tensor):
        return indices.clone()
    return indices.copy() if isinstance(indices, np.ndarray) else indices


def end_persistent_workers(loader) -> None:
    """Shut down the persistent workers of a loader, and of any loader inside it."""
    for part in find_parts(loader):
        if isinstance(part, DataLoader) and part._iterator is not None:
            part._iterator._shutdown_workers()
            part._iterator = None


def start_method_of(loader) -> str | None:
    """Return how a loader starts its workers: "fork", "spawn" or "forkserver", or None."""
    if getattr(loader, "num_workers", 0) == 0:
        return None
    context = loader.multiprocessing_context or torch.multiprocessing
    return context.get_start_method()


def index_sampler(loader: DataLoader):
    """Return what yields the indices of each batch, or of each item if there are no batches."""
    return loader._index_sampler


def check_examples(batch, name: str) -> None:
    """Raise a ValueError unless a batch consists of features `[B, ...]` and int64 targets `[B]`."""
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    if not pair or not all(isinstance(part, torch.Tensor) for part in batch):
        raise ValueError(
            f"{name} must yield pairs (features, targets) of tensors, not {describe(batch)}. "
            "Return such pairs from its dataset or its collate_fn."
        )
    features, targets = batch
    if targets.dtype != torch.int64 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"{name} must yield targets of type int64 and shape [B], the class index of each "
            f"example; it yields {describe(targets)} with features {[*features.shape]}."
        )


def describe(batch) -> str:
    """Describe a batch in a few words."""
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

    With drop_last=True, batch sizes 126 to 129 all make 31 batches of 4,000 images; only this
    number distinguishes them. For a loader with a view, no data is fetched.
    """
    if batches.view is None:
        _, targets = first_batch(batches, seed)
        return len(targets)
    seed_loader(batches.loader, seed, 1, Stream.ORDER)
    indices = next(iter(index_sampler(batches.loader)), None)
    return len(indices) if hasattr(indices, "__len__") else 0
