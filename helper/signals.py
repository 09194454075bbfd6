"""Deferred signals: the stop button never takes effect inside a step, a save or a load."""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading

import torch
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

# Jupyter's stop button and Ctrl-C send SIGINT; Slurm, Kubernetes and `kill` send SIGTERM.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Sent when a worker dies. PyTorch's handler raises an error wherever the process is then. A
# DataLoader also notices by itself, within five seconds or its own timeout. Windows has no SIGCHLD.
CHILD_DIED = getattr(signal, "SIGCHLD", None)


class Stopped(Exception):
    """Somebody has asked the run to stop. Raised only while a run waits for its next batch."""


class DeferredSignals:
    """Defer signals until the end of a `with` block, then deliver them as usual.

    At the end, SIGINT raises a KeyboardInterrupt and SIGTERM ends the process, unless the program
    has a handler of its own for them. Outside the main thread, where Python handles no signals,
    nothing is changed.
    """

    def __init__(self):
        self.pending: list[int] = []  # the stop signals that have come
        self.child_died = False
        self.handlers = {}  # the handler of each deferred signal, to be restored
        self.workers = []  # the processes that this one is waiting for
        self.fetching = False  # True while it waits for a batch

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self
        if CHILD_DIED is not None:
            _set_SIGCHLD_handler()  # now, or PyTorch replaces ours when the first worker starts
            self.handlers[CHILD_DIED] = signal.signal(CHILD_DIED, self.defer)
        for number in STOP_SIGNALS:
            # Leave a signal alone that is ignored, as in a shell's background jobs, or handled
            # outside of Python (None).
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                self.handlers[number] = signal.signal(number, self.defer)
        return self

    def __exit__(self, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        for number in sorted(set(self.pending), reverse=True):  # SIGTERM first: SIGINT raises
            signal.raise_signal(number)
            if self.handlers[number] is signal.SIG_DFL:
                # Still here: this is process 1 of a container, for which Linux ignores the signal.
                raise SystemExit(128 + number)
        if self.child_died:
            signal.raise_signal(CHILD_DIED)

    def defer(self, number: int, frame) -> None:
        """Record a signal. A second stop signal ends a wait: it kills the workers."""
        if number == CHILD_DIED:
            self.child_died = True
        else:
            self.pending.append(number)
        if len(self.pending) < 2:
            return
        self.kill_workers()
        # With workers, raise only when one has died: PyTorch holds no lock of its queues by then.
        if self.fetching and (number == CHILD_DIED or not self.workers):
            raise Stopped

    def kill_workers(self) -> None:
        """Kill the workers that this process is waiting for."""
        for worker in self.workers:
            kill(worker)

    def raise_if_pending(self) -> None:
        """Raise Stopped if a stop signal has come."""
        if self.pending:
            raise Stopped

    @contextlib.contextmanager
    def waiting_for(self, workers: list, fetching: bool):
        """Mark that this process waits for `workers`: for a batch if `fetching`, else to exit.

        If a stop signal comes meanwhile, an error becomes Stopped: the signal may be its cause.
        """
        self.workers, self.fetching = workers, fetching
        if len(self.pending) >= 2:
            self.kill_workers()
        try:
            yield
        except Exception as error:
            if self.pending:
                raise Stopped from error
            raise
        finally:
            self.workers, self.fetching = [], False


def stop_after(steps: int, optimizer: torch.optim.Optimizer) -> None:
    """Press the stop button after a number of optimizer steps: send SIGINT to this process, once.

    For demonstrations and tests of what a stop in the middle of an epoch does.
    """
    taken = 0

    def count_and_stop(*_):
        nonlocal taken
        taken += 1
        if taken == steps:
            hook.remove()
            signal.raise_signal(signal.SIGINT)

    hook = optimizer.register_step_post_hook(count_and_stop)


def tell_of_death(workers: list) -> None:
    """Wait until a worker dies, and send SIGCHLD: a forkserver's child doesn't, when it dies."""
    multiprocessing.connection.wait([worker.sentinel for worker in workers])
    os.kill(os.getpid(), CHILD_DIED)


def kill(worker) -> None:
    """Kill a worker process, whoever its parent is."""
    worker.kill()
    if hasattr(worker, "_start_method") and worker._start_method == "forkserver":
        # Where the forkserver has died before, kill() takes its children for dead.
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)


@contextlib.contextmanager
def stop_signals_blocked(start_method: str | None):
    """Block stop signals in this block, and for good in the processes that it starts.

    Ctrl-C reaches every process of a group, but only the training process may end its workers.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if start_method in ("spawn", "forkserver"):
        # Start Python's helper processes before: starting the resource tracker unblocks the signals
        # here, and a forkserver that starts with them blocked passes that on to all its processes.
        multiprocessing.resource_tracker.ensure_running()
    if start_method == "forkserver":
        multiprocessing.forkserver.ensure_running()
    mask = block_stop_signals()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def block_stop_signals():
    """Block stop signals in this thread, and return the mask that was there before."""
    if hasattr(signal, "pthread_sigmask"):
        return signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    return None
