"""What must be equal in a run that was saved and in the run that it is loaded into."""

import torch
from torch import nn


class CheckpointError(RuntimeError):
    """A checkpoint can't be saved or loaded; the message says why, and what to do."""


def describe_run(model, optimizer=None, scheduler=None, **others):
    """Return what must be equal, as a dict of strings for each part of a run.

    That is the name, type and shape of every tensor of a model; the class of an optimizer and the
    names of its parameters in order, since PyTorch matches their states by position; the class of
    anything else. Raises a CheckpointError for parts that don't belong together.
    """
    described, names = {"model": describe_tensors(model)}, {}
    for prefix, part in {"": model, **others}.items():
        if prefix:
            described[prefix] = {"the class": type(part).__name__}
        if prefix and isinstance(part, nn.Module):
            described[prefix] |= describe_tensors(part)
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            names.setdefault(id(parameter), f"{prefix}.{name}".strip("."))
    if optimizer is not None:
        described["optimizer"] = {"the class": type(optimizer).__name__}
        for number, group in enumerate(optimizer.param_groups):
            for position, parameter in enumerate(group["params"]):
                if id(parameter) not in names:
                    raise CheckpointError(
                        "The optimizer holds a parameter that is not in this model, so it trains "
                        "another one. Make the optimizer anew, from model.parameters()."
                    )
                words = names[id(parameter)] + ("" if parameter.requires_grad else "; frozen")
                described["optimizer"][f"parameter {position} of group {number}"] = words
    if scheduler is not None:
        described["scheduler"] = {"the class": describe_scheduler(scheduler, optimizer)}
    return described


def describe_tensors(model):
    """Return the type and shape of each tensor in the state of a model, and what it is tied to."""
    described, first_names = {}, {}
    for name, value in model.state_dict().items():
        if problem := isinstance(value, torch.Tensor) and find_problem(value):
            raise CheckpointError(f"{name} {problem}; as it is, it could not be loaded.")
        described[name] = in_words(value)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        if first != name and name in described:
            described[name] += f"; tied to {first}"
    return described


def in_words(value):
    """Return the type and shape of a tensor, or the type of anything else."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def find_problem(tensor):
    """Say why `load_state_dict` could not write to a tensor; None if it could."""
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet: let the model see a batch first"
    if tensor.is_meta:
        return "is on the device meta and has no numbers: make the model on a real device"
    if tensor.layout != torch.strided:
        return f"is {tensor.layout}: make it dense with to_dense()"
    if any(
        step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    ):
        return "was expanded, and its elements share one place: clone() it"
    return None


def describe_scheduler(scheduler, optimizer):
    """Return the class of a scheduler, with those of the schedulers inside it."""
    if optimizer is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise CheckpointError(
            "The scheduler belongs to another optimizer, so it changes a learning rate that nobody "
            "uses. Make it anew, for this optimizer."
        )
    inner = [describe_scheduler(part, optimizer) for part in getattr(scheduler, "_schedulers", ())]
    return type(scheduler).__name__ + (f"({', '.join(inner)})" if inner else "")


def check_equal(path, saved, own):
    """Raise a CheckpointError that names the first thing in which two descriptions differ."""
    for part, ours in own.items():
        theirs = saved.get(part)
        if theirs is None:
            raise CheckpointError(f"{path} was saved without a {part}. Load it without one, too.")
        if part == "model" and wrapping(theirs) != wrapping(ours):
            raise CheckpointError(
                f'All names begin with "{wrapping(theirs)}" in {path} and with "{wrapping(ours)}" '
                "in your model: one of them is wrapped by torch.compile or DataParallel. Save and "
                "load the model inside, model._orig_mod or model.module. Nothing was loaded."
            )
        for name in [*ours, *theirs]:
            if theirs.get(name) != ours.get(name):
                raise CheckpointError(
                    f"{path} belongs to another {part}: {name} is {theirs.get(name, 'missing')} in "
                    f"the file and {ours.get(name, 'missing')} in yours. Make the {part} with the "
                    "class and the arguments that it was saved with. Nothing was loaded."
                )


def wrapping(names):
    """Return the prefix that a wrapper puts before all names of a model, or an empty string."""
    found = (p for p in ("module.", "_orig_mod.") if all(name.startswith(p) for name in names))
    return next(found, "") if names else ""
