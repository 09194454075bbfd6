"""The training loop: what it records, prints and saves, and what it leaves alone."""

import copy
import os
import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helper.checkpoint import save_checkpoint
from helper.evaluation import compute_accuracy
from helper.history import History
from helper.train import train_model
from tests.support.runs import BATCHES, Run, at_call


def test_the_global_random_numbers_are_left_alone():
    def draw():
        return torch.rand(1), np.random.rand(), random.random()

    def seed():
        torch.manual_seed(5), np.random.seed(5), random.seed(5)

    run = Run()
    seed()
    expected = draw()
    seed()
    run.train(1)
    assert draw() == expected


def test_epochs_of_neighbouring_seeds_have_nothing_in_common():
    def losses(seed):
        run = Run(seed=seed)
        # Only the randomness of an epoch makes its losses.
        run.optimizer, run.scheduler = torch.optim.SGD(run.model.parameters(), lr=0), None
        return run.train().history.minibatch_loss

    first, second = losses(1), losses(2)
    assert not set(first) & set(second)
    assert len(set(first)) == len(first)


def test_num_epochs_is_the_total():
    run = Run().train(2)
    assert re.findall(r"(Epoch: \d+/\d+) \| Train:", run.printed) == [
        "Epoch: 001/002",
        "Epoch: 002/002",
    ]
    before = run.sha256()
    assert run.train(2).printed == "Nothing to do: 2 of 2 epochs are done already.\n"
    assert run.sha256() == before
    assert "Epoch: 003/003" in run.train(3).printed
    assert run.history.epoch == 3


def test_history_records_what_happened():
    run = Run(scheduler_every="epoch")
    run.scheduler = StepLR(run.optimizer, 1, gamma=0.5)
    run.train(3)
    history = run.history
    assert len(history.minibatch_loss) == 3 * BATCHES
    assert history.learning_rate == [0.01, 0.005, 0.0025]
    assert (history.batches_per_epoch, history.batch_size) == (BATCHES, 16)
    assert (history.epoch, history.batch, history.position) == (3, 0, "3 epochs")
    assert len(history.train_acc) == len(history.valid_acc) == 3
    assert all(0 <= accuracy <= 100 for accuracy in history.train_acc + history.valid_acc)
    with pytest.raises(TypeError, match="history"):
        train_model(run.model, 3, *run.loaders, run.optimizer, "cpu")


def test_what_is_printed():
    run = Run().train(1, logging_interval=2)
    losses = [f"{loss:.4f}" for loss in run.history.minibatch_loss[::2]]
    lines = re.findall(r"Epoch: 001/001 \| Batch (\d+)/0005 \| Loss: (\S+)", run.printed)
    assert lines == [*zip(["0000", "0002", "0004"], losses, strict=True)]
    assert re.search(r"Test accuracy: \d+\.\d\d%\n$", run.printed)


