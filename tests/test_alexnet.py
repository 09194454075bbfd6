"""How much memory it takes to load AlexNet as notebook 5 does, measured in fresh processes."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torchvision

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "5-alexnet-load-and-continue.ipynb"

# The peak since the process began, VmHWM, is kept by Linux itself: nothing is missed.
PROGRAM = """
import re, sys
import torch, torchvision

def memory(name):
    status = open("/proc/self/status").read()
    return int(re.search(name + r":\\s+(\\d+) kB", status)[1]) * 1024

{cells}
PATH = sys.argv[1]
before = memory("VmRSS")
with torch.no_grad():
    model = load({settings})
    model(torch.rand(64, 3, 64, 64))
print(memory("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("alexnet") / "model.pt"
    torch.save(torchvision.models.alexnet(num_classes=10).state_dict(), path)
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the peak in /proc")
@pytest.mark.parametrize(
    ("settings", "at_least", "at_most"),
    [
        ("", 1.7, 2.2),
        ("device='meta', assign=True", 0.9, 1.3),
        ("mmap=True, device='meta', assign=True", 0.9, 1.3),
    ],
    ids=["usual", "meta and assign", "with mmap"],
)
def test_peak_memory_of_loading_and_predicting(path, settings, at_least, at_most):
    cells = [
        cell.source
        for cell in nbformat.read(NOTEBOOK, as_version=4).cells
        if cell.id in ("new-alexnet", "ways")
    ]
    program = PROGRAM.format(cells="\n".join(cells), settings=settings)
    command = [sys.executable, "-c", program, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert at_least < int(done.stdout) / path.stat().st_size < at_most
