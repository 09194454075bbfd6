"""Train with saves in the background, and be killed or run out of room while the thread writes."""

import io
import itertools
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import torch

import helper.atomic
from helper.background import BackgroundWriter
from helper.checkpoint import CheckpointError
from tests.support.runs import BATCHES, Run, at_call, train_in_a_process


class Place:
    """One call of a function in the thread that writes one of the saves. There it stands still."""

    def __init__(self, function, call, save, then=None):
        self.function, self.call, self.save = function, call, save
        self.then = then  # None: it waits for ever
        self.saves = itertools.count()
        self.calls = None  # of this function in this save
        self.reached = threading.Event()

    def visit(self, function):
        """Note a call of a function."""
        if threading.current_thread() is threading.main_thread() or function != self.function:
            return
        if self.calls is not None and next(self.calls) == self.call:
            self.reached.set()
            if self.then is None:
                threading.Event().wait()
            self.then()

    def watch(self):
        """Let everything that the thread calls come by here."""
        place = self

        class Watched(io.BufferedWriter):
            def write(self, data):
                place.visit("write")
                return super().write(data)

        def watched(name, own):
            def call(*arguments, **settings):
                place.visit(name)
                return own(*arguments, **settings)

            return call

        for module, name in [(torch, "save"), (torch, "load"), (os, "fsync"), (os, "replace")]:
            setattr(module, name, watched(f"{module.__name__}.{name}", getattr(module, name)))
        open_temporary, start = helper.atomic.open_temporary, BackgroundWriter.start
        helper.atomic.open_temporary = lambda path: Watched(open_temporary(path).detach())

        def start_and_wait(writer, *arguments):
            self.calls = itertools.count() if next(self.saves) == self.save else None
            start(writer, *arguments)
            if self.calls is not None and self.then is None:
                assert self.reached.wait(60), "the thread never came here"

        BackgroundWriter.start = start_and_wait


def fork_workers():
    """Let a process of the forkserver start its workers as a script does on Linux, and quickly."""
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)


def train_to_the_end(folder, loader):
    """Continue, and write the hash of the end to `folder`/result."""
    fork_workers()
    train_in_a_process(folder, loader, checkpoint_every=4, save_in_background=True)


def train_until_killed(folder, loader, function, call, save, moment):
    """Train until the thread is at a place (see `Place`), and the main thread at a moment.

    `moment` is a number of steps in the epoch after the save, or "waiting" (for the thread), or
    "at once". `folder`/workers gets a line for each worker that has the temporary file open.
    """
    fork_workers()

    def die():
        for worker in multiprocessing.active_children():
            files = Path(f"/proc/{worker.pid}/fd").iterdir()
            if any(os.readlink(file).endswith(".tmp") for file in files):
                with open(Path(folder) / "workers", "a") as names:
                    names.write(f"{worker.pid}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    place = Place(function, call, save, die if moment == "at once" else None)
    place.watch()
    run = Run(loader)
    if moment == "waiting":
        join = threading.Thread.join

        def join_or_die(thread, *arguments):
            if place.reached.is_set():
                die()
            join(thread, *arguments)

        threading.Thread.join = join_or_die
    elif moment != "at once":
        step = BATCHES * (save + 1) + moment - 1
        run.optimizer.register_step_post_hook(at_call(step, die))
    run.train(checkpoint_path=Path(folder) / "run.pt", save_in_background=True)


def train_without_room(folder, num_bytes):
    """Train with room for files of `num_bytes` only from batch 6 on; the error goes to a file."""
    import resource

    def limit():
        for thread in threading.enumerate():
            if thread.name.endswith("(write)"):
                thread.join()  # of the first save, which has room
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    torch.set_num_threads(1)
    run = Run()
    run.optimizer.register_step_pre_hook(at_call(BATCHES + 1, limit))
    try:
        run.train(checkpoint_path=Path(folder) / "run.pt", save_in_background=True)
    except CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        (Path(folder) / "error").write_text(f"{run.history.position}: {error}")
