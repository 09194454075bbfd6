"""What is saved is what is loaded, or saving is refused and the old file stays."""

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from helper.checkpoint import CheckpointError, describe_checkpoint, load_checkpoint, save_checkpoint
from helper.dataset import ImageDataset, make_loader, resize
from helper.history import History
from helper.reproducibility import compute_sha256
from helper.train import train_model
from tests.support.checkpoints import (
    HISTORY,
    OPTIMIZERS,
    SCHEDULERS,
    Tied,
    assert_round_trip,
    assert_still_saved,
    make,
    net,
    refused,
    sha256,
    take_steps,
)

pytest_plugins = "tests.support.saved_run"
pytestmark = pytest.mark.usefixtures("one_thread")


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
    parts = "format model optimizer scheduler history others description versions"
    assert [*checkpoint] == parts.split()
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
    load_checkpoint(path, *new[:2])
    assert sha256(new[:2]) == sha256(run[:2])


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


# ---- Every kind of optimizer, scheduler, layer and other ----


MODELS = {
    "BatchNorm": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3)),
    "tied": Tied,
    "bfloat16": lambda: net(4, 3, 2).bfloat16(),
    "float64": lambda: net(4, 3, 2).double(),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_false_alarm(optimizer, tmp_path):
    for scheduler in SCHEDULERS:
        arguments = (None, optimizer, scheduler)
        assert_round_trip(make(*arguments), make(*arguments), tmp_path / "run.pt")


@pytest.mark.parametrize("two_groups", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_no_false_alarm_with_buffers_tied_weights_types_and_two_groups(model, two_groups, tmp_path):
    for optimizer in OPTIMIZERS:
        old, new = (make(MODELS[model](), optimizer, "StepLR", two_groups) for _ in range(2))
        assert_round_trip(old, new, tmp_path / "run.pt")
        for before, after in zip(old[1].state.values(), new[1].state.values(), strict=True):
            for name, value in before.items():  # PyTorch alone changes the types of some
                assert getattr(value, "dtype", None) == getattr(after[name], "dtype", None)


@pytest.mark.parametrize("history", [History(**HISTORY), History()])
def test_no_false_warning_when_the_scheduler_steps_first_after_loading(tmp_path, recwarn, history):
    """PyTorch would say that a value is skipped. Also in a loop that keeps no losses."""

    def make_parts():
        names = ("critic", "second", "schedule")
        critic = dict(zip(names, make(None, "Adam", "StepLR"), strict=True))
        return make(None, "Adam", "StepLR"), critic

    parts, critic = make_parts()
    take_steps(*parts[:2])
    take_steps(critic["critic"], critic["second"])
    save_checkpoint(tmp_path / "run.pt", *parts, history, **critic)
    parts, critic = make_parts()
    load_checkpoint(tmp_path / "run.pt", *parts, **critic)
    parts[2].step()
    critic["schedule"].step()
    assert not recwarn.list


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


def test_others_of_every_kind_and_name(tmp_path):
    def make_parts(scale):
        second = net(4, 3).bfloat16()
        return make(None, "Adam"), {
            "versions": second,
            "description": optim.NAdam(second.parameters()),
            "average": AveragedModel(nn.Linear(2, 2)),
            "scaler": torch.amp.GradScaler("cpu", init_scale=scale),
        }

    (saved, others), (yours, other_others) = make_parts(256.0), make_parts(2.0)
    take_steps(others["versions"], others["description"])
    others["average"].update_parameters(nn.Linear(2, 2))
    save_checkpoint(tmp_path / "run.pt", *saved, History(), **others)
    load_checkpoint(tmp_path / "run.pt", *yours, **other_others)
    assert sha256(other_others.values()) == sha256(others.values())


# ---- What could not be loaded isn't saved ----


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
        with pytest.raises(CheckpointError, match="lazy, sparse, expanded or on the meta device"):
            call()
    assert not os.listdir(tmp_path)


def test_a_buffer_that_is_not_saved_may_be_expanded(tmp_path):
    def make_parts():
        model = nn.Linear(4, 3)
        model.register_buffer("mask", torch.ones(1).expand(4), persistent=False)
        return model, optim.SGD(model.parameters(), lr=0.1), None

    assert_round_trip(make_parts(), make_parts(), tmp_path / "run.pt")


def test_checksums_that_are_switched_off(run, path):
    torch.serialization.set_crc32_options(False)
    try:
        with pytest.raises(CheckpointError, match=r"set_crc32_options\(True\)"):
            save_checkpoint(path, *run, History())
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(path, *run) == History(**HISTORY)


def with_attribute(**attributes):
    history = History()
    vars(history).update(attributes)
    return history


@pytest.mark.parametrize(
    "history",
    [
        lambda: with_attribute(note="mine"),
        lambda: with_attribute(seed=-1),
        lambda: with_attribute(batch_size=10**700),
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


# ---- When saving fails ----


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


@pytest.mark.kills
def test_a_disk_too_full_for_alexnet_while_it_trains(loaders, tmp_path, capsys):  # no file
    """What notebook 4 does, on a few digits: the second epoch's 456 MB don't fit any more."""
    path = tmp_path / "run.pt"
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
    history = train_model(
        model, 1, *few, optimizer, "cpu", history=History(seed=5), checkpoint_path=path
    )
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
    model = nn.ModuleDict({"<script>": nn.Linear(2, 2)})
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
