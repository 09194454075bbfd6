"""The checks behind the exercises: each tries out a student's function and answers in one line.

A check runs the function on models and files of its own, in a folder that is gone afterwards. The
line begins with ✓ and says what was shown, or with ✗ and a hint, or says "Not answered yet".
Whatever the function does, a check raises nothing and leaves the random numbers as they were.
"""

import contextlib
import dis
import functools
import inspect
import os
import tempfile
import textwrap
import traceback
from collections import OrderedDict
from unittest import mock

import torch
from torch import nn


class Hint(Exception):
    """What is wrong with an answer, in one sentence."""


def need(condition, hint):
    """Raise the hint unless the condition holds."""
    if not condition:
        raise Hint(hint)


def exercise(check):
    """Turn `check(call, folder)`, which returns what was shown, into a check of a function.

    In `check`, `call(*arguments)` calls the student's function.
    """

    @functools.wraps(check)
    def check_answer(answer):
        name = check.__name__.removeprefix("check_")
        if answer is None or answer is ... or is_empty(answer):
            print(f"Not answered yet: write {name} in the cell above, and run both cells.")
        elif not inspect.isroutine(answer):
            print(f"✗ give the check the function {name} itself, without calling it.")
        else:
            print(try_out(check, answer))

    return check_answer


def is_empty(function):
    """Tell whether a function does nothing but return None, like one whose body is `...`."""
    return inspect.isfunction(function) and all(
        step.argval in (None, ...) or step.opname == "RESUME"
        for step in dis.get_instructions(function)
    )


def try_out(check, answer):
    """Return the line that a check has to say about an answer."""

    def call(*arguments, when=""):
        try:
            return answer(*arguments)
        except Exception as error:
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
            torch.random.fork_rng(devices=[]),
            torch.enable_grad(),
        ):
            return f"✓ {check(call, os.getcwd())}"
    except Hint as hint:
        return f"✗ {hint}"
    except BaseException as error:  # the stop button and sys.exit() included
        return f"✗ your function could not be checked; it led to {in_a_line(error)}"


def in_a_line(error):
    """Return the name of an error and the beginning of its message."""
    text = "".join(traceback.format_exception_only(error))
    return textwrap.shorten(text, 130, placeholder=" ...")


class Net(nn.Module):
    """A small model with `features` and a `classifier`, like LeNet5, and with buffers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.classifier = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


def named_layers(*names):
    """Return a model whose layers have these names and are all of one shape."""
    return nn.Sequential(OrderedDict((name, nn.Linear(2, 2)) for name in names))


def copy_of(module):
    """Return a copy of a module's state that no longer changes."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def train_on(module):
    """Add one to every tensor of a module in place, as a stand-in for training."""
    for tensor in module.state_dict().values():
        tensor += 1


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


def equal(one, other):
    """Tell whether two states hold the same names and tensors, in whichever order."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
