"""Stops lose nothing, kills what was trained since the last save, and errors leave a whole run."""

import contextlib
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from runs import BATCHES, NUM_EPOCHS, Run, at_call, interrupt, train_in_a_process

from helper.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from helper.signals import SignalsWait, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


@pytest.fixture(autouse=True)
def _handlers_are_put_back():
    # PyTorch sets its own handler for a dead worker when the first worker of a process starts.
    torch.utils.data._utils.signal_handling._set_SIGCHLD_handler()
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.fixture(scope="module")
def whole():
    """The hash at the end of the run that nothing stops."""
    return Run().train().sha256()


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """The hash after each batch of the run that nothing stops, as a fresh object loads it."""
    path = tmp_path_factory.mktemp("run") / "run.pt"
    hashes = []
    for batch in range(NUM_EPOCHS * BATCHES):
        run = Run()
        run.optimizer.register_step_post_hook(at_call(batch, interrupt))
        with pytest.raises(KeyboardInterrupt):
            run.train(checkpoint_path=path)
        hashes.append(Run().load(path).sha256())
    return hashes


# ---- The stop button ----


def test_stop_in_every_batch_of_one_run(whole, tmp_path):
    """Again and again, before and after the optimizer's step: the batch is trained to its end."""
    run = Run()
    for batch in range(NUM_EPOCHS * BATCHES):
        place = ("register_step_pre_hook", "register_step_post_hook")[batch % 2]
        getattr(run.optimizer, place)(at_call(0, interrupt))
        with pytest.raises(KeyboardInterrupt):
            run.train(checkpoint_path=tmp_path / "run.pt")
        assert len(run.history.minibatch_loss) == batch + 1
        assert f"Stopped after {run.history.position}: it is saved in {tmp_path}" in run.printed
        assert "Run this cell again to continue." in run.printed
        assert Run().load(tmp_path / "run.pt").sha256() == run.sha256()
    assert run.train().sha256() == whole
    assert os.listdir(tmp_path) == ["run.pt"]


def test_without_a_path_the_run_is_in_memory(whole):
    run = Run()
    run.optimizer.register_step_post_hook(at_call(7, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert "Stopped after 1 epochs and 3 of 5 batches: it is in memory" in run.printed
    assert run.train().sha256() == whole


@pytest.mark.parametrize("loader", [0, 1], ids=["training", "validation"])
@pytest.mark.parametrize("place", ["fetch", "model"])
def test_stop_while_accuracies_are_computed(whole, tmp_path, loader, place):
    run = Run()
    if place == "model":
        calls = iter(range(1000))
        evaluations = {0: 2, 1: BATCHES + 2}[loader]

        def hook(model, *_):
            if not model.training and next(calls) == evaluations:
                interrupt()

        run.model.register_forward_hook(hook)
    else:
        collate_fn, fetches = run.loaders[loader].collate_fn, {0: 1 + BATCHES + 2, 1: 2}[loader]
        run.loaders[loader].collate_fn = at_call(fetches, interrupt, collate_fn)
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert (run.history.epoch, run.history.batch) == (0, 5)
    assert Run().load(tmp_path / "run.pt").train().sha256() == whole
    assert run.train().sha256() == whole
    assert run.model.training
    assert not run.model.frozen.training


def test_stop_while_it_saves_and_two_presses(whole, tmp_path, monkeypatch):
    for function in ("replace", "fsync"):
        run = Run()
        own = getattr(os, function)
        pressed_twice = at_call(1, lambda: (interrupt(), interrupt()), own)
        with monkeypatch.context() as patch:
            patch.setattr(os, function, pressed_twice)
            with pytest.raises(KeyboardInterrupt):
                run.train(checkpoint_path=tmp_path / "run.pt", checkpoint_every=2)
        assert Run().load(tmp_path / "run.pt").sha256() == run.sha256()
        assert run.train().sha256() == whole


def test_stop_while_it_loads(tmp_path):
    run = Run().train(1, checkpoint_path=tmp_path / "run.pt")
    new = Run()
    new.model.register_load_state_dict_post_hook(lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt):
        new.load(tmp_path / "run.pt")
    new.history = run.history
    assert new.sha256() == run.sha256()  # all of it, before the stop took effect


def test_a_handler_of_ones_own_is_called_at_the_end(whole):
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append(len(run.history.minibatch_loss)))
    try:
        run = Run()
        run.optimizer.register_step_post_hook(at_call(3, interrupt))
        run.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [4]
    assert run.train().sha256() == whole


def test_outside_the_main_thread_nothing_is_changed(whole):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(Run().train().sha256()))
    thread.start()
    thread.join()
    assert runs == [whole]


