"""Signals that wait: the stop button never takes effect inside a step, a save or a load."""

import contextlib
import os
import signal
import threading

# What the stop button and Ctrl-C send; what Slurm, Kubernetes and `kill` send.
STOPS = {signal.SIGINT, signal.SIGTERM}
# What comes when a worker of a loader dies. PyTorch raises a RuntimeError then, wherever it is.
WORKER_DIED = getattr(signal, "SIGCHLD", None)  # Windows has none


class Stopped(BaseException):
    """Somebody wants the run to stop. Raised only where a run waits for data."""


class SignalsWait:
    """Let signals wait until the end of a `with` block, and send them again there.

    So each takes its usual course in the end: SIGINT raises a KeyboardInterrupt, SIGTERM ends the
    process. Outside the main thread, where Python handles no signals, nothing is changed.
    """

    def __enter__(self):
        self.waiting, self.handlers, self.may_raise, self.process = [], {}, False, os.getpid()
        self.undo = contextlib.ExitStack()
        if threading.current_thread() is threading.main_thread():
            for number in filter(None, (signal.SIGINT, WORKER_DIED, signal.SIGTERM)):
                handler = signal.getsignal(number)
                if handler is not None and (handler != signal.SIG_IGN or number == WORKER_DIED):
                    self.handlers[number] = handler
                    self.undo.callback(self.let_act, number)
                    signal.signal(number, self.note)
        return self

    def __exit__(self, *_):
        self.undo.close()

    def note(self, number, frame):
        self.waiting.append(number)
        # Only where the process sleeps until a worker answers: elsewhere, a loader could be left
        # half made, and its next batch is soon there. Forked workers have this handler, too.
        sleeps = frame is not None and frame.f_code.co_name == "select"
        if sleeps and self.may_raise and number in STOPS and os.getpid() == self.process:
            self.may_raise = False
            raise Stopped

    def let_act(self, number):
        """Put the handler of a signal back, and send the signal again if it has waited."""
        signal.signal(number, self.handlers[number])
        if number in self.waiting:
            self.waiting = [other for other in self.waiting if other != number]
            signal.raise_signal(number)

    @contextlib.contextmanager
    def act_at_once(self):
        """In this block, a stop that comes or has waited raises Stopped, and dead workers count."""
        self.may_raise = True
        try:
            if WORKER_DIED in self.handlers:
                self.let_act(WORKER_DIED)
            if not STOPS.isdisjoint(self.waiting):
                raise Stopped
            yield
        except BaseException as error:
            # Ctrl-C ends the workers, too: that they are dead is no error then.
            if not STOPS.isdisjoint(self.waiting) and not isinstance(error, Stopped):
                raise Stopped from error
            raise
        finally:
            self.may_raise = False
            if WORKER_DIED in self.handlers and signal.getsignal(WORKER_DIED) != self.note:
                # PyTorch sets its own handler when it starts the first worker.
                self.handlers[WORKER_DIED] = signal.signal(WORKER_DIED, self.note)


def fetch(loader, signals):
    """Yield the batches of a loader. Only while it waits for one do signals act at once."""
    try:
        with signals.act_at_once(), workers_without_sigint():
            batches = iter(loader)
        while True:
            with signals.act_at_once():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
    finally:
        if hasattr(loader, "_iterator"):
            loader._iterator = None  # persistent workers end with their epoch


@contextlib.contextmanager
def workers_without_sigint():
    """Let workers that start in this block get no SIGINT: this process will end them."""
    mask = getattr(signal, "pthread_sigmask", lambda *_: set())  # Windows has none
    before = mask(getattr(signal, "SIG_BLOCK", 0), {signal.SIGINT})
    try:
        yield
    finally:
        mask(getattr(signal, "SIG_SETMASK", 0), before)
