"""A damaged, forged or different file is refused, and the message says what it is."""

import contextlib
import os
import pickle
import random
import zipfile
from collections import Counter

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from helper.checkpoint import CheckpointError, describe_checkpoint, load_checkpoint, save_checkpoint
from helper.history import History
from tests.support.checkpoints import HISTORY, make, refused, sha256, take_steps

pytest_plugins = "tests.support.saved_run"


# ---- Damage ----


def flip_bit(data, moments, begin=0):
    position = moments.randrange(begin, len(data))
    flipped = data[position] ^ (1 << moments.randrange(8))
    return data[:position] + bytes([flipped]) + data[position + 1 :]


def zero_a_range(data, moments):
    begin = moments.randrange(len(data))
    length = min(moments.randint(1, 4096), len(data) - begin)
    return data[:begin] + bytes(length) + data[begin + length :]


@pytest.mark.slow
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
@pytest.mark.parametrize("each", [8, pytest.param(1, marks=pytest.mark.kills)])
def test_bits_of_the_archives_directory(run, new_run, path, each):
    """A bit of every byte, or every bit; among them one that makes PyTorch read nothing."""
    original, expected = path.read_bytes(), sha256(run)
    with zipfile.ZipFile(path) as archive:
        begin = archive.start_dir
    new = new_run()
    for position in range(begin, len(original)):
        for bit in range(position % each, 8, each):
            changed = bytearray(original)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            with contextlib.suppress(CheckpointError):
                load_checkpoint(path, *new)
                assert sha256(new) == expected, (position, bit)


# ---- What isn't a checkpoint of ours ----


def trained_parts():
    parts = make(None, "Adam", "StepLR")
    take_steps(*parts)
    return parts


def other_scheduler(name):
    return make(None, "momentum", name)[2].state_dict()


READS = r"{}.load_state_dict\(torch.load\(path, weights_only=True\)\)"
BARE = {
    "model": (lambda: trained_parts()[0].state_dict(), "state_dict of a model.*" + READS),
    "average": (lambda: AveragedModel(nn.Linear(2, 2)).state_dict(), "of a model.*" + READS),
    "optimizer": (lambda: trained_parts()[1].state_dict(), "of an optimizer.*" + READS),
    "new optimizer": (lambda: make()[1].state_dict(), "of an optimizer.*" + READS),
    "scheduler": (lambda: trained_parts()[2].state_dict(), "of a scheduler.*" + READS),
    "plateau": (lambda: other_scheduler("ReduceLROnPlateau"), "of a scheduler.*" + READS),
    "sequence": (lambda: other_scheduler("SequentialLR"), "of a scheduler.*" + READS),
    "extra state": (lambda: {"weight": torch.ones(1), "_extra_state": 3}, "of a model.*" + READS),
    "no keys": (dict, "dict with these keys: none"),
    "tensor": (lambda: torch.ones(3), "it holds a Tensor. Read it with torch.load"),
    "list": (lambda: [torch.ones(3)], "it holds a list. Read it with torch.load"),
    "by hand": (
        lambda: {"epoch": 3, "model_state_dict": trained_parts()[0].state_dict(), "loss": 0.5},
        "dict with these keys: epoch, model_state_dict, loss. Read it with torch.load",
    ),
    "other framework": (
        lambda: {"state_dict": {}, "optimizer_states": [], "hparams": {"format": 1}},
        "dict with these keys: state_dict, optimizer_states, hparams. Read it with torch.load",
    ),
    "many keys": (lambda: dict.fromkeys(range(50)), "these keys: 0, 1, 2, 3, 4, 5, 6, 7. Read it"),
    "other format": (
        lambda: {"format": "mine", "model": {}},
        "dict with these keys: format, model",
    ),
    "format 2": (lambda: {"format": "save, load, continue 2", "model": {}}, "an earlier version"),
    "format 1": (
        lambda: {"format": "save, load, continue 1", "history": None},
        "an earlier version of this course saved it. Rerun the notebook that saves it",
    ),
}


@pytest.mark.parametrize("name", BARE)
def test_a_different_file_is_named_and_what_reads_it(run, path, name):
    make_content, message = BARE[name]
    torch.save(make_content(), path)
    before = path.read_bytes()
    part = name.split()[-1] if name.split()[-1] in ("optimizer", "scheduler") else "model"
    part = "scheduler" if name in ("plateau", "sequence") else part
    message = f"can be read, but it wasn't written by save_checkpoint: .*{message}"
    with refused(run, message.replace("{}", part)):
        load_checkpoint(path, *run)
    with pytest.raises(CheckpointError, match="wasn't written by save_checkpoint"):
        describe_checkpoint(path)
    assert path.read_bytes() == before


def test_a_whole_model_is_refused_for_safety(run, path):
    torch.save(run[0], path)
    with refused(
        run, "refused for safety: it holds .*, a whole model .* Save the model's state_dict"
    ):
        load_checkpoint(path, *run)


def test_files_of_other_kinds(run, path):
    """From before PyTorch 1.6, and a pickle: torch.load may read them, which the message says."""
    torch.save(run[0].state_dict(), path, _use_new_zipfile_serialization=False)
    for _ in range(2):
        with refused(run, "isn't a complete torch.save archive.*which torch.load may read"):
            load_checkpoint(path, *run)
        path.write_bytes(pickle.dumps({"epoch": 3}))


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("optimizer", {"state": {}, "param_groups": 5}),
        ("optimizer", {"state": {}, "param_groups": [{}]}),
        ("scheduler", {3: 4}),
        ("model", {1: 2}),
        ("model", {}),
        ("history", HISTORY | {"train_acc": ["a", "b"]}),
        ("history", HISTORY | {"batches_per_epoch": 3}),  # then fewer are done than epochs have
        ("history", HISTORY | {"seed": 2**32}),
        ("history", {**HISTORY, "settings": None}),
        ("history", {name: HISTORY[name] for name in ("seed", "train_acc")}),
        ("description", {}),
        ("others", {"ema": {}}),
        ("versions", {"torch": 2.0}),
        ("versions", None),
    ],
)
def test_a_part_of_a_different_form(run, path, part, content):
    checkpoint = torch.load(path, weights_only=True)
    checkpoint[part] = content
    torch.save(checkpoint, path)
    with refused(run, "wasn't written by save_checkpoint"):
        load_checkpoint(path, *run)
    with pytest.raises(CheckpointError, match="wasn't written by save_checkpoint"):
        describe_checkpoint(path)


@pytest.mark.parametrize(
    "forge",
    [
        lambda checkpoint: checkpoint["description"]["model"].update(
            {"linear.weight": "float32 (1,)"}
        ),
        lambda checkpoint: checkpoint["model"].pop("linear.bias"),
        lambda checkpoint: checkpoint["optimizer"]["state"].update({0: "momentum"}),
        lambda checkpoint: checkpoint["optimizer"]["param_groups"][0]["params"].pop(),
        lambda checkpoint: checkpoint.pop("others"),
    ],
)
def test_a_forged_part(run, path, forge):
    checkpoint = torch.load(path, weights_only=True)
    forge(checkpoint)
    torch.save(checkpoint, path)
    with refused(run, "wasn't written by save_checkpoint"):
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
        with refused(run, "was refused for safety" if form == "torch.save" else None):
            load()
    assert not victim.exists()

    # And it would have run.
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert victim.exists()


def test_a_zip_bomb_is_not_unpacked(run, path):
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run/bomb", bytes(2_000_000))
    assert path.stat().st_size < 1_000_000
    with refused(run, "is damaged.*torch.save never writes a record like run/bomb"):
        load_checkpoint(path, *run)
