"""The checks of the exercises in notebook 2."""

import contextlib
import os
from unittest import mock

import torch
from torch import nn
from torch.optim import SGD

from exercises.check import Hint, Net, copy_of, equal, exercise, named_layers, need, train_on


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
    need(result is model, f"your function returns something else than the model, of type {kind}.")

    torch.save({"weight": Trap(trap)}, path)
    with contextlib.suppress(Hint):
        call(path, Net())
    need(not os.path.exists(trap), "opening a file has just run code, which made a folder.")
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
    need(
        rates != [0.3, 0.3],
        "the rate is that of the file: loading overwrites what was set before it.",
    )
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
