"""Train a run that sends a signal to its whole process group, as Ctrl-C does, in batch 6.

Arguments: the path of the checkpoint, the name of the loader, of the start method and the signal.
"""

import multiprocessing.forkserver
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.support.runs import Run, at_call  # noqa: E402

if __name__ == "__main__":
    path, loader, context, name = sys.argv[1:]
    if context == "forkserver":
        # One that is running already: it knows nothing of the signals that are blocked later.
        multiprocessing.set_forkserver_preload(["tests.support.runs"])
        multiprocessing.forkserver.ensure_running()
    run = Run(loader)
    for each in run.loaders:
        each.multiprocessing_context = context
    send = at_call(6, lambda: os.killpg(os.getpgid(0), getattr(signal, name)))
    run.optimizer.register_step_post_hook(send)
    run.train(checkpoint_path=path)
