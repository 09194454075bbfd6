"""The evening before: is this machine ready for the lecture?

    python -m tools.check

Prints a line for each check, [ok] or [fail], and under a [fail] what to do. Exits with 1 if there
is one.
"""

import argparse
import importlib.metadata
import os
import shutil
import socket
import sys
import tempfile
import time

from packaging.requirements import Requirement

from tools.arithmetic import REFERENCE, define
from tools.course import ROOT

DISK_GB = 4  # notebooks 4 and 5 write 1.7 GB, 0.7 GB more for a while, 1.4 GB more when run again
MEMORY_GB = 4  # AlexNet, its optimizer and a second copy of both
PORT = 8888  # JupyterLab's own; it looks for another one if this is taken
STEP_MS = 300  # a step takes about 15 ms on two cores; beyond this, an epoch takes over 10 s


def check_versions():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wrong = []
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        requirement = Requirement(line)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} (here: {version or 'not installed'})")
    what = f"Python {sys.version.partition(' ')[0]} and the packages of requirements.txt"
    todo = f"Install in one command: pip install -r requirements.txt. Wrong: {', '.join(wrong)}"
    return not wrong, what, todo


def check_disk():
    free = shutil.disk_usage(ROOT).free / 1e9
    todo = f"Make room until {DISK_GB} GB are free; `make reset` deletes what the notebooks saved."
    return free >= DISK_GB, f"{free:.0f} GB of disk are free", todo


def check_memory():
    import psutil

    free = psutil.virtual_memory().available / 1e9
    todo = f"Close other programs until {MEMORY_GB} GB are free, or leave out notebooks 4 and 5."
    return free >= MEMORY_GB, f"{free:.0f} GB of memory are free", todo


def check_data():
    from helper.dataset import get_dataloaders_mnist

    try:
        train_loader, *_ = get_dataloaders_mnist(data_dir=ROOT / "data")
        digits = len(train_loader.dataset)
    except Exception as error:  # whatever it is, the lecture has no data
        return False, "the digits can be read", f"{type(error).__name__}: {error}"
    return digits == 4000, f"{digits:,} training digits are there, without a network", ""


def check_writing():
    folder = ROOT / "notebooks"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return False, "the notebooks can save", f"Nothing can be written to {folder}: {error}"
    return True, "the notebooks can save", ""


def check_port():
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", PORT)) == 0
    todo = "A JupyterLab from earlier? `jupyter lab list` shows it, `jupyter lab stop` ends it."
    return not taken, f"port {PORT} is free for JupyterLab", todo


def check_kernel():
    from jupyter_client.kernelspec import KernelSpecManager

    found = "python3" in KernelSpecManager().find_kernel_specs()
    return found, "there is a kernel for the notebooks", "pip install -r requirements.txt"


def check_step():
    import torch

    model = define("1-lenet5-train-and-save", "model-class")["LeNet5"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    features, targets = torch.rand(128, 1, 32, 32), torch.arange(128) % 10
    milliseconds = []
    for _ in range(10):
        start = time.perf_counter()
        torch.nn.functional.cross_entropy(model(features), targets).backward()
        optimizer.step()
        milliseconds.append(1000 * (time.perf_counter() - start))
    median = sorted(milliseconds)[len(milliseconds) // 2]
    todo = (
        "Plug the laptop in and close what uses the processor, then try OMP_NUM_THREADS=1: "
        "export OMP_NUM_THREADS=1 && make check"
    )
    return median <= STEP_MS, f"one training step of LeNet-5 takes {median:.0f} ms", todo


CHECKS = [
    check_versions,
    check_kernel,
    check_disk,
    check_memory,
    check_writing,
    check_data,
    check_port,
    check_step,
]


def main():
    os.environ.setdefault("OMP_WAIT_POLICY", REFERENCE["OMP_WAIT_POLICY"])  # as `make lab` does
    failed = 0
    for check in CHECKS:
        ok, what, todo = check()
        print("[ok]  " if ok else "[fail]", what)
        if not ok:
            failed += 1
            print("       What to do:", todo)
    print("Ready." if not failed else f"Not ready: {failed} of {len(CHECKS)} checks failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    sys.exit(main())
