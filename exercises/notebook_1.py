"""The checks of the exercises in notebook 1."""

import contextlib
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
    flags_of,
    is_state,
    read,
    require,
    require_flags,
    require_number,
    same,
    train_on,
)
from helper.reproducibility import compute_sha256


def flat(value, prefix=""):
    """Return the tensors in nested dicts as one dict; None if there is something else in them."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return None
    parts = [flat(part, f"{prefix}.{name}".strip(".")) for name, part in value.items()]
    return None if None in parts else {name: t for part in parts for name, t in part.items()}


@contextlib.contextmanager
def number_saved_tensors():
    """Add a different number to each tensor that is saved; only a file that is read has them.

    Yields the list of these numbers.
    """
    reduce, numbers = torch.Tensor.__reduce_ex__, []

    def reduce_changed(tensor, protocol):
        numbers.append(len(numbers) + 1)
        return reduce(tensor.detach() + numbers[-1], protocol)

    with mock.patch.object(torch.Tensor, "__reduce_ex__", reduce_changed):
        yield numbers


@exercise
def check_move_classifier(call, folder):
    """Change each tensor on its way into a file, so that only a function that reads has it."""
    path = os.path.join(folder, "part.pt")
    trained, fresh, loads = Net(), Net(), []
    train_on(trained)
    trained_before, features_before = copy_of(trained), copy_of(fresh.features)
    fresh_before = copy_of(fresh.classifier)
    flags_before = flags_of(trained), flags_of(fresh)
    fresh.classifier.register_load_state_dict_post_hook(lambda *_: loads.append(1))
    with number_saved_tensors() as numbers:
        call(trained, fresh, path)

    require(os.path.isfile(path), "there is no file at the path that your function was given.")
    saved = flat(read(path))
    require(
        saved is not None,
        "the file doesn't hold a state: save a state_dict, neither a module nor a list.",
    )
    require(equal(copy_of(trained), trained_before), "your function changes the trained model.")
    own = copy_of(trained.classifier)
    saved = {name.removeprefix("classifier."): tensor for name, tensor in saved.items()}
    require(not set(saved) > set(own), "the file holds more than the classifier's parameters.")
    require(
        set(saved) == set(own)
        and all(any(same(saved[n], own[n] + number) for number in numbers) for n in own),
        "the file doesn't hold all parameters of the classifier as they are.",
    )
    require(
        equal(copy_of(fresh.features), features_before),
        "the file is right, but the features of the fresh model have changed too.",
    )
    loaded = copy_of(fresh.classifier)
    require(
        not equal(loaded, own),
        "the file is right, but the fresh model got the trained one's tensors without reading it.",
    )
    if not equal(loaded, saved):
        require(
            loads or not equal(loaded, fresh_before),
            "the file is right, but the fresh model's classifier is unchanged: load it.",
        )
        require(
            not equal(loaded, fresh_before),
            "the file is right, but no name in it matched, which strict=False hides.",
        )
        raise Hint("the file is right, but the fresh model's classifier is not what is in it.")
    require_flags(trained, flags_before[0], "the trained model")
    require_flags(fresh, flags_before[1], "the fresh model")
    others = {*os.listdir(folder), *os.listdir()} - {"part.pt", os.path.basename(folder)}
    require(not others, f"your function leaves an extra file behind: {', '.join(sorted(others))}.")
    size = sum(tensor.nbytes for tensor in own.values())
    return f"the file holds {len(own)} tensors, {size} bytes, and only they were loaded"


@exercise
def check_keep_if_better(call, folder):
    """Train three runs, and look after each epoch at what was kept, and again after the next."""
    for accuracies in [[70.0, 90.0, 80.0, 90.0, 85.0], [0.0, 0.0], [91.2, 91.4], [91.40, 91.41]]:
        model, best, top, kept = Net(), None, -1.0, {}
        flags_before = flags_of(model)
        for epoch, accuracy in enumerate(accuracies, start=1):
            train_on(model)
            now = copy_of(model)
            still = best is None or equal(best[1], kept)
            require(still, "what was kept has changed as the model kept training: is it a copy?")
            if better := accuracy > top:
                top, kept, best_epoch = accuracy, now, epoch
            when = "in epoch 1, with best=None, " if best is None else ""
            best = call(best, model, accuracy, when=when)

            after = f"after {' and '.join(f'{a:g}%' for a in accuracies[:epoch])}"
            pair = isinstance(best, (tuple, list)) and len(best) == 2
            require(pair, f"{after}, return a pair: the new one or the old one, but always a pair.")
            require(
                is_state(best[1]), f"{after}, the second of the pair is not a state of the model."
            )
            for name in now:
                require(name in best[1], f"the state lacks {name}, which model.state_dict() has.")
            require(equal(copy_of(model), now), "your function changes the model.")
            require_flags(model, flags_before, "the model")
            attached = any(tensor.requires_grad for tensor in best[1].values())
            require(not attached, "the copies are part of the graph: detach them before you clone.")
            require(best[0] == top, f"{after}, yours keeps {best[0]!s:.9}, not {top:g}.")
            later = not better and accuracy == top and equal(best[1], now)
            require(not later, "of two equally good epochs, the earlier one stays.")
            right = equal(best[1], kept)
            require(
                right,
                f"{after}, the state is not the one that epoch {best_epoch} ended with.",
            )
    return "of 70, 90, 80, 90 and 85%, epoch 2 is kept, as it was before three more epochs"


def state_after_a_step(make, dtype=torch.float32):
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
    """Return all tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


