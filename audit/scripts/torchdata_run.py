"""A plain PyTorch loop with torchdata's StatefulDataLoader.

plain: the loader's state is saved next to those of model, optimizer and scheduler, as its README
shows. best: also the random state, and with a dataset that has a state, as the README says for
random transforms in workers.
"""

import os

import torch
from shared import (
    BATCH_SIZE,
    EPOCHS,
    SAVE_EVERY,
    SEED,
    Examples,
    ExamplesWithState,
    make_parser,
    make_training,
)
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

CONFIGURATIONS = ("plain", "best")
CHECKPOINT = "checkpoint.pt"


arguments = make_parser(CONFIGURATIONS).parse_args()
best = arguments.configuration == "best"
torch.manual_seed(SEED)
model, optimizer, scheduler = make_training()
dataset = (ExamplesWithState if best else Examples)(arguments.augment)
loader = StatefulDataLoader(
    dataset, BATCH_SIZE, shuffle=True, num_workers=arguments.workers, snapshot_every_n_steps=1
)
parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}


def save(epoch):
    """Save everything; `epoch` is the one that a resumed run continues with."""
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "epoch": epoch, "random": torch.get_rng_state()}, "checkpoint.tmp")
    os.replace("checkpoint.tmp", CHECKPOINT)


first_epoch, random_state, step = 0, None, 0
if os.path.exists(CHECKPOINT):
    checkpoint = torch.load(CHECKPOINT)
    for name, part in parts.items():
        part.load_state_dict(checkpoint[name])
    first_epoch, random_state = checkpoint["epoch"], checkpoint["random"]
    step = scheduler.last_epoch

for epoch in range(first_epoch, EPOCHS):
    batches = iter(loader)
    if best and random_state is not None:
        torch.set_rng_state(random_state)  # after iter(), which draws the seed of the workers
        random_state = None
    save(epoch)  # the last epoch is done, and the batches of this one are about to come
    for features, targets in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(features), targets).backward()
        optimizer.step()
        scheduler.step()
        step += 1
        if step % SAVE_EVERY == 0:
            save(epoch)