def test_a_stop_takes_effect_where_the_process_sleeps_and_nowhere_else():
    """In the middle of a loader's own work it could leave a lock behind, and hang the process."""
    reached = []

    def work():
        signal.raise_signal(signal.SIGINT)
        reached.append("worked on")

    def select():  # where a process waits for its workers
        signal.raise_signal(signal.SIGINT)
        reached.append("slept on")

    def block(action):
        with SignalsWait() as signals:
            with contextlib.suppress(Stopped), signals.act_at_once():
                action()
            with contextlib.suppress(Stopped), signals.act_at_once():
                reached.append("fetched on")

    for action in (work, select):
        with pytest.raises(KeyboardInterrupt):
            block(action)
    assert reached == ["worked on"]


@pytest.mark.parametrize("call", [0, 3, 10, 30])
def test_a_stop_in_the_middle_of_a_loader_at_work(whole_with_workers, monkeypatch, tmp_path, call):
    """Inside `queue.put`, a lock is held: a stop that took effect there would hang the process."""
    enter = threading.Condition.__enter__
    press = at_call(call, interrupt)

    def enter_and_press(condition):
        entered, caller = enter(condition), sys._getframe(1).f_code
        if caller.co_name == "put" and "queues" in caller.co_filename:
            press()
        return entered

    run = Run("two workers")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "__enter__", enter_and_press)
        with pytest.raises(KeyboardInterrupt):
            run.train(checkpoint_path=tmp_path / "run.pt")
    assert run.train().sha256() == whole_with_workers


@pytest.fixture(scope="module")
def whole_with_workers():
    return Run("two workers").train().sha256()


def test_stopped_before_the_first_batch_it_says_where_the_run_is(tmp_path):
    run = Run().train(1)
    run.loaders[0].collate_fn = at_call(0, interrupt, run.loaders[0].collate_fn)
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert "it is saved in" in run.printed
    assert Run().load(tmp_path / "run.pt").sha256() == run.sha256()