# What is special about an optimizer, how to make its state, and a hint for an answer that counts
# too few bytes in it.
KINDS = [
    (
        "SGD with momentum",
        lambda: state_after_a_step(functools.partial(SGD, momentum=0.9)),
        "each parameter has a state, and all of it counts.",
    ),
    ("SGD without momentum", lambda: state_after_a_step(SGD), "it keeps nothing."),
    (
        "Adam, which keeps different tensors",
        lambda: state_after_a_step(Adam),
        "they are exp_avg, exp_avg_sq and step for each parameter.",
    ),
    (
        "Adam in float64",
        lambda: state_after_a_step(Adam, torch.float64),
        "not every element takes 4 bytes.",
    ),
    (
        "SparseAdam, whose step is a plain number",
        lambda: state_after_a_step(SparseAdam),
        "its tensors count.",
    ),
    (
        "LBFGS, which also keeps lists",
        lambda: state_after_a_step(LBFGS),
        "the tensors in its lists count too.",
    ),
    (
        "SGD with lr=torch.tensor(0.1)",
        lambda: state_after_a_step(functools.partial(SGD, lr=torch.tensor(0.1))),
        "this tensor counts too, and it is in param_groups.",
    ),
    (
        "Adam with a tuple of tensors as betas",
        lambda: with_betas(state_after_a_step(Adam)),
        "the tensors in a tuple count too.",
    ),
]


def with_betas(state):
    state["param_groups"][0]["betas"] = (torch.tensor(0.9), torch.tensor(0.999))
    return state


@exercise
def check_optimizer_bytes(call, folder):
    """Try states with one tensor per parameter, none, three, and with lists, tuples and numbers."""
    totals = []
    for name, make_state, hint in KINDS:
        state = make_state()
        before = compute_sha256(state)
        tensors = tensors_in(state)
        count = sum(tensor.numel() for tensor in tensors)
        totals.append(sum(tensor.nbytes for tensor in tensors))
        answer = call(state, when=f"for {name}, ")
        require_number(answer)
        if answer != totals[-1]:
            per_element = "that is the number of elements; how many bytes does each take?"
            require(answer != count, per_element)
            per_tensor = "that is the number of tensors; how many bytes does each take?"
            require(answer != len(tensors), per_tensor)
            require(answer < totals[-1], f"too many bytes for {name}: only tensors count.")
            raise Hint(f"too few bytes for {name}: {hint}")
        emptied = "your function changes the state: the optimizer still needs what is in it."
        require(compute_sha256(state) == before, emptied)
    plain, none, most, *_ = totals
    return f"for {plain} bytes of parameters, SGD keeps {none}, with momentum {plain}, Adam {most}"
