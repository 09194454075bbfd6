"""Small real data, and a small run on them, that several test files train."""

import multiprocessing
import multiprocessing.forkserver
import shutil
import signal

import pytest
import torch

from helper.dataset import get_dataloaders_mnist
from tests.support.runs import DigitsNet
from tools.course import copy_course


@pytest.fixture(scope="session", autouse=True)
def _stop_button():
    """A shell starts what runs in the background with SIGINT ignored; these tests send it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def forkserver():
    """A forkserver that is running, and has imported PyTorch: its processes start quickly."""
    context = multiprocessing.get_context("forkserver")
    modules = ["torch._dynamo", "torch.utils.data", "tqdm", "tests.support.runs"]
    context.set_forkserver_preload(modules)
    multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder in which the 5,000 digits are cached."""
    folder = tmp_path_factory.mktemp("data")
    get_dataloaders_mnist(data_dir=folder)
    return folder


@pytest.fixture
def course(tmp_path, data_dir):
    """The folder of the notebooks in a copy of the course, with the digits cached."""
    copy_course(tmp_path)
    shutil.copytree(data_dir, tmp_path / "data", dirs_exist_ok=True)
    return tmp_path / "notebooks"


@pytest.fixture(scope="session")
def loaders(data_dir):
    """400 training, 50 validation and 500 test digits at 16 x 16, in batches of 50."""
    train, valid, test = get_dataloaders_mnist(
        batch_size=50, validation_fraction=0.01, image_size=16, data_dir=data_dir
    )
    train.dataset.images = train.dataset.images[:400]
    train.dataset.targets = train.dataset.targets[:400]
    return train, valid, test


@pytest.fixture
def new_run():
    """Return a function that makes a fresh model, its optimizer and its scheduler."""

    def make():
        torch.manual_seed(1)
        model = DigitsNet()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
        return model, optimizer, scheduler

    return make
