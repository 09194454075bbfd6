"""What all scripts here train: the same network on the same data, for 3 epochs of 8 batches."""

import argparse

import torch
from torch import nn
from torch.utils.data import Dataset, get_worker_info

SEED = 0
EPOCHS = 3
BATCH_SIZE = 8
SAVE_EVERY = 5  # steps; an epoch has 8


def make_parser(configurations: tuple[str, ...]) -> argparse.ArgumentParser:
    """Return the parser of a script that has these configurations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--configuration", choices=configurations, default=configurations[0])
    parser.add_argument("--augment", action="store_true", help="add noise to each example")
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    return parser


class Examples(Dataset):
    """64 examples of 6 features in 2 classes, with noise from PyTorch's global generator.

    Random transforms, those of torchvision for example, draw from this generator too.
    """

    def __init__(self, augment: bool):
        generator = torch.Generator().manual_seed(SEED)
        self.features = torch.randn(64, 6, generator=generator)
        self.targets = (self.features[:, 0] > 0).long()
        self.augment = augment

    def __len__(self):
        return 64

    def __getitem__(self, index):
        features = self.features[index]
        if self.augment:
            features = features + 0.1 * self.noise(index)
        return features, self.targets[index]

    def noise(self, index):
        return torch.randn(6)


class ExamplesWithState(Examples):
    """The same, for a StatefulDataLoader: in a worker, its state is that of the random generator.

    The main process saves its random state with everything else.
    """

    def state_dict(self) -> dict:
        return {} if get_worker_info() is None else {"random": torch.get_rng_state()}

    def load_state_dict(self, state: dict) -> None:
        if "random" in state:
            torch.set_rng_state(state["random"])


class ExamplesByEpoch(Examples):
    """The same, but the noise is a function of the seed, the epoch and the index."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def noise(self, index):
        number = (SEED * EPOCHS + self.epoch) * len(self) + index
        return torch.randn(6, generator=torch.Generator().manual_seed(number))


def make_training():
    """Return a model, its optimizer, and a scheduler that steps after every batch."""
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=6, gamma=0.7)
    return model, optimizer, scheduler
