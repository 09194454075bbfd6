"""A run as this rank holds it: its tensors, and everything else; both by name.

An optimizer's own `state_dict` numbers its parameters. Ranks that hold different layers would use
the same numbers for different parameters, so here a state belongs to the name of its parameter.

PyTorch's `torch.distributed.checkpoint.state_dict` also uses names, but it doesn't keep what is
promised here: `get_optimizer_state_dict` takes a step if there was none, buffers that differ
between ranks are lost, and stages with equal names are mixed up without an error (PyTorch 2.15).
"""

import hashlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor import empty as empty_dtensor
from torch.optim import Optimizer

from helper.checkpoint import make_checkpoint
from helper.compatibility import describe_optimizer, describe_run
from helper.history import CURVES
from helper.verification import check_parts

UNSHARDED = "unsharded"  # the layout of a tensor that isn't a DTensor


# ---- Names ----


def describe_by_name(model, optimizer=None, scheduler=None, **others) -> dict[str, dict[str, str]]:
    """Return what must be equal, as `describe_run` does, with the parameters of optimizers by name.

    The model may be a part of the whole one: other ranks hold the rest.
    """
    described = describe_run(model, optimizer, scheduler, **others)
    for name, part in {"optimizer": optimizer, **others}.items():
        if isinstance(part, Optimizer):
            described[name] = describe_parameters(part, model, others)
    return described


def describe_parameters(optimizer, model, others) -> dict[str, str]:
    """Return the class of an optimizer, and the group of each of its parameters by name."""
    kind, *descriptions = describe_optimizer(optimizer, model, **others).values()
    num_groups = len(optimizer.param_groups)
    described = {"class": kind if num_groups == 1 else f"{kind} with {num_groups} groups"}
    descriptions = iter(descriptions)
    for number, group in enumerate(optimizer.param_groups):
        for _ in group["params"]:
            name, _, frozen = next(descriptions).partition("; ")
            if name in described:
                raise ValueError(f"two parameters of an optimizer have the name {name}")
            described[name] = f"in group {number}" + (f"; {frozen}" if frozen else "")
    return described


def names_in_groups(description: dict[str, str], num_groups: int) -> list[list[str]]:
    """Return the names of an optimizer's parameters, for each group, from their description."""
    groups = [[] for _ in range(num_groups)]
    for name, place in description.items():
        if name != "class":
            groups[int(place.removeprefix("in group ").partition(";")[0])].append(name)
    return groups


def number_to_name(state: dict, groups: list[list[str]]) -> dict:
    """Return the state of an optimizer with names in the place of numbers.

    `groups` are the names of its parameters. Those of a group become the keys of a dict, so that
    the dicts of several ranks can be merged.
    """
    names, settings = {}, []
    for group, group_names in zip(state["param_groups"], groups, strict=True):
        names |= dict(zip(group["params"], group_names, strict=True))
        kept = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        settings.append({**kept, "params": dict.fromkeys(group_names)})
    states = {names.get(number, number): value for number, value in state["state"].items()}
    return {**state, "state": states, "param_groups": settings}


def only_of(state: dict, names) -> dict:
    """Return the state of an optimizer, by name, without the parameters that have other names."""
    saved = {name for group in state["param_groups"] for name in group["params"]}
    kept = {key: value for key, value in state["state"].items() if key in names or key not in saved}
    return {**state, "state": kept}


def name_to_number(state: dict, optimizer: Optimizer, groups: list[list[str]]) -> dict:
    """Return the state of an optimizer, by name, as its `load_state_dict` takes it.

    `groups` are the names of the parameters of this optimizer, for each group.
    """
    numbers, settings = {}, []
    for saved, group, names in zip(
        state["param_groups"], optimizer.param_groups, groups, strict=True
    ):
        numbers |= {name: len(numbers) + position for position, name in enumerate(names)}
        settings.append({**saved, "params": [numbers[name] for name in names]})
        if "param_names" in group:
            settings[-1]["param_names"] = group["param_names"]
    states = {numbers.get(name, name): value for name, value in state["state"].items()}
    return {**state, "state": states, "param_groups": settings}


# ---- Taking a run apart ----


def take_apart(model, optimizer, scheduler, history, **others) -> tuple[dict, dict, set[str]]:
    """Return a run without its tensors, the tensors, and which of them may differ between ranks.

    In the run, each tensor is replaced by one on the device meta, which has a shape and a type and
    no numbers. The real ones are {part: {name: tensor}}: they are the run's own, not copies. The
    third result has their keys, "part.name". Only buffers, and tensors that belong neither to a
    module nor to an optimizer nor to the scheduler, may differ.
    """
    run = make_checkpoint(model, optimizer, scheduler, history, **others)
    run["description"] = describe_by_name(model, optimizer, scheduler, **others)
    run["layouts"] = {}
    tensors, may_differ, fixed = {}, set(), None

    def split_off(tensor, part, *path):
        name = join_names(path)
        key = f"{part}.{name}"
        if key in run["layouts"]:
            raise ValueError(f"{part} has two tensors with the name {name}")
        tensors.setdefault(part, {})[name] = tensor
        run["layouts"][key] = describe_layout(tensor)
        if fixed is not None and name not in fixed:
            may_differ.add(key)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **others}
    for name, part in parts.items():
        states = run["others"] if name in others else run
        fixed = names_that_must_match(name, part)
        if isinstance(part, Optimizer):
            groups = names_in_groups(run["description"][name], len(part.param_groups))
            states[name] = number_to_name(states[name], groups)
        states[name] = replace_tensors(states[name], split_off, name)
    check_parts(run)
    check_loadable(run)
    return run, tensors, may_differ


