"""The checks behind the exercises: each tries out a student's function and answers in one line.

A check runs the function on models and files of its own, in a folder that is gone afterwards. The
line begins with ✓ and says what was shown, or with ✗ and a hint, or says "Not answered yet".
Whatever the function does, a check raises nothing and leaves the random numbers as they were.
"""

import contextlib
import dis
import functools
import inspect
import numbers
import os
import sys
import tempfile
import textwrap
import traceback
from collections import OrderedDict
from unittest import mock

import torch
from torch import nn
from torch.optim import SGD, Adam


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


# Notebook 1


@exercise
def check_optimizer_bytes(call, folder):
    """Try it on optimizers with one tensor per parameter, with none and with three."""
    momentum = functools.partial(SGD, lr=0.1, momentum=0.9)
    totals = []
    for name, make, dtype in [
        ("SGD with momentum", momentum, torch.float32),
        ("SGD without momentum", functools.partial(SGD, lr=0.1), torch.float32),
        ("Adam", Adam, torch.float32),
        ("SGD with momentum in float64", momentum, torch.float64),
    ]:
        model = nn.Linear(50, 4, dtype=dtype)
        optimizer = make(model.parameters())
        model(torch.ones(1, 50, dtype=dtype)).sum().backward()
        optimizer.step()
        states = optimizer.state_dict()["state"].values()
        tensors = [tensor for state in states for tensor in state.values()]
        totals.append(sum(tensor.nbytes for tensor in tensors))
        count = sum(tensor.numel() for tensor in tensors)

        answer = call(optimizer.state_dict(), when=f"for {name}, ")
        kind = type(answer).__name__
        need(isinstance(answer, numbers.Real), f"the answer is of type {kind}, not a number.")
        if answer != totals[-1]:
            need(answer != count, "so many numbers there are; how many bytes has each of them?")
            need(answer != 4 * count, f"not every number has 4 bytes: see {name}.")
            need(answer != len(tensors), "so many tensors there are; how many bytes has each?")
            need(name != "Adam", "right for SGD, but not for Adam, which keeps other tensors.")
            raise Hint(f"wrong for {name}: each parameter has a state, and all its tensors count.")
    plain, _, adam, _ = totals
    return f"for {plain} bytes of parameters, SGD keeps 0, with momentum {plain}, Adam {adam}"


@exercise
def check_move_classifier(call, folder):
    """Look at the file, and at what changed in either model."""
    path = os.path.join(folder, "classifier.pt")
    trained, fresh, loads = Net(), Net(), []
    train_on(trained)
    trained_before, features_before = copy_of(trained), copy_of(fresh.features)
    fresh.classifier.register_load_state_dict_post_hook(lambda *_: loads.append(1))
    call(trained, fresh, path)

    need(os.path.isfile(path), "there is no file at the path that your function was given.")
    saved = read(path)
    need(is_state(saved), "the file does not hold a state: save neither a module nor a list.")
    need(equal(copy_of(trained), trained_before), "your function changes the trained model.")
    wanted = copy_of(trained.classifier)
    saved = {name.removeprefix("classifier."): tensor for name, tensor in saved.items()}
    need(not set(saved) > set(wanted), "the file holds more than the classifier's parameters.")
    need(equal(saved, wanted), "the file does not hold all parameters of the classifier.")
    need(
        equal(copy_of(fresh.features), features_before),
        "the file is right, but the features of the fresh model have changed, too.",
    )
    if not equal(copy_of(fresh.classifier), wanted):
        need(loads, "the file is right, but the fresh model's classifier is as it was: load it.")
        raise Hint("the file is right, but no name in it fitted, and strict=False says nothing.")
    train_on(trained)
    need(
        not equal(copy_of(fresh.classifier), copy_of(trained.classifier)),
        "both models share one classifier now: train one, and the other changes.",
    )
    size = sum(tensor.nbytes for tensor in wanted.values())
    return f"the file holds {len(wanted)} tensors, {size} bytes, and only they were loaded"


@exercise
def check_keep_if_better(call, folder):
    """Train for five epochs, two of which are equally good, and look at what was kept."""
    model, best, states = Net(), None, []
    for accuracy in [70.0, 90.0, 80.0, 90.0, 85.0]:
        train_on(model)
        states.append(copy_of(model))
        best = call(best, model, accuracy, when="" if best else "in epoch 1, with best=None, ")
        pair = isinstance(best, (tuple, list)) and len(best) == 2
        need(pair, "your function should always return a pair: the new one or the old one.")
        need(is_state(best[1]), "the second of the pair should be a state of the model.")
        need(set(best[1]) >= set(states[0]), "the state misses the buffers of BatchNorm.")
        need(equal(copy_of(model), states[-1]), "your function changes the model.")
    accuracy, state = best
    need(accuracy == 90, f"of 70, 90, 80, 90 and 85%, yours keeps {accuracy!s:.9}, not 90.")
    need(not equal(state, states[4]), "the accuracy is of epoch 2, but the tensors trained on.")
    need(not equal(state, states[3]), "of two equally good epochs, the earlier one stays.")
    need(equal(state, states[1]), "these are not the tensors that the model had in epoch 2.")
    best = call(None, model, 0.0, when="in epoch 1, with best=None, ")
    need(best and is_state(best[1]), "the first epoch is the best so far, even with 0%.")
    return "of 70, 90, 80, 90 and 85%, epoch 2 is kept, as it was before three more epochs"


