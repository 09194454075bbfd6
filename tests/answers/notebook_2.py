"""Right and wrong answers to the exercises of notebook 2, each wrong one with its hint."""

import contextlib
import copy
import pickle
import re

import torch

from tests.answers.collect import Answers, load
from tests.answers.solved import SOLVED

RIGHT, WRONG = {}, {}


# 1 · Any file, on any machine.

load_into_cpu = Answers("load_into_cpu", RIGHT, WRONG)


@load_into_cpu.right
def default_of_weights_only(path, model):
    model.load_state_dict(torch.load(path, map_location=torch.device("cpu")))
    return model


@load_into_cpu.right
def with_a_function_for_the_place(path, model):
    state = torch.load(path, map_location=lambda storage, _: storage, weights_only=True)
    model.load_state_dict(state)
    return model


@load_into_cpu.right
def told_and_raised_again(path, model):
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ValueError("can't be loaded") from error
    return model


@load_into_cpu.wrong("for a file from a GPU, your function raises RuntimeError")
def no_map_location(path, model):
    model.load_state_dict(load(path))
    return model


@load_into_cpu.wrong("the model doesn't hold what is in the file")
def loads_a_part(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor for name, tensor in state.items() if "features" in name}
    model.load_state_dict(state, strict=False)
    return model


@load_into_cpu.wrong("opening a file has just run code")
def runs_code(path, model):
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False))
    return model


@load_into_cpu.wrong("opening a file has just run code")
def runs_code_as_a_last_resort(path, model):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        state = torch.load(path, map_location="cpu", weights_only=False)
    model.load_state_dict(state)
    return model


@load_into_cpu.wrong("would run code was refused, and the caller got no error")
def swallows_the_error(path, model):
    with contextlib.suppress(Exception):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


@load_into_cpu.wrong("would run code was refused, and the caller got no error")
def swallows_what_is_unsafe(path, model):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return model
    model.load_state_dict(state)
    return model


@load_into_cpu.wrong("a truncated file can't be loaded, and the caller got no error")
def swallows_what_is_damaged(path, model):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except RuntimeError:
        return model
    model.load_state_dict(state)
    return model


@load_into_cpu.wrong("a file without classifier.0.bias doesn't fit, and the caller got no error")
def not_strict(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state, strict=False)
    return model


@load_into_cpu.wrong("for a file from a GPU, your function raises RuntimeError")
def from_one_gpu(path, model):
    state = torch.load(path, map_location={"cuda:0": "cpu"}, weights_only=True)
    model.load_state_dict(state)
    return model


@load_into_cpu.wrong("the model is unchanged: nothing was loaded")
def reads_and_does_not_load(path, model):
    return torch.load(path, map_location="cpu", weights_only=True)


@load_into_cpu.wrong("your function returns nothing")
def loads_and_returns_nothing(path, model):
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


@load_into_cpu.wrong("an object of type _IncompatibleKeys, not the model")
def returns_the_matched_keys(path, model):
    return model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


@load_into_cpu.wrong("your function raises FileNotFoundError")
def another_path(path, model):
    model.load_state_dict(load("saved_data/model.pt"))
    return model


