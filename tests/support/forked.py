"""Starts the audit's runs by a fork of a process that has imported PyTorch: 0.1 s, not 2.5."""

import functools
import multiprocessing
import multiprocessing.forkserver
import os
import random
import sys
import tempfile

from audit import record

PRELOADED = ["torch._dynamo", "numpy", __name__]


@functools.cache
def start_forkserver():
    """Start the process that runs are forked from, while the folder for its socket is a short one.

    Otherwise the first run starts it.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    multiprocessing.forkserver.ensure_running()


class Forked:
    """A process as `subprocess.Popen` has it, as far as the audit asks."""

    def __init__(self, settings, folder, environ, output):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.process = context.Process(target=begin, args=(settings, folder, environ, output))
        self.process.start()
        self.pid = self.process.pid

    def poll(self):
        self.process.join(0)
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def kill(self):
        self.process.kill()


def begin(settings, folder, environ, output):
    """Become what a new Python would be, and run the script."""
    import numpy as np
    import torch

    multiprocessing.set_start_method("fork", force=True)  # as in a new Python on Linux
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    os.dup2(file, 1)
    torch.set_num_threads(1)
    torch.manual_seed(int.from_bytes(os.urandom(7)))
    random.seed(), np.random.seed()
    sys.path.insert(0, "")
    record.start(settings)
