"""A training loop with Accelerate, as its guide "Checkpointing" shows.

plain: save_state, load_state and skip_first_batches.
stateful: use_seedable_sampler and use_stateful_dataloader, which saves the position in the data;
a loader with a generator of its own, a dataset with a state.
best: use_seedable_sampler and skip_first_batches, the loader's own generator, and noise that is a
function of the epoch and the index.
"""

import os

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from shared import (
    BATCH_SIZE,
    EPOCHS,
    SAVE_EVERY,
    SEED,
    Examples,
    ExamplesByEpoch,
    ExamplesWithState,
    make_parser,
    make_training,
)
from torch import nn
from torch.utils.data import DataLoader

CONFIGURATIONS = ("plain", "stateful", "best")
CHECKPOINT = "checkpoint"


class Position:
    """How many epochs are done, and how many batches of the next one."""

    epoch = batch = 0

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state):
        self.epoch, self.batch = state["epoch"], state["batch"]


arguments = make_parser(CONFIGURATIONS).parse_args()
best, stateful = arguments.configuration == "best", arguments.configuration == "stateful"
accelerator = Accelerator(
    cpu=True,
    dataloader_config=DataLoaderConfiguration(
        use_seedable_sampler=best or stateful, use_stateful_dataloader=stateful
    ),
)
set_seed(SEED)
model, optimizer, scheduler = make_training()
dataset = {"plain": Examples, "stateful": ExamplesWithState, "best": ExamplesByEpoch}[
    arguments.configuration
](arguments.augment)
loader = DataLoader(
    dataset,
    BATCH_SIZE,
    shuffle=True,
    num_workers=arguments.workers,
    generator=torch.Generator().manual_seed(SEED) if best or stateful else None,
)
position = Position()
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
accelerator.register_for_checkpointing(position)
if os.path.isdir(CHECKPOINT):
    accelerator.load_state(CHECKPOINT)

step = position.epoch * len(loader) + position.batch
for epoch in range(position.epoch, EPOCHS):
    loader.set_epoch(epoch)
    if best:
        dataset.set_epoch(epoch)
    skip = position.batch if not stateful else 0
    batches = accelerator.skip_first_batches(loader, skip) if skip else loader
    for features, targets in batches:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(model(features), targets))
        optimizer.step()
        scheduler.step()
        step += 1
        position.batch += 1
        if step % SAVE_EVERY == 0:
            accelerator.save_state(CHECKPOINT)
    position.epoch, position.batch = epoch + 1, 0
    accelerator.save_state(CHECKPOINT)
