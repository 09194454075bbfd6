"""Two ranks train while a thread of each saves. The disk of rank 1 is as slow as we want it."""

import os
import signal
import threading
from itertools import islice

import torch.distributed as dist
from torch.nn.functional import cross_entropy

from helper.batches import EpochBatches
from helper.checkpoint import CheckpointError
from helper.dataset import get_dataloaders_mnist
from helper.distributed import load_sharded, save_sharded, wait_for_save
from helper.reproducibility import set_deterministic
from programs.train_many import hash_run, local_rows, new_run, sum_over_ranks


def train_while_saving(folder, batch_size, source, die):
    """Continue a run by 3 steps, save it in the background, and train 3 more steps meanwhile.

    Rank 1 can't finish a file before these are done. With `die`, it's killed then. Returns the
    SHA-256 of what was saved and of the run at the end.
    """
    set_deterministic()
    run = new_run(seed=0)
    history = load_sharded(folder, *run)
    loader, _, _ = get_dataloaders_mnist(batch_size, source=source)
    train(run, history, loader, 3)
    saved = hash_run(run)

    reached, may_finish = slow_disk() if dist.get_rank() == 1 else (None, None)
    save_sharded(folder, *run, history, wait=False)
    if reached:
        reached.wait()  # the thread has written a file, and hasn't flushed it
    train(run, history, loader, 3)
    at_the_end = hash_run(run)
    if reached and die:
        os.kill(os.getpid(), signal.SIGKILL)
    if reached:
        may_finish.set()
    try:
        wait_for_save()
    except CheckpointError:
        return "the save failed"
    return saved, at_the_end


def train(run, history, loader, num_steps):
    """Take the next steps of an epoch."""
    model, optimizer, _ = run
    batches = EpochBatches(loader).epoch(history.seed, history.epoch + 1, history.batch)
    for features, targets in map(local_rows, islice(batches, num_steps)):
        loss = cross_entropy(model(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.minibatch_loss.append(sum_over_ranks(loss.item())[0] / dist.get_world_size())


def slow_disk():
    """Let every flush of a file wait; return two events: one waits, and it may finish."""
    reached, may_finish, flush = threading.Event(), threading.Event(), os.fsync

    def wait_and_flush(file):
        reached.set()
        may_finish.wait()
        flush(file)

    os.fsync = wait_and_flush
    return reached, may_finish
