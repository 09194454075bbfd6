"""PyTorch-Ignite, with its Checkpoint handler.

plain: Engine, as its guide to resuming shows. deterministic: DeterministicEngine, which seeds every
epoch and saves the random state. best: the same, with the random state restored after the first
batch is fetched, and noise that is a function of the epoch and the index.
"""

from pathlib import Path

import torch
from ignite.engine import DeterministicEngine, Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from ignite.utils import manual_seed
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
from torch.utils.data import DataLoader

CONFIGURATIONS = ("plain", "deterministic", "best")
FOLDER = Path("checkpoints")

arguments = make_parser(CONFIGURATIONS).parse_args()
best = arguments.configuration == "best"
manual_seed(SEED)
model, optimizer, scheduler = make_training()
dataset = (ExamplesByEpoch if best else Examples)(arguments.augment)
loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=arguments.workers)


class RandomState:
    """PyTorch's random state, saved with the rest and restored when the script says so."""

    loaded = None

    def state_dict(self) -> dict:
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict) -> None:
        self.loaded = state["torch"]


def train_step(engine, batch):
    features, targets = batch
    model.train()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(features), targets).backward()
    optimizer.step()
    scheduler.step()


trainer = (Engine if arguments.configuration == "plain" else DeterministicEngine)(train_step)
to_save = {"trainer": trainer, "model": model, "optimizer": optimizer, "scheduler": scheduler}
random_state = RandomState()
if best:
    to_save["random_state"] = random_state
checkpoint = Checkpoint(
    to_save,
    DiskSaver(str(FOLDER), create_dir=True, require_empty=False),
    n_saved=2,
    global_step_transform=lambda engine, event: engine.state.iteration,
)
trainer.add_event_handler(
    Events.ITERATION_COMPLETED(every=SAVE_EVERY) | Events.EPOCH_COMPLETED, checkpoint
)

files = sorted(FOLDER.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
if files:
    Checkpoint.load_objects(to_save, torch.load(files[-1], weights_only=False))

if best:

    @trainer.on(Events.EPOCH_STARTED)
    def tell_epoch():
        dataset.set_epoch(trainer.state.epoch)

    # Or the engine restores its own too early. It also has those of Python and NumPy, from which
    # nothing here draws.
    trainer.state.rng_states = None
    if files and trainer.state.iteration % len(loader):  # inside an epoch

        @trainer.on(Events.ITERATION_STARTED(once=trainer.state.iteration + 1))
        def restore_random_state():
            torch.set_rng_state(random_state.loaded)


trainer.run(loader, max_epochs=EPOCHS)
