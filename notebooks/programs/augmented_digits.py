"""Digits that are moved at random, for the loaders with workers in notebook 6.

They stand in a file because workers that are started afresh (on macOS, on Windows, on Linux from
Python 3.14 on) import what they need: they can't find what a cell of a notebook defines.
"""

import torch
from torch.utils.data import Dataset, Sampler


class MovedDigits(Dataset):
    """Images `[N, 1, H, W]`, moved by up to two pixels, and targets `[N]`.

    How far is drawn from the random numbers of the process that fetches them.
    """

    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return move(self.images[index]), self.targets[index]


class SeededDigits(MovedDigits):
    """The same, with a seed that comes along with each index: no matter which process fetches."""

    def __getitem__(self, index_and_seed):
        index, seed = index_and_seed
        generator = torch.Generator().manual_seed(seed)
        return move(self.images[index], generator), self.targets[index]


class SeededBatches(Sampler):
    """Batches of pairs `(index, seed)`, drawn by the process that trains, each time anew."""

    def __init__(self, num_examples, batch_size):
        self.num_examples, self.batch_size = num_examples, batch_size

    def __len__(self):
        return -(-self.num_examples // self.batch_size)  # rounded up

    def __iter__(self):
        order = torch.randperm(self.num_examples).tolist()
        seeds = torch.randint(2**62, (self.num_examples,)).tolist()
        pairs = list(zip(order, seeds, strict=True))
        for first in range(0, self.num_examples, self.batch_size):
            yield pairs[first : first + self.batch_size]


def move(image, generator=None):
    """Return an image `[1, H, W]`, moved by up to two pixels in both directions."""
    down, right = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return image.roll((down, right), dims=(1, 2))
