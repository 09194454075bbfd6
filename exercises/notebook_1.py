"""The checks of the exercises in notebook 1."""

import functools
import numbers
import os

import torch
from torch import nn
from torch.optim import SGD, Adam

from exercises.check import Hint, Net, copy_of, equal, exercise, is_state, need, read, train_on


@exercise
def check_optimizer_bytes(call, folder):
    """Try it on optimizers with one tensor per parameter, with none and with three."""
    momentum = functools.partial(SGD, lr=0.1, momentum=0.9)
    adam = "Adam, which keeps other tensors"
    totals = []
    for name, make, dtype in [
        ("SGD with momentum", momentum, torch.float32),
        ("SGD without momentum", functools.partial(SGD, lr=0.1), torch.float32),
        (adam, Adam, torch.float32),
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
            need(answer != count, "that is the number of elements; how many bytes has each?")
            need(answer != 4 * count, f"not every element takes 4 bytes: think of {name}.")
            need(answer != len(tensors), "that is the number of tensors; how many bytes has each?")
            need(answer < totals[-1], "too many: a file adds names and packaging to the tensors.")
            need(name != adam, "right for SGD, but Adam's tensors have other names.")
            raise Hint(f"too few for {name}: each parameter has a state, and all of it counts.")
    plain, none, most, _ = totals
    return f"for {plain} bytes of parameters, SGD keeps {none}, with momentum {plain}, Adam {most}"


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
        raise Hint("the file is right, but no name in it fitted, which strict=False hides.")
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
        need(set(best[1]) >= set(states[0]), "the state misses the buffers: what holds them, too?")
        need(equal(copy_of(model), states[-1]), "your function changes the model.")
    accuracy, state = best
    need(accuracy == 90, f"of 70, 90, 80, 90 and 85%, yours keeps {accuracy!s:.9}, not 90.")
    need(
        not equal(state, states[4]),
        "the accuracy is of epoch 2, the tensors of epoch 5: they changed as the model trained on.",
    )
    need(not equal(state, states[3]), "of two equally good epochs, the earlier one stays.")
    need(equal(state, states[1]), "these are not the tensors that the model had in epoch 2.")
    best = call(None, model, 0.0, when="in epoch 1, with best=None, ")
    need(best and is_state(best[1]), "the first epoch is the best so far, even with 0%.")
    return "of 70, 90, 80, 90 and 85%, epoch 2 is kept, as it was before three more epochs"
