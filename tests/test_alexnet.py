"""How much memory it takes to load AlexNet as notebook 5 does, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torchvision

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "5-alexnet-load-and-continue.ipynb"

# Linux itself keeps the peak, VmHWM: nothing is missed. Writing a 5 makes it begin once more.
PROGRAM = """
import re, sys
import torch, torchvision

def memory(name):
    status = open("/proc/self/status").read()
    return int(re.search(name + r":\\s+(\\d+) kB", status)[1]) * 1024

{cells}
PATH = sys.argv[1]
for mmap, device, assign in [(False, "cpu", False), (False, "meta", True), (True, "meta", True)]:
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    with torch.no_grad():
        model = load(mmap=mmap, device=device, assign=assign)
        model(torch.rand(64, 3, 64, 64))
    print(memory("VmHWM") - before)
    del model
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the peak in /proc")
def test_peak_memory_of_loading_and_predicting(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torchvision.models.alexnet(num_classes=10).state_dict(), path)
    cells = [
        cell.source
        for cell in nbformat.read(NOTEBOOK, as_version=4).cells
        if cell.id in ("new-alexnet", "ways")
    ]
    command = [sys.executable, "-c", PROGRAM.format(cells="\n".join(cells)), path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    usual, on_meta, mapped = (int(peak) / path.stat().st_size for peak in done.stdout.split())
    assert 1.7 < usual < 2.2
    assert 0.9 < on_meta < 1.3
    assert 0.9 < mapped < 1.3
    path.unlink()
