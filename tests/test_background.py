"""Saves in the background: the run and its files are those of a run that waits for its disk."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections import OrderedDict, namedtuple
from pathlib import Path

import pytest
import torch

import helper.atomic
import helper.background
import helper.train
from helper.background import BackgroundWriter
from helper.checkpoint import CheckpointError, load_checkpoint, make_checkpoint, save_checkpoint
from helper.history import History
from helper.train import Trainer
from tests.support.checkpoints import Tied, make, take_steps
from tests.support.programs.killed_in_background import (
    train_to_the_end,
    train_until_killed,
    train_without_room,
)
from tests.support.runs import BATCHES, NUM_EPOCHS, Run, at_call, interrupt

pytest_plugins = "tests.support.saved_run"
EPOCHS = ["1 epoch", "2 epochs", "3 epochs"]  # the positions at which a run is saved


@pytest.fixture(scope="module", autouse=True)
def one_thread_here():
    """As in the processes that these tests start: a second thread changes the last bit."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def states(tmp_path_factory, one_thread_here):
    """The hash of every state that a run in the foreground saves, by its position."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        files = keep_files(patch, helper.train)
        Run().train(checkpoint_path=folder / "run.pt", checkpoint_every=1)
    hashes = hashes_of(files, folder)
    assert len(hashes) == NUM_EPOCHS * (BATCHES + 1)
    return hashes


@pytest.fixture(scope="module")
def whole(states):
    """The hash at the end."""
    return states["3 epochs"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


def keep_files(patch, module):
    """Return a list that gets the content of each file as it is written."""
    write, files = module.write_checkpoint, []

    def write_and_read(path, checkpoint):
        write(path, checkpoint)
        files.append(Path(path).read_bytes())

    patch.setattr(module, "write_checkpoint", write_and_read)
    return files


def load_files(files, folder):
    """Yield a run for each content. Not in the thread: a fresh run draws random numbers."""
    for content in files:
        (folder / "copy.pt").write_bytes(content)
        yield Run().load(folder / "copy.pt")
    (folder / "copy.pt").unlink()


def hashes_of(files, folder):
    """Return the hash of what is in each file, by its position."""
    return {run.history.position: run.sha256() for run in load_files(files, folder)}


class Gate:
    """Stands in for a function: the thread that calls it waits here until the gate is opened."""

    def __init__(self, patch, module=os, name="fsync"):
        self.own = getattr(module, name)
        self.reached, self.opened = threading.Event(), threading.Event()
        self.thread = None
        patch.setattr(module, name, self)

    def __call__(self, *arguments):
        if threading.current_thread() is not threading.main_thread():
            self.thread = threading.current_thread()
            self.reached.set()
            assert self.opened.wait(60), "nobody has opened the gate"
        return self.own(*arguments)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def fail(*_):
    raise RuntimeError("on purpose")


# ---- The same run, the same files ----


@pytest.mark.parametrize("loader", ["shuffled", "two workers", "persistent workers"])
@pytest.mark.slow
def test_run_and_files_are_those_of_a_run_in_the_foreground(loader, states, path, monkeypatch):
    files = keep_files(monkeypatch, helper.background)
    run = Run(loader).train(checkpoint_path=path, checkpoint_every=1, save_in_background=True)
    assert run.sha256() == states["3 epochs"]
    assert hashes_of(files, path.parent) == states
    assert os.listdir(path.parent) == ["run.pt"]


def test_each_file_continues_exactly(whole, path, monkeypatch):
    with monkeypatch.context() as patch:
        files = keep_files(patch, helper.background)
        Run().train(checkpoint_path=path, checkpoint_every=1, save_in_background=True)
    ends = [run.train().sha256() for run in load_files(files, path.parent)]
    assert ends == [whole] * NUM_EPOCHS * (BATCHES + 1)


def test_what_is_written_is_the_run_at_the_save_however_long_it_takes(states, path, monkeypatch):
    """The thread stands still before it writes anything, while two more steps are taken."""
    gate, files, run = (
        Gate(monkeypatch, torch, "save"),
        keep_files(monkeypatch, helper.background),
        Run(),
    )

    def open_the_gate():
        assert gate.reached.wait(60)
        assert not path.exists()
        gate.opened.set()

    run.optimizer.register_step_post_hook(at_call(4, open_the_gate))
    run.train(1, checkpoint_path=path, checkpoint_every=3, save_in_background=True)
    positions = ["0 epochs and 3 of 5 batches", "1 epoch"]
    assert hashes_of(files, path.parent) == {position: states[position] for position in positions}


# ---- The copy ----

Pair = namedtuple("Pair", "first second")


def every_kind_of_tensor():
    numbers = torch.arange(24.0).reshape(2, 3, 4)
    state = OrderedDict(a=numbers, same=numbers.detach(), view=numbers[0])
    state._metadata = {"": {"version": 2}}
    tensors = [
        numbers.transpose(0, 2),
        numbers[:, :, ::2],
        torch.ones(1).expand(4),
        torch.randn(1, 4, 2, 2).to(memory_format=torch.channels_last),
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([1 + 2j]),
        torch.tensor(7),
        torch.tensor([True]),
        torch.empty(0, 3),
        torch.empty(0),
    ]
    numbers = torch.tensor([1 + 2j, 3 - 1j])
    conjugated = Pair(numbers, [numbers.conj(), numbers.conj().imag])
    return {"state": state, "tensors": tensors, "pair": conjugated, "rest": [1, "a", None, 0.5]}


def flat(value):
    return list(helper.background.find_tensors(value))


def test_a_copy_is_equal_and_shares_nothing_with_the_run():
    run = every_kind_of_tensor()
    copied = BackgroundWriter().copy(run)
    expected = [tensor.clone() for tensor in flat(run)]
    for tensor in flat(run):
        torch.zero_(tensor[..., :1] if 0 in tensor.stride() else tensor)
    for before, after in zip(expected, flat(copied), strict=True):
        assert torch.equal(before, after)
        assert before.dtype == after.dtype
    assert copied["state"]["a"] is copied["state"]["same"]
    assert copied["tensors"][3].is_contiguous(memory_format=torch.channels_last)
    assert type(copied["state"]) is OrderedDict
    assert copied["state"]._metadata == {"": {"version": 2}}
    assert copied["state"]._metadata is not run["state"]._metadata
    assert type(copied["pair"]) is Pair
    assert copied["rest"] == run["rest"]
    assert copied["rest"] is not run["rest"]


def test_copies_are_kept_and_replaced_if_the_run_has_other_tensors():
    writer, run = BackgroundWriter(), every_kind_of_tensor()
    places = [tensor.data_ptr() for tensor in flat(writer.copy(run))]
    kept = list(writer.copies)
    copied = writer.copy(every_kind_of_tensor())
    assert [tensor.data_ptr() for tensor in flat(copied)] == places
    assert all(a is b for a, b in zip(kept, writer.copies, strict=True))

    run["tensors"][6:8] = [torch.tensor([7]), torch.tensor([1])]  # other shapes, other types
    del run["tensors"][8:], run["pair"]
    copied = writer.copy(run)
    assert all(map(torch.equal, flat(copied), flat(run)))
    assert len(writer.copies) == len(flat(run)) - 1  # two are the same
    assert all(a is b for a, b in zip(kept[:8], writer.copies[:8], strict=True))


def test_tied_weights_are_written_once_and_stay_tied(path):
    parts = make(Tied(), "Adam", "StepLR")
    take_steps(*parts)
    save_checkpoint(path, *parts, History())
    writer, size = BackgroundWriter(), path.stat().st_size
    writer.start(path, make_checkpoint(*parts, History()))
    writer.wait()
    assert path.stat().st_size <= size
    saved = torch.load(path, weights_only=True)["model"]
    assert saved["encode.weight"].data_ptr() == saved["decode.weight"].data_ptr()
    assert load_checkpoint(path, *make(Tied(), "Adam", "StepLR")) == History()


# ---- Who waits for the thread ----

LATER = {  # what makes the main thread wait, the number of losses then, and the file at the end
    "the next save": (lambda run: None, None, 10, "3 epochs"),
    "the end": (lambda run: None, None, 5, "1 epoch"),
    "a stop": (
        lambda run: run.optimizer.register_step_post_hook(at_call(6, interrupt)),
        KeyboardInterrupt,
        7,
        "1 epoch and 2 of 5 batches",
    ),
    "an error between two steps": (
        lambda run: run.train_collate(2 * BATCHES + 2, fail),
        RuntimeError,
        7,
        "1 epoch and 2 of 5 batches",
    ),
    "an error inside a step": (
        lambda run: run.optimizer.register_step_post_hook(at_call(7, fail)),
        RuntimeError,
        7,
        "1 epoch",
    ),
    "an error inside the step after the save": (
        lambda run: run.optimizer.register_step_post_hook(at_call(5, fail)),
        RuntimeError,
        5,
        "1 epoch",
    ),
}


class BreakableRun(Run):
    def train_collate(self, call, action):
        self.loaders[0].collate_fn = at_call(call, action, self.loaders[0].collate_fn)


@pytest.mark.parametrize("what", LATER)
def test_it_waits(what, states, path, monkeypatch):
    """The first write isn't finished before somebody waits for it."""
    prepare, error, losses, position = LATER[what]
    run, waited = BreakableRun(), []
    prepare(run)
    with monkeypatch.context() as patch:
        gate, join = Gate(patch), threading.Thread.join

        def open_and_join(thread, *arguments):
            assert gate.reached.wait(60)
            if thread is gate.thread and not gate.opened.is_set():
                waited.append(len(run.history.minibatch_loss))
                assert not path.exists()
                gate.opened.set()
            join(thread, *arguments)

        patch.setattr(threading.Thread, "join", open_and_join)
        with pytest.raises(error) if error else contextlib.nullcontext():
            num_epochs = 1 if what == "the end" else NUM_EPOCHS
            run.train(num_epochs, checkpoint_path=path, save_in_background=True)
    assert waited == [losses]
    assert not gate.thread.is_alive()
    assert run.history.position == position
    assert Run().load(path).sha256() == run.sha256() == states[position]
    assert ("The run is back at" in run.printed) == ("inside" in what)
    assert os.listdir(path.parent) == ["run.pt"]
    assert run.train().sha256() == states["3 epochs"]


