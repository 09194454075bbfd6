"""Train as process 1 of a container does, to which SIGTERM comes in batch 6. Argument: the path."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.support.runs import Run, at_call  # noqa: E402

run = Run()
run.optimizer.register_step_post_hook(at_call(6, lambda: os.kill(os.getpid(), signal.SIGTERM)))
run.train(checkpoint_path=sys.argv[1])
print("finished as process", os.getpid())
