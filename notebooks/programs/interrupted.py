"""train_many.py, but one rank sends itself a signal after N steps (45 here):

torchrun --standalone --nproc-per-node 2 programs/interrupted.py SIGKILL 1 45 saved_data/many
"""

import itertools
import os
import runpy
import signal
import sys
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

signal_name, rank, last_step = sys.argv[1:4]
steps = itertools.count(1)


def interrupt(*_):
    if os.environ["RANK"] == rank and next(steps) == int(last_step):
        os.kill(os.getpid(), signal.Signals[signal_name])


register_optimizer_step_post_hook(interrupt)
train_many = str(Path(__file__).with_name("train_many.py"))
sys.argv[:4] = [train_many]
runpy.run_path(train_many, run_name="__main__")