class TransferCounter(TorchDispatchMode):
    """Counts the operations that bring a tensor from one device to another."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = filter(torch.is_tensor, tree_leaves((args, result)))
        self.count += len({tensor.device for tensor in tensors}) > 1
        return result


def test_a_device_gets_the_data_once(new_run, loaders):
    """On the device "meta", which computes nothing: asking it for a loss is an error."""
    model, _, _ = new_run()
    model.to("meta")
    meta_loaders = copy.deepcopy(loaders)  # their datasets are moved
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = []
    with TransferCounter() as transfers, pytest.raises(RuntimeError, match="meta"):
        train_model(model, 1, *meta_loaders, optimizer, "meta", history=History())
    assert all(loader.dataset.images.is_meta for loader in meta_loaders)

    model.register_forward_hook(lambda *_: seen.append(transfers.count))
    with TransferCounter() as transfers, pytest.raises(NotImplementedError, match="meta"):
        compute_accuracy(model, meta_loaders[2], "meta")
    assert len(seen) == len(meta_loaders[2]) == 10
    assert seen[0] == seen[-1]


# ---- Files that are there already ----


def longer(path):
    Run().train(2, checkpoint_path=path)


def of_another_seed(path):
    Run(seed=6).train(1, checkpoint_path=path)


def with_another_part(path):
    run = Run()
    save_checkpoint(path, *run.parts, run.history, average=nn.Linear(1, 1))


def of_an_older_format(path):
    Run().train(1, checkpoint_path=path)
    torch.save({**torch.load(path, weights_only=True), "format": "save, load, continue 2"}, path)


OTHERS = {
    "longer": longer,
    "of another seed": of_another_seed,
    "with another part": with_another_part,
    "of an older format": of_an_older_format,
    "weights only": lambda path: torch.save(Run().model.state_dict(), path),
    "a whole model": lambda path: torch.save(Run().model, path),
    "garbage": lambda path: path.write_bytes(b"garbage"),
    "empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_no_beginning_of_this_run_is_renamed(kind, tmp_path):
    path, kept = tmp_path / "run.pt", []
    for name in ("run.previous.pt", "run.previous2.pt"):
        path.unlink(missing_ok=True)
        OTHERS[kind](path)
        kept.append(path.read_bytes())
        run = Run().train(1, checkpoint_path=path)
        assert f": renamed to {name}." in run.printed
        assert run.printed.count("renamed") == 1
        assert Run().load(path).sha256() == run.sha256()
        assert (tmp_path / name).read_bytes() == kept[-1]
    assert (tmp_path / "run.previous.pt").read_bytes() == kept[0]
    assert len(os.listdir(tmp_path)) == 3


def test_a_beginning_of_this_run_is_replaced(tmp_path):
    path = tmp_path / "run.pt"
    Run().stop_in(2, path)
    run = Run().train(1, checkpoint_path=path)
    run = Run().load(path).train(2, checkpoint_path=path)
    run.train(3, checkpoint_path=path)
    assert "renamed" not in run.printed
    assert os.listdir(tmp_path) == ["run.pt"]


def test_links_are_kept(tmp_path):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "run.pt", tmp_path / "disk" / "real.pt"
    target.write_bytes(b"garbage")
    link.symlink_to(target)
    Run().train(1, checkpoint_path=link)
    assert link.is_symlink()
    assert Run().load(target).history.epoch == 1
    assert (tmp_path / "disk" / "real.previous.pt").read_bytes() == b"garbage"


def test_one_call_saves_in_one_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = Run()
    run.optimizer.register_step_post_hook(at_call(7, lambda: os.chdir("elsewhere")))
    run.train(checkpoint_path="saved/run.pt")
    assert Run().load(tmp_path / "saved/run.pt").history.epoch == 3
    assert os.listdir(tmp_path / "elsewhere") == []


# ---- Numbers that are not finite ----


def test_a_buffer_that_becomes_infinite_is_never_saved(tmp_path):
    path = tmp_path / "run.pt"
    run = Run().train(1, checkpoint_path=path)
    saved = run.sha256()
    spoil = at_call(2, lambda: run.model.normalize.running_var.fill_(float("inf")))
    handle = run.optimizer.register_step_post_hook(spoil)
    with pytest.raises(FloatingPointError, match="normalize.running_var is not finite at epo"):
        run.train(checkpoint_path=path)
    handle.remove()
    assert run.sha256() == Run().load(path).sha256() == saved
    assert run.train().sha256() == Run().train().sha256()


def test_buffers_that_were_infinite_from_the_start_are_saved(tmp_path):
    """As the mask of an attention layer is."""

    def run():
        run = Run()
        run.model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
        run.model.register_buffer("other", torch.zeros(2))
        return run

    path = tmp_path / "run.pt"
    run().stop_in(7, path)
    assert run().load(path).train(checkpoint_path=path).sha256() == run().train().sha256()
    spoilt = run()
    spoilt.model.mask[0] = float("nan")
    with pytest.raises(FloatingPointError, match="mask is not finite"):
        spoilt.train(1)
