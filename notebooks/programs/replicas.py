"""DDP: every rank holds the whole model, and trains on a part of each batch."""

import os

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from helper.batches import EpochBatches
from helper.checkpoint import load_checkpoint, save_checkpoint
from helper.dataset import get_dataloaders_mnist
from helper.history import History
from helper.reproducibility import compute_sha256, set_all_seeds, set_deterministic
from programs.train_many import LeNet5, local_rows


def train(path, num_steps, seed, batch_size, source):
    """Train LeNet-5 until `num_steps` steps are done, and save it. Continue if there's a file."""
    set_deterministic()
    set_all_seeds(seed)
    model = LeNet5(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    history = History(seed=seed)
    if os.path.exists(path):  # every rank reads the same file
        history = load_checkpoint(path, model, optimizer)

    replica = DistributedDataParallel(model)
    loader, _, _ = get_dataloaders_mnist(batch_size, source=source)
    start = len(history.minibatch_loss)
    for batch in EpochBatches(loader).epoch(seed, epoch=1, start=start):
        if len(history.minibatch_loss) == num_steps:
            break
        features, targets = local_rows(batch)
        loss = cross_entropy(replica(features), targets)
        optimizer.zero_grad()
        loss.backward()  # DDP averages the gradients of all ranks in here
        optimizer.step()
        history.minibatch_loss.append(loss.item())

    if dist.get_rank() == 0:  # one rank saves the whole run
        save_checkpoint(path, model, optimizer, None, history)
    dist.barrier()  # nobody continues until the file is there
    return {
        "digits": targets.tolist(),
        "loss": loss.item(),
        "weights": compute_sha256(model.state_dict()),
        "gradients": compute_sha256([p.grad for p in model.parameters()]),
        "momentum": compute_sha256(optimizer.state_dict()),
    }
