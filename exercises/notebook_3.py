"""The checks of the exercises in notebook 3."""

import contextlib
import os
import zipfile
from unittest import mock

import torch

from exercises.check import (
    Unpicklable,
    copy_of,
    equal,
    exercise,
    is_state,
    named_layers,
    read,
    refuses,
    require,
    watch_unpickling,
)


@exercise
def check_strip_module(call, folder):
    """Try names that hold `module.` or its letters elsewhere, and names without the prefix."""
    own = copy_of(named_layers("model", "submodule", "dense", "module2", "block.module"))
    wrapped = {f"module.{name}": tensor for name, tensor in own.items()}
    names = list(wrapped)
    result = call(wrapped)
    require(list(wrapped) == names, "your function changes the dict that it was given.")
    require(is_state(result), f"the answer is of type {type(result).__name__}, not a state_dict.")
    require(set(result) != set(names), "the names still begin with `module.`.")
    require("subweight" not in result, "submodule.weight became subweight: look at the beginning.")
    require("nse.weight" not in result, "dense.weight became nse.weight: lstrip takes letters.")
    inner = "block.module.weight became block.weight: this `module.` is not at the beginning."
    require("block.weight" not in result, inner)
    require(equal(result, own), f"the names, or the tensors, are not those of {', '.join(own)}.")
    again = call(own, when="for names without the prefix, ")
    require(is_state(again) and equal(again, own), "names without the prefix have changed too.")
    require(again is not own, "return a new dict, even when no name has the prefix.")
    mixed = {name: tensor for name, tensor in wrapped.items() if "dense" in name}
    mixed |= {name: tensor for name, tensor in own.items() if "dense" not in name}
    again = call(mixed, when="for a dict in which some names have the prefix, ")
    each = is_state(again) and equal(again, own)
    require(each, "when only some names have the prefix, you have to look at each of them.")
    return "the prefix is gone, submodule.weight is whole, and names without it stay"


