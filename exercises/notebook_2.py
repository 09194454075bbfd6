"""The checks of the exercises in notebook 2."""

import copy
import os
from unittest import mock

import torch
from torch import nn
from torch.optim import SGD, Adam

from exercises.check import (
    Hint,
    Net,
    Trap,
    copy_of,
    equal,
    exercise,
    flags_of,
    named_layers,
    refuses,
    require,
    require_flags,
    train_on,
    watch_unpickling,
)


@exercise
def check_load_into_cpu(call, folder):
    """Hand it a file from a GPU that no machine has, one that runs code, and bad ones."""
    path, trap = os.path.join(folder, "from-gpu.pt"), os.path.join(folder, "trap")
    saved, model = Net(), Net()
    train_on(saved)
    before, flags_before, state = copy_of(model), flags_of(model), saved.state_dict()
    with mock.patch("torch.serialization.location_tag", return_value="cuda:99"):
        torch.save(state, path)
    with watch_unpickling() as unpickled:
        result = call(path, model, when="for a file from a GPU, ")
    require(not equal(copy_of(model), before), "the model is unchanged: nothing was loaded.")
    require(equal(copy_of(model), state), "the model doesn't hold what is in the file.")
    require(result is not None, "the model is loaded, but your function returns nothing.")
    kind = type(result).__name__
    require(result is model, f"your function returns an object of type {kind}, not the model.")
    require_flags(model, flags_before, "the model")

    torch.save({**state, "classifier.0.bias": Trap(trap)}, path)
    refused = refuses(call, path, Net())
    require(not os.path.exists(trap), "opening a file has just run code, which made a folder.")
    require(refused, "a file that would run code was refused, and the caller got no error.")
    require(
        not unpickled, "weights_only=False can run code, even if you have looked for some first."
    )
    with open(path, "rb+") as file:
        file.truncate(1000)
    require(
        refuses(call, path, Net()), "a truncated file can't be loaded, and the caller got no error."
    )

    bias = state.pop("classifier.0.bias")
    for what, other in [
        ("without classifier.0.bias", {}),
        ("with an extra layer", {"classifier.0.bias": bias, "extra.weight": torch.ones(2)}),
        ("whose classifier.0.bias has shape [1] instead of [3]", {"classifier.0.bias": bias[:1]}),
    ]:
        torch.save({**state, **other}, path)
        refused = refuses(call, path, Net())
        require(refused, f"a file {what} doesn't fit, and the caller got no error.")
    return "a file from a GPU is loaded, and a file that would run code is refused"


SAVED = [
    {"lr": 0.3, "momentum": 0.75, "weight_decay": 0.25, "nesterov": True, "initial_lr": 0.3},
    {"lr": 0.03, "momentum": 0.5, "dampening": 0.25, "maximize": True, "initial_lr": 0.3},
]
FRESH = [{"lr": 0.7}, {"lr": 0.7, "momentum": 0.9}]


def two_layers(settings, make=SGD):
    """Return two layers of ones, and an optimizer with a group of settings for each of them."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    groups = [
        {"params": layer.parameters(), **own} for layer, own in zip(model, settings, strict=True)
    ]
    return model, make(groups)


def take_step(model, optimizer):
    """Take a step for gradients that are all one."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def set_rate(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


