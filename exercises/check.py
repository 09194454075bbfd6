"""What all checks of the exercises share.

A check tries out a student's function on models and files of its own, in a folder that is deleted
afterwards, and prints one line: ✓ and what was shown, ✗ and a hint, or "Not answered yet". Whatever
the function does or prints, a check raises nothing, prints one line, and leaves the random numbers
as they were.
"""

import contextlib
import functools
import io
import numbers
import os
import pickle
import re
import tempfile
import textwrap
import traceback
from unittest import mock

import torch
from torch import nn

from helper.reproducibility import preserve_rng_state


class Hint(Exception):
    """What is wrong with an answer, in one sentence."""


def require(condition, hint):
    """Raise the hint unless the condition holds."""
    if not condition:
        raise Hint(hint)


def exercise(check):
    """Turn `check(call, folder)`, which returns what was shown, into a check of a function.

    In `check`, `call(*arguments)` calls the student's function, and `folder` is empty. The working
    directory holds nothing else.
    """

    @functools.wraps(check)
    def check_answer(answer):
        name = check.__name__.removeprefix("check_")
        if callable(answer):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                line = try_out(check, answer, name)
            if line.startswith("✗") and (first := printed.getvalue().strip().partition("\n")[0]):
                line += f" (It printed: {first[:40]}{'...' * (len(first) > 40)})"
            print(line)
        else:
            print(f"✗ pass the function {name} itself to the check, without calling it.")

    return check_answer


def try_out(check, answer, name):
    """Return the line that a check prints about an answer."""

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
            # What a function writes without naming a folder goes to this one.
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
    """Return whether an error is the line `raise NotImplementedError` of an exercise.

    PyTorch raises this kind of error as well, but with a message.
    """
    return type(error) is NotImplementedError and not error.args


def in_a_line(error):
    """Return the name of an error and the beginning of its message."""
    text = "".join(traceback.format_exception_only(error))
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # bold type, in torch.load's messages
    return textwrap.shorten(text, 130, placeholder=" ...")


def error_of(call, *arguments):
    """Return the error that the student's function raises, or None."""
    try:
        call(*arguments)
    except Hint as hint:
        return hint.__cause__
    except KeyboardInterrupt as error:
        return error
    return None


def refuses(call, *arguments):
    """Return whether the student's function raises an error."""
    return error_of(call, *arguments) is not None


@contextlib.contextmanager
def watch_unpickling():
    """Yield a list that gets an item for each file opened with weights_only=False."""
    opened = []

    class Unpickler(pickle.Unpickler):
        def __init__(self, *arguments, **named):
            opened.append(True)
            super().__init__(*arguments, **named)

    with mock.patch("pickle.Unpickler", Unpickler):
        yield opened


class Net(nn.Module):
    """A small model with `features` and a `classifier`, like LeNet5, and with buffers."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.classifier = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


def named_layers(*names):
    """Return a model with linear layers of one shape; `"block.dense"` is inside `block`."""
    model = nn.Module()
    for name in names:
        outer, _, inner = name.rpartition(".")
        if outer not in dict(model.named_modules()):
            model.add_module(outer, nn.Module())
        model.get_submodule(outer).add_module(inner, nn.Linear(2, 2))
    return model


class Unpicklable:
    """What stops torch.save halfway, as a full disk does, or the stop button."""

    def __init__(self, error=None):
        self.error = error or OSError("no space left on the disk")

    def __reduce__(self):
        raise self.error


class Trap:
    """What makes a folder when it is unpickled: a harmless case of a file that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def copy_of(module):
    """Return a copy of a module's state that no longer changes."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def flags_of(module):
    """Return for each part of a module whether it is in training mode or can be trained."""
    modes = {f"mode of {name}": part.training for name, part in module.named_modules()}
    return modes | {name: p.requires_grad for name, p in module.named_parameters()}


def require_flags(module, before, which):
    """Raise a hint if a function has changed the mode of a module or frozen it."""
    after = flags_of(module)
    modes = [name for name in before if name.startswith("mode") and after.get(name) != before[name]]
    require(not modes, f"your function puts {which} into a different mode: leave that to others.")
    require(
        after == before, f"your function freezes a part of {which}: it couldn't learn any more."
    )


def train_on(module):
    """Add one to every tensor of a module in place, as a stand-in for training."""
    for tensor in module.state_dict().values():
        tensor += 1


def require_number(answer):
    """Raise a hint unless an answer is a number."""
    require(
        answer is not None,
        "your function returns nothing: print shows a value, return hands it back.",
    )
    kind = type(answer).__name__
    require(isinstance(answer, numbers.Real), f"the answer is of type {kind}, not a number.")


def is_state(value):
    """Return whether a value is a dict from names to tensors, like a model's state."""
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
    """Return whether two tensors have the same type, shape and numbers."""
    return one.dtype == other.dtype and torch.equal(one, other)


def equal(one, other):
    """Return whether two states hold the same names and tensors, in any order."""
    return set(one) == set(other) and all(same(one[name], other[name]) for name in one)
