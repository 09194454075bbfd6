"""The checks of the exercises in notebook 2."""

import os
from unittest import mock

import torch
from torch import nn
from torch.optim import SGD

from exercises.check import (
    Net,
    copy_of,
    equal,
    exercise,
    named_layers,
    refuses,
    require,
    train_on,
)


class Trap:
    """What makes a folder when it is unpickled: a harmless case of a file that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@exercise
def check_load_into_cpu(call, folder):
    """Hand it a file from a GPU that no machine has, one that runs code, and two that don't fit."""
    path, trap = os.path.join(folder, "from-gpu.pt"), os.path.join(folder, "trap")
    saved, model = Net(), Net()
    train_on(saved)
    before, state = copy_of(model), saved.state_dict()
    with mock.patch("torch.serialization.location_tag", return_value="cuda:99"):
        torch.save(state, path)
    result = call(path, model, when="for a file from a GPU, ")
    require(not equal(copy_of(model), before), "the model is as it was: nothing was put into it.")
    require(equal(copy_of(model), state), "the model does not hold what is in the file.")
    require(result is not None, "the model is loaded, but your function returns nothing.")
    kind = type(result).__name__
    require(
        result is model, f"your function returns something else than the model, of type {kind}."
    )

    torch.save({**state, "classifier.0.bias": Trap(trap)}, path)
    refused = refuses(call, path, Net())
    require(not os.path.exists(trap), "opening a file has just run code, which made a folder.")
    require(refused, "a file that would run code was refused, and the caller got no error.")
    with open(path, "rb+") as file:
        file.truncate(1000)
    require(refuses(call, path, Net()), "a cut file can't be loaded, and the caller got no error.")
    del state["classifier.0.bias"]
    torch.save(state, path)
    refused = refuses(call, path, Net())
    require(refused, "a file without classifier.0.bias does not fit, and the caller got no error.")
    return "a file from a GPU is loaded, and a file that would run code is refused"


SAVED = [
    {"lr": 0.3, "momentum": 0.75, "weight_decay": 0.25, "nesterov": True},
    {"lr": 0.03, "momentum": 0.5, "dampening": 0.25, "maximize": True},
]
FRESH = [{"lr": 0.7}, {"lr": 0.7, "momentum": 0.9}]


def two_layers(settings):
    """Return two layers of ones, and an optimizer with a group of settings for each of them."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    groups = [
        {"params": layer.parameters(), **own} for layer, own in zip(model, settings, strict=True)
    ]
    return model, SGD(groups)


def take_step(model, optimizer):
    """Take a step for gradients that are all one."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


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

    old, new = saved.state_dict(), optimizer.state_dict()
    rates = [group["lr"] for group in new["param_groups"]]
    as_it_was = rates == [0.7, 0.7] and not new["state"]
    require(not as_it_was, "the optimizer that your function was given is as it was.")
    require(new["state"], "the momentum is lost: the state of the optimizer was not loaded.")
    require(
        rates != [0.3, 0.03],
        "the rates are those of the file: loading overwrites what was set before it.",
    )
    require(rates != [0.02, 0.03], "only the first group got the new rate; this optimizer has two.")
    require(rates == [0.02, 0.02], "the momentum is loaded, but the rate is not the new one.")
    kept = all(equal(new["state"].get(number, {}), old["state"][number]) for number in old["state"])
    require(kept, "the rate is new, but the momentum is not that of the file.")
    for before, after in zip(old["param_groups"], new["param_groups"], strict=True):
        for name, value in {**before, "lr": 0.02}.items():
            now = after.get(name)
            require(now == value, f"{name} was {value} and is {now}: only the rate should change.")
    with open(path, "rb") as file:
        require(file.read() == content, "your function changes the file.")

    # What the optimizer says of itself is right. Does it step like that, too?
    for group in saved.param_groups:
        group["lr"] = 0.02
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    take_step(model, saved)
    take_step(fresh, optimizer)
    require(
        equal(copy_of(fresh), copy_of(model)),
        "its next step is not that of the saved one: did load_state_dict load the state?",
    )
    return "the momentum is that of the file, and both groups go on at the new rate"


@exercise
def check_load_renamed(call, folder):
    """Load into layers in another order, some with similar names, and leave tensors out."""
    layers = ["stem", "dense.dense", "dense.last", "predense", "block.dense", "dense2"]
    moved = ["dense2", "block.dense", "output.last", "output.dense", "stem", "predense"]
    old, new = named_layers(*layers), named_layers(*moved)
    state, before, copied = old.state_dict(), copy_of(new), copy_of(old)
    call(state, new, "dense", "output")
    after = copy_of(new)
    require(
        list(state) == list(copied) and equal(state, copied),
        "your function changes the dict it was given.",
    )
    require(not equal(after, before), "not one tensor was loaded, and no error said so.")
    by_position = all(map(torch.equal, after.values(), state.values()))
    require(not by_position, "tensors were matched by position, but the layers' order is new.")
    for name in after:
        untouched = torch.equal(after[name], before[name])
        require(not untouched, f"{name} still has its random numbers, and no error said so.")
    for name in after:
        former = "dense" + name.removeprefix("output") if name.startswith("output.") else name
        require(
            torch.equal(after[name], state[former]),
            f"{name} does not hold the tensor of {former}, but that of another layer.",
        )

    for name in ["stem.bias", "dense.last.bias"]:
        lacking = {n: tensor for n, tensor in state.items() if n != name}
        refused = refuses(call, lacking, named_layers(*moved), "dense", "output")
        require(refused, f"right, but a state without {name} loads as well, and no error says so.")
    return "the renamed layer is loaded, and a state without stem.bias is still refused"
