"""A checkpoint is complete or refused, and a refusal leaves everything as it was."""

import contextlib
import os
import pickle
import random
import shutil
import threading
import warnings
import zipfile
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn, optim
from torch.optim import lr_scheduler

import helper.atomic
from helper.checkpoint import (
    CheckpointError,
    describe_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from helper.dataset import ImageDataset, make_loader, resize
from helper.history import History
from helper.reproducibility import compute_sha256
from helper.train import train_model

HISTORY = {
    "seed": 5,
    "minibatch_loss": [2.5, 1.25, 0.5, 0.2, 0.1],
    "train_acc": [50.0, 60.0],
    "valid_acc": [40.0, 30.0],
    "learning_rate": [0.1, 0.1],
    "batches_per_epoch": 2,
    "batch_size": 8,
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors as small as these only wait for a second thread."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def take_steps(model, optimizer, scheduler=None, num_steps=3, shape=(8, 256)):
    """Train a little, so that optimizer and scheduler have a state worth saving."""
    for _ in range(num_steps):
        optimizer.zero_grad()
        dtype = next(model.parameters()).dtype
        model(torch.randn(shape, dtype=dtype)).square().sum().backward()
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(50.0)
        elif scheduler is not None:
            scheduler.step()


def sha256(parts, history=None):
    return compute_sha256(
        *(part.state_dict() for part in parts if part is not None),
        None if history is None else history.state_dict(),
    )


@contextlib.contextmanager
def refused(parts, match=None):
    """Expect a CheckpointError, and that model, optimizer and scheduler stay as they were."""
    before = sha256(parts)
    with pytest.raises(CheckpointError, match=match):
        yield
    assert sha256(parts) == before


@pytest.fixture
def run(new_run):
    """Model, optimizer and scheduler after a few steps; the learning rate has dropped."""
    parts = new_run()
    take_steps(*parts)
    return parts


@pytest.fixture
def path(run, tmp_path):
    """The checkpoint of `run`."""
    save_checkpoint(tmp_path / "run.pt", *run, History(**HISTORY))
    return tmp_path / "run.pt"


# ---- What is saved is what is loaded ----


@pytest.mark.parametrize("kind", [str, Path])
def test_round_trip(run, new_run, tmp_path, kind):
    path = kind(tmp_path / "new" / "folders" / "run.pt")
    save_checkpoint(path, *run, History(**HISTORY))
    new = new_run()
    assert sha256(new) != sha256(run)
    history = load_checkpoint(path, *new)
    assert history == History(**HISTORY)
    assert sha256(new, history) == sha256(run, history)
    assert os.listdir(tmp_path / "new" / "folders") == ["run.pt"]


def test_the_file_is_plain_pytorch(run, path):
    checkpoint = torch.load(path, weights_only=True)
    parts = (
        "format",
        "model",
        "optimizer",
        "scheduler",
        "history",
        "others",
        "description",
        "versions",
    )
    assert tuple(checkpoint) == parts
    assert compute_sha256(checkpoint["model"]) == compute_sha256(run[0].state_dict())
    assert checkpoint["history"] == HISTORY
    assert checkpoint["versions"]["torch"] == torch.__version__


def test_the_model_alone(run, new_run, path):
    new = new_run()
    others = sha256(new[1:])
    assert load_checkpoint(path, new[0]) == History(**HISTORY)
    assert sha256(new[:1]) == sha256(run[:1])
    assert sha256(new[1:]) == others


def test_without_a_scheduler(run, new_run, path):
    new = new_run()
    load_checkpoint(path, *new[:2])
    assert sha256(new[:2]) == sha256(run[:2])

    save_checkpoint(path, *run[:2], None, History())
    new = new_run()
    load_checkpoint(path, *new[:2])
    assert sha256(new[:2]) == sha256(run[:2])
    with refused(new, "was saved without a scheduler"):
        load_checkpoint(path, *new)


def test_saving_again_replaces_the_file(run, new_run, path):
    take_steps(*run)
    save_checkpoint(path, *run, History(**HISTORY))
    new = new_run()
    load_checkpoint(path, *new)
    assert sha256(new) == sha256(run)


def test_what_is_loaded_does_not_share_memory_with_what_is_saved(run, path):
    before = sha256(run)
    take_steps(*run)
    assert sha256(run) != before
    load_checkpoint(path, *run)
    assert sha256(run) == before


class Tied(nn.Module):
    """A layer with one weight under two names."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 4, bias=False)
        self.decode = nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x))


OPTIMIZERS = {
    "SGD": (optim.SGD, {}),
    "momentum": (optim.SGD, {"momentum": 0.9}),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "Adam": (optim.Adam, {}),
    "amsgrad": (optim.Adam, {"amsgrad": True}),
    "AdamW": (optim.AdamW, {}),
    "RMSprop": (optim.RMSprop, {"momentum": 0.9, "centered": True}),
    "Adagrad": (optim.Adagrad, {}),
    "Adadelta": (optim.Adadelta, {}),
    "NAdam": (optim.NAdam, {}),
    "RAdam": (optim.RAdam, {}),
    "Adamax": (optim.Adamax, {}),
    "Adafactor": (optim.Adafactor, {}),
    "ASGD": (optim.ASGD, {}),
    "Rprop": (optim.Rprop, {}),
}
SCHEDULERS = {
    "none": lambda optimizer: None,
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 3]),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.5),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=20, cycle_momentum="momentum" in optimizer.defaults
    ),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, cycle_momentum=False),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.5), lr_scheduler.StepLR(optimizer, 2)],
        [2],
    ),
}
MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)),
    "BatchNorm": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3)),
    "tied": Tied,
    "bfloat16": lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).bfloat16(),
}


def make(model, optimizer, scheduler="none", two_groups=False):
    """Return a fresh model, its optimizer and its scheduler, or None, from the tables above."""
    model = MODELS[model]() if isinstance(model, str) else model
    parameters = list(model.parameters())
    if two_groups:
        parameters = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.005}]
    optimizer_class, settings = OPTIMIZERS[optimizer]
    optimizer = optimizer_class(parameters, lr=0.01, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR steps the schedulers that it is made of
        return model, optimizer, SCHEDULERS[scheduler](optimizer)


def assert_round_trip(old, new, path):
    """Save one run and load it into the other: they are equal, now and after more steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        take_steps(*old, shape=(8, 4))
        save_checkpoint(path, *old, History(**HISTORY))
        assert load_checkpoint(path, *new) == History(**HISTORY)
        assert sha256(new) == sha256(old)
        for parts in (old, new):
            torch.manual_seed(3)
            take_steps(*parts, shape=(8, 4))
    assert sha256(new) == sha256(old)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_false_alarm(optimizer, tmp_path):
    for scheduler in SCHEDULERS:
        arguments = ("linear", optimizer, scheduler)
        assert_round_trip(make(*arguments), make(*arguments), tmp_path / "run.pt")


@pytest.mark.parametrize("two_groups", [False, True])
@pytest.mark.parametrize("model", ["BatchNorm", "tied"])
def test_no_false_alarm_with_buffers_tied_weights_and_two_groups(model, two_groups, tmp_path):
    for optimizer in OPTIMIZERS:
        arguments = (model, optimizer, "StepLR", two_groups)
        assert_round_trip(make(*arguments), make(*arguments), tmp_path / "run.pt")


def test_parameters_of_another_type_than_float32(tmp_path):
    assert_round_trip(make("bfloat16", "Adam"), make("bfloat16", "Adam"), tmp_path / "run.pt")


# ---- Damage ----


def flip_bit(data, moments, begin=0):
    position = moments.randrange(begin, len(data))
    flipped = data[position] ^ (1 << moments.randrange(8))
    return data[:position] + bytes([flipped]) + data[position + 1 :]


def zero_a_range(data, moments):
    begin = moments.randrange(len(data))
    length = min(moments.randint(1, 4096), len(data) - begin)
    return data[:begin] + bytes(length) + data[begin + length :]


def test_damaged_files_are_refused_or_load_what_was_saved(run, new_run, path, tmp_path):
    """Flips in what nothing reads, such as a date in the archive, do no harm and may load."""
    original = path.read_bytes()
    expected = sha256(run, History(**HISTORY))
    with zipfile.ZipFile(path) as archive:
        central_directory = archive.start_dir

    # As long as the original, so that the index of the one is where that of the other would be.
    other_run = new_run()
    torch.manual_seed(2)
    take_steps(*other_run)
    other_path = tmp_path / "other.pt"
    save_checkpoint(other_path, *other_run, History(**HISTORY))
    other = other_path.read_bytes()
    assert len(other) == len(original)
    assert sha256(other_run) != sha256(run)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("run/data.pkl", pickle.dumps({}))
    other_zip = (tmp_path / "other.zip").read_bytes()

    moments = random.Random(0)
    damages = {
        "bit": lambda: flip_bit(original, moments),
        "bit in the archive's index": lambda: flip_bit(original, moments, central_directory),
        "bit in the archive's end": lambda: flip_bit(original, moments, len(original) - 98),
        "cut": lambda: original[: moments.randrange(len(original))],
        "cut in the index": lambda: original[: moments.randrange(central_directory, len(original))],
        "zeros": lambda: zero_a_range(original, moments),
        "garbage behind": lambda: original + moments.randbytes(moments.randint(1, 300)),
        "garbage before": lambda: moments.randbytes(moments.randint(1, 300)) + original,
        "begin lost": lambda: original[moments.randint(1, 5000) :],
        "moved": lambda: original[:9999] + moments.randbytes(7) + original[9999:],
    }
    files = [(kind, damage()) for kind, damage in damages.items() for _ in range(80)]
    files += [
        ("empty", b""),
        ("all zeros", bytes(len(original))),
        ("picture", b"\x89PNG\r\n\x1a\n" + moments.randbytes(5000)),
        ("text", b"epoch 1: 97%\n" * 100),
        ("another archive", other_zip),
        ("archive behind", original + other_zip),
        ("archive before", other_zip + original),
        ("another checkpoint behind", original + other),
        ("another checkpoint before", other + original),
        ("half of another", original[: len(original) // 2] + other[len(other) // 2 :]),
        ("twice", original + original),
    ]
    assert len(files) >= 500

    start = new_run()
    take_steps(*start, num_steps=1)  # neither fresh nor what was saved
    start_path = tmp_path / "start.pt"
    save_checkpoint(start_path, *start, History())
    before = sha256(start)
    refusals = Counter()
    for number, (kind, content) in enumerate(files):
        assert content != original
        path.write_bytes(content)
        try:
            history = load_checkpoint(path, *start)
        except CheckpointError:
            refusals[kind] += 1
            assert sha256(start) == before, (number, kind)
        else:
            assert sha256(start, history) == expected, (number, kind)
            load_checkpoint(start_path, *start)
    assert refusals["cut"] == refusals["begin lost"] == refusals["moved"] == 80
    assert refusals["garbage before"] == 80
    assert refusals["bit"] > 72
    assert refusals.total() > 0.75 * len(files)


def test_a_damaged_record_is_named(run, path):
    weight = run[0].linear.weight.detach().numpy().tobytes()
    data = path.read_bytes()
    position = data.index(weight)
    path.write_bytes(data[: position + 9] + b"\x55\x55" + data[position + 11 :])
    torch.load(path, weights_only=True)  # PyTorch alone takes it
    with refused(run, "is damaged.* the content of [^ ]+/data/0 is not what was saved"):
        load_checkpoint(path, *run)


@pytest.mark.slow
def test_every_bit_of_the_archives_directory(run, new_run, path):
    """Among them the one that makes PyTorch read nothing of a record."""
    original, expected = path.read_bytes(), sha256(run)
    with zipfile.ZipFile(path) as archive:
        begin = archive.start_dir
    new = new_run()
    for position in range(begin, len(original)):
        for bit in range(8):
            changed = bytearray(original)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            with contextlib.suppress(CheckpointError):
                load_checkpoint(path, *new)
                assert sha256(new) == expected, (position, bit)


@pytest.mark.parametrize(
    "saved",
    [
        {},
        [],
        torch.ones(3),
        nn.Linear(2, 2).state_dict(),
        {"model": {}, "optimizer": {}, "scheduler": {}, "history": {}, "versions": {}},
        {"model": 1, "optimizer": 2, "scheduler": 3, "history": 4, "versions": 5},
    ],
)
def test_something_else_that_pytorch_saved(run, path, saved):
    torch.save(saved, path)
    with refused(run, "is no checkpoint of save_checkpoint"):
        load_checkpoint(path, *run)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("optimizer", {"state": {}, "param_groups": 5}),
        ("optimizer", {"state": {}, "param_groups": [{}]}),
        ("optimizer", {"state": {0: 7}, "param_groups": None}),
        ("scheduler", {3: 4}),
        ("model", {1: 2}),
    ],
)
def test_states_that_are_none(run, path, part, content):
    checkpoint = torch.load(path, weights_only=True)
    if content.get("param_groups", 0) is None:
        content["param_groups"] = checkpoint["optimizer"]["param_groups"]
    checkpoint[part] = content
    torch.save(checkpoint, path)
    with refused(run):
        load_checkpoint(path, *run)


def test_nothing_to_load(run, tmp_path):
    for path in (tmp_path / "missing.pt", tmp_path):
        with refused(run, "There is no checkpoint .* Run .* first: notebook 1"):
            load_checkpoint(path, *run)
        with pytest.raises(CheckpointError, match="notebook 1"):
            describe_checkpoint(path)


# ---- Malice ----


class Program:
    """What a pickle can hold: when it is loaded, it runs a program, here one that makes a file."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch '{self.victim}'",)


def rezip(path):
    """Write the records of a checkpoint as an ordinary, compressed archive."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)


@pytest.mark.parametrize("form", ["torch.save", "before 1.6", "pickle", "compressed"])
@pytest.mark.parametrize("part", ["model", "optimizer", "scheduler", "history", "versions", "all"])
def test_a_file_that_would_run_a_program(run, path, tmp_path, part, form):
    victim = tmp_path / "it ran"
    checkpoint = torch.load(path, weights_only=True)
    if part == "all":
        checkpoint = Program(victim)
    else:
        checkpoint[part]["program"] = Program(victim)
    if form == "pickle":
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=form != "before 1.6")
    if form == "compressed":
        rezip(path)

    for load in (lambda: load_checkpoint(path, *run), lambda: describe_checkpoint(path)):
        with refused(run):
            load()
    assert not victim.exists()

    # And it would have run.
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert victim.exists()


def test_a_program_is_refused_for_safety(run, path, tmp_path):
    torch.save({"model": Program(tmp_path / "it ran")}, path)
    with refused(run, "was refused for safety"):
        load_checkpoint(path, *run)


# ---- When saving fails ----


def assert_still_saved(path, expected, new_run):
    """The checkpoint at `path` is the one from before, and nothing else is in its folder."""
    new = new_run()
    history = load_checkpoint(path, *new)
    assert sha256(new, history) == expected
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("place", ["history", "scheduler", "optimizer"])
def test_a_numpy_number_is_refused_before_it_is_too_late(run, new_run, path, place):
    expected = sha256(run, History(**HISTORY))
    history = History(**HISTORY)
    take_steps(*run)
    if place == "history":
        history.train_acc = [*history.train_acc, np.float64(99)]
    elif place == "scheduler":
        run[2].best = np.float64(99)
    else:
        run[1].param_groups[0]["lr"] = np.float64(0.1)
    with pytest.raises(CheckpointError, match=r"could not be saved.*(numpy|floats).*float\(x\)"):
        save_checkpoint(path, *run, history)
    assert_still_saved(path, expected, new_run)


@contextlib.contextmanager
def file_size_limit(num_bytes):
    """Let no file grow beyond `num_bytes`: the system refuses to write, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(run, new_run, path):
    """Wherever writing breaks off: PyTorch's own error depends on the place."""
    expected = sha256(run, History(**HISTORY))
    size = path.stat().st_size
    take_steps(*run)
    for limit in [*range(0, size, 500), size - 1]:
        with file_size_limit(limit), pytest.raises(CheckpointError, match="could not be saved"):
            save_checkpoint(path, *run, History(**HISTORY))
        assert_still_saved(path, expected, new_run)
    save_checkpoint(path, *run, History(**HISTORY))  # there is room again
    assert_still_saved(path, sha256(run, History(**HISTORY)), new_run)


@pytest.mark.slow
def test_a_disk_too_full_for_alexnet_while_it_trains(loaders, path, capsys):
    """What notebook 4 does, on a few digits: the second epoch's 456 MB don't fit any more."""
    few = [
        make_loader(ImageDataset(resize(loader.dataset.images[:64], 64), targets, 3), 64)
        for loader in loaders
        for targets in [loader.dataset.targets[:64]]
    ]

    def run():
        model = torchvision.models.alexnet(num_classes=10)
        return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    torch.manual_seed(1)
    model, optimizer = run()
    history = train_model(model, 1, *few, optimizer, "cpu", seed=5, checkpoint_path=path)
    expected = compute_sha256(model.state_dict(), optimizer.state_dict())
    for limit in (0, 100_000_000, 456_000_000):
        with file_size_limit(limit), pytest.raises(CheckpointError, match="File too large"):
            train_model(model, 2, *few, optimizer, "cpu", history=history, checkpoint_path=path)
        assert history.epoch == 2  # it is in memory, and only saving is tried again
        assert history.batch == 0
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    assert compute_sha256(model.state_dict(), optimizer.state_dict()) != expected
    other_model, other_optimizer = run()
    assert load_checkpoint(path, other_model, other_optimizer).epoch == 1
    states = other_model.state_dict(), other_optimizer.state_dict()
    assert compute_sha256(*states) == expected
    # There is room again: the epoch that is done is saved.
    train_model(model, 2, *few, optimizer, "cpu", history=history, checkpoint_path=path)
    assert load_checkpoint(path, other_model, other_optimizer) == history


@contextlib.contextmanager
def without_root_rights():
    """Root may write anywhere, so be somebody else for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_a_folder_that_cannot_be_written_to(run, new_run, path, monkeypatch):
    expected = sha256(run, History(**HISTORY))
    take_steps(*run)
    monkeypatch.chdir(path.parent)  # the folders above are closed to somebody else
    path.parent.chmod(0o555)
    try:
        for name in ("run.pt", "new.pt", "new folder/new.pt"):
            with (
                without_root_rights(),
                pytest.raises(CheckpointError, match=f"^{name} could not be saved.*ermission"),
            ):
                save_checkpoint(name, *run, History(**HISTORY))
    finally:
        path.parent.chmod(0o755)
    assert_still_saved(path, expected, new_run)


def test_a_place_that_no_file_can_have(run, path):
    (path.parent / "folder.pt").mkdir()
    for name in ("folder.pt", "run.pt/run.pt", "long" * 100):
        with pytest.raises(CheckpointError, match="could not be saved"):
            save_checkpoint(path.parent / name, *run, History(**HISTORY))
    assert {entry.name for entry in path.parent.iterdir()} == {"run.pt", "folder.pt"}


def test_leftovers_of_killed_processes_are_removed_and_those_of_others_are_not(run, path):
    dead = path.with_name("run.pt.0123456789ab.tmp")
    alive = path.with_name("run.pt.fedcba987654.tmp")
    keep = [alive, path.with_name("other.pt.0123456789ab.tmp"), path.with_name("run.pt.notes.tmp")]
    for file in (dead, *keep):
        file.write_bytes(b"half a checkpoint")
    with open(alive, "rb") as file:
        fcntl = pytest.importorskip("fcntl")
        fcntl.flock(file, fcntl.LOCK_EX)
        save_checkpoint(path, *run, History(**HISTORY))
    assert not dead.exists()
    assert all(file.exists() for file in keep)
    save_checkpoint(path, *run, History(**HISTORY))
    assert not alive.exists()


def test_threads_that_save_the_same_path_leave_a_whole_file(run, new_run, path):
    errors = []

    def save():
        try:
            for _ in range(20):
                save_checkpoint(path, *run, History(**HISTORY))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_still_saved(path, sha256(run, History(**HISTORY)), new_run)


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked(run, path, monkeypatch):
    """Between its making and its lock, another process may see it and take it away."""
    lock = helper.atomic.lock

    def steal(file):
        monkeypatch.setattr(helper.atomic, "lock", lock)
        os.unlink(file.name)
        return lock(file)

    monkeypatch.setattr(helper.atomic, "remove_leftovers", lambda *_: None)
    monkeypatch.setattr(helper.atomic, "lock", steal)
    save_checkpoint(path, *run, History())
    assert load_checkpoint(path, *run) == History()
    assert os.listdir(path.parent) == ["run.pt"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has other modes and links")
def test_links_and_modes_are_kept(run, path, tmp_path):
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "last.pt"
    link.symlink_to(path)
    path.chmod(0o600)
    save_checkpoint(link, *run, History())
    assert link.is_symlink()
    assert os.listdir(link.parent) == ["last.pt"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_checkpoint(path, *run) == History()
    save_checkpoint(tmp_path / "new.pt", *run, History())
    (tmp_path / "plain").touch()
    assert (tmp_path / "new.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_when_only_the_folder_cannot_be_flushed_the_message_says_so(run, path, monkeypatch):
    calls, fsync = [], os.fsync

    def fail_for_folders(descriptor):
        calls.append(descriptor)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError("no such luck")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(CheckpointError, match="is saved and complete, but its folder could not"):
        save_checkpoint(path, *run, History())
    assert len(calls) == 2  # the file, then the folder
    assert load_checkpoint(path, *run) == History()


def test_the_old_file_is_never_written_to(run, path):
    """A copy by hard link sees it, if saving opens the old file instead of replacing it."""
    os.link(path, path.with_name("link.pt"))
    before = path.read_bytes()
    take_steps(*run)
    save_checkpoint(path, *run, History(**HISTORY))
    assert path.with_name("link.pt").read_bytes() == before
    assert path.read_bytes() != before


# ---- What does not fit ----


def net(*sizes):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)))


def named(**layers):
    model = nn.Module()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: net(4, 3, 5), r"1\.weight is float32 \(2, 3\) in the file and float32 \(5, 3\)"),
        (lambda: net(4, 3, 2).double(), r"0\.weight is float32 \(3, 4\) .* float64 \(3, 4\)"),
        (
            lambda: net(4, 3),
            r"another model: 1\.weight is float32 \(2, 3\) in the file and missing in yours",
        ),
        (lambda: net(4, 3, 2, 2), r"another model: 2\.weight is missing in the file"),
        (lambda: named(linear=nn.Linear(4, 3)), r"linear\.weight is missing in the file"),
    ],
)
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_another_model(tmp_path, model, message, with_optimizer):
    saved = make("linear", "momentum", "StepLR")
    take_steps(*saved, shape=(8, 4))
    save_checkpoint(tmp_path / "run.pt", *saved, History())
    yours = make(model(), "momentum", "StepLR")
    with refused(yours, message):
        load_checkpoint(tmp_path / "run.pt", *(yours if with_optimizer else yours[:1]))


@pytest.mark.parametrize("prefix", ["module", "_orig_mod"])
def test_a_wrapped_model(tmp_path, prefix):
    path = tmp_path / "run.pt"
    plain = make("linear", "Adam")
    wrapped = make(named(**{prefix: MODELS["linear"]()}), "Adam")
    for saved, loaded in ((plain, wrapped), (wrapped, plain)):
        save_checkpoint(path, *saved, History())
        with refused(loaded, "belongs to another model"):
            load_checkpoint(path, *loaded)
        load_checkpoint(path, *saved)


def test_another_optimizer(tmp_path):
    """PyTorch itself takes any of them, and fails or goes astray at the next step."""
    kinds = set(OPTIMIZERS) - {"momentum", "nesterov", "amsgrad"}  # settings, not other optimizers
    for saved, yours in permutations(sorted(kinds), 2):
        parts = make("linear", saved)
        take_steps(*parts, shape=(8, 4))
        save_checkpoint(tmp_path / "run.pt", *parts, History())
        other = make("linear", yours)
        names = [OPTIMIZERS[kind][0].__name__ for kind in (saved, yours)]
        with refused(other, "class is {} in the file and {} in yours".format(*names)):
            load_checkpoint(tmp_path / "run.pt", *other)


def test_settings_of_the_optimizer_come_from_the_file(tmp_path):
    """The run goes on with the momentum and the rate that it had, as in PyTorch."""
    for saved, yours in permutations(["SGD", "momentum", "nesterov"], 2):
        assert_round_trip(make("linear", saved), make("linear", yours), tmp_path / "run.pt")


@pytest.mark.parametrize(
    "groups",
    [
        lambda w0, b0, w1, b1: [w0, b0],
        lambda w0, b0, w1, b1: [w0, b0, w1, b1, nn.Parameter(torch.ones(1))],
        lambda w0, b0, w1, b1: [w1, b1, w0, b0],
        lambda w0, b0, w1, b1: [{"params": [w0, b0]}, {"params": [w1, b1]}],
    ],
)
@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
def test_an_optimizer_of_other_parameters(tmp_path, optimizer, groups):
    saved = make("linear", optimizer)
    take_steps(*saved, shape=(8, 4))
    save_checkpoint(tmp_path / "run.pt", *saved, History())
    model = MODELS["linear"]()
    optimizer_class, settings = OPTIMIZERS[optimizer]
    yours = model, optimizer_class(groups(*model.parameters()), lr=0.01, **settings), None
    with refused(yours, "belongs to another optimizer|one of another model"):
        load_checkpoint(tmp_path / "run.pt", *yours)


def test_another_scheduler(tmp_path):
    kinds = set(SCHEDULERS) - {"none"}
    for saved, yours in permutations(sorted(kinds), 2):
        save_checkpoint(tmp_path / "run.pt", *make("linear", "momentum", saved), History())
        other = make("linear", "momentum", yours)
        with refused(other, f"belongs to another scheduler: the class is {saved}"):
            load_checkpoint(tmp_path / "run.pt", *other)


def test_a_sequence_of_other_schedulers(tmp_path):
    def sequence(last):
        model, optimizer, _ = make("linear", "momentum")
        first = lr_scheduler.LinearLR(optimizer, 0.5)
        scheduler = lr_scheduler.SequentialLR(optimizer, [first, SCHEDULERS[last](optimizer)], [2])
        return model, optimizer, scheduler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_checkpoint(tmp_path / "run.pt", *sequence("StepLR"), History())
        other = sequence("CosineAnnealingLR")
    with refused(other, "belongs to another scheduler"):
        load_checkpoint(tmp_path / "run.pt", *other)


# ---- What could not be loaded, and parts that don't belong together ----


def lazy():
    return nn.LazyLinear(3)


def on_meta():
    return nn.Linear(4, 3, device="meta")


def expanded():
    model = nn.Linear(4, 3)
    model.register_buffer("mask", torch.ones(1).expand(4))
    return model


def sparse():
    model = nn.Linear(4, 3)
    model.register_buffer("mask", torch.eye(4).to_sparse())
    return model


@pytest.mark.parametrize("kind", [lazy, on_meta, expanded, sparse])
def test_a_tensor_that_could_not_be_loaded_is_refused_when_it_is_saved(kind, tmp_path):
    model = kind()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for call in (
        lambda: save_checkpoint(tmp_path / "run.pt", model, optimizer, None, History()),
        lambda: load_checkpoint(tmp_path / "run.pt", model),
    ):
        with pytest.raises(CheckpointError, match="lazy, sparse, expanded or on the device meta"):
            call()
    assert not os.listdir(tmp_path)


def test_a_buffer_that_is_not_saved_may_be_expanded(tmp_path):
    def make_parts():
        model = nn.Linear(4, 3)
        model.register_buffer("mask", torch.ones(1).expand(4), persistent=False)
        return model, optim.SGD(model.parameters(), lr=0.1), None

    assert_round_trip(make_parts(), make_parts(), tmp_path / "run.pt")


def test_check_sums_that_are_switched_off(run, path):
    torch.serialization.set_crc32_options(False)
    try:
        with pytest.raises(CheckpointError, match=r"set_crc32_options\(True\)"):
            save_checkpoint(path, *run, History())
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(path, *run) == History(**HISTORY)


class LongHistory(History):
    pass


def with_attribute():
    history = History()
    history.note = "mine"
    return history


@pytest.mark.parametrize(
    "history",
    [
        with_attribute,
        lambda: History(seed=10**700),
        lambda: History(seed=-1),
        lambda: History(seed="123"),
        lambda: History(train_acc=[1]),
        lambda: History(minibatch_loss=[torch.tensor(0.5)]),
        lambda: History(valid_acc=(1.0,)),
        lambda: History(minibatch_loss=[0.5] * 50, batches_per_epoch=6),
        lambda: History(train_acc=[1.0], valid_acc=[1.0], batches_per_epoch=6),
        lambda: None,
    ],
)
def test_a_history_that_could_not_be_loaded(run, path, history):
    with pytest.raises(CheckpointError, match="could not be saved"):
        save_checkpoint(path, *run, history())
    assert load_checkpoint(path, *run) == History(**HISTORY)


@pytest.mark.parametrize("forged", ["history", "description", "format", "optimizer"])
def test_a_forged_part_is_no_checkpoint(run, path, forged):
    checkpoint = torch.load(path, weights_only=True)
    if forged == "history":
        checkpoint["history"]["train_acc"] = ["a", "b"]
    elif forged == "description":
        checkpoint["description"]["model"]["linear.weight"] = "float32 (1,)"
    elif forged == "format":
        checkpoint["format"] = "another"
    else:
        checkpoint["optimizer"]["state"][0] = "momentum"
    torch.save(checkpoint, path)
    with refused(run, "is no checkpoint of save_checkpoint"):
        load_checkpoint(path, *run)
    with pytest.raises(CheckpointError, match="is no checkpoint of save_checkpoint"):
        describe_checkpoint(path)


def test_a_zip_bomb_is_not_unpacked(run, path):
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run/bomb", bytes(2_000_000))
    assert path.stat().st_size < 1_000_000
    with refused(run, "is damaged.*its list of records"):
        load_checkpoint(path, *run)


def test_wrong_wiring_is_refused(run, new_run, path):
    model, optimizer, scheduler = run
    other_model, other_optimizer, other_scheduler = new_run()
    for parts, message in (
        ((model, other_optimizer, None), "optimizer is one of another model"),
        ((model, optimizer, other_scheduler), "scheduler is one of another optimizer"),
    ):
        with pytest.raises(CheckpointError, match=message):
            save_checkpoint(path, *parts, History())
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path, *parts)
    assert load_checkpoint(path, *run) == History(**HISTORY)


def test_parameters_of_one_shape_in_another_order(tmp_path):
    """PyTorch matches momentum by position, and says nothing."""
    model = net(3, 3, 3)
    first, second = list(model[0].parameters()), list(model[1].parameters())
    saved = model, optim.Adam([*first, *second]), None
    take_steps(*saved, shape=(2, 3))
    save_checkpoint(tmp_path / "run.pt", *saved, History())
    with refused(saved[:1], "parameter 0 of group 0 is 0.weight in the file and 1.weight in yours"):
        load_checkpoint(tmp_path / "run.pt", model, optim.Adam([*second, *first]))


def test_a_layer_that_is_frozen_no_more(tmp_path):
    saved = make("linear", "Adam")
    saved[0][0].requires_grad_(False)
    save_checkpoint(tmp_path / "run.pt", *saved, History())
    with refused(make("linear", "Adam"), "0.weight; frozen in the file and 0.weight in yours"):
        load_checkpoint(tmp_path / "run.pt", *(yours := make("linear", "Adam")))
    load_checkpoint(tmp_path / "run.pt", yours[0])  # to predict


def test_tied_weights_and_untied_ones(tmp_path):
    class Untied(Tied):
        def __init__(self):
            super().__init__()
            self.decode.weight = nn.Parameter(self.encode.weight.detach().clone())

    for saved, yours in ((Tied, Untied), (Untied, Tied)):
        save_checkpoint(tmp_path / "run.pt", *make(saved(), "Adam"), History())
        with refused(make(yours(), "Adam")[:1], "belongs to another model: decode.weight"):
            load_checkpoint(tmp_path / "run.pt", *(yours := make(yours(), "Adam"))[:1])


class MySGD(optim.SGD):
    """A subclass of one's own."""


def test_subclasses_and_classes_that_only_their_name_tells_apart(tmp_path):
    path = tmp_path / "run.pt"

    def make_parts(optimizer_class, scheduler_class):
        model = MODELS["linear"]()
        optimizer = optimizer_class(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, scheduler_class(optimizer, lambda epoch: 0.9)

    kinds = [
        (o, s)
        for o in (optim.SGD, MySGD)
        for s in (lr_scheduler.LambdaLR, lr_scheduler.MultiplicativeLR)
    ]
    for kind in kinds:
        assert_round_trip(make_parts(*kind), make_parts(*kind), path)
        for other in kinds:
            if other != kind:
                with refused(make_parts(*other)[:1], "belongs to another (optimizer|scheduler)"):
                    load_checkpoint(path, *make_parts(*other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("optimizer", ["NAdam", "ASGD", "Adam", "RAdam"])
def test_the_types_of_an_optimizers_states_are_kept(optimizer, dtype, tmp_path):
    parts = [make(net(4, 3).to(dtype), optimizer) for _ in range(2)]
    assert_round_trip(*parts, tmp_path / "run.pt")
    old, new = ([*part[1].state.values()] for part in parts)
    for before, after in zip(old, new, strict=True):
        assert {n: v.dtype for n, v in before.items()} == {n: v.dtype for n, v in after.items()}


def test_a_learning_rate_that_is_a_tensor(tmp_path):
    def make_parts():
        model = net(4, 3)
        optimizer = optim.Adam(model.parameters(), lr=torch.tensor(0.1))
        return model, optimizer, lr_scheduler.StepLR(optimizer, 1)

    assert_round_trip(make_parts(), make_parts(), tmp_path / "run.pt")


def test_lbfgs_and_sparse_adam(tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))  # one-dimensional, and first
            self.table = nn.Embedding(5, 3, sparse=True)

    def step_lbfgs(model, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = (model.scale.square() * torch.arange(3)).sum() + model.scale.exp().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    def step_sparse(model, optimizer):
        optimizer.zero_grad()
        model.table(torch.tensor([1, 2])).square().sum().backward()
        optimizer.step()

    for step, make_optimizer in (
        (step_lbfgs, lambda model: optim.LBFGS([model.scale], lr=0.1, max_iter=3)),
        (step_sparse, lambda model: optim.SparseAdam(model.table.parameters())),
    ):
        old, new = Words(), Words()
        old_optimizer, new_optimizer = make_optimizer(old), make_optimizer(new)
        step(old, old_optimizer)
        save_checkpoint(tmp_path / "run.pt", old, old_optimizer, None, History())
        load_checkpoint(tmp_path / "run.pt", new, new_optimizer)
        for model, optimizer in ((old, old_optimizer), (new, new_optimizer)):
            step(model, optimizer)
        assert sha256((new, new_optimizer)) == sha256((old, old_optimizer))


def test_others_are_saved_by_name(tmp_path):
    path = tmp_path / "run.pt"
    parts, average = make("linear", "Adam"), optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    average.update_parameters(nn.Linear(2, 2))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    save_checkpoint(path, *parts, History(), average=average, scaler=scaler)
    new_average = optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    new_scaler = torch.amp.GradScaler("cpu")
    load_checkpoint(path, *parts, average=new_average, scaler=new_scaler)
    assert sha256([new_average]) == sha256([average])
    assert new_scaler.get_scale() == 256.0
    assert load_checkpoint(path, *parts).not_loaded == ("average", "scaler")
    with refused(parts, "was saved without a ema"):
        load_checkpoint(path, *parts, ema=average)
    save_checkpoint(path, *parts, History())
    with refused(parts, "was saved without a average"):
        load_checkpoint(path, *parts, average=average)


@pytest.mark.parametrize("part", ["model hook", "optimizer hook", "scheduler", "other"])
def test_what_refuses_at_last_leaves_everything_as_it_was(part, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    saved = make("linear", "Adam", "CyclicLR")
    take_steps(*saved, shape=(8, 4))
    save_checkpoint(path, *saved, History(), other=torch.amp.GradScaler("cpu"))
    yours, other = make("linear", "Adam", "CyclicLR"), torch.amp.GradScaler("cpu", init_scale=2.0)

    def refuse(*_):
        raise RuntimeError("not this one")

    if part == "model hook":
        yours[0].register_load_state_dict_post_hook(refuse)
    elif part == "optimizer hook":
        yours[1].register_load_state_dict_post_hook(refuse)
    elif part == "scheduler":
        load = lr_scheduler.CyclicLR.load_state_dict

        def refuse_or_load(scheduler, state):
            return refuse() if state["last_epoch"] == 3 else load(scheduler, state)

        monkeypatch.setattr(lr_scheduler.CyclicLR, "load_state_dict", refuse_or_load)
    else:
        load = other.load_state_dict
        other.load_state_dict = lambda s: refuse() if s["scale"] != 2.0 else load(s)
    with refused(yours, "not this one"):
        load_checkpoint(path, *yours, other=other)
    assert other.get_scale() == 2.0


class Particular(nn.Linear):
    """A layer that puts a new tensor in the place of its buffer when it is loaded."""

    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("scale", torch.rand(3))

    def _load_from_state_dict(self, state, prefix, *arguments):
        super()._load_from_state_dict(state, prefix, *arguments)
        self.scale = state[prefix + "scale"].clone()


def test_a_layer_that_replaces_its_buffer(tmp_path):
    saved, yours = make(Particular(), "Adam"), make(Particular(), "Adam")
    assert_round_trip(saved, yours, tmp_path / "run.pt")

    def refuse(*_):
        raise RuntimeError("not this one")

    yours = make(Particular(), "Adam")
    yours[0].register_load_state_dict_post_hook(refuse)
    with refused(yours, "not this one"):
        load_checkpoint(tmp_path / "run.pt", *yours)


class Counting(nn.Linear):
    """A layer whose extra state changes its kind as it is trained."""

    seen = None

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = state


def test_an_extra_state_may_be_of_any_kind(tmp_path):
    saved, yours = make(Counting(4, 3), "Adam"), make(Counting(4, 3), "Adam")
    saved[0].seen = {"examples": 70, "last": torch.ones(3)}
    assert_round_trip(saved, yours, tmp_path / "run.pt")


class OwnOptimizer(optim.SGD):
    """Keeps a string for each parameter and a number for all, and has a rate of another name."""

    def step(self, closure=None):
        super().step(closure)
        self.state["steps"] = 7
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["phase"] = "warm"
                self.state[parameter]["pair"] = (torch.ones(2), 3)


def test_whatever_an_optimizer_of_ones_own_keeps(tmp_path):
    def make_parts():
        model = net(4, 3)
        return model, OwnOptimizer(model.parameters(), lr=0.1, momentum=0.9), None

    assert_round_trip(make_parts(), make_parts(), tmp_path / "run.pt")
    assert "all 6 tensors" not in repr(describe_checkpoint(tmp_path / "run.pt"))


def test_a_second_optimizer_and_any_name_among_the_others(tmp_path):
    def make_parts():
        second = net(4, 3).bfloat16()
        return make("linear", "Adam"), second, optim.NAdam(second.parameters())

    (saved, second, optimizer), (yours, other, other_optimizer) = make_parts(), make_parts()
    take_steps(second, optimizer, shape=(2, 4))
    others = {"versions": second, "description": optimizer}
    save_checkpoint(tmp_path / "run.pt", *saved, History(), **others)
    others = {"versions": other, "description": other_optimizer}
    load_checkpoint(tmp_path / "run.pt", *yours, **others)
    assert sha256((other, other_optimizer)) == sha256((second, optimizer))


class WithVocabulary(nn.Linear):
    """A layer that saves something of its own, and is particular about what it loads."""

    def __init__(self, vocabulary):
        super().__init__(4, 3)
        self.vocabulary = vocabulary

    def get_extra_state(self):
        return {"vocabulary": self.vocabulary}

    def set_extra_state(self, state):
        if state["vocabulary"] != self.vocabulary:
            raise ValueError("another vocabulary")


def test_a_model_that_refuses_at_last(tmp_path):
    """Its tensors fit and are copied already, when PyTorch comes to what does not fit."""
    saved = make(WithVocabulary("abc"), "momentum", "StepLR")
    assert_round_trip(saved, make(WithVocabulary("abc"), "momentum", "StepLR"), tmp_path / "run.pt")
    other = make(WithVocabulary("xyz"), "momentum", "StepLR")
    with refused(other, "another vocabulary"):
        load_checkpoint(tmp_path / "run.pt", *other)


# ---- Another device ----


@pytest.fixture
def path_from_gpu(run, path, monkeypatch):
    """A checkpoint whose tensors carry the mark of the first GPU, which needs none to make."""
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    save_checkpoint(path, *run, History(**HISTORY))
    monkeypatch.undo()
    assert b"cuda:0" in path.read_bytes()
    return path


def test_from_a_gpu_to_the_cpu(run, new_run, path_from_gpu):
    new = new_run()
    load_checkpoint(path_from_gpu, *new)
    assert sha256(new) == sha256(run)
    assert {parameter.device.type for parameter in new[0].parameters()} == {"cpu"}
    assert "linear.weight" in repr(describe_checkpoint(path_from_gpu))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
@pytest.mark.parametrize("map_location", ["cuda", "cuda:0", torch.device("cuda"), None])
def test_to_a_gpu_that_is_not_there(new_run, path_from_gpu, map_location):
    new = new_run()
    with refused(new, 'map_location="cpu"'):
        load_checkpoint(path_from_gpu, *new, map_location=map_location)


# ---- What is in it ----


def test_the_table_shows_everything(run, path):
    model, optimizer, _ = run
    table = describe_checkpoint(path)
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    tensors = {
        "model": model.state_dict(),
        "optimizer": {f"{number}.momentum_buffer": m for number, m in enumerate(momenta)},
    }
    text, html = repr(table), table._repr_html_()
    lines = [line.split() for line in text.splitlines()]
    for part, state in tensors.items():
        for name, tensor in state.items():
            cells = [part, name, str(tuple(tensor.shape)), "float32", f"{tensor.nbytes:,}"]
            assert " ".join(cells).split() in lines
            assert "".join(f"<td>{cell}</td>" for cell in cells) in html
        total = f"{sum(tensor.nbytes for tensor in state.values()):,}"
        assert [part, "all", "2", "tensors", total] in lines
        assert f"<td>all 2 tensors</td><td></td><td></td><td>{total}</td>" in html
    for note in (
        "2 epochs and 1 of 2 batches done with seed 5",
        f"Learning rate: {optimizer.param_groups[0]['lr']:g}",
        f"torch {torch.__version__}",
        "python 3.",
    ):
        assert note in text
        assert note in html


def test_the_table_escapes_names_in_html(tmp_path):
    model = named(**{"<script>": nn.Linear(2, 2)})
    parts = model, optim.SGD(model.parameters(), lr=0.1), None
    save_checkpoint(tmp_path / "run.pt", *parts, History())
    html = describe_checkpoint(tmp_path / "run.pt")._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;.weight" in html


def test_the_table_says_what_load_checkpoint_says_of_a_damaged_file(path):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged"):
        describe_checkpoint(path)


def test_a_file_that_was_renamed_or_copied_is_the_same(run, new_run, path):
    shutil.copy(path, path.with_name("größer 2 (copy).backup"))
    new = new_run()
    load_checkpoint(path.with_name("größer 2 (copy).backup"), *new)
    assert sha256(new) == sha256(run)


def test_nothing_that_was_loaded_is_still_in_the_file(tmp_path):
    """While it is loaded, the file is mapped: what stays mapped would change with the file."""
    path = tmp_path / "run.pt"
    model, average = nn.Linear(300, 300), nn.Linear(300, 300)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    save_checkpoint(path, model, optimizer, None, History(), average=average)
    load_checkpoint(path, model, optimizer, average=average)
    parts = [model.state_dict(), optimizer.state_dict(), average.state_dict()]
    before = compute_sha256(*parts)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert compute_sha256(*parts) == before
