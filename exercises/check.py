"""What all checks of the exercises share.

A check tries a student's function out, on models and files of its own, in a folder that is gone
afterwards, and prints one line: ✓ and what was shown, ✗ and a hint, or "Not answered yet". Whatever
the function does, a check raises nothing and leaves the random numbers as they were.
"""

import contextlib
import functools
import numbers
import os
import tempfile
import textwrap
import traceback
from unittest import mock

import torch
from torch import nn

from helper.reproducibility import preserve_rng_state


class Hint(Exception):
    """What is wrong with an answer, in one sentence."""


def need(condition, hint):
    """Raise the hint unless the condition holds."""
    if not condition:
        raise Hint(hint)


def exercise(check):
    """Turn `check(call, folder)`, which returns what was shown, into a check of a function.

    In `check`, `call(*arguments)` calls the student's function, and `folder` is an empty one, which
    is not the working directory.
    """

    @functools.wraps(check)
    def check_answer(answer):
        name = check.__name__.removeprefix("check_")
        if callable(answer):
            print(try_out(check, answer, name))
        else:
            print(f"✗ give the check the function {name} itself, without calling it.")

    return check_answer


def try_out(check, answer, name):
    """Return the line that a check has to say about an answer."""

    def call(*arguments, when=""):
        try:
            return answer(*arguments)
        except Exception as error:
            if is_skeleton(error):
                raise
            text = in_a_line(error)
            if "key(s) in state_dict" in text:
                text += " Do these names belong to the module that loads them?"
            raise Hint(f"{when}your function raises {text}") from error

    try:
        with (
            # What a function writes without naming a folder goes to this one, too.
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            contextlib.chdir(folder),
            mock.patch("tempfile.tempdir", folder),
            preserve_rng_state("cpu"),
            torch.enable_grad(),
        ):
            torch.manual_seed(0)
            return f"✓ {check(call, os.path.realpath(tempfile.mkdtemp()))}"
    except Hint as hint:
        return f"✗ {hint}"
    except BaseException as error:  # the stop button and sys.exit() included
        if is_skeleton(error):
            return f"Not answered yet: write {name} in the cell above, and run both cells."
        return f"✗ your function could not be checked; it led to {in_a_line(error)}"


def is_skeleton(error):
    """Tell whether an error is the line `raise NotImplementedError` of an exercise.

    PyTorch raises this kind of error as well, but with a message.
    """
    return type(error) is NotImplementedError and not error.args


def in_a_line(error):
    """Return the name of an error and the beginning of its message."""
    text = "".join(traceback.format_exception_only(error))
    return textwrap.shorten(text, 130, placeholder=" ...")


def refuses(call, *arguments):
    """Tell whether the student's function raises an error."""
    try:
        call(*arguments)
    except Hint:
        return True
    return False


class Net(nn.Module):
    """A small model with `features` and a `classifier`, like LeNet5, and with buffers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.classifier = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


def named_layers(*names):
    """Return a model with linear layers of one shape; `"block.dense"` stands inside `block`."""
    model = nn.Module()
    for name in names:
        outer, _, inner = name.rpartition(".")
        if outer not in dict(model.named_modules()):
            model.add_module(outer, nn.Module())
        model.get_submodule(outer).add_module(inner, nn.Linear(2, 2))
    return model


class Unpicklable:
    """What stops torch.save in the middle, as a full disk or a kill does."""

    def __reduce__(self):
        raise OSError("no space left on the disk")


def copy_of(module):
    """Return a copy of a module's state that no longer changes."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def train_on(module):
    """Add one to every tensor of a module in place, as a stand-in for training."""
    for tensor in module.state_dict().values():
        tensor += 1


def need_number(answer):
    """Raise a hint unless an answer is a number."""
    need(answer is not None, "your function returns nothing: print shows, return hands back.")
    kind = type(answer).__name__
    need(isinstance(answer, numbers.Real), f"the answer is of type {kind}, not a number.")


def is_state(value):
    """Tell whether a value is a dict from names to tensors, like a model's state."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def read(path):
    """Return what torch.load reads from a file, or None if it can't."""
    try:
        return torch.load(path, weights_only=True)
    except Exception:
        return None


def same(one, other):
    """Tell whether two tensors have the same type, shape and numbers."""
    return one.dtype == other.dtype and torch.equal(one, other)


def equal(one, other):
    """Tell whether two states hold the same names and tensors, in whichever order."""
    return set(one) == set(other) and all(same(one[name], other[name]) for name in one)
