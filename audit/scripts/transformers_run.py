"""Hugging Face's Trainer, resumed with resume_from_checkpoint.

plain: its defaults, which skip the batches that were trained (ignore_data_skip=False) and restore
the random state. best: also noise that is a function of the epoch and the index, and a callback
that tells the dataset the epoch.
"""

import os

import torch
from shared import (
    BATCH_SIZE,
    EPOCHS,
    SAVE_EVERY,
    SEED,
    Examples,
    ExamplesByEpoch,
    make_parser,
    make_training,
)
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

CONFIGURATIONS = ("plain", "best")
FOLDER = "checkpoints"


class Classifier(nn.Module):
    """Returns the loss, as the Trainer wants it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, features, labels):
        return {"loss": nn.functional.cross_entropy(self.network(features), labels)}


def collate(examples):
    """Return the examples as arguments of the model."""
    features, labels = zip(*examples, strict=True)
    return {"features": torch.stack(features), "labels": torch.stack(labels)}


class TellEpoch(TrainerCallback):
    """Tells the dataset the epoch, also when a run is resumed inside one."""

    def on_epoch_begin(self, args, state, control, **others):
        dataset.set_epoch(int(state.epoch))


class SaveEachEpoch(TrainerCallback):
    """Saves at the end of an epoch, besides every SAVE_EVERY steps."""

    def on_epoch_end(self, args, state, control, **others):
        control.should_save = True


arguments = make_parser(CONFIGURATIONS).parse_args()
best = arguments.configuration == "best"
set_seed(SEED)
network, optimizer, scheduler = make_training()
dataset = (ExamplesByEpoch if best else Examples)(arguments.augment)
trainer = Trainer(
    Classifier(network),
    TrainingArguments(
        FOLDER,
        use_cpu=True,
        seed=SEED,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        dataloader_num_workers=arguments.workers,
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=SAVE_EVERY,
        save_total_limit=2,
        ignore_data_skip=False,
        report_to="none",
        disable_tqdm=True,
    ),
    data_collator=collate,
    train_dataset=dataset,
    optimizers=(optimizer, scheduler),
    callbacks=[SaveEachEpoch(), TellEpoch()] if best else [SaveEachEpoch()],
)
last = get_last_checkpoint(FOLDER) if os.path.isdir(FOLDER) else None
trainer.train(resume_from_checkpoint=last)
