"""Answers that no exercise asks for. Each of them gets a line from each check, and no error."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import torch

from tests.answers.solved import SOLVED


def nothing(*arguments):
    """Takes whatever it is given, does something, and returns nothing."""
    len(arguments)


def raises(error):
    def function(*_):
        raise error

    return function


class Evil(Exception):
    def __str__(self):
        raise ValueError("no message")


class Unequal:
    """What can't be compared, converted, printed or looped over."""

    def __eq__(self, other):
        raise RuntimeError("not comparable")

    __repr__ = __bool__ = __iter__ = __len__ = __float__ = __eq__


def destroy(*arguments):
    """Empty all that can be emptied, and delete all files."""
    for argument in arguments:
        if isinstance(argument, dict):
            argument.clear()
        elif isinstance(argument, torch.nn.Module):
            argument.__dict__.clear()
        elif isinstance(argument, torch.optim.Optimizer):
            argument.param_groups.clear()
        elif isinstance(argument, str):
            shutil.rmtree(Path(argument).parent)


def litter(*_):
    """Leave files where nobody asked for them, and work somewhere else."""
    Path("litter.pt").touch()
    tempfile.mkstemp()
    os.mkdir("folder")
    os.chdir("folder")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)


def swap(*arguments):
    """Return what it was given last, whatever that is."""
    return arguments[-1]


ABSURD = {
    "a number": 42,
    "a text": "optimizer",
    "a class": dict,
    "None": None,
    "three dots": ...,
    "an object": Unequal(),
    "a module": torch.nn.Linear(2, 2),
    "no argument": lambda: 1,
    "nine arguments": lambda a, b, c, d, e, f, g, h, i: 1,
    "nothing": nothing,
    "itself": lambda *_: SOLVED,
    "its last argument": swap,
    "42": lambda *_: 42,
    "infinity": lambda *_: float("inf"),
    "many digits": lambda *_: 10**5000,
    "a long text": lambda *_: "x" * 10**6,
    "endless": lambda *_: itertools.count(),
    "endless pair": lambda *_: (itertools.count(), itertools.count()),
    "pair of texts": lambda *_: ("90", {"weight": "x"}),
    "pair with numbers as names": lambda *_: (90.0, {1: torch.ones(2)}),
    "pair that can't be compared": lambda _, model, accuracy: (Unequal(), model.state_dict()),
    "empty dict": lambda *_: {},
    "a tensor": lambda *_: torch.ones(3),
    "a class in return": lambda *_: dict,
    "what can't be compared": lambda *_: Unequal(),
    "a generator": lambda *arguments: (yield arguments),
    "True": lambda *_: True,
    "False": lambda *_: False,
    "ValueError": raises(ValueError("two\nlines " * 500)),
    "an error without words": raises(Evil()),
    "exit": raises(SystemExit(1)),
    "stop": raises(KeyboardInterrupt()),
    "no end": lambda *arguments: ABSURD["no end"](*arguments),
    "too large": lambda *_: torch.empty(2**60),
    "prints": lambda *_: print("one\ntwo\n" * 1000),
    "destroy": destroy,
    "litter": litter,
}
