"""Stops lose nothing, kills what was trained since the last save, and errors leave a whole run."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from helper.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from helper.history import History
from helper.signals import DeferredSignals, Stopped
from tests.support.runs import BATCHES, NUM_EPOCHS, Run, at_call, interrupt, train_in_a_process

PROGRAMS = Path(__file__).parent / "support" / "programs"
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
        path.unlink(missing_ok=True)  # it would be renamed: it isn't where this run begins
        Run().stop_in(batch, path)
        hashes.append(Run().load(path).sha256())
    return hashes


class Broken(RuntimeError):
    pass


def fail(*_):
    raise Broken("on purpose")


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
        where = f"Stopped after {run.history.position}: the run is saved in {tmp_path}"
        assert where in run.printed
        assert "Run this cell again to continue." in run.printed
        assert Run().load(tmp_path / "run.pt").sha256() == run.sha256()
    assert run.train().sha256() == whole
    assert os.listdir(tmp_path) == ["run.pt"]


def test_without_a_path_the_run_is_in_memory(whole):
    run = Run().stop_in(7)
    assert "Stopped after 1 epoch and 3 of 5 batches: the run is in memory. Run" in run.printed
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
        collate_fn, fetches = run.loaders[loader].collate_fn, {0: BATCHES + 2, 1: 1 + 2}[loader]
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


def test_a_stop_takes_effect_between_batches_only():
    reached = []

    def press(place):
        interrupt()
        reached.append(place)

    def fail_with(signals):
        with signals.waiting_for([], fetching=True):
            fail()  # a worker died of the same signal, for example

    def train():
        with DeferredSignals() as signals:
            signals.raise_if_pending()
            with pytest.raises(Broken):
                fail_with(signals)
            with signals.waiting_for([], fetching=True):
                press("first")
            with pytest.raises(Stopped):
                signals.raise_if_pending()
            with pytest.raises(Stopped):
                fail_with(signals)
            with pytest.raises(Stopped), signals.waiting_for([], fetching=True):
                press("second")  # it ends the waiting
            press("elsewhere")
            with signals.waiting_for([], fetching=False):
                press("while it closes")

    with pytest.raises(KeyboardInterrupt):
        train()
    assert reached == ["first", "elsewhere", "while it closes"]


@pytest.mark.slow
@pytest.mark.parametrize("call", [0, 3, 10, 30])
def test_a_stop_in_the_middle_of_a_loader_at_work(whole, monkeypatch, tmp_path, call):
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
    assert run.train().sha256() == whole


def test_stopped_before_the_first_batch_it_says_where_the_run_is(tmp_path):
    run = Run().train(1)
    run.loaders[0].collate_fn = at_call(0, interrupt, run.loaders[0].collate_fn)
    with pytest.raises(KeyboardInterrupt):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert "Stopped after 1 epoch: the run is saved in" in run.printed
    assert Run().load(tmp_path / "run.pt").sha256() == run.sha256()


def test_deferred_signals_take_their_usual_course():
    reached = []

    def block():
        with DeferredSignals():
            interrupt()
            with DeferredSignals():
                interrupt()
            reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_the_system_ignores_ends_the_process_anyway(monkeypatch, number):
    """As for process 1 of a container, if nothing handles the signal."""

    def stop():
        with DeferredSignals():
            os.kill(os.getpid(), number)
            monkeypatch.setattr(signal, "raise_signal", lambda number: None)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            stop()
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number


# ---- Signals from outside, in processes of their own ----


def is_root():
    command = ["unshare", "--pid", "--fork", "true"]
    return shutil.which("unshare") and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not is_root(), reason="a new PID namespace needs root")
def test_sigterm_ends_process_1_of_a_container(tmp_path):
    program = [sys.executable, PROGRAMS / "first_process.py", tmp_path / "run.pt"]
    done = subprocess.run(["unshare", "--pid", "--fork", *program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
    assert len(Run().load(tmp_path / "run.pt").history.minibatch_loss) == 7


@pytest.fixture(scope="module")
def start(forkserver):
    """A function that trains in a fresh process, forked from one that has imported PyTorch."""

    def start(folder, **settings):
        process = forkserver.Process(target=train_in_a_process, args=(folder,), kwargs=settings)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "loader", "context"),
    [
        *itertools.product(["SIGINT", "SIGTERM"], ["two workers", "persistent workers"], ["fork"]),
        # Starting other workers takes longer.
        pytest.param("SIGINT", "persistent workers", "spawn", marks=pytest.mark.kills),
        ("SIGTERM", "two workers", "forkserver"),
    ],
)
def test_a_signal_to_the_whole_process_group(tmp_path, whole, loader, name, context):
    """That is what Ctrl-C and the stop button send: the workers get it, too."""
    path = tmp_path / "run.pt"
    command = [sys.executable, PROGRAMS / "group.py", path, loader, context, name]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert done.returncode == -getattr(signal, name)
    assert done.stderr.count("Traceback") == (name == "SIGINT")
    run = Run().load(path)
    assert len(run.history.minibatch_loss) == 7
    assert run.train().sha256() == whole


# ---- Errors ----


def spoil_gradient(run, batch):
    """Make the weights not finite in one batch, while its loss is finite."""
    parameter = run.model.classify[1].weight
    spoil = at_call(batch, lambda: parameter.grad.fill_(float("nan")))
    run.optimizer.register_step_pre_hook(spoil)


def in_training_batch(batch, action, then):
    """Return a collate function that does something when this batch is fetched for training."""
    epoch, place = divmod(batch, BATCHES)  # epochs of training and of evaluation take turns
    return at_call(2 * BATCHES * epoch + place, action, then)


def spoil_loss(run, batch):
    collate_fn, spoilt = run.loaders[0].collate_fn, []

    def collate(examples):
        features, targets = collate_fn(examples)
        return features * (float("nan") if spoilt and spoilt.pop() else 1), targets

    run.loaders[0].collate_fn = in_training_batch(batch, lambda: spoilt.append(True), collate)


def break_the_data(run, batch):
    run.loaders[0].collate_fn = in_training_batch(batch, fail, run.loaders[0].collate_fn)


def break_the_model(run, batch):
    run.optimizer.register_step_post_hook(at_call(batch, fail))


def break_the_scheduler(run, batch):
    kind = type(run.scheduler)
    steps = {"step": at_call(batch, fail, kind.step)}
    run.scheduler.__class__ = type(kind.__name__, (kind,), steps)


ERRORS = {
    "loss": (spoil_loss, FloatingPointError, "The loss is nan in epoch 2, batch 3, at learning"),
    "gradient": (spoil_gradient, FloatingPointError, "The loss is nan in epoch 2, batch 4, at"),
    "model": (break_the_model, Broken, "on purpose"),
    "scheduler": (break_the_scheduler, Broken, "on purpose"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_inside_a_step_puts_the_run_back_to_its_last_checkpoint(kind, whole, tmp_path):
    breaks, error, message = ERRORS[kind]
    path = tmp_path / "run.pt"
    run = Run()
    breaks(run, 8)
    with pytest.raises(error, match=message):
        run.train(checkpoint_path=path)
    batch = {"gradient": 4}.get(kind, 3)
    assert f"{error.__name__} in epoch 2, batch {batch}, at learning rate 0.0" in run.printed
    assert f"The run is back at {path}. Fix the cause and run this cell again." in run.printed
    assert (run.history.epoch, run.history.batch) == (1, 0)
    assert run.sha256() == Run().load(path).sha256()
    assert run.train().sha256() == whole  # the cause is gone: each hook fails once only


@pytest.mark.parametrize("kind", ERRORS)
def test_without_a_checkpoint_the_message_says_that_the_run_must_be_recreated(kind):
    breaks, error, message = ERRORS[kind]
    run = Run()
    breaks(run, 8)
    with pytest.raises(error, match=message):
        run.train()
    assert "Recreate the model, optimizer, scheduler and history, or load them" in run.printed


def break_the_evaluation(number):
    def break_it(run, batch):
        run.loaders[number].collate_fn = at_call(BATCHES + 1, fail, run.loaders[number].collate_fn)

    return break_it


BETWEEN = {  # what fails between two steps, and where the run is then
    "data": (break_the_data, "Broken after 1 epoch and 3 of 5 batches: the run is"),
    "validation": (break_the_evaluation(1), "Broken after 1 epoch and 5 of 5 batches: the run is"),
    "training accuracy": (
        lambda run, batch: run.model.register_forward_hook(in_evaluation(5 + 5 + 1, fail)),
        "Broken after 1 epoch and 5 of 5 batches: the run is",
    ),
}


def in_evaluation(number, action):
    call = at_call(number, action)
    return lambda model, *_: None if model.training else call()


@pytest.mark.parametrize("kind", BETWEEN)
@pytest.mark.parametrize("with_path", [True, False])
def test_an_error_between_two_steps_keeps_the_run(kind, with_path, whole, tmp_path):
    breaks, message = BETWEEN[kind]
    path = tmp_path / "run.pt"
    run = Run()
    breaks(run, 8)
    with pytest.raises(Broken):
        run.train(checkpoint_path=path if with_path else None)
    where = f"saved in {path}" if with_path else "in memory"
    assert f"{message} {where}. Fix the cause and run this cell again." in run.printed
    if with_path:
        assert Run().load(path).sha256() == run.sha256()
    assert run.train().sha256() == whole


def test_an_error_in_the_test_data_comes_after_everything_is_saved(whole, tmp_path):
    run = Run()
    run.loaders[2].collate_fn = at_call(2, fail, run.loaders[2].collate_fn)
    with pytest.raises(Broken):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert Run().load(tmp_path / "run.pt").sha256() == run.sha256() == whole


def test_the_checkpoint_of_another_run_is_never_loaded(tmp_path):
    Run(seed=6).train(1, checkpoint_path=tmp_path / "run.pt")
    before = (tmp_path / "run.pt").read_bytes()
    run = Run()
    break_the_model(run, 3)
    with pytest.raises(Broken):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert "Recreate the model" in run.printed
    assert (tmp_path / "run.pt").read_bytes() == before


def test_a_history_that_came_from_the_file_goes_back_to_it(tmp_path, whole):
    Run().train(1, checkpoint_path=tmp_path / "run.pt")
    run = Run().load(tmp_path / "run.pt")
    break_the_model(run, 1)
    with pytest.raises(Broken):
        run.train(checkpoint_path=tmp_path / "run.pt")
    assert "The run is back at" in run.printed
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
    before = Run().sha256()
    run.loaders[0].collate_fn = fail
    with pytest.raises(Broken):
        run.train()
    run.history = History(seed=5)  # it has noted what must stay the same
    assert run.sha256() == before
    assert "\n" not in run.printed


def test_when_saving_fails_the_run_is_in_memory(whole, tmp_path):
    (tmp_path / "file").touch()
    run = Run()
    with pytest.raises(CheckpointError, match="could not be saved"):
        run.train(checkpoint_path=tmp_path / "file" / "run.pt")
    assert run.history.epoch == 1
    assert run.train(checkpoint_path=tmp_path / "run.pt").sha256() == whole

    run = Run().stop_in(2, tmp_path / "file" / "run.pt")
    assert "the run is in memory only: " in run.printed
    assert run.train().sha256() == whole


def test_save_and_load_wait_for_no_signal(tmp_path, monkeypatch):
    run = Run().train(1)
    monkeypatch.setattr(os, "replace", at_call(0, interrupt, os.replace))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "run.pt", *run.parts, run.history)
    assert load_checkpoint(tmp_path / "run.pt", *Run().parts) == run.history
    assert torch.is_grad_enabled()
