"""Lightning's Trainer, resumed with ckpt_path.

plain: a DataLoader and ModelCheckpoint.
stateful: torchdata's StatefulDataLoader, whose state Lightning saves, a dataset with a state, and a
callback that saves the random state.
best: the same, with the length of the run in steps, not in epochs. Then Lightning also loads the
state that the loader had at the end of an epoch.
"""

import os

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
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
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

CONFIGURATIONS = ("plain", "stateful", "best")
LAST = "checkpoints/last.ckpt"


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network, self.optimizer, self.scheduler = make_training()

    def training_step(self, batch, batch_idx):
        features, targets = batch
        return nn.functional.cross_entropy(self.network(features), targets)

    def configure_optimizers(self):
        return [self.optimizer], [{"scheduler": self.scheduler, "interval": "step"}]

    def train_dataloader(self):
        if plain:
            return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=arguments.workers)
        return StatefulDataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=arguments.workers)


class RandomState(Callback):
    """Saves PyTorch's random state, and restores it before the first batch is fetched."""

    restored = None

    def state_dict(self):
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state):
        self.restored = state["torch"]

    def on_train_start(self, trainer, module):
        if self.restored is not None:
            torch.set_rng_state(self.restored)


arguments = make_parser(CONFIGURATIONS).parse_args()
lightning.seed_everything(SEED, workers=True)
plain = arguments.configuration == "plain"
dataset = (Examples if plain else ExamplesWithState)(arguments.augment)
length = {"max_epochs": EPOCHS}
if arguments.configuration == "best":
    length = {"max_epochs": -1, "max_steps": EPOCHS * len(dataset) // BATCH_SIZE}
callbacks = [
    ModelCheckpoint(
        "checkpoints", every_n_train_steps=SAVE_EVERY, save_last=True, enable_version_counter=False
    ),
    ModelCheckpoint(
        "checkpoints",
        filename="{epoch}-end",
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        save_last=True,
        enable_version_counter=False,
    ),
]
if not plain:
    callbacks.append(RandomState())
trainer = lightning.Trainer(
    accelerator="cpu",
    callbacks=callbacks,
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    **length,
)
trainer.fit(Module(), ckpt_path=LAST if os.path.exists(LAST) else None)