# Notebook 2


class Trap:
    """What makes a folder when it is unpickled: a harmless case of a file that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@exercise
def check_load_into_cpu(call, folder):
    """Hand it a file from a GPU that no machine has, and one that runs code."""
    path, trap = os.path.join(folder, "from-gpu.pt"), os.path.join(folder, "trap")
    saved, model = Net(), Net()
    train_on(saved)
    before = copy_of(model)
    with mock.patch("torch.serialization.location_tag", return_value="cuda:99"):
        torch.save(saved.state_dict(), path)
    result = call(path, model, when="for a file from a GPU, ")
    need(not equal(copy_of(model), before), "the model is as it was: nothing was put into it.")
    need(equal(copy_of(model), copy_of(saved)), "the model does not hold what is in the file.")
    need(result is not None, "the model is loaded, but your function returns nothing.")
    kind = type(result).__name__
    need(result is model, f"the model is loaded, but your function returns another {kind}.")

    torch.save({"weight": Trap(trap)}, path)
    with contextlib.suppress(Hint):
        call(path, Net())
    need(not os.path.exists(trap), "opening a file has just run code: it made a folder.")
    return "a file from a GPU is loaded, and a file that would run code is refused"


def two_groups(learning_rate, weight_decay):
    """Return an SGD optimizer with momentum and two groups of parameters."""
    groups = [{"params": nn.Linear(3, 2).parameters()} for _ in range(2)]
    return SGD(groups, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)


@exercise
def check_resume_slower(call, folder):
    """Save an optimizer that has taken a step at 0.3, and continue at 0.02."""
    path = os.path.join(folder, "optimizer.pt")
    saved, optimizer = two_groups(0.3, weight_decay=0.25), two_groups(0.7, weight_decay=0.0)
    for parameter in (p for group in saved.param_groups for p in group["params"]):
        parameter.grad = torch.randn_like(parameter)
    saved.step()
    torch.save(saved.state_dict(), path)
    call(path, optimizer, 0.02)

    old, new = saved.state_dict(), optimizer.state_dict()
    rates = [group["lr"] for group in new["param_groups"]]
    as_it_was = rates == [0.7, 0.7] and not new["state"]
    need(not as_it_was, "the optimizer that your function was given is as it was.")
    need(new["state"], "the momentum is lost: the state of the optimizer was not loaded.")
    need(rates != [0.3, 0.3], "the rate is that of the file: loading overwrote what was set.")
    need(rates != [0.02, 0.3], "only the first group got the new rate; this optimizer has two.")
    need(rates == [0.02, 0.02], "the momentum is loaded, but the rate is not the new one.")
    same = all(equal(new["state"].get(number, {}), old["state"][number]) for number in old["state"])
    need(same, "the rate is new, but the momentum is not that of the file.")
    kept = all(group["weight_decay"] == 0.25 for group in new["param_groups"])
    need(kept, "the weight decay of the file is lost: only the rate should change.")
    return "the momentum is that of the file, and both groups go on at the new rate"


@exercise
def check_load_renamed(call, folder):
    """Load into layers that stand in another order, and leave a tensor out."""
    old, new = named_layers("stem", "dense", "dense2"), named_layers("dense2", "output", "stem")
    state, before = old.state_dict(), copy_of(new)
    call(state, new, "dense", "output")
    after = copy_of(new)
    need(list(state) == list(old.state_dict()), "your function changes the dict it was given.")
    need(not equal(after, before), "not one tensor was loaded, and no error said so.")
    by_position = all(map(torch.equal, after.values(), state.values()))
    need(not by_position, "tensors were matched by position, but the layers' order is new.")
    for name in after:
        untouched = torch.equal(after[name], before[name])
        need(not untouched, f"{name} still has its random numbers, and no error said so.")
    named_as_before = {name.replace("output.", "dense."): after[name] for name in after}
    need(equal(named_as_before, state), "a layer holds the tensors of another one.")

    del state["stem.bias"]
    try:
        call(state, named_layers("dense2", "output", "stem"), "dense", "output")
    except Hint:
        return "the renamed layer is loaded, and a state without stem.bias is still refused"
    raise Hint("right, but a state without stem.bias loads as well, and no error says so.")


# Notebook 3


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
    need("nse.weight" not in result, "dense.weight became nse.weight: lstrip knows letters only.")
    need(equal(result, own), f"the names, or the tensors, are not those of {', '.join(own)}.")
    again = call(own, when="for names without the prefix, ")
    need(is_state(again) and equal(again, own), "names without the prefix should stay.")
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
    need(answers != [True, True, False], "half a file was found, one flipped bit was not.")
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