def test_the_run_is_clean_when_the_file_is_known_to_be_complete(path, monkeypatch):
    gate, run = Gate(monkeypatch), Run()
    names = ("train_loader", "valid_loader", "test_loader")
    trainer = Trainer(
        model=run.model,
        num_epochs=1,
        **dict(zip(names, run.loaders, strict=True)),
        optimizer=run.optimizer,
        device="cpu",
        history=run.history,
        checkpoint_path=path,
        save_in_background=True,
    )
    trainer.prepare()
    batch = next(iter(run.loaders[0]))

    trainer.train_step(*batch)
    trainer.save()
    assert trainer.dirty
    gate.opened.set()
    trainer.finish_saving()
    assert not trainer.dirty

    trainer.save()
    trainer.train_step(*batch)  # the file is complete, and the run is ahead of it
    trainer.finish_saving()
    assert trainer.dirty

    trainer.save()
    run.optimizer.register_step_post_hook(fail)
    with pytest.raises(RuntimeError):
        trainer.train_step(*batch)  # half of one
    trainer.finish_saving()
    assert trainer.dirty
    trainer.writer.close()


@pytest.mark.parametrize("background", [False, True])
def test_an_error_inside_the_first_step_of_a_run(background, path):
    run = Run()
    run.optimizer.register_step_post_hook(at_call(0, fail))
    with pytest.raises(RuntimeError):
        run.train(checkpoint_path=path, save_in_background=background)
    assert "Recreate the model" in run.printed


