"""Seeds, random streams, deterministic algorithms, and a hash that shows whether runs are equal."""

import contextlib
import functools
import hashlib
import os
import random
import types
from collections import deque
from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What random numbers are drawn for, so that no two uses share them.

    They start at 1: SeedSequence pads with zeros, so [123, 1] would equal [123, 1, 0, 0].
    """

    ORDER = 1  # the order of the examples in an epoch
    FETCH = 2  # what the dataset and the collate function draw
    STEP = 3  # what the model draws: dropout, noise
    TRAIN_ACCURACY = 4
    VALID_ACCURACY = 5
    TEST_ACCURACY = 6
    EVALUATION = 7  # what the model draws while accuracies are computed


GENERATORS = (
    torch.Generator,
    random.Random,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
)
# Never searched for generators.
LEAVES = (
    *(str, bytes, int, float, complex, type(None), type, types.ModuleType),
    *(torch.Tensor, np.ndarray),
)
LARGE = 1_000  # a list or a dict with more entries is data; it isn't searched
MOST_OBJECTS = 10_000  # that one search visits


def set_all_seeds(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (CPU and all GPUs). `seed` is an integer in [0, 2**32)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_deterministic() -> None:
    """Make PyTorch use deterministic algorithms only.

    After this, an operation that has no such algorithm raises a RuntimeError.
    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def seed_batch(seed: int, epoch: int, batch: int, stream: Stream, generators: Sequence = ()) -> int:
    """Seed all generators for one use (`stream`) of a batch (from 0) in an epoch (from 1).

    Seeds the global generators of Python, NumPy and PyTorch (CPU and CUDA), and gives each of
    `generators` its own seed. Returns the seed of the global ones.

    The four numbers are mixed, so that epoch 2 of seed 123 is not epoch 1 of seed 124. Source:
    https://numpy.org/doc/stable/reference/random/bit_generators/generated/numpy.random.SeedSequence.html
    """
    sequence = np.random.SeedSequence([seed, epoch, batch, stream])
    derived_seed, *others = sequence.generate_state(1 + len(generators)).tolist()
    random.seed(derived_seed)
    np.random.seed(derived_seed)
    torch.default_generator.manual_seed(derived_seed)  # torch.manual_seed takes 100 times as long
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(derived_seed)
    for generator, other in zip(generators, others, strict=True):
        seed_generator(generator, other)
    return derived_seed


def seed_generator(generator, seed: int) -> None:
    """Seed a generator of PyTorch, Python or NumPy."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    elif isinstance(generator, np.random.RandomState):  # its state also caches a normal sample
        new = np.random.RandomState(type(generator._bit_generator)(seed))
        generator.set_state(new.get_state(legacy=False))
    else:
        bits = getattr(generator, "bit_generator", generator)  # of a Generator, or alone
        bits.state = type(bits)(seed).state


def seed_loader(loader, seed: int, epoch: int, stream: Stream) -> None:
    """Make the order in which `loader` yields its examples depend on `(seed, epoch, stream)` alone.

    Calls `set_epoch(epoch)` on the parts of the loader (`find_parts` says what is found), and seeds
    the global generators and those that the loader holds. The generators of the data are seeded
    separately from those of the samplers, because a dataset may create one more when it is used.
    """
    call_set_epoch(find_parts(loader), epoch)
    data = find_parts(getattr(loader, "dataset", None), getattr(loader, "collate_fn", None))
    of_data = find_generators(data)
    is_of_data = {id(generator) for generator in of_data}
    others = [part for part in find_generators(find_parts(loader)) if id(part) not in is_of_data]
    seed_batch(seed, epoch, 1, stream, of_data)
    seed_batch(seed, epoch, 0, stream, others)


def call_set_epoch(parts: list, epoch: int) -> None:
    """Call `set_epoch(epoch)` on each object that has it, as a DistributedSampler does."""
    for part in parts:
        if hasattr(type(part), "set_epoch"):
            part.set_epoch(epoch)


def find_generators(parts: list) -> list:
    """Return the objects that are random number generators."""
    return [part for part in parts if isinstance(part, GENERATORS)]


def find_parts(*roots) -> list:
    """Return `roots` and the objects that they hold, nearest first.

    Looks into attributes (of objects and of their classes), lists, tuples, dicts, partial
    functions, bound methods, default arguments and closures. Doesn't look into containers with more
    than 1,000 entries, sets, global variables, or what a library keeps outside of Python; stops
    after 10,000 objects.
    """
    found = {}  # by id, since not everything can be hashed
    waiting = deque(roots)
    while waiting and len(found) < MOST_OBJECTS:
        part = waiting.popleft()
        if id(part) not in found and not isinstance(part, LEAVES):
            found[id(part)] = part
            waiting.extend(children(part))
    return list(found.values())


def children(part) -> Iterator:
    """Yield the objects that one object holds directly."""
    if isinstance(part, (list, tuple, deque)) and len(part) <= LARGE:
        yield from part
    elif isinstance(part, dict) and len(part) <= LARGE:
        yield from part.values()
    elif isinstance(part, functools.partial):
        yield from (part.func, *part.args, *part.keywords.values())
    elif isinstance(part, types.MethodType):
        yield from (part.__self__, part.__func__)
    elif isinstance(part, types.BuiltinFunctionType):
        yield part.__self__
    elif isinstance(part, (staticmethod, classmethod)):
        yield part.__func__
    elif isinstance(part, property):
        yield part.fget
    elif isinstance(part, types.FunctionType):
        yield from part.__defaults__ or ()
        yield from (part.__kwdefaults__ or {}).values()
        for cell in part.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable that has no value yet
                yield cell.cell_contents
    yield from class_attributes(part)
    attributes = getattr(part, "__dict__", None)
    if isinstance(attributes, dict):
        # A loader's iterator holds its workers and queues, but nothing of the user's.
        yield from [value for name, value in attributes.items() if name != "_iterator"]


def class_attributes(part) -> Iterator:
    """Yield what an object has through its class: in `__slots__`, and attributes of the class."""
    for kind in type(part).__mro__:
        if kind.__module__.partition(".")[0] in ("builtins", "torch", "numpy", "collections"):
            continue  # nothing of the user's
        for name, value in vars(kind).items():
            if isinstance(value, types.MemberDescriptorType) and "__slots__" in vars(kind):
                yield getattr(part, name, None)
            elif name != "__dict__":
                yield value  # methods too: one may have a generator as a default argument


@contextlib.contextmanager
def preserve_rng_state(device: torch.device | str):
    """Restore the global generators of Python, NumPy and PyTorch (CPU and CUDA) at the end."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    uses_cuda = torch.device(device).type == "cuda" or torch.cuda.is_initialized()
    gpus = range(torch.cuda.device_count()) if uses_cuda else []
    try:
        with torch.random.fork_rng(gpus, device_type="cuda"):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def compute_sha256(*states) -> str:
    """Return the SHA-256, as 64 hexadecimal digits, of nested dicts and lists of tensors.

    It covers names, numbers, and the type, shape and every bit of tensors and NumPy arrays, but not
    the device. Raises a TypeError for anything it can't see into, such as a model.
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