def names_that_must_match(part_name: str, part) -> set[str] | None:
    """Return the names of a part's tensors that must be equal on all ranks; None means all."""
    if isinstance(part, Optimizer) or part_name == "scheduler":
        return None
    if isinstance(part, nn.Module):
        return {name for name, _ in part.named_parameters(remove_duplicate=False)}
    return set()


def replace_tensors(value, replace: Callable, *path) -> Any:
    """Return nested dicts and lists with `replace(tensor, *path)` in the place of each tensor."""
    if isinstance(value, torch.Tensor):
        return replace(value, *path)
    if isinstance(value, dict):
        return {key: replace_tensors(item, replace, *path, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [replace_tensors(item, replace, *path, key) for key, item in enumerate(value)]
        return type(value)(items)
    return value


def join_names(path) -> str:
    """Return the name of a tensor in a part from its keys in the nested dicts."""
    return ".".join(map(str, path))


def describe_layout(tensor) -> dict[str, str]:
    """Return which ranks share a tensor, and how: {"ranks [0, 1]": "shard 0"}, for example."""
    if not isinstance(tensor, DTensor):
        return {UNSHARDED: ""}
    ranks = repr(tensor.device_mesh.mesh.tolist())
    if len(ranks) > 60:
        ranks = f"{ranks[:20]}... ({hashlib.sha256(ranks.encode()).hexdigest()[:12]})"
    return {f"ranks {ranks}": ", ".join(map(describe_placement, tensor.placements))}


def describe_placement(placement) -> str:
    """Return how a tensor is spread over one dimension of a mesh."""
    if type(placement) is Shard:
        return f"shard {placement.dim}"
    return "replicate" if type(placement) is Replicate else str(placement)


def check_loadable(run: dict) -> None:
    """Raise a ValueError if a run holds something that couldn't be loaded."""
    file = io.BytesIO()
    torch.save(run, file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
    except Exception as error:
        file.seek(0)
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        reason = f"a state holds {', '.join(unsafe)}" if unsafe else error
        raise ValueError(
            f"{reason}. Keep only tensors and plain Python values in it, such as float(x)"
        ) from error


def position_of(history) -> dict:
    """Return what the ranks' histories must agree on: everything but the values of the curves."""
    return {
        name: len(value) if name in CURVES else value
        for name, value in history.state_dict().items()
    }


# ---- Putting it together again ----


def allocate(run: dict, parts: dict, find_key: Callable[[str], str]) -> tuple[dict, dict]:
    """Return the states of the parts, and the tensors in them by the names that dcp reads.

    The tensors are sharded as the run is now, and have no numbers yet. Both results share them.
    `find_key` says where this rank finds a tensor: some are saved for each rank.
    """
    description = describe_by_name(**parts)
    tensors, states = {}, {}
    for part_name, part in parts.items():
        saved = run["others"][part_name] if part_name in run["others"] else run[part_name]
        likes = {}
        if isinstance(part, nn.Module):
            likes = part.state_dict()
            saved = {name: saved[name] for name in likes}
        if isinstance(part, Optimizer):
            groups = names_in_groups(description[part_name], len(part.param_groups))
            likes = parameters_by_name(part, groups)
            saved = only_of(saved, likes)

        def allocate_tensor(meta, *path, part_name=part_name, likes=likes):
            key = f"{part_name}.{join_names(path)}"
            like = likes.get(path[1] if path[0] == "state" else path[0])
            tensors[find_key(key)] = tensor = allocate_like(meta, like, run["layouts"][key])
            return tensor

        state = replace_tensors(saved, allocate_tensor)
        is_optimizer = isinstance(part, Optimizer)
        states[part_name] = name_to_number(state, part, groups) if is_optimizer else state
    return states, tensors


def parameters_by_name(optimizer: Optimizer, groups: list[list[str]]) -> dict[str, torch.Tensor]:
    """Return the parameters of an optimizer, given their names for each group."""
    parameters = {}
    for group, names in zip(optimizer.param_groups, groups, strict=True):
        parameters |= dict(zip(names, group["params"], strict=True))
    return parameters


def allocate_like(meta, like, layout: dict[str, str]) -> torch.Tensor:
    """Return a tensor for what was saved of `meta`'s shape and type.

    It is sharded like `like`, a tensor of the model, or like it was when it was saved if it has a
    different shape (the row sums of Adafactor) and the model is sharded now too.
    """
    if like is not None and like.shape == meta.shape:
        return torch.empty_like(like, dtype=meta.dtype)
    if isinstance(like, DTensor) and UNSHARDED not in layout:
        words = next(iter(layout.values())).split(", ")
        placements = [
            Replicate() if word == "replicate" else Shard(int(word[6:])) for word in words
        ]
        mesh = like.device_mesh
        return empty_dtensor(*meta.shape, dtype=meta.dtype, device_mesh=mesh, placements=placements)
    return torch.empty(meta.shape, dtype=meta.dtype)
