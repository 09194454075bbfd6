"""The arithmetic that the committed outputs come from, and whether this machine has it.

Sums are rounded in another order by another processor, with another number of threads or by another
release of PyTorch. That can turn a printed digit, so digits are compared only where none of these
differs.
"""

import hashlib
import os

import nbformat

from tools.course import ROOT

NOTEBOOKS = ROOT / "notebooks"

# Two threads, AVX2 and MKL's portable code path: what most x86-64 machines can do alike. Threads
# sleep while they wait for each other; if they spin, a step takes five times as long when others
# use the cores, too.
REFERENCE = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "CUDA_VISIBLE_DEVICES": "",  # a GPU rounds differently, so it is hidden
}


def use_reference():
    """Set the reference in the environment, before PyTorch is imported; what is set there wins."""
    for name, value in REFERENCE.items():
        os.environ.setdefault(name, value)


def fingerprint():
    """Return the SHA-256 of one step's gradients of LeNet-5 and of AlexNet, and of the release."""
    import torch  # reads the environment, so not before `use_reference`

    digest = hashlib.sha256(torch.__version__.partition("+")[0].encode())
    digest.update(str(torch.cuda.is_available()).encode())
    for notebook, cell, name, shape in [
        ("1-lenet5-train-and-save", "model-class", "LeNet5", (128, 1, 32, 32)),
        ("4-alexnet-train-and-save", "new-alexnet", "new_alexnet", (64, 3, 64, 64)),
    ]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(123)
            model = define(notebook, cell)[name]()
            features, targets = torch.rand(shape), torch.arange(shape[0]) % 10
            torch.nn.functional.cross_entropy(model(features), targets).backward()
        for parameter in model.parameters():
            digest.update(parameter.grad.numpy())
    return digest.hexdigest()


def define(notebook, cell_id):
    """Return what a cell of a notebook defines, as a dict."""
    import torch
    import torchvision

    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.id == cell_id]
    names = {"torch": torch, "nn": torch.nn, "torchvision": torchvision}
    exec(source, names)
    return names


def is_reference(paths):
    """Tell whether this process computes as the one did that ran all these notebooks."""
    own = fingerprint()
    stamps = [nbformat.read(path, as_version=4).metadata.get("sha256", {}) for path in paths]
    return all(stamp.get("arithmetic") == own for stamp in stamps)
