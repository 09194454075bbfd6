"""This course's `train_model`, as notebook 2 uses it."""

import sys
from pathlib import Path

import torch
from shared import BATCH_SIZE, EPOCHS, SAVE_EVERY, SEED, Examples, make_parser, make_training
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from helper.checkpoint import load_checkpoint  # noqa: E402
from helper.history import History  # noqa: E402
from helper.train import train_model  # noqa: E402

CONFIGURATIONS = ("plain",)
CHECKPOINT = Path("run.pt")

arguments = make_parser(CONFIGURATIONS).parse_args()
torch.manual_seed(SEED)
model, optimizer, scheduler = make_training()
loaders = [
    DataLoader(
        Examples(arguments.augment), BATCH_SIZE, shuffle=shuffle, num_workers=arguments.workers
    )
    for shuffle in (True, False, False)
]
if CHECKPOINT.exists():
    history = load_checkpoint(CHECKPOINT, model, optimizer, scheduler)
else:
    history = History(seed=SEED)
train_model(
    model,
    EPOCHS,
    *loaders,
    optimizer,
    "cpu",
    scheduler=scheduler,
    history=history,
    scheduler_every="batch",
    checkpoint_path=CHECKPOINT,
    checkpoint_every=SAVE_EVERY,
)
