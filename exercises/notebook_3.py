"""The checks of the exercises in notebook 3."""

import contextlib
import functools
import os
import sys

import torch

from exercises.check import Hint, equal, exercise, is_state, named_layers, need, read


@exercise
def check_strip_module(call, folder):
    """Try it on names that hold `module.` or its letters elsewhere, and without the prefix."""
    own = named_layers("model", "submodule", "dense").state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in own.items()}
    names = list(wrapped)
    result = call(wrapped)
    need(list(wrapped) == names, "your function changes the dict it was given.")
    need(is_state(result), f"the answer is of type {type(result).__name__}, not a state_dict.")
    need(set(result) != set(names), "the names still begin with module.")
    need("subweight" not in result, "submodule.weight became subweight: look at the beginning.")
    need("nse.weight" not in result, "dense.weight became nse.weight: lstrip takes letters.")
    need(equal(result, own), f"the names, or the tensors, are not those of {', '.join(own)}.")
    again = call(own, when="for names without the prefix, ")
    need(is_state(again) and equal(again, own), "names without the prefix have changed, too.")
    return "the prefix is gone, submodule.weight is whole, and names without it stay"


@exercise
def check_is_intact(call, folder):
    """Damage a file in three ways."""
    path = os.path.join(folder, "model.pt")
    weight = torch.randn(1000)
    torch.save({"weight": weight}, path)
    with open(path, "rb") as file:
        whole = file.read()
    flipped = bytearray(whole)
    flipped[whole.index(weight.numpy().tobytes()) + 2000] ^= 1
    half = whole[: len(whole) // 2]
    answers = []
    for name, content in [
        ("a whole file", whole),
        ("a flipped bit", flipped),
        ("half a file", half),
    ]:
        with open(path, "wb") as file:
            file.write(content)
        answers.append(call(path, when=f"for {name}, "))
    booleans = all(isinstance(answer, bool) for answer in answers)
    need(booleans, "your function should return True or False, whatever the file.")
    need(answers != [False, True, True], "it is the other way round: True is for a whole file.")
    need(answers[0], "a whole file was called damaged.")
    need(answers != [True, True, False], "half a file was found, but no CRC sum compared.")
    need(not any(answers[1:]), "a damaged file was called intact.")
    return "a flipped bit and half a file are found, and a whole file is called intact"


class Unpicklable:
    """What stops torch.save in the middle, as a full disk or a kill does."""

    def __reduce__(self):
        raise OSError("no space left on the disk")


@functools.cache
def renames():
    """Return a list in which each file that takes a new name is noted from now on.

    That is `(from, to, whether there was a file of that name)`, the last hundred of them.
    """
    noted = []

    def note(event, arguments):
        if event == "os.rename":  # os.replace reports itself as this one, too
            noted.append((*arguments[:2], os.path.exists(arguments[1])))
            del noted[:-100]

    sys.addaudithook(note)
    return noted


@exercise
def check_save_atomically(call, folder):
    """Save twice, then let a save fail, and look at what is in the folder each time."""
    run = os.path.join(folder, "run")
    path = os.path.join(run, "checkpoint.pt")
    os.mkdir(run)
    call({"epoch": torch.tensor(1)}, path, when="for the first checkpoint, ")
    need(os.path.isfile(path), "there is no file at the path that your function was given.")
    renames().clear()
    call({"epoch": torch.tensor(2)}, path, when="for the second checkpoint, ")
    moves = [move for move in renames() if os.path.realpath(os.fsdecode(move[1])) == path]
    left = set(os.listdir(run)) - {"checkpoint.pt"}
    with open(path, "rb") as file:
        before = file.read()
    need(read(path) == {"epoch": 2}, "the file is not what torch.save makes of the state.")

    told = False
    try:
        call({"epoch": torch.tensor(3), "broken": Unpicklable()}, path)
    except Hint:
        told = True
    with contextlib.suppress(OSError), open(path, "rb") as file:
        need(file.read() == before, "a save broke off, and it spoilt the checkpoint before it.")
    need(os.path.isfile(path), "a save broke off, and the checkpoint before it is gone.")
    need(moves, "written in place: a kill in the middle leaves half a file.")
    source, _, there = moves[-1]
    folder_of_source = os.path.realpath(os.path.dirname(os.fsdecode(source)))
    need(folder_of_source == run, "the temporary file is in another folder: maybe another disk.")
    need(there, "for a moment there is no checkpoint: the old one is deleted before the new comes.")
    need(not left, "a temporary file is left behind next to the checkpoint.")
    need(told, "a save broke off, and your function kept the error to itself.")
    need(len(os.listdir(run)) == 1, "a save broke off, and its temporary file is left behind.")
    return "a save that breaks off leaves the checkpoint before it, and nothing else"
