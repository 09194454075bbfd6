"""The same batches on different numbers of ranks, with and without layers that notice."""

from statistics import mean

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from helper.batches import EpochBatches
from helper.dataset import get_dataloaders_mnist
from helper.ranks import rank_and_size
from helper.reproducibility import Stream, seed_batch, set_all_seeds, set_deterministic
from programs.train_many import local_rows, sum_over_ranks

LAYERS = {"neither": nn.Identity, "BatchNorm": lambda: nn.BatchNorm1d(64), "dropout": nn.Dropout}


def losses(kind, seed, batch_size, source):
    """Return the loss of every batch of an epoch, as the average over the ranks."""
    set_deterministic()
    set_all_seeds(seed)
    hidden = nn.Linear(32 * 32, 64), LAYERS[kind](), nn.Tanh()
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))
    replica = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader, _, _ = get_dataloaders_mnist(batch_size, source=source)
    found = []
    for number, batch in enumerate(EpochBatches(loader).epoch(seed, epoch=1)):
        features, targets = local_rows(batch)
        seed_batch(seed, 1, number, Stream.STEP)  # the same on every rank
        loss = cross_entropy(replica(features), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(sum_over_ranks(loss.item())[0] / rank_and_size()[1])
    return found


def first_and_last(*settings):
    """Return the loss of the first batch, and the average over the last five, for each kind."""
    found = {}
    for kind in LAYERS:
        all_losses = losses(kind, *settings)
        found[kind] = all_losses[0], mean(all_losses[-5:])
    return found