@exercise
def check_resume_slower(call, folder):
    """Save an optimizer that has taken a step at two rates, and continue at 0.02."""
    path = os.path.join(folder, "saved.pt")
    (model, saved), (fresh, optimizer) = two_layers(SAVED), two_layers(FRESH)
    take_step(model, saved)
    torch.save(saved.state_dict(), path)
    with open(path, "rb") as file:
        content = file.read()
    call(path, optimizer, 0.02)

    old, new = copy.deepcopy(saved.state_dict()), copy.deepcopy(optimizer.state_dict())
    rates = [group["lr"] for group in new["param_groups"]]
    unchanged = rates == [0.7, 0.7] and not new["state"]
    require(not unchanged, "the optimizer that your function was given is unchanged.")
    require(new["state"], "the momentum is lost: the state of the optimizer was not loaded.")
    require(
        rates != [0.3, 0.03],
        "the rates are the ones in the file: loading overwrites what you set before.",
    )
    require(rates != [0.02, 0.03], "only the first group got the new rate; this optimizer has two.")
    require(rates == [0.02, 0.02], "the momentum is loaded, but the rate is not the new one.")
    kept = all(equal(new["state"].get(number, {}), old["state"][number]) for number in old["state"])
    require(kept, "the rate is new, but the momentum isn't the one in the file.")
    for before, after in zip(old["param_groups"], new["param_groups"], strict=True):
        for name, value in {**before, "lr": 0.02}.items():
            now = after.get(name)
            require(now == value, f"{name} was {value} and is {now}: only the rate should change.")
    with open(path, "rb") as file:
        require(file.read() == content, "your function changes the file.")

    # The optimizer's description of itself is right. Does it step like that?
    set_rate(saved, 0.02)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    take_step(model, saved)
    take_step(fresh, optimizer)
    require(
        equal(copy_of(fresh), copy_of(model)),
        "its next step differs from the saved optimizer's: did load_state_dict load it?",
    )
    require_free_rate(model, saved, fresh, optimizer, old)

    (model, saved), (_, optimizer) = (two_layers([{}, {}], make=Adam) for _ in range(2))
    take_step(model, saved)
    torch.save(saved.state_dict(), path)
    call(path, optimizer, 0.02, when="for Adam, ")
    old, new = saved.state_dict()["state"], optimizer.state_dict()["state"]
    kept = all(equal(new.get(number, {}), old[number]) for number in old)
    require(kept, "for Adam, the optimizer's state isn't the one in the file.")
    return "the momentum is the one in the file, and both groups continue at the new rate"


def require_free_rate(model, saved, fresh, optimizer, state):
    """Raise a hint if a later change of the rate, or a later load, has no effect."""
    set_rate(saved, 0.5)
    set_rate(optimizer, 0.5)
    take_step(model, saved)
    take_step(fresh, optimizer)
    require(
        equal(copy_of(fresh), copy_of(model)),
        "the rate is fixed for good: a scheduler that changes it later has no effect.",
    )
    optimizer.load_state_dict(state)
    rates = [group["lr"] for group in optimizer.param_groups]
    require(rates == [0.3, 0.03], "your function has changed what a later load_state_dict does.")


@exercise
def check_load_renamed(call, folder):
    """Load into layers in a different order, some with similar names, then remove tensors."""
    layers = ["stem", "dense.dense", "dense.last", "predense", "block.dense", "dense2"]
    moved = ["dense2", "block.dense", "output.last", "output.dense", "stem", "predense"]
    old, new = named_layers(*layers), named_layers(*moved)
    state, before, copied = old.state_dict(), copy_of(new), copy_of(old)
    call(state, new, "dense", "output")
    after = copy_of(new)
    require(
        list(state) == list(copied) and equal(state, copied),
        "your function changes the dict that it was given.",
    )
    require(not equal(after, before), "no tensor was loaded, and nothing warned you.")
    by_position = all(map(torch.equal, after.values(), state.values()))
    require(not by_position, "tensors were matched by position, but the layers have a new order.")
    for name in after:
        untouched = torch.equal(after[name], before[name])
        require(not untouched, f"{name} still has its random numbers, and nothing warned you.")
    for name in after:
        former = "dense" + name.removeprefix("output") if name.startswith("output.") else name
        require(
            torch.equal(after[name], state[former]),
            f"{name} should hold the tensor of {former}, and holds a different one.",
        )

    train_on(new)
    shared = "the model and `state` now share tensors: the next step would change both."
    require(equal(state, copied), shared)
    hooked = "your function has changed what a later load_state_dict of the model does."
    try:
        new.load_state_dict(state)
    except RuntimeError:
        pass  # as it should be: these are the old names
    else:
        raise Hint(hooked)
    for what, given in [
        ("without stem.bias", {n: t for n, t in state.items() if n != "stem.bias"}),
        ("without dense.last.bias", {n: t for n, t in state.items() if n != "dense.last.bias"}),
        ("with an extra tensor", {**state, "extra.weight": torch.ones(2)}),
    ]:
        refused = refuses(call, given, named_layers(*moved), "dense", "output")
        require(refused, f"right, but a state {what} is accepted too, without an error.")
    return "the renamed layer is loaded, and a state without stem.bias is still rejected"
