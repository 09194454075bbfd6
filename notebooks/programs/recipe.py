"""The recipe of notebook 6: continue a run exactly, in plain PyTorch. Its three cells, in a file.

For one process, a dataset with a length, and Linux or macOS. A test compares the two.
"""

import multiprocessing.resource_tracker
import os
import random
import signal
import zipfile

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]


def seed_all(*numbers):
    """Seed Python, NumPy and PyTorch from integers."""
    seeds = np.random.SeedSequence([int(number) for number in numbers]).generate_state(3).tolist()
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    torch.manual_seed(seeds[2])


class Batches:
    """All batches of a run: item number `step` is a whole batch, in every process the same."""

    def __init__(self, dataset, batch_size, seed):
        self.dataset, self.batch_size, self.seed = dataset, batch_size, int(seed)
        self.per_epoch = -(-len(dataset) // batch_size)  # rounded up
        self.epoch = self.order = None

    def __getitem__(self, step):
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self.epoch:  # draw the order of this epoch
            rng = np.random.default_rng([self.seed, epoch])
            self.epoch, self.order = epoch, rng.permutation(len(self.dataset)).tolist()
        indices = self.order[batch * self.batch_size : (batch + 1) * self.batch_size]
        seed_all(self.seed, step, 1)  # for augmentation
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: more threads may round differently
        examples = [self.dataset[index] for index in indices]
        torch.set_num_threads(threads)
        return step, default_collate(examples)


def fetch(batches, steps, **options):
    """Yield the batches of these steps; options of a DataLoader, such as num_workers, timeout."""
    loader = DataLoader(batches, batch_size=None, sampler=steps, **options)
    multiprocessing.resource_tracker.ensure_running()  # its start would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # workers never see them
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield from iterator
    finally:
        if loader.num_workers:  # or a run that fails would wait for them forever
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()  # one that hangs: it blocks SIGTERM


def read(path):
    if zipfile.ZipFile(path).testzip() is not None:
        raise ValueError("its checksums don't match")
    return torch.load(path, map_location="cpu", weights_only=True)


def save(path, run, step):
    """Save every part of the run; the previous file becomes `path`.1."""
    states = {name: part.state_dict() for name, part in vars(run).items()}
    with open(f"{path}.tmp", "wb") as file:
        torch.save({"step": step, **states}, file)
        file.flush()
        os.fsync(file.fileno())
    read(f"{path}.tmp")  # a file that can't be loaded must not replace one that can
    if os.path.exists(path):
        os.replace(path, f"{path}.1")
    os.replace(f"{path}.tmp", path)


def load(path, run):
    """Load the run if it was saved, and return how many steps are done."""
    states = {"step": 0}
    if os.path.exists(path) or os.path.exists(f"{path}.1"):
        try:
            states = read(path)
        except Exception as error:
            print(f"{path} can't be read ({error}); falling back to {path}.1", flush=True)
            states = read(f"{path}.1")
            if os.path.exists(path):
                os.replace(path, f"{path}.bad")  # kept, since the machine may be at fault
            os.replace(f"{path}.1", path)  # or the next save would keep the broken file
        for name, part in vars(run).items():
            part.load_state_dict(states[name])
    print(f"{path}: beginning at step {states['step']}", flush=True)
    return states["step"]


def train(path, run, batches, num_epochs, device, save_every, **options):
    received = []
    last = num_epochs * batches.per_epoch
    handlers = [signal.signal(number, lambda n, _: received.append(n)) for number in STOP_SIGNALS]
    try:
        for step, (features, targets) in fetch(batches, range(load(path, run), last), **options):
            seed_all(batches.seed, step, 2)  # for dropout
            logits = run.model(features.to(device))
            loss = torch.nn.functional.cross_entropy(logits, targets.to(device))
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            run.scheduler.step()  # a schedule per epoch: if (step + 1) % batches.per_epoch == 0
            if received or (step + 1) % save_every == 0 or step + 1 == last:
                save(path, run, step + 1)
            if received:
                raise SystemExit(128 + received[0])
    finally:
        for number, handler in zip(STOP_SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