def find_damage(path):
    """Return what is wrong with a file of torch.save, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            if record := archive.testzip():
                return f"the checksum of {record} is wrong"
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        return f"opening it raises {type(error).__name__}"
    return None


@exercise
def check_is_intact(call, folder):
    """Cut a file, and flip one bit of it, every 83rd of them in turn."""
    with watch_unpickling() as unpickled:
        try_damaged_files(call, os.path.join(folder, "model.pt"), unpickled)
    return "flipped bits, half a file and an empty one are found, and a whole file is intact"


def try_damaged_files(call, path, unpickled):
    """Raise a hint unless a function tells damaged files from a whole one."""
    weight = torch.arange(100.0)
    torch.save({"weight": weight, "epoch": 3}, path)
    with open(path, "rb") as file:
        whole = file.read()

    def ask(content, name):
        with open(path, "wb") as file:
            file.write(content)
        answer = call(path, when=f"for {name}, ")
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            kept = file.read() == content
            require(kept, f"for {name}, your function changes the file: it should only look.")
        require(os.path.exists(path), f"for {name}, your function deletes the file.")
        require(not unpickled, f"for {name}, weights_only=False would run code from it.")
        kind = type(answer).__name__
        require(isinstance(answer, bool), f"for {name}, return True or False, not a {kind}.")
        return answer

    def with_flip(bit):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        return content

    half, in_weight = whole[: len(whole) // 2], 8 * (whole.index(weight.numpy().tobytes()) + 200)
    require(ask(whole, "a whole file"), "a whole file was called damaged.")
    flipped = ask(with_flip(in_weight), "a flipped bit")
    require(
        not flipped or ask(half, "half a file"), "half a file is found, but no checksum compared."
    )
    require(not flipped, "a file with a flipped bit was called intact.")
    for name, content in [
        ("half a file", half),
        ("a file without its last bytes", whole[:-5]),
        ("an empty file", b""),
    ]:
        require(not ask(content, name), f"{name} was called intact.")
    for bit in range(0, 8 * len(whole), 83):
        if ask(with_flip(bit), f"a flipped bit in byte {bit // 8} of {len(whole)}"):
            damage = find_damage(path)  # some bits don't matter, such as those of a date
            require(
                not damage,
                f"with a flipped bit in byte {bit // 8}, {damage}: it is not intact.",
            )


@contextlib.contextmanager
def watch(path):
    """Yield a list of what Python's functions do to the file `path` while the block runs.

    For each time that a file is moved to `path`, its former name, and for each time that the file
    is missing afterwards, None.
    """
    seen = []

    def watched(function):
        def step(*arguments, **named):
            result = function(*arguments, **named)
            names = [n for n in (*arguments, *named.values()) if isinstance(n, (str, os.PathLike))]
            files = {os.path.realpath(name) for name in names}
            if not os.path.exists(path):
                seen.append(None)
            elif path in files:
                seen.extend(files - {path})
            return result

        return step

    with contextlib.ExitStack() as stack:
        for name in ("remove", "unlink", "rename", "replace"):
            stack.enter_context(mock.patch.object(os, name, watched(getattr(os, name))))
        yield seen


@exercise
def check_save_atomically(call, folder):
    """Save three times, then let a save fail, and look at what is in the folder each time.

    The old checkpoint has a second name, a hard link: writing into it changes both.
    """
    run, old = os.path.join(folder, "run"), os.path.join(folder, "old")
    path = os.path.join(run, "checkpoint.pt")
    os.mkdir(run)
    call({"epoch": torch.tensor(1)}, path, when="for the first checkpoint, ")
    require(os.path.isfile(path), "there is no file at the path that your function was given.")
    os.link(path, old)
    with watch(path) as seen:
        call({"epoch": torch.tensor(2)}, path, when="for the second checkpoint, ")
    left = set(os.listdir(run)) - {"checkpoint.pt"}
    new = read(path)
    right = is_state(new) and equal(new, {"epoch": torch.tensor(2)})
    require(right, "the file doesn't hold what torch.save would write for this state.")
    whole = not os.path.samefile(path, old) and read(old) == {"epoch": 1}
    require(whole, "written in place: a kill in the middle would leave half a file.")
    require(None not in seen, "for a moment there is no checkpoint: the old one goes too early.")
    beside = all(name.startswith(run + os.sep) for name in seen)
    require(beside, "the temporary file is in a different folder, maybe on a different disk.")
    require(not left, "a temporary file is left behind next to the checkpoint.")

    leftovers = [name for name in seen if os.path.isdir(os.path.dirname(name))]
    for name in leftovers:  # as if a process had been killed while it was saving
        with open(name, "wb") as file:
            file.write(b"half a checkpoint")
    state = {"epoch": torch.tensor(3)}
    killed = "a killed process left its temporary file, and now saving fails"
    require(not refuses(call, state, path), f"{killed}: every later save would.")
    new = read(path)
    require(is_state(new) and equal(new, state), f"{killed}, without an error.")

    for name in leftovers:
        if os.path.exists(name):
            os.remove(name)

    for error, what in [
        (OSError("no space left on the disk"), "a save failed partway"),
        (KeyboardInterrupt(), "the stop button was pressed during a save"),
    ]:
        broken = {"epoch": torch.tensor(4), "broken": Unpicklable(error)}
        told = refuses(call, broken, path)
        kept = os.path.isfile(path) and read(path) == {"epoch": 3}
        require(kept, f"{what}, and the checkpoint before it is gone.")
        require(told, f"{what}, and your function kept the error to itself.")
        require(len(os.listdir(run)) == 1, f"{what}, and its temporary file is left behind.")

    first = os.path.join(folder, "new", "checkpoint.pt")
    os.mkdir(os.path.dirname(first))
    told = refuses(call, {"broken": Unpicklable()}, first)
    left = os.listdir(os.path.dirname(first))
    require(told and not left, "the very first save failed partway, and it left half a file.")
    return "a save that fails partway leaves the checkpoint before it, and nothing else"