def test_without_history_and_path_a_stop_says_that_the_history_is_lost():
    run = Run()
    run.history = None
    run.optimizer.register_step_post_hook(at_call(2, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert "it is in memory. Its history is lost: begin anew." in run.printed


def test_signals_wait_and_take_their_usual_course():
    reached = []

    def block():
        with SignalsWait():
            interrupt()
            with SignalsWait():
                interrupt()
            reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == [1]


# ---- Signals from outside, in processes of their own ----


@pytest.fixture(scope="module")
def start():
    """A function that trains in a fresh process, forked from one that has imported PyTorch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "torch.utils.data", "tqdm", "runs"])

    def start(folder, **settings):
        process = context.Process(target=train_in_a_process, args=(folder,), kwargs=settings)
        process.start()
        process.join()
        return process.exitcode

    return start


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(0, NUM_EPOCHS * BATCHES, 2))
def test_sigterm_saves_and_ends_the_process(start, whole, after, tmp_path, batch):
    assert start(tmp_path, hook=(batch, signal.SIGTERM)) == -signal.SIGTERM
    assert Run().load(tmp_path / "run.pt").sha256() == after[batch]
    assert start(tmp_path) == 0
    assert (tmp_path / "result").read_text() == whole


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(NUM_EPOCHS * BATCHES))
def test_kill_minus_nine_in_any_batch(start, whole, after, tmp_path, batch):
    """What was trained since the last save is lost, and nothing else."""
    killed = {"hook": (batch, signal.SIGKILL), "checkpoint_every": 4}
    assert start(tmp_path, **killed) == -signal.SIGKILL
    saved = max(b for b in range(batch + 1) if b % 4 == 0 or b % BATCHES == 0)
    assert (tmp_path / "run.pt").exists() == (saved > 0)
    if saved:
        assert len(Run().load(tmp_path / "run.pt").history.minibatch_loss) == saved
    assert start(tmp_path) == 0
    assert (tmp_path / "result").read_text() == whole


@pytest.mark.slow
@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("function", ["torch.save", "os.fsync", "os.replace"])
def test_kill_minus_nine_while_it_saves(start, whole, tmp_path, function, call):
    killed = {"patch": (function, call, signal.SIGKILL), "checkpoint_every": 4}
    assert start(tmp_path, **killed) == -signal.SIGKILL
    assert start(tmp_path) == 0
    assert (tmp_path / "result").read_text() == whole
    assert {path.name for path in tmp_path.iterdir()} == {"run.pt", "result"}


GROUP = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
from runs import Run, at_call
import torch, warnings

if __name__ == "__main__":
    run = Run({loader!r})
    for loader in run.loaders:
        loader.multiprocessing_context = {context!r}
    press = lambda: os.killpg(os.getpgid(0), signal.{name})
    run.optimizer.register_step_post_hook(at_call({batch}, press))
    run.train(checkpoint_path={path!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "loader", "context"),
    [
        *itertools.product(["SIGINT", "SIGTERM"], ["two workers", "persistent workers"], ["fork"]),
        ("SIGINT", "two workers", "spawn"),  # starting workers afresh takes half a minute
        ("SIGTERM", "persistent workers", "spawn"),
    ],
)
def test_a_signal_to_the_whole_process_group(tmp_path, loader, name, context):
    """That is what Ctrl-C and the stop button send: the workers get it, too."""
    program, path = tmp_path / "program.py", tmp_path / "run.pt"
    here = Path(__file__).parent
    names = {"tests": str(here), "root": str(here.parent), "loader": loader, "path": str(path)}
    program.write_text(GROUP.format(**names, name=name, batch=6, context=context))
    command = [sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert done.returncode == -getattr(signal, name)
    assert done.stderr.count("Traceback") == (name == "SIGINT")
    run = Run(loader).load(path)
    assert len(run.history.minibatch_loss) == 7
    assert run.train().sha256() == Run(loader).train().sha256()


# ---- Errors ----


class Broken(RuntimeError):
    pass


def fail(*_):
    raise Broken("on purpose")


def spoil_gradient(run, batch):
    """Make the weights not finite in one batch, while its loss is finite."""
    parameter = run.model.classify[1].weight
    spoil = at_call(batch, lambda: parameter.grad.fill_(float("nan")))
    run.optimizer.register_step_pre_hook(spoil)


def spoil_loss(run, batch):
    collate_fn, calls = run.loaders[0].collate_fn, iter(range(10**6))

    def collate(examples):
        features, targets = collate_fn(examples)
        # One batch to look at, then epochs of training and of evaluation take turns.
        number = next(calls) - 1
        epoch, place = divmod(number, 2 * BATCHES)
        spoilt = place < BATCHES and epoch * BATCHES + place == batch
        return features * (float("nan") if spoilt else 1), targets

    run.loaders[0].collate_fn = collate


def break_the_data(run, batch):
    epoch, place = divmod(batch, BATCHES)
    call = 1 + 2 * BATCHES * epoch + place
    run.loaders[0].collate_fn = at_call(call, fail, run.loaders[0].collate_fn)


def break_the_model(run, batch):
    run.optimizer.register_step_post_hook(at_call(batch, fail))


def break_the_scheduler(run, batch):
    step = run.scheduler.step
    run.scheduler.step = at_call(batch, fail, step)


ERRORS = {
    "loss": (spoil_loss, FloatingPointError, "The loss is nan in epoch 2, batch 3, at learning"),
    "gradient": (spoil_gradient, FloatingPointError, "is not finite|loss is nan in epoch 2"),
    "data": (break_the_data, Broken, "on purpose"),
    "model": (break_the_model, Broken, "on purpose"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_puts_the_run_back_to_its_last_checkpoint(kind, whole, after, tmp_path):
    breaks, error, message = ERRORS[kind]
    path = tmp_path / "run.pt"
    run = Run()
    breaks(run, 8)
    with pytest.raises(error, match=message):
        run.train(checkpoint_path=path)
    batch = {"gradient": "[34]"}.get(kind, "3")
    assert re.search(f"{error.__name__} in epoch 2, batch {batch}, at", run.printed)
    assert "at learning rate 0.0" in run.printed
    assert f"the run is as in {path}. Mend the cause, and continue." in run.printed
    assert (run.history.epoch, run.history.batch) == (1, 0)
    assert run.sha256() == Run().load(path).sha256()
    assert Run().load(path).train().sha256() == whole
    assert run.train().sha256() == whole  # the cause is gone: each hook fails once only


@pytest.mark.parametrize("kind", ERRORS)
def test_without_a_checkpoint_the_message_says_that_the_run_must_be_made_anew(kind):
    breaks, error, message = ERRORS[kind]
    run = Run()
    breaks(run, 8)
    with pytest.raises(error, match=message):
        run.train()
    assert "make model, optimizer, scheduler and history anew, or load them." in run.printed


def test_the_checkpoint_of_another_run_is_never_loaded(tmp_path):
    other = Run()
    other.history.seed = 6
    other.train(1, checkpoint_path=tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    run = Run()
    break_the_model(run, 3)
    with pytest.raises(Broken):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert "anew" in run.printed
    assert (tmp_path / "run.pt").read_bytes() == before


def test_a_history_that_came_from_the_file_goes_back_to_it(tmp_path, whole):
    Run().train(1, checkpoint_path=tmp_path / "run.pt")
    run = Run().load(tmp_path / "run.pt")
    break_the_model(run, 1)
    with pytest.raises(Broken):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert "the run is as in" in run.printed
    assert run.train().sha256() == whole


@pytest.mark.parametrize("batch", range(NUM_EPOCHS * BATCHES))
def test_weights_that_are_not_finite_are_never_saved(tmp_path, batch):
    run = Run()
    spoil_gradient(run, batch)
    with pytest.raises(FloatingPointError):
        run.train(checkpoint_path=tmp_path / "run.pt", checkpoint_every=1)
    if (tmp_path / "run.pt").exists():
        saved = Run().load(tmp_path / "run.pt")
        assert all(p.isfinite().all() for p in saved.model.parameters())
        assert len(saved.history.minibatch_loss) == batch


def test_an_error_before_the_first_step_changes_nothing():
    run = Run()
    before = run.sha256()
    run.loaders[0].collate_fn = fail
    with pytest.raises(Broken):
        run.train()
    assert run.sha256() == before
    assert run.printed == ""


def test_when_saving_fails_the_run_is_in_memory(whole, tmp_path):
    (tmp_path / "file").touch()
    run = Run()
    with pytest.raises(CheckpointError, match="could not be saved"):
        run.train(checkpoint_path=tmp_path / "file" / "run.pt")
    assert run.history.epoch == 1
    assert run.train(checkpoint_path=tmp_path / "run.pt").sha256() == whole

    run = Run()
    run.optimizer.register_step_post_hook(at_call(2, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint_path=tmp_path / "file" / "run.pt")
    assert "it is in memory only, because" in run.printed
    assert run.train().sha256() == whole


def test_save_and_load_wait_for_no_signal(tmp_path, monkeypatch):
    run = Run().train(1)
    monkeypatch.setattr(os, "replace", at_call(0, interrupt, os.replace))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "run.pt", *run.parts, run.history)
    assert load_checkpoint(tmp_path / "run.pt", *Run().parts) == run.history
    assert torch.is_grad_enabled()
