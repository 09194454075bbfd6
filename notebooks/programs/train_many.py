"""Train LeNet-5 with many processes. torchrun starts this file once for each of them:

    torchrun --standalone --nproc-per-node 2 programs/train_many.py saved_data/many --num-epochs 2

The same command continues a run that was stopped or killed.
"""

import argparse
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, "..")

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from helper.batches import EpochBatches
from helper.dataset import get_dataloaders_mnist
from helper.distributed import load_sharded, save_sharded
from helper.evaluation import compute_logits
from helper.history import History
from helper.ranks import on_rank_zero, rank_and_size
from helper.reproducibility import (
    Stream,
    compute_sha256,
    seed_batch,
    set_all_seeds,
    set_deterministic,
)
from helper.signals import DeferredSignals

TIMEOUT = timedelta(seconds=30)  # the longest wait for the other ranks


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


def train(run, history, loaders, num_epochs, save, save_every=None):
    """Train until `num_epochs` epochs are done in total, or until one rank is asked to stop.

    Calls `save()` after every epoch, after every `save_every` batches, and when it stops.
    """
    model, optimizer, scheduler = run
    train_batches, valid_batches = EpochBatches(loaders[0]), EpochBatches(loaders[1])
    check_batches(history, loaders[0])
    with DeferredSignals() as signals:
        while history.epoch < num_epochs:
            epoch, start = history.epoch + 1, history.batch
            batches = train_batches.epoch(history.seed, epoch, start)
            for batch, (features, targets) in enumerate(map(local_rows, batches), start):
                seed_batch(history.seed, epoch, batch, Stream.STEP)
                loss = nn.functional.cross_entropy(model(features), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                stop_requested = len(signals.pending) > 0
                total_loss, stops = sum_over_ranks(loss.item(), stop_requested)
                history.minibatch_loss.append(total_loss / rank_and_size()[1])
                if stops > 0:
                    save()
                    print_rank_zero(f"Stopped after {history.position}, SHA-256 {hash_run(run)}")
                    return
                if save_every and len(history.minibatch_loss) % save_every == 0:
                    save()
            history.learning_rate.append(optimizer.param_groups[0]["lr"])
            train_acc = accuracy(model, train_batches, history, Stream.TRAIN_ACCURACY)
            valid_acc = accuracy(model, valid_batches, history, Stream.VALID_ACCURACY)
            history.train_acc.append(train_acc)
            history.valid_acc.append(valid_acc)
            scheduler.step(valid_acc)
            save()
            title = f"Epoch: {history.epoch:03d}/{num_epochs:03d}"
            print_rank_zero(f"{title} | Train: {train_acc:6.2f}% | Validation: {valid_acc:6.2f}%")
    print_rank_zero(f"Ended after {history.position}, SHA-256 {hash_run(run)}")


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


def accuracy(model, batches, history, stream):
    """Return the accuracy in percent; every rank evaluates its rows of each batch."""
    examples = batches.epoch(history.seed, history.epoch + 1, stream=stream)
    logits, targets = compute_logits(model, map(local_rows, examples), "cpu")
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


def print_rank_zero(text):
    """Print a text on rank 0 alone."""
    if rank_and_size()[0] == 0:
        print(text, flush=True)


def main():
    arguments = parse_arguments()
    set_deterministic()
    dist.init_process_group("gloo", timeout=TIMEOUT)
    loaders = get_dataloaders_mnist(arguments.batch_size, source=arguments.source)
    run, history = new_run(arguments.seed), History(seed=arguments.seed)
    if on_rank_zero(lambda: any(Path(arguments.folder).glob("checkpoint-??????"))):
        history = load_sharded(arguments.folder, *run)
        print_rank_zero(f"Loaded after {history.position}, SHA-256 {hash_run(run)}")

    def save():
        save_sharded(arguments.folder, *run, history)

    train(run, history, loaders, arguments.num_epochs, save, arguments.save_every)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Train LeNet-5 with many processes.")
    parser.add_argument("folder", help="where the checkpoints are")
    parser.add_argument("--num-epochs", type=int, default=2, help="in total")
    parser.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--source", default="mnist-5k")
    parser.add_argument("--save-every", type=int, help="also save every N batches")
    arguments = parser.parse_args()
    if not dist.is_torchelastic_launched():
        parser.error("Start this file with torchrun: its first lines say how.")
    return arguments


def print_first_failure(error):
    """Print an error on the rank that fails first: the others fail because that one is gone."""
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, timeout=timedelta(seconds=5))
        restarts = os.environ["TORCHELASTIC_RESTART_COUNT"]
        num_failures = store.add(f"failures after {restarts} restarts", 1)
    except dist.DistError:  # torchrun is gone, and nobody counts
        num_failures = 1
    if num_failures == 1:
        print(f"Rank {os.environ['RANK']} failed first:", file=sys.stderr)
        traceback.print_exception(error)


if __name__ == "__main__":
    status = 0
    try:
        main()
    except Exception as error:
        status = 1
        print_first_failure(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at a usual end, gloo's threads now and then abort the process
