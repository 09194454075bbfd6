"""Deferred signals: the stop button never takes effect inside a step, a save or a load."""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import signal
import threading

from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

# What the stop button and Ctrl-C send; what Slurm, Kubernetes and `kill` send.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What comes when a worker dies. PyTorch's handler raises an error wherever the process is then;
# a DataLoader notices a dead worker by itself, too, within five seconds. Windows has no SIGCHLD.
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
        self.pending = []  # the stop signals that have come
        self.child_died = False
        self.handlers = {}  # the handler of each deferred signal, to be put back
        self.workers = []  # processes that this one is waiting for
        self.fetching = False  # is it waiting for a batch?

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self
        if CHILD_DIED is not None:
            _set_SIGCHLD_handler()  # now, or PyTorch replaces ours when the first worker starts
            self.handlers[CHILD_DIED] = signal.signal(CHILD_DIED, self.defer)
        for number in STOP_SIGNALS:
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

    def defer(self, number, frame):
        """Note a signal. While this process waits, a second stop signal ends the waiting."""
        if number == CHILD_DIED:
            self.child_died = True
        else:
            self.pending.append(number)
        if len(self.pending) < 2:
            return
        for worker in self.workers:
            worker.kill()
        # With workers, wait for the first of them to die: PyTorch's own locks are free by then.
        if self.fetching and (number == CHILD_DIED or not self.workers):
            raise Stopped

    def raise_if_pending(self):
        """Raise Stopped if a stop signal has come."""
        if self.pending:
            raise Stopped

    @contextlib.contextmanager
    def waiting_for(self, workers, fetching):
        """Say that this process waits for `workers`: for a batch if `fetching`, else for their end.

        A stop that comes meanwhile turns an error into Stopped: it may have ended a worker, too.
        """
        self.workers, self.fetching = workers, fetching
        try:
            yield
        except Exception as error:
            if self.pending:
                raise Stopped from error
            raise
        finally:
            self.workers, self.fetching = [], False


@contextlib.contextmanager
def stop_signals_blocked(start_method="fork"):
    """Block stop signals in this block, and for good in the processes that it starts.

    Ctrl-C goes to all processes of a group. Workers must not end by it: the process that trains
    ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if start_method != "fork":
        # Python's own helper processes. The first would unblock the signals when it starts, and the
        # second would block them for every process that it ever starts.
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
