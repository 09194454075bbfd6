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
    described = {"model": describe_tensors(model)}
    for name, other in others.items():
        tensors = describe_tensors(other) if isinstance(other, nn.Module) else {}
        described[name] = {"the class": type(other).__name__, **tensors}
    if optimizer is not None:
        described["optimizer"] = describe_optimizer(optimizer, model, **others)
    if scheduler is not None:
        described["scheduler"] = {"the class": describe_scheduler(scheduler, optimizer)}
    return described


def describe_optimizer(optimizer, model, **others):
    """Return the class of an optimizer, and the name of each of its parameters."""
    names, described = {}, {"the class": type(optimizer).__name__}
    for prefix, part in {"": model, **others}.items():
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            names.setdefault(id(parameter), f"{prefix}.{name}".strip("."))
    for number, group in enumerate(optimizer.param_groups):
        for position, parameter in enumerate(group["params"]):
            if id(parameter) not in names:
                raise CheckpointError(
                    "The optimizer is one of another model. Make it anew, for this."
                )
            words = names[id(parameter)] + ("" if parameter.requires_grad else "; frozen")
            described[f"parameter {position} of group {number}"] = words
    return described


def describe_scheduler(scheduler, optimizer):
    """Return the class of a scheduler, with those of the schedulers inside it."""
    if optimizer is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise CheckpointError("The scheduler is one of another optimizer. Make it anew, for this.")
    inner = [describe_scheduler(part, optimizer) for part in getattr(scheduler, "_schedulers", ())]
    return type(scheduler).__name__ + (f"({', '.join(inner)})" if inner else "")


def describe_tensors(model):
    """Return the type and shape of each tensor in the state of a model, and what it is tied to."""
    described, first_names = {}, {}
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor) and (
            nn.parameter.is_lazy(value)
            or value.is_meta
            or value.layout != torch.strided
            or any(s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=True))
        ):
            raise CheckpointError(
                f"{name} could not be loaded: it is lazy, sparse, expanded or on the device meta. "
                "Let the model see a batch, or use to_dense(), clone() or another device."
            )
        described[name] = in_words(value, name)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        if first != name and name in described:
            described[name] += f"; tied to {first}"
    return described


def in_words(value, name=""):
    """Return the type and shape of a tensor, or the type of anything else."""
    if name.endswith("_extra_state"):
        return "what its layer makes of it"
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def check_equal(path, saved, own):
    """Raise a CheckpointError that names the first thing in which two descriptions differ."""
    for part, ours in own.items():
        theirs = saved.get(part)
        if theirs is None:
            raise CheckpointError(f"{path} was saved without a {part}. Load it without one, too.")
        for name in [*ours, *theirs]:
            if theirs.get(name) != ours.get(name):
                wrapped = name.startswith(("module.", "_orig_mod."))
                raise CheckpointError(
                    f"{path} belongs to another {part}: {name} is {theirs.get(name, 'missing')} in "
                    f"the file and {ours.get(name, 'missing')} in yours. Make the {part} with the "
                    "class and the arguments that it was saved with. Nothing was loaded."
                    + " (Wrapped by DataParallel or torch.compile? Take what is inside.)"
                    * wrapped
                )