def test_the_copy_is_given_back(path, monkeypatch):
    """A notebook keeps the last traceback, and with it everything that its frames hold."""
    writers, start = [], BackgroundWriter.start

    def start_and_note(writer, *arguments):
        start(writer, *arguments)
        assert writer.copies
        writers.append(writer)

    monkeypatch.setattr(BackgroundWriter, "start", start_and_note)
    run = Run()
    run.optimizer.register_step_post_hook(at_call(7, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint_path=path, save_in_background=True)
    assert writers
    assert not any(writer.copies or writer.thread.is_alive() for writer in writers if writer.thread)
    assert not any(writer.copies for writer in writers)


# ---- When it fails ----


@pytest.mark.parametrize("call", range(3))
def test_a_write_that_fails_is_an_error_at_the_next_save_or_at_the_end(
    call, states, path, monkeypatch
):
    run = Run()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", at_call(call, full_disk, os.replace))
        with pytest.raises(CheckpointError, match="could not be saved.* No space left on device"):
            run.train(checkpoint_path=path, save_in_background=True)
    assert run.history.position == EPOCHS[min(call + 1, 2)]
    assert run.sha256() == states[run.history.position]
    assert os.listdir(path.parent) == ["run.pt"] * (call > 0)
    if call > 0:  # the file of the save before
        assert Run().load(path).sha256() == states[EPOCHS[call - 1]]
        assert Run().load(path).train().sha256() == states["3 epochs"]
    run.train(checkpoint_path=path, save_in_background=True)
    assert Run().load(path).sha256() == run.sha256() == states["3 epochs"]
    assert os.listdir(path.parent) == ["run.pt"]


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("what", ["a stop", "an error between two steps"])
def test_after_a_write_that_failed_a_stop_and_an_error_try_again(
    what, room, states, path, monkeypatch
):
    prepare, error, _, position = LATER[what]
    run = BreakableRun()
    prepare(run)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", at_call(0, full_disk, os.replace) if room else full_disk)
        with pytest.raises(error):
            run.train(checkpoint_path=path, save_in_background=True)
    where = f"saved in {path}" if room else f"in memory only: {path} could not be saved"
    assert f"after {position}: the run is {where}" in run.printed
    assert path.exists() == room
    if room:
        assert Run().load(path).sha256() == states[position]
    assert run.train().sha256() == states["3 epochs"]


@pytest.mark.parametrize("missing", [None, 1, 3_000])
def test_a_file_that_may_not_grow(missing, states, path, forkserver):
    """As on a full disk, in a process of its own: the file of epoch 1 is there, no other fits."""
    Run().train(1, checkpoint_path=path)
    num_bytes = 0 if missing is None else path.stat().st_size - missing
    path.unlink()
    process = forkserver.Process(target=train_without_room, args=(path.parent, num_bytes))
    process.start()
    process.join()
    assert process.exitcode == 0
    error = (path.parent / "error").read_text()
    assert error.startswith(f"3 epochs: {path} could not be saved and is unchanged")
    assert "File too large" in error
    assert Run().load(path).sha256() == states["1 epoch"]
    assert Run().load(path).train().sha256() == states["3 epochs"]
    assert sorted(os.listdir(path.parent)) == ["error", "run.pt"]


@pytest.mark.parametrize("what", ["memory", "a state"])
def test_a_copy_that_cannot_be_made(what, states, path, monkeypatch):
    run = Run()
    with monkeypatch.context() as patch:
        if what == "memory":
            patch.setattr(torch, "empty_like", fail)
        else:
            run.scheduler.lock = threading.Lock()
        with pytest.raises(CheckpointError, match="could not be saved and is unchanged: "):
            run.train(checkpoint_path=path, save_in_background=True)
    assert not os.listdir(path.parent)
    assert run.history.position == "1 epoch"
    vars(run.scheduler).pop("lock", None)
    assert run.train().sha256() == states["3 epochs"]


@pytest.mark.parametrize("batch", [0, 4, 5, 8])
def test_the_first_batch_that_is_not_finite_is_named(batch, path):
    """Not the one that is trained when the thread comes to it."""
    errors, files = [], []
    for background in (False, True):
        run = Run()
        weight = run.model.classify[1].weight
        spoil = at_call(batch, lambda weight=weight: weight.grad.fill_(float("nan")))
        run.optimizer.register_step_pre_hook(spoil)
        path.unlink(missing_ok=True)
        with pytest.raises(FloatingPointError) as error:
            run.train(checkpoint_path=path, checkpoint_every=1, save_in_background=background)
        errors.append(str(error.value))
        files.append(Run().load(path).sha256() if path.exists() else None)
    assert errors[0] == errors[1]
    assert files[0] == files[1]
    assert (files[0] is None) == (batch == 0)


def test_it_needs_a_path():
    with pytest.raises(ValueError, match="save_in_background needs a checkpoint_path"):
        Run().train(save_in_background=True)


# ---- kill -9 while the thread writes ----

PLACES = [
    *[("torch.save", 0), ("write", 0), ("write", 100), ("write", 260), ("torch.load", 0)],
    *[("os.fsync", 0), ("os.replace", 0), ("os.fsync", 1)],
]
MOMENTS = [  # the save that is being written, and where the main thread is
    *[(save, moment) for save in (0, 1) for moment in (1, 2, 3, 4, 5, "waiting", "at once")],
    *[(2, moment) for moment in ("waiting", "at once")],
]
ALL = [(place, moment) for place in PLACES for moment in MOMENTS]
FEW = [ALL[0], ALL[40], ALL[70], ALL[-1]]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for open files in /proc")


@pytest.fixture(scope="module")
def start(forkserver):
    """A function that does something in a process of its own."""

    def start(target, *arguments):
        process = forkserver.Process(target=target, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    return start


def kill_and_continue(start, states, path, loader, place, moment):
    """Kill a run, look at its file, continue it, and return the workers that it has left."""
    function, call = place
    save, when = moment
    exit_code = start(train_until_killed, path.parent, loader, function, call, save, when)
    assert exit_code == -signal.SIGKILL
    is_complete = place == ("os.fsync", 1)
    assert len([*path.parent.glob("*.tmp")]) == (not is_complete)
    if save + is_complete == 0:
        assert not path.exists()
    else:
        assert Run().load(path).sha256() == states[EPOCHS[save + is_complete - 1]]
    assert start(train_to_the_end, path.parent, loader) == 0
    assert (path.parent / "result").read_text() == states["3 epochs"]
    assert Run().load(path).sha256() == states["3 epochs"]
    workers = path.parent / "workers"
    return [int(line) for line in workers.read_text().split()] if workers.exists() else []


@linux
@pytest.mark.parametrize(
    ("place", "moment"),
    [each if each in FEW else pytest.param(*each, marks=pytest.mark.kills) for each in ALL],
    ids=str,
)
def test_kill_minus_nine(start, states, path, place, moment):
    assert kill_and_continue(start, states, path, "shuffled", place, moment) == []
    assert sorted(os.listdir(path.parent)) == ["result", "run.pt"]


@pytest.mark.slow
@linux
@pytest.mark.parametrize(
    ("place", "moment"),
    [
        pytest.param(place, moment, marks=[pytest.mark.kills] * (place[0] != "os.fsync"))
        for place in PLACES
        for moment in [(0, 1), (0, 5), (1, "waiting")]
    ],
    ids=str,
)
def test_kill_minus_nine_with_workers_that_were_forked_meanwhile(
    start, states, path, place, moment
):
    """They have the temporary file open, so it is locked for as long as they live."""
    workers = kill_and_continue(start, states, path, "two workers", place, moment)
    have_it_open = place != ("os.fsync", 1) and moment[1] != "waiting"
    assert len(workers) == 2 * have_it_open
    for worker in workers:  # they end by themselves when they notice, every five seconds
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    for leftover in path.parent.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError), open(leftover, "r+b") as file:
            helper.atomic.fcntl.flock(
                file, helper.atomic.fcntl.LOCK_EX
            )  # when the last one is gone
    save_checkpoint(path, *Run().parts, History())
    assert sorted(set(os.listdir(path.parent)) - {"workers"}) == ["result", "run.pt"]
