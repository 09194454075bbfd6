"""The checks of the exercises in notebook 5."""

import contextlib
import io
import json
import os
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import nn

from exercises.check import (
    Trap,
    copy_of,
    equal,
    error_of,
    exercise,
    named_layers,
    refuses,
    require,
    train_on,
    watch_unpickling,
)


def small_model():
    """Return a model with tensors of three types."""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=torch.float64))


@exercise
def check_load_lean(call, folder):
    """Hand it a file in the model's own types, one in half precision, and some that are no good."""
    path, trap = os.path.join(folder, "saved.pt"), os.path.join(folder, "trap")
    devices = []

    def make_model():
        devices.append(torch.empty(0).device.type)
        return small_model()

    trained = small_model()
    train_on(trained)
    state = trained.state_dict()
    for kind, convert, place in [
        ("float32", lambda t: t, "cpu"),
        ("float16, saved on a GPU", torch.Tensor.half, "cuda:99"),
    ]:
        saved = {n: convert(t) if t.is_floating_point() else t for n, t in state.items()}
        with mock.patch("torch.serialization.location_tag", return_value=place):
            torch.save(saved, path)
        try:
            with watch_unpickling() as unpickled, watch_to_empty() as filled:
                model = call(path, make_model, when=f"for a file in {kind}, ")
        finally:
            if on_meta := torch.empty(0).is_meta:
                torch.set_default_device(None)
        still = "meta is still the default device: `with torch.device` would end that."
        require(not on_meta, still)
        require(model is not None, "your function returns nothing: return the model.")
        found = type(model).__name__
        require(isinstance(model, nn.Module), f"the answer is of type {found}, not a model.")
        require(devices and set(devices) == {"meta"}, "the model took memory: make it on meta.")
        tensors = model.state_dict()
        require(set(tensors) == set(state), "return the model that make_model makes, and no other.")
        for name, tensor in tensors.items():
            on = tensor.device.type
            require(on == "cpu", f"{name} is on {on}: without assign=True, it stays empty.")
            own = f"make_model makes it {state[name].dtype}"
            require(tensor.dtype == state[name].dtype, f"{name} is {tensor.dtype}, but {own}.")
            right = torch.equal(tensor, saved[name].to(tensor.dtype))
            require(right, f"{name} doesn't hold the numbers in the file.")
        learns = all(p.requires_grad for p in model.parameters())
        require(
            learns and len([*model.parameters()]) == 6,
            "the model's parameters are missing or frozen.",
        )
        twice = "to_empty takes memory for a second copy of the model: use assign=True instead."
        require(not filled, twice)
        require(not unpickled, "weights_only=False would run code from the file.")
        del model, tensors, tensor  # so that nothing of the file is mapped when it is written again

    torch.save({**saved, "0.bias": Trap(trap)}, path)
    refused = refuses(call, path, make_model)
    require(not os.path.exists(trap), "opening a file has just run code, which made a folder.")
    require(refused, "a file that would run code was refused, and the caller got no error.")
    del saved["0.bias"]
    torch.save(saved, path)
    require(refuses(call, path, make_model), "a file without 0.bias is loaded without an error.")
    return "made on meta, filled from the file, each tensor in the type that make_model gives it"


@contextlib.contextmanager
def watch_to_empty():
    """Yield a list that gets an item for each call of a module's to_empty."""
    original, calls = nn.Module.to_empty, []

    def to_empty(module, **named):
        calls.append(named)
        return original(module, **named)

    with mock.patch.object(nn.Module, "to_empty", to_empty):
        yield calls


class CountingFile(io.FileIO):
    """A file that adds up how many bytes are read from it."""

    count = 0

    def readinto(self, buffer):
        size = super().readinto(buffer)
        CountingFile.count += size or 0
        return size

    def read(self, size=-1):
        content = super().read(size)
        CountingFile.count += len(content)
        return content

    def readall(self):
        content = super().readall()
        CountingFile.count += len(content)
        return content


@contextlib.contextmanager
def count_bytes_read(path):
    """Count the bytes that are read from one file, opened in binary mode, in the block."""
    open_any = open

    def open_counted(file, mode="r", buffering=-1, *arguments, **named):
        is_it = isinstance(file, (str, os.PathLike)) and os.path.realpath(file) == path
        if not is_it or mode != "rb":
            return open_any(file, mode, buffering, *arguments, **named)
        raw = CountingFile(file)
        return raw if buffering == 0 else io.BufferedReader(raw)

    CountingFile.count = 0
    with mock.patch("builtins.open", open_counted), mock.patch("io.open", open_counted):
        yield


