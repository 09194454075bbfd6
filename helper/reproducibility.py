"""Seeds, deterministic algorithms, and a hash that tells whether two runs are equal."""

import contextlib
import hashlib
import os
import random

import numpy as np
import torch
from torch.utils.data import Sampler

# What a seed is used for, so that no two uses share their random numbers. From 1 on: SeedSequence
# pads with zeros, and [123, 1] would give the same numbers as [123, 1, 0, 0].
ORDER, FETCH, STEP, TRAIN_ACCURACY, VALID_ACCURACY, TEST_ACCURACY = range(1, 7)


def set_all_seeds(seed):
    """Seed Python, NumPy and PyTorch (CPU and all GPUs). `seed` is a whole number in [0, 2**32)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_deterministic():
    """Let PyTorch use deterministic algorithms only, or raise a RuntimeError where there is none.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def seed_batch(seed, epoch, batch, use):
    """Seed all generators for one use of one batch (from 0) in one epoch (from 1); return the seed.

    The numbers are mixed, so that epoch 2 of seed 123 is not epoch 1 of seed 124. Source:
    https://numpy.org/doc/stable/reference/random/bit_generators/generated/numpy.random.SeedSequence.html
    """
    mixed = int(np.random.SeedSequence([seed, epoch, batch, use]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed takes 100 times as long
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(mixed)
    return mixed


def seed_loader(loader, seed, epoch, use):
    """Make what the next `iter(loader)` yields depend on `(seed, epoch, use)` alone.

    Seeds the global generators and every `torch.Generator` of the loader, its sampler, its batch
    sampler and the samplers inside them, and calls `set_epoch(epoch)` where there is one. What a
    data set keeps for itself is not reached.
    """
    mixed = seed_batch(seed, epoch, 0, use)
    if hasattr(loader, "_iterator"):
        loader._iterator = None  # persistent workers would go on with their random numbers
    found, waiting = [], [loader, getattr(loader, "dataset", None)]
    while waiting:
        part = waiting.pop()
        if part is None or any(part is other for other in found):
            continue
        found.append(part)
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, torch.Generator):
                value.manual_seed(mixed)
            elif name in ("sampler", "batch_sampler") or isinstance(value, Sampler):
                waiting.append(value)


@contextlib.contextmanager
def random_numbers_kept(device):
    """Put the global generators of Python, NumPy and PyTorch back at the end of the block."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    device = torch.device(device)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def compute_sha256(*states):
    """Return the SHA-256, as 64 hexadecimal digits, of nested dicts and lists of tensors.

    It covers names, numbers, and the type, shape and every bit of tensors and NumPy arrays, but no
    device. Raises a TypeError for what it can't see into, a model for example.
    """
    digest = hashlib.sha256()

    def add(value):
        if type(value) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) and not (
            value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_nested
        ):
            tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            digest.update(f"tensor {tensor.dtype} {[*tensor.shape]};".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        elif type(value) is np.ndarray or isinstance(value, np.generic):
            if value.dtype.hasobject:
                raise TypeError("compute_sha256 can't see into a NumPy array of objects.")
            digest.update(f"array {value.dtype} {[*value.shape]};".encode() + value.tobytes())
        elif isinstance(value, dict):
            digest.update(f"dict {len(value)};".encode())
            add([*value.items()])
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}]".encode())
            for item in value:
                add(item)
        elif value is None or type(value) in (bool, int, float, complex, str, bytes):
            digest.update(f"{type(value).__name__} {value!r};".encode())
        else:
            kind = type(value).__name__
            raise TypeError(f"compute_sha256 can't see into a {kind}: use its state_dict().")

    add(states)
    return digest.hexdigest()