@load_into_cpu.right
def that_prints_the_keys(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    print(*state, sep="\n")
    print(model.load_state_dict(state))
    return model


@load_into_cpu.right
def into_a_copy_first(path, model):
    """Leaves the model as it was if anything is wrong."""
    state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    copy.deepcopy(model).load_state_dict(state)
    model.load_state_dict(state)
    return model


@load_into_cpu.wrong("a file with an extra layer doesn't fit")
def missing_keys_only(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    if model.load_state_dict(state, strict=False).missing_keys:
        raise ValueError("something is missing")
    return model


@load_into_cpu.wrong("a file whose classifier.0.bias has shape [1] instead of [3] doesn't fit")
def copied_one_by_one(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.keys() != model.state_dict().keys():
        raise ValueError("other names")
    for name, tensor in model.state_dict().items():
        tensor.copy_(state[name])
    return model


@load_into_cpu.wrong("a file whose classifier.0.bias has shape [1] instead of [3] doesn't fit")
def data_exchanged(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    own = model.state_dict(keep_vars=True)
    if set(state) != set(own):
        raise ValueError("other names")
    for name in own:
        own[name].data = state[name]
    return model


@load_into_cpu.wrong("your function freezes a part of the model")
def frozen(path, model):
    return SOLVED["load_into_cpu"](path, model).requires_grad_(False)


@load_into_cpu.wrong("your function puts the model into a different mode")
def ready_to_predict(path, model):
    return SOLVED["load_into_cpu"](path, model).eval()


@load_into_cpu.wrong("weights_only=False can run code, even if you have looked for some first")
def looks_before_it_runs_code(path, model):
    if torch.serialization.get_unsafe_globals_in_checkpoint(path):
        raise ValueError("this file is not safe")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False))
    return model


@load_into_cpu.wrong("the model is unchanged: nothing was loaded")
def returns_a_loaded_copy(path, model):
    return SOLVED["load_into_cpu"](path, copy.deepcopy(model))


@load_into_cpu.wrong("a file whose classifier.0.bias has shape [1] instead of [3] doesn't fit")
def what_has_the_right_shape(path, model):
    own = model.state_dict()
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.keys() != own.keys():
        raise ValueError("other names")
    state = {name: t for name, t in state.items() if t.shape == own[name].shape}
    model.load_state_dict(state, strict=False)
    return model


# 2 · Continue differently, on purpose.

resume_slower = Answers("resume_slower", RIGHT, WRONG)


@resume_slower.right
def rate_in_the_state(path, optimizer, learning_rate):
    state = load(path)
    for group in state["param_groups"]:
        group["lr"] = learning_rate
    optimizer.load_state_dict(state)
    return optimizer


@resume_slower.wrong("the rates are the ones in the file: loading overwrites what you set")
def rate_before_loading(path, optimizer, learning_rate):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.load_state_dict(load(path))


@resume_slower.wrong("the momentum is lost")
def momentum_thrown_away(path, optimizer, learning_rate):
    load(path)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@resume_slower.wrong("only the first group got the new rate")
def first_group_only(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    optimizer.param_groups[0]["lr"] = learning_rate


@resume_slower.wrong("the optimizer that your function was given is unchanged")
def a_new_optimizer(path, optimizer, learning_rate):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)


@resume_slower.wrong("the rates are the ones in the file")
def rate_as_an_attribute(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    optimizer.lr = learning_rate


@resume_slower.wrong("the rate is not the new one")
def rate_of_the_constructor(path, optimizer, learning_rate):
    rate = optimizer.param_groups[0]["lr"]
    SOLVED["resume_slower"](path, optimizer, rate)


@resume_slower.wrong("the momentum isn't the one in the file")
def momentum_set_to_zero(path, optimizer, learning_rate):
    SOLVED["resume_slower"](path, optimizer, learning_rate)
    for state in optimizer.state.values():
        state["momentum_buffer"].zero_()


@resume_slower.wrong("momentum was 0.75 and is 0: only the rate should change")
def state_without_the_settings(path, optimizer, learning_rate):
    saved = load(path)
    saved["param_groups"] = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@resume_slower.wrong("momentum was 0.75 and is 0.9: only the rate should change")
def changes_the_momentum(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    for group in optimizer.param_groups:
        group.update(lr=learning_rate, momentum=0.9)


@resume_slower.wrong("nesterov was True and is False: only the rate should change")
def changes_nesterov(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    for group in optimizer.param_groups:
        group.update(lr=learning_rate, nesterov=False)


@resume_slower.wrong("momentum was 0.5 and is 0.75: only the rate should change")
def settings_of_the_first_group(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    first = {name: v for name, v in optimizer.param_groups[0].items() if name != "params"}
    for group in optimizer.param_groups:
        group.update(first, lr=learning_rate)


@resume_slower.wrong("its next step differs from the saved optimizer's")
def state_by_number(path, optimizer, learning_rate):
    saved = load(path)
    optimizer.state.update(saved["state"])
    for group, of_file in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({name: v for name, v in of_file.items() if name != "params"})
        group["lr"] = learning_rate


@resume_slower.wrong("your function changes the file")
def writes_the_file(path, optimizer, learning_rate):
    saved = load(path)
    for group in saved["param_groups"]:
        group["lr"] = learning_rate
    torch.save(saved, path)
    optimizer.load_state_dict(load(path))


@resume_slower.wrong("your function raises FileNotFoundError")
def a_file_of_the_notebook(path, optimizer, learning_rate):
    SOLVED["resume_slower"]("optimizer.pt", optimizer, learning_rate)


@resume_slower.right
def rate_by_a_new_dict(path, optimizer, learning_rate):
    """Builds a new state, and prints what it does."""
    saved = load(path)
    groups = [{**group, "lr": learning_rate} for group in saved["param_groups"]]
    print("continuing at", learning_rate)
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


@resume_slower.right
def by_a_hook_that_goes_away(path, optimizer, learning_rate):
    def set_rate(optimizer):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

    handle = optimizer.register_load_state_dict_post_hook(set_rate)
    optimizer.load_state_dict(load(path))
    handle.remove()


@resume_slower.wrong("for Adam, your function raises KeyError: 'momentum_buffer'")
def momentum_by_hand(path, optimizer, learning_rate):
    saved = load(path)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p, state in zip(parameters, saved["state"].values(), strict=True):
        optimizer.state[p]["momentum_buffer"] = state["momentum_buffer"]
    for group, other in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({n: v for n, v in other.items() if n != "params"}, lr=learning_rate)


@resume_slower.wrong("for Adam, the optimizer's state isn't the one in the file")
def momentum_if_there_is_one(path, optimizer, learning_rate):
    saved = load(path)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p, state in zip(parameters, saved["state"].values(), strict=True):
        if "momentum_buffer" in state:
            optimizer.state[p]["momentum_buffer"] = state["momentum_buffer"]
    for group, other in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({n: v for n, v in other.items() if n != "params"}, lr=learning_rate)


@resume_slower.wrong("the rate is fixed for good")
def rate_before_every_step(path, optimizer, learning_rate):
    def set_rate(*_):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

    optimizer.load_state_dict(load(path))
    set_rate()
    optimizer.register_step_pre_hook(set_rate)


@resume_slower.wrong("your function has changed what a later load_state_dict does")
def rate_after_every_load(path, optimizer, learning_rate):
    def set_rate(optimizer):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

    optimizer.register_load_state_dict_post_hook(set_rate)
    optimizer.load_state_dict(load(path))


@resume_slower.wrong("initial_lr was 0.3 and is 0.02: only the rate should change")
def initial_rate_too(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = learning_rate


@resume_slower.wrong("the momentum is loaded, but the rate is not the new one")
def in_proportion(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    factor = learning_rate / optimizer.param_groups[0]["lr"]
    for group in optimizer.param_groups:
        group["lr"] *= factor


# 3 · A layer has a new name.

load_renamed = Answers("load_renamed", RIGHT, WRONG)


@load_renamed.right
def a_copy_renamed(state, model, old, new):
    state = dict(state)
    for name in [name for name in state if name.startswith(old + ".")]:
        state[new + name[len(old) :]] = state.pop(name)
    model.load_state_dict(state)


@load_renamed.right
def with_a_pattern(state, model, old, new):
    model.load_state_dict({re.sub(rf"^{old}\.", f"{new}.", n): t for n, t in state.items()})


@load_renamed.right
def by_hand(state, model, old, new):
    names = [new + n[len(old) :] if n.split(".")[0] == old else n for n in state]
    if set(names) != set(model.state_dict()):
        raise KeyError("a tensor is missing")
    for name, tensor in zip(names, state.values(), strict=True):
        model.state_dict()[name].copy_(tensor)


@load_renamed.wrong("Do these names belong to the module that loads them?")
def not_renamed(state, model, old, new):
    model.load_state_dict(state)


@load_renamed.wrong("output.last.weight still has its random numbers")
def not_renamed_and_not_strict(state, model, old, new):
    model.load_state_dict(state, strict=False)


@load_renamed.wrong("no tensor was loaded, and nothing warned you")
def all_names_wrong(state, model, old, new):
    model.load_state_dict({f"{new}.{name}": state[name] for name in state}, strict=False)


@load_renamed.wrong("tensors were matched by position")
def by_position(state, model, old, new):
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))


@load_renamed.wrong("weight should hold the tensor of")
def by_alphabet(state, model, old, new):
    names = zip(sorted(model.state_dict()), sorted(state), strict=True)
    model.load_state_dict({name: state[before] for name, before in names})


@load_renamed.wrong("Do these names belong to the module that loads them?")
def replaces_everywhere(state, model, old, new):
    model.load_state_dict({name.replace(old, new): state[name] for name in state})


@load_renamed.wrong("dense2.weight still has its random numbers")
def replaces_everywhere_and_not_strict(state, model, old, new):
    model.load_state_dict({name.replace(old, new): state[name] for name in state}, strict=False)


@load_renamed.wrong("Do these names belong to the module that loads them?")
def plain_replace(state, model, old, new):
    model.load_state_dict({n.replace(f"{old}.", f"{new}."): state[n] for n in state})


@load_renamed.wrong("Do these names belong to the module that loads them?")
def replaces_the_first(state, model, old, new):
    model.load_state_dict({n.replace(f"{old}.", f"{new}.", 1): state[n] for n in state})


def renamed(state, old, new):
    return {
        new + name.removeprefix(old) if name.startswith(f"{old}.") else name: tensor
        for name, tensor in state.items()
    }


@load_renamed.wrong("Do these names belong to the module that loads them?")
def replaces_all_of_the_layer(state, model, old, new):
    renamed = {n.replace(f"{old}.", f"{new}.") if n.startswith(f"{old}.") else n: n for n in state}
    model.load_state_dict({name: state[before] for name, before in renamed.items()})


@load_renamed.wrong("Do these names belong to the module that loads them?")
def without_the_dot(state, model, old, new):
    renamed = {new + n.removeprefix(old) if n.startswith(old) else n: n for n in state}
    model.load_state_dict({name: state[before] for name, before in renamed.items()})


@load_renamed.wrong("your function raises KeyError: 'dense.weight'")
def weight_and_bias(state, model, old, new):
    state = dict(state)
    for kind in ("weight", "bias"):
        state[f"{new}.{kind}"] = state.pop(f"{old}.{kind}")
    model.load_state_dict(state)


@load_renamed.wrong("a state without stem.bias is accepted too")
def renamed_but_not_strict(state, model, old, new):
    model.load_state_dict(renamed(state, old, new), strict=False)


@load_renamed.wrong("right, but a state without stem.bias is accepted too")
def only_the_layer_is_strict(state, model, old, new):
    state = renamed(state, old, new)
    inner = {n.removeprefix(f"{new}."): t for n, t in state.items() if n.startswith(f"{new}.")}
    model.get_submodule(new).load_state_dict(inner)
    model.load_state_dict(state, strict=False)


@load_renamed.wrong("right, but a state without stem.bias is accepted too")
def fills_gaps(state, model, old, new):
    model.load_state_dict({**model.state_dict(), **renamed(state, old, new)})


@load_renamed.wrong("your function changes the dict that it was given")
def zeroes_the_old_one(state, model, old, new):
    model.load_state_dict(renamed(state, old, new))
    next(iter(state.values())).zero_()


@load_renamed.wrong("your function changes the dict that it was given")
def renames_in_place(state, model, old, new):
    for name in list(state):
        if name.startswith(f"{old}."):
            state[name.replace(old, new, 1)] = state.pop(name)
    model.load_state_dict(state)


@load_renamed.right
def with_a_hook_that_goes_away(state, model, old, new):
    def rename(module, incoming, *_):
        for name in [name for name in incoming if name.startswith(f"{old}.")]:
            incoming[new + name.removeprefix(old)] = incoming.pop(name)

    handle = model.register_load_state_dict_pre_hook(rename)
    try:
        model.load_state_dict(state)
    finally:
        handle.remove()


@load_renamed.wrong("the model and `state` now share tensors")
def assigned(state, model, old, new):
    model.load_state_dict(renamed(state, old, new), assign=True)


@load_renamed.wrong("your function has changed what a later load_state_dict of the model does")
def with_a_hook_that_stays(state, model, old, new):
    def rename(module, incoming, *_):
        for name in [name for name in incoming if name.startswith(f"{old}.")]:
            incoming[new + name.removeprefix(old)] = incoming.pop(name)

    model.register_load_state_dict_pre_hook(rename)
    model.load_state_dict(state)


@load_renamed.wrong("right, but a state with an extra tensor is accepted too")
def missing_only(state, model, old, new):
    if model.load_state_dict(renamed(state, old, new), strict=False).missing_keys:
        raise KeyError("a tensor is missing")


@load_renamed.wrong("Do these names belong to the module that loads them?")
def by_a_pattern_with_a_wild_dot(state, model, old, new):
    model.load_state_dict({re.sub(rf"\b{old}.", f"{new}.", n): t for n, t in state.items()})