@exercise
def check_shapes_in(call, folder):
    """Hand it a whole file, and one of which only the beginning has arrived."""
    path = os.path.join(folder, "model.safetensors")
    tensors = {"dense.weight": torch.ones(3, 2), "dense.bias": torch.ones(3), "n": torch.ones(())}
    save_file(tensors, path, metadata={"trained on": "digits, until it knew them by heart"})
    expected = {name: list(tensor.shape) for name, tensor in tensors.items()}
    compare_shapes(call(path, when="for a complete file, "), expected)

    header = {"w": {"dtype": "F32", "shape": [50_000, 40_000], "data_offsets": [0, 8 * 10**9]}}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + bytes(ARRIVED))
    with count_bytes_read(path):
        when = "for a file whose tensors are still being downloaded, "
        compare_shapes(call(path, when=when), {"w": [50_000, 40_000]})
    all_of_it = "your function reads the tensors too, which may be larger than the memory: "
    require(CountingFile.count < ARRIVED, f"{all_of_it}read 8 bytes, then as many as they say.")
    return "the header alone gives the shapes, even of 8 GB that haven't arrived yet"


ARRIVED = 1_000_000  # bytes of the tensors; more than any buffer


def compare_shapes(answer, expected):
    """Raise a hint unless an answer is a dict from the names to these shapes."""
    require(answer is not None, "your function returns nothing: return the dict.")
    kind = type(answer).__name__
    require(isinstance(answer, dict), f"the answer is of type {kind}, not a dict.")
    require("__metadata__" not in answer, "__metadata__ isn't a tensor: it's text about the file.")
    require(set(answer) == set(expected), f"the names should be {', '.join(expected)}.")
    for name, shape in answer.items():
        require(
            isinstance(shape, (list, tuple)),
            f"{name}: return only the shape of each tensor, a list or tuple.",
        )
        require(list(shape) == expected[name], f"the shape of {name} should be {expected[name]}.")


LAYERS = ["features", "classifier.1", "classifier.2", "classifier.20"]


def network():
    """Return a model with layers of similar names, and with a buffer."""
    model = named_layers(*LAYERS)
    model.register_buffer("mean", torch.ones(2))
    return model


def without(state, prefix):
    """Return a state without the names that begin with a prefix."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


@exercise
def check_take_over(call, folder):
    """Hand it states with a different last layer or none, and four that don't fit."""
    head = "classifier.2"
    state = copy_of(network())
    state["mean"] += 1
    other = {f"{head}.weight": torch.ones(10, 2), f"{head}.bias": torch.ones(10)}
    for kind, given in [
        ("with ten classes", {**state, **other}),
        (f"without {head}", without(state, f"{head}.")),
        ("with the same classes", state),
    ]:
        model, before = network(), dict(given)
        fresh = copy_of(model)
        call(given, model, head, when=f"for a state {kind}, ")
        require(list(given) == list(before), "your function changes the dict that it was given.")
        after = copy_of(model)
        for name in after:
            if name.startswith(f"{head}."):
                as_it_was = torch.equal(after[name], fresh[name])
                require(as_it_was, f"{name} should stay new, but for a state {kind}, it changed.")
            else:
                require(
                    torch.equal(after[name], state[name]),
                    f"for a state {kind}, {name} doesn't hold the state's tensor.",
                )

    for kind, name, given in [
        ("without features.bias", "features.bias", without(state, "features.bias")),
        ("without classifier.20", "classifier.20.weight", without(state, "classifier.20.")),
        ("with an extra layer", "extra.weight", {**state, "extra.weight": torch.ones(2)}),
        (
            "whose names begin with module.",
            "",  # any of them
            {f"module.{name}": tensor for name, tensor in state.items()},
        ),
    ]:
        model = network()
        fresh = copy_of(model)
        error = error_of(call, given, model, head)
        require(error is not None, f"a state {kind} is accepted without an error.")
        found = type(error).__name__
        require(
            isinstance(error, ValueError),
            f"for a state {kind}, raise a ValueError; yours raises {found}.",
        )
        require(name in str(error), f"for a state {kind}, the error doesn't name {name}.")
        half = f"a state {kind} is refused, but after a part of it was loaded: compare first."
        require(equal(copy_of(model), fresh), half)
    return "all layers but the last come from the state, and a state that doesn't fit is refused"
