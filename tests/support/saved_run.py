"""A pytest plugin: a run that has trained a little, and its checkpoint."""

import pytest
import torch

from helper.checkpoint import save_checkpoint
from helper.history import History
from tests.support.checkpoints import HISTORY, take_steps


@pytest.fixture
def one_thread():
    """Tensors as small as these only wait for a second thread."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def run(new_run, one_thread):
    """Model, optimizer and scheduler after a few steps; the learning rate has dropped."""
    parts = new_run()
    take_steps(*parts)
    return parts


@pytest.fixture
def path(run, tmp_path):
    """The checkpoint of `run`, in a folder of its own."""
    path = tmp_path / "saved" / "run.pt"
    save_checkpoint(path, *run, History(**HISTORY))
    return path
