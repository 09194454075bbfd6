"""The checks of the exercises in notebook 1."""

import functools
import os
from unittest import mock

import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, SparseAdam

from exercises.check import (
    Hint,
    Net,
    copy_of,
    equal,
    exercise,
    is_state,
    need,
    need_number,
    read,
    train_on,
)


def state_after_a_step(make, dtype):
    """Return the state of an optimizer that has taken one step."""
    parameters = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in [(4, 50), (4,)]]
    optimizer = make(parameters)

    def compute_loss():  # LBFGS does so several times in a step
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in parameters)
        loss.backward()
        if make is SparseAdam:
            for p in parameters:
                p.grad = p.grad.to_sparse()
        return loss

    optimizer.step(compute_loss)
    return optimizer.state_dict()


def tensors_in(value):
    """Return all tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors_in(v)] if isinstance(value, list) else []


# What is particular about an optimizer, how to make it, the type of its parameters, and a hint for
# who counts too few bytes in its state.
KINDS = [
    (
        "SGD with momentum",
        functools.partial(SGD, momentum=0.9),
        torch.float32,
        "each parameter has a state, and all of it counts.",
    ),
    ("SGD without momentum", SGD, torch.float32, "it keeps nothing."),
    (
        "Adam, which keeps other tensors",
        Adam,
        torch.float32,
        "they are exp_avg, exp_avg_sq and step for each parameter.",
    ),
    ("Adam in float64", Adam, torch.float64, "not every element takes 4 bytes."),
    ("SparseAdam, whose step is a plain number", SparseAdam, torch.float32, "its tensors count."),
    (
        "LBFGS, which also keeps lists",
        LBFGS,
        torch.float32,
        "tensors are in the lists, too.",
    ),
    (
        "SGD with lr=torch.tensor(0.1)",
        functools.partial(SGD, lr=torch.tensor(0.1)),
        torch.float32,
        "this tensor counts, too, and it is in param_groups.",
    ),
]


@exercise
def check_optimizer_bytes(call, folder):
    """Try it on states with one tensor per parameter, none, three, and with lists and numbers."""
    totals = []
    for name, make, dtype, hint in KINDS:
        state = state_after_a_step(make, dtype)
        tensors = tensors_in(state)
        count = sum(tensor.numel() for tensor in tensors)
        totals.append(sum(tensor.nbytes for tensor in tensors))
        answer = call(state, when=f"for {name}, ")
        need_number(answer)
        if answer != totals[-1]:
            need(answer != count, "that is the number of elements; how many bytes has each?")
            need(answer != len(tensors), "that is the number of tensors; how many bytes has each?")
            need(answer < totals[-1], f"too many bytes for {name}: only tensors count.")
            raise Hint(f"too few bytes for {name}: {hint}")
    plain, none, most, *_ = totals
    return f"for {plain} bytes of parameters, SGD keeps {none}, with momentum {plain}, Adam {most}"


def add(number, value):
    """Return a copy of nested dicts in which a number is added to each tensor."""
    if isinstance(value, torch.Tensor):
        return value.detach() + number
    return {n: add(number, v) for n, v in value.items()} if isinstance(value, dict) else value


def flat(value, prefix=""):
    """Return the tensors in nested dicts as one dict; None if there is something else in them."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return None
    parts = [flat(part, f"{prefix}.{name}".strip(".")) for name, part in value.items()]
    return None if None in parts else {name: t for part in parts for name, t in part.items()}


@exercise
def check_move_classifier(call, folder):
    """Let the n-th torch.save add n to all that it writes: only who reads the file has that."""
    path = os.path.join(folder, "part.pt")
    trained, fresh, loads = Net(), Net(), []
    train_on(trained)
    trained_before, features_before = copy_of(trained), copy_of(fresh.features)
    fresh_before = copy_of(fresh.classifier)
    fresh.classifier.register_load_state_dict_post_hook(lambda *_: loads.append(1))
    save, saves = torch.save, []

    def save_otherwise(obj, *arguments, **named):
        saves.append(len(saves) + 1)
        return save(add(saves[-1], obj), *arguments, **named)

    with mock.patch("torch.save", save_otherwise):
        call(trained, fresh, path)

    need(os.path.isfile(path), "there is no file at the path that your function was given.")
    saved = flat(read(path))
    need(saved is not None, "the file does not hold a state: save neither a module nor a list.")
    need(equal(copy_of(trained), trained_before), "your function changes the trained model.")
    own = copy_of(trained.classifier)
    saved = {name.removeprefix("classifier."): tensor for name, tensor in saved.items()}
    need(not set(saved) > set(own), "the file holds more than the classifier's parameters.")
    complete = [number for number in [0, *saves] if equal(saved, add(number, own))]
    need(complete, "the file does not hold all parameters of the classifier.")
    need(
        equal(copy_of(fresh.features), features_before),
        "the file is right, but the features of the fresh model have changed, too.",
    )
    loaded = copy_of(fresh.classifier)
    need(
        complete == [0] or not equal(loaded, own),
        "the file is right, but the fresh model got the trained one's tensors without reading it.",
    )
    if not equal(loaded, saved):
        need(
            loads or not equal(loaded, fresh_before),
            "the file is right, but the fresh model's classifier is as it was: load it.",
        )
        need(
            not equal(loaded, fresh_before),
            "the file is right, but no name in it fitted, which strict=False hides.",
        )
        raise Hint("the file is right, but the fresh model's classifier is not what is in it.")
    size = sum(tensor.nbytes for tensor in own.values())
    return f"the file holds {len(own)} tensors, {size} bytes, and only they were loaded"


@exercise
def check_keep_if_better(call, folder):
    """Train three runs, and look after each epoch at what was kept, and again after the next."""
    for accuracies in [[70.0, 90.0, 80.0, 90.0, 85.0], [0.0, 0.0], [91.2, 91.4]]:
        model, best, top, kept = Net(), None, -1.0, {}
        for epoch, accuracy in enumerate(accuracies, start=1):
            train_on(model)
            now = copy_of(model)
            still = best is None or equal(best[1], kept)
            need(still, "what was kept has changed as the model trained on: is it a copy?")
            if better := accuracy > top:
                top, kept, best_epoch = accuracy, now, epoch
            when = "in epoch 1, with best=None, " if best is None else ""
            best = call(best, model, accuracy, when=when)

            after = f"after {' and '.join(f'{a:g}%' for a in accuracies[:epoch])}"
            pair = isinstance(best, (tuple, list)) and len(best) == 2
            need(pair, f"{after}, return a pair: the new one or the old one, but always one.")
            need(is_state(best[1]), f"{after}, the second of the pair is no state of the model.")
            for name in now:
                need(name in best[1], f"the state lacks {name}, which model.state_dict() has.")
            need(equal(copy_of(model), now), "your function changes the model.")
            need(best[0] == top, f"{after}, yours keeps {best[0]!s:.9}, not {top:g}.")
            later = not better and accuracy == top and equal(best[1], now)
            need(not later, "of two equally good epochs, the earlier one stays.")
            right = equal(best[1], kept)
            need(
                right,
                f"{after}, the state is not the one that epoch {best_epoch} ended with.",
            )
    return "of 70, 90, 80, 90 and 85%, epoch 2 is kept, as it was before three more epochs"
