"""train_many.py, in which one rank sends itself a signal after so many steps:

torchrun --standalone --nproc-per-node 2 interrupted.py SIGKILL 1 45 saved_data/many --num-epochs 4
"""

import itertools
import os
import runpy
import signal
import sys

from torch.optim.optimizer import register_optimizer_step_post_hook

name, rank, number = sys.argv[1:4]
steps = itertools.count(1)


def interrupt(*_):
    if os.environ["RANK"] == rank and next(steps) == int(number):
        os.kill(os.getpid(), signal.Signals[name])


register_optimizer_step_post_hook(interrupt)
sys.argv[:4] = ["train_many.py"]
runpy.run_path("train_many.py", run_name="__main__")
