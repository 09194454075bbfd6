"""Train LeNet-5 with many processes. torchrun starts this file once for each of them:

    torchrun --standalone --nproc-per-node 2 programs/train_many.py saved_data/many --num-epochs 2

The same command continues a run that was stopped or killed.
"""

import argparse
import os
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, "..")

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import fully_shard

from helper.batches import EpochBatches
from helper.dataset import get_dataloaders_mnist
from helper.distributed import load_sharded, save_sharded, wait_for_save
from helper.evaluation import compute_logits
from helper.folders import holds_a_run
from helper.history import History
from helper.ranks import on_rank_zero, rank_and_size
from helper.reproducibility import (
    Stream,
    compute_sha256,
    seed_batch,
    set_all_seeds,
    set_deterministic,
)
from helper.signals import DeferredSignals, Stopped

# Longer than anything a rank does while the others wait. Saving has its own: helper/ranks.py.
TIMEOUT = timedelta(minutes=10)


class LeNet5(nn.Module):
    """Gray images [B, 1, 32, 32] in, logits [B, num_classes] out."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, kernel_size=5),  # [B, 6, 28, 28]
            nn.Tanh(),
            nn.MaxPool2d(kernel_size=2),  # [B, 6, 14, 14]
            nn.Conv2d(6, 16, kernel_size=5),  # [B, 16, 10, 10]
            nn.Tanh(),
            nn.MaxPool2d(kernel_size=2),  # [B, 16, 5, 5]
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            nn.Tanh(),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Linear(84, num_classes),
        )

    def forward(self, x):
        x = self.features(x)
        x = torch.flatten(x, start_dim=1)
        return self.classifier(x)


def new_run(seed):
    """Return LeNet-5, sharded if there is a process group, its optimizer and its scheduler."""
    set_all_seeds(seed)
    model = LeNet5(num_classes=10)
    if dist.is_initialized():
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.1, patience=1
    )
    return model, optimizer, scheduler


def new_or_saved_run(folder, seed):
    """Return a run and its history: what is saved in a folder, or a new run if nothing ever was.

    If all checkpoints in it are broken, this raises a CheckpointError: a run that silently began
    again would be worse.
    """
    run, history = new_run(seed), History(seed=seed)
    if on_rank_zero(lambda: holds_a_run(Path(folder))):
        history = load_sharded(folder, *run)
        print_rank_zero(f"Loaded after {history.position}, SHA-256 {hash_run(run)}")
    return run, history


def train(run, history, loaders, num_epochs, save, save_every=None):
    """Train until `num_epochs` epochs are done in total, or until one rank is asked to stop.

    Calls `save()` after every epoch, after every `save_every` batches, and when it stops. A stop
    takes effect between two batches, those of an evaluation included.
    """
    check_batches(history, loaders[0])
    with DeferredSignals() as signals:
        try:
            while history.epoch < num_epochs:
                train_epoch(run, history, loaders[0], signals, save, save_every)
                finish_epoch(run, history, loaders, signals)
                save()
                print_epoch(history, num_epochs)
            how = "Ended"
        except Stopped:
            save()
            how = "Stopped"
        wait_for_save()
        print_rank_zero(f"{how} after {history.position}, SHA-256 {hash_run(run)}")


def train_epoch(run, history, loader, signals, save, save_every):
    """Train what is left of an epoch; each rank takes its rows of each batch."""
    model, optimizer, _ = run
    epoch, start = history.epoch + 1, history.batch
    batches = EpochBatches(loader).epoch(history.seed, epoch, start)
    for batch, (features, targets) in enumerate(map(local_rows, batches), start):
        seed_batch(history.seed, epoch, batch, Stream.STEP)
        loss = nn.functional.cross_entropy(model(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss, stops = sum_over_ranks(loss.item(), is_asked_to_stop(signals))
        history.minibatch_loss.append(total_loss / rank_and_size()[1])
        if stops > 0:
            raise Stopped
        if save_every and len(history.minibatch_loss) % save_every == 0:
            save()


def finish_epoch(run, history, loaders, signals):
    """Compute the accuracies, and change the learning rate."""
    model, optimizer, scheduler = run
    train_acc = accuracy(model, loaders[0], history, Stream.TRAIN_ACCURACY, signals)
    valid_acc = accuracy(model, loaders[1], history, Stream.VALID_ACCURACY, signals)
    history.learning_rate.append(optimizer.param_groups[0]["lr"])
    history.train_acc.append(train_acc)
    history.valid_acc.append(valid_acc)
    scheduler.step(valid_acc)


def check_batches(history, loader):
    """Raise a ValueError for batches that can't be shared, or that this run did not begin with."""
    num_batches, batch_size = len(loader), loader.batch_sampler.batch_size
    _, size = rank_and_size()
    if batch_size % size != 0:
        raise ValueError(
            f"A batch of {batch_size} can't be split evenly among {size} processes. Use a number "
            "of processes that divides it, or a different batch size."
        )
    if not history.minibatch_loss:
        history.batches_per_epoch, history.batch_size = num_batches, batch_size
    if (num_batches, batch_size) != (history.batches_per_epoch, history.batch_size):
        raise ValueError(
            f"There are {num_batches} batches of {batch_size}; this run began with "
            f"{history.batches_per_epoch} of {history.batch_size}."
        )


