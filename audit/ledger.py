"""The ledger of a run: a row of hashes for every optimizer step, and what the rows consist of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

# What is recorded before a step (the first six) and after it, in the order of cause and effect.
PIECES = (
    "weights",
    "buffers",
    "mode",
    "optimizer state",
    "settings",
    "learning rate",
    "batch",
    "gradient",
    "random state",
)


def read_ledger(path) -> list[dict]:
    """Return the rows of a ledger. A row that was cut off by a kill is dropped."""
    rows = []
    if not Path(path).exists():
        return rows
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def list_tensors(names: list[str]) -> str:
    """Return the first three names of tensors in parentheses, or nothing if there are none."""
    more = ", ..." if len(names) > 3 else ""
    return f" ({', '.join(names[:3])}{more})" if names else ""


def hash_value(value) -> str:
    """Return a hash of a number, a string, a tensor, or lists and dicts of them.

    It covers types, shapes and every bit of tensors, but not the device, the kind of a sequence or
    the order of a dict: loading a checkpoint changes those.
    """
    digest = hashlib.blake2b(digest_size=8)
    add_value(digest, value)
    return digest.hexdigest()


def add_value(digest, value) -> None:
    """Add a value to a digest."""
    import torch

    if isinstance(value, torch.Tensor):
        add_tensor(digest, value)
    elif isinstance(value, Mapping):
        digest.update(b"{%d" % len(value))
        for key in sorted(value, key=repr):
            digest.update(f"{key!r}:".encode())
            add_value(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(b"[%d" % len(value))
        for item in value:
            add_value(digest, item)
    elif isinstance(value, (str, bytes, bool, type(None))):
        digest.update(f"{value!r};".encode())
    elif isinstance(value, (int, float, complex)):
        digest.update(f"{complex(value)!r};".encode())  # 0 and 0.0 are the same setting
    elif hasattr(value, "tobytes"):  # an array or a number of NumPy
        digest.update(f"{value.dtype}{value.shape};".encode() + value.tobytes())
    else:
        digest.update(f"<{type(value).__name__}>".encode())


def add_tensor(digest, tensor) -> None:
    """Add the type, the shape and every bit of a tensor to a digest."""
    import torch

    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):  # what this process has of a DTensor
        tensor = tensor.to_local()
    digest.update(f"{tensor.dtype}{[*tensor.shape]}".encode())
    if tensor.is_sparse:
        for part in (tensor._indices(), tensor._values()):
            add_tensor(digest, part)
    elif tensor.layout != torch.strided and not tensor.is_nested:
        add_tensor(digest, tensor.to_dense())
    elif tensor.is_nested:
        for part in tensor.unbind():
            add_tensor(digest, part)
    elif tensor.is_quantized:
        add_tensor(digest, tensor.int_repr())
    elif tensor.numel() > 0 and not tensor.is_meta:
        tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())


def hash_tensors(prefix: str, value, depth: int = 4) -> dict[str, str]:
    """Return the hash of each tensor and number in what a module was given, by its place.

    Tensors that were computed from weights, and modules, are left out: they belong to the gradient.
    Of objects of other kinds, only the tensors in their attributes count.
    """
    import torch

    if isinstance(value, torch.Tensor):
        computed = value.grad_fn is not None or isinstance(value, torch.nn.Parameter)
        return {} if computed else {prefix: hash_value(value)}
    if isinstance(value, (bool, int, float, str)) or type(value).__module__ == "numpy":
        return {prefix: hash_value(value)}
    if depth == 0 or isinstance(value, (torch.nn.Module, torch.fx.Proxy)):
        return {}
    if isinstance(value, Mapping):
        items = [(f"{prefix}.{key}", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{prefix}.{number}", item) for number, item in enumerate(value)]
    elif hasattr(value, "__dict__"):
        kinds = (torch.Tensor, Mapping, list, tuple)
        items = [
            (f"{prefix}.{n}", item) for n, item in vars(value).items() if isinstance(item, kinds)
        ]
    else:
        return {}
    found = {}
    for name, item in items:
        found |= hash_tensors(name, item, depth - 1)
    return found