def local_rows(batch):
    """Return this rank's rows of a batch `(features, targets)`."""
    rank, size = rank_and_size()
    return tuple(tensor.tensor_split(size)[rank] for tensor in batch)


def sum_over_ranks(*numbers):
    """Return the sum of each number over all ranks, on every rank."""
    sums = torch.tensor(numbers, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums.tolist()


def is_asked_to_stop(signals):
    """Return whether a signal has come to this rank: even "stop now" is something to agree on."""
    return len(signals.pending) > 0


def until_stopped(batches, signals):
    """Yield this rank's rows of each batch; raise Stopped on every rank if one is asked to stop."""
    for batch in batches:
        (stops,) = sum_over_ranks(is_asked_to_stop(signals))
        if stops > 0:
            raise Stopped
        yield local_rows(batch)


def accuracy(model, loader, history, stream, signals):
    """Return the accuracy in percent; every rank evaluates its rows of each batch."""
    batches = EpochBatches(loader).epoch(history.seed, history.epoch + 1, stream=stream)
    logits, targets = compute_logits(model, until_stopped(batches, signals), "cpu")
    num_correct = (logits.argmax(dim=1) == targets).sum().item()
    total_correct, total = sum_over_ranks(num_correct, len(targets))
    return 100.0 * total_correct / total


def hash_run(run):
    """Return the SHA-256 over all rows of model and optimizer, and over the scheduler."""
    return compute_sha256(*(full_tensors(part.state_dict()) for part in run))


def full_tensors(state):
    """Return a state with all rows of its tensors; every rank has to call this."""
    if isinstance(state, dict):
        return {name: full_tensors(value) for name, value in state.items()}
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def print_epoch(history, num_epochs):
    """Print the accuracies of the last epoch."""
    accuracies = f"Train: {history.train_acc[-1]:6.2f}% | Validation: {history.valid_acc[-1]:6.2f}%"
    print_rank_zero(f"Epoch: {history.epoch:03d}/{num_epochs:03d} | {accuracies}")


def print_rank_zero(text):
    """Print a text on rank 0 alone."""
    if rank_and_size()[0] == 0:
        print(text, flush=True)


@record  # so that torchrun prints the error of a rank that fails
def main():
    arguments = parse_arguments()
    set_deterministic()
    dist.init_process_group("gloo", timeout=TIMEOUT)
    loaders = get_dataloaders_mnist(arguments.batch_size, source=arguments.source)
    run, history = new_or_saved_run(arguments.folder, arguments.seed)

    def save():
        save_sharded(arguments.folder, *run, history, wait=not arguments.background)

    train(run, history, loaders, arguments.num_epochs, save, arguments.save_every)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Train LeNet-5 with many processes.")
    parser.add_argument("folder", help="where the checkpoints are")
    parser.add_argument("--num-epochs", type=int, default=2, help="in total")
    parser.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--source", default="mnist-5k")
    parser.add_argument("--save-every", type=int, help="also save every N batches")
    parser.add_argument("--background", action="store_true", help="save while training continues")
    arguments = parser.parse_args()
    if not dist.is_torchelastic_launched():
        parser.error("Start this file with torchrun: its first lines say how.")
    return arguments


if __name__ == "__main__":
    main()
    # Not destroy_process_group: with four ranks on two busy cores, gloo's threads have aborted one.
    sys.stdout.flush()
    os._exit(0)
