"""Compare a run with its history, and a checkpoint with the objects that it is loaded into."""

import hashlib

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Subset

from helper.batches import first_batch, first_batch_size, length_of
from helper.reproducibility import find_parts

# The names under which wrappers keep the model inside them.
WRAPPERS = {"module": "DataParallel", "_orig_mod": "torch.compile"}
NEW_RUN = "To continue anyway, start a new run from the loaded weights: History(seed=...)."


class CheckpointError(RuntimeError):
    """A checkpoint can't be saved or loaded. The message says why, and what to do."""


# ---- What must stay the same when a run continues ----


def start_or_check_run(trainer) -> None:
    """Start the run in `history`, or raise a ValueError if its arguments have changed.

    Only what is known without fetching data is compared. Keeping the examples themselves the same
    is up to you.
    """
    history = trainer.history
    for part in ("optimizer", "scheduler"):
        if part in history.not_loaded and getattr(trainer, part) is not None:
            raise ValueError(
                f"The {part} of this history's checkpoint was not loaded. Load it too. {NEW_RUN}"
            )
    if history.others:
        raise ValueError(
            f"The checkpoint of this history also holds {', '.join(history.others)}, which "
            "train_model would neither update nor save. Continue in your own training loop. "
            + NEW_RUN
        )
    is_new = not history.minibatch_loss
    size = first_batch_size(trainer.train_batches, history.seed)
    start_or_check_batches(history, len(trainer.train_loader), size)
    settings = describe_settings(trainer)
    for name, setting in settings.items():
        expected = setting if is_new else history.settings.get(name, setting)
        if setting != expected:
            raise ValueError(f"{name} is {setting}, but this run began with {expected}. {NEW_RUN}")
    start_or_check_modes(history, trainer.model)
    if is_new:
        check_evaluation_batches(trainer)
    history.settings = settings


def check_evaluation_batches(trainer) -> None:
    """Check the first validation and test batches now, instead of after the first epoch.

    Skipped if there are workers: once a dataset has been used in this process, it may hold open
    files that the workers can't share.
    """
    loaders = find_parts(trainer.train_loader, trainer.valid_loader, trainer.test_loader)
    if all(part.num_workers == 0 for part in loaders if isinstance(part, DataLoader)):
        for batches in (trainer.valid_batches, trainer.test_batches):
            if batches.view is not None:
                first_batch(batches, trainer.history.seed)


def start_or_check_batches(history, num_batches: int, batch_size: int) -> None:
    """Compare the number of batches and the size of the first (0 if unknown), or record them."""
    if not history.minibatch_loss:
        history.batches_per_epoch, history.batch_size = num_batches, batch_size
    if history.batch_size == 0:
        history.batch_size = batch_size
    same_size = batch_size in (0, history.batch_size)
    if num_batches != history.batches_per_epoch or not same_size:
        raise ValueError(
            f"train_loader has {num_batches} batches, the first with {batch_size} examples; this "
            f"run began with {history.batches_per_epoch} batches, the first with "
            f"{history.batch_size}. Check its batch size and its dataset. {NEW_RUN}"
        )
    if not 0 <= history.batch <= history.batches_per_epoch:
        raise ValueError(
            f"This history has {len(history.minibatch_loss)} losses and {history.epoch} epochs of "
            f"{history.batches_per_epoch} batches, which don't fit together. {NEW_RUN}"
        )


def describe_settings(trainer) -> dict[str, str]:
    """Return what else must stay the same, in words."""
    scheduler = trainer.scheduler
    return {
        "scheduler_every": "no scheduler" if scheduler is None else trainer.scheduler_every,
        "scheduler_on": (
            trainer.scheduler_on
            if isinstance(scheduler, ReduceLROnPlateau)
            else "no ReduceLROnPlateau"
        ),
        "train_loader.dataset": describe_dataset(getattr(trainer.train_loader, "dataset", None)),
    }


def describe_dataset(dataset) -> str:
    """Return the length of a dataset, with a hash of the indices of each Subset in it.

    Other datasets inside it are not compared, since it may open them only when it is used.
    """
    length = "an unknown number of" if length_of(dataset) is None else length_of(dataset)
    subsets = [part for part in find_parts(dataset) if isinstance(part, Subset)]
    indices = dict.fromkeys(f", indices {hash_indices(subset)}" for subset in subsets)
    return f"{length} examples" + "".join(indices)


def hash_indices(subset: Subset) -> str:
    """Return eight hexadecimal digits that are equal for equal indices in any type of sequence."""
    indices = np.asarray(subset.indices)
    if indices.dtype.kind in "iu":
        return hashlib.sha256(indices.astype(np.int64).tobytes()).hexdigest()[:8]
    return hashlib.sha256(repr([*subset.indices]).encode()).hexdigest()[:8]


def start_or_check_modes(history, model) -> None:
    """Compare which modules are in eval mode, or record them for a new run."""
    # By their names without wrappers: "" is the model itself, inside its wrappers.
    modules = {without_wrappers(name): module for name, module in model.named_modules()}
    is_new = not history.minibatch_loss or not history.settings
    if not modules[""].training:
        # Evaluation often ends without model.train(). Restore the modes that the run began with.
        model.train()
        if not is_new:
            for name, module in modules.items():
                module.training = name not in history.eval_modules
    eval_modules = [name for name, module in modules.items() if not module.training]
    if is_new:
        history.eval_modules = eval_modules
    if eval_modules != history.eval_modules:
        raise ValueError(
            "The modules in eval mode have changed since this run began, from "
            f"{name_some(history.eval_modules)} to {name_some(eval_modules)}. Call eval() or "
            f"train() on those that differ. {NEW_RUN}"
        )


def name_some(names: list[str]) -> str:
    """Return the first three names, as a text."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


# ---- What must be equal in a file and in the run that it is loaded into ----


def describe_run(model, optimizer=None, scheduler=None, **others) -> dict[str, dict[str, str]]:
    """Return what must be equal, as a dict of strings for each part of a run.

    That is the name, type and shape of every tensor of a model; the class of an optimizer and the
    names of its parameters in order, since PyTorch matches their states by position; the class of
    anything else. Raises a ValueError for parts that don't belong together.
    """
    described = {"model": describe_tensors(model)}
    for name, other in others.items():
        tensors = describe_tensors(other) if isinstance(other, nn.Module) else {}
        described[name] = {"class": type(other).__name__, **tensors}
    if optimizer is not None:
        described["optimizer"] = describe_optimizer(optimizer, model, **others)
    if scheduler is not None:
        described["scheduler"] = {"class": describe_scheduler(scheduler, optimizer)}
    return described


def describe_optimizer(optimizer, model, **others) -> dict[str, str]:
    """Return the class of an optimizer, and the name of each of its parameters."""
    names = {}
    for prefix, part in {"": model, **others}.items():
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            names.setdefault(id(parameter), f"{prefix}.{name}".strip("."))
    described = {"class": type(optimizer).__name__}
    for number, group in enumerate(optimizer.param_groups):
        for position, parameter in enumerate(group["params"]):
            if id(parameter) not in names:
                raise ValueError(
                    "This optimizer belongs to a different model. Create a new one for this model."
                )
            frozen = "" if parameter.requires_grad else "; frozen"
            described[f"parameter {position} of group {number}"] = names[id(parameter)] + frozen
    return described


def describe_scheduler(scheduler, optimizer) -> str:
    """Return the class of a scheduler, with those of the schedulers inside it."""
    if optimizer is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            "This scheduler belongs to a different optimizer. Create a new one for this optimizer."
        )
    inner = [describe_scheduler(part, optimizer) for part in getattr(scheduler, "_schedulers", ())]
    return type(scheduler).__name__ + (f"({', '.join(inner)})" if inner else "")


def describe_tensors(model) -> dict[str, str]:
    """Return the type and shape of each tensor in the state of a model, and what it is tied to."""
    described, first_names = {}, {}
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor) and not can_be_loaded(value):
            raise ValueError(
                f"{name} could not be loaded again: it is lazy, sparse, expanded or on the meta "
                "device. Run a batch through the model, or use to_dense(), clone() or a real device"
            )
        described[name] = dtype_and_shape(value, name)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        if first != name and name in described:
            described[name] += f"; tied to {first}"
    return described


def can_be_loaded(tensor) -> bool:
    """Return whether `load_state_dict` can copy a tensor into one like it."""
    if nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided:
        return False
    expanded = [s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True)]
    return not any(expanded)


def dtype_and_shape(value, name="") -> str:
    """Return the type and shape of a tensor, or the type of anything else."""
    if name.endswith("_extra_state"):
        return "extra state of its layer"
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def check_equal(saved: dict, expected: dict) -> None:
    """Raise a ValueError that names the first difference between two descriptions."""
    for part, expected_names in expected.items():
        saved_names = saved.get(part)
        if saved_names is None:
            raise ValueError(f"it was saved without a {part}. Load it without one too")
        for name in [*expected_names, *saved_names]:
            in_file, in_model = (
                saved_names.get(name, "missing"),
                expected_names.get(name, "missing"),
            )
            if in_file != in_model:
                raise ValueError(
                    f"it belongs to a different {part}: {name} is {in_file} in the file and "
                    f"{in_model} in yours. {advice(part, saved_names, expected_names)}"
                )


def advice(part: str, saved_names: dict, expected_names: dict) -> str:
    """Return what to do about a difference, which may be just a wrapper."""
    create = f"Create the {part} with the same class and arguments as the saved one"
    if {*map(without_wrappers, saved_names)} != {*map(without_wrappers, expected_names)}:
        return create
    saved, yours = find_wrapped(part, saved_names), find_wrapped(part, expected_names)
    sentences = []
    for inside in sorted(saved - yours):
        wrapper, place = name_wrappers(inside), without_wrappers(inside)
        sentences.append(f"Wrapped by {wrapper} when it was saved. Wrap {place} now too")
    for inside in sorted(yours - saved):
        wrapper = name_wrappers(inside)
        sentences.append(f"Wrapped by {wrapper} now, but not when saved. Use {inside} instead")
    return ". ".join(sentences or [create])


def find_wrapped(part: str, names: dict) -> set[str]:
    """Return where wrappers keep what is inside them, for example {"model.module"}."""
    places = set()
    for name in names:
        words = name.split(".")
        while words and words[-1] not in WRAPPERS:
            words.pop()
        if words:
            places.add(".".join([part, *words]))
    return places


def name_wrappers(name: str) -> str:
    """Return which wrappers a name goes through."""
    return " and ".join(WRAPPERS[word] for word in name.split(".") if word in WRAPPERS)


def without_wrappers(name: str) -> str:
    """Return the name of a module or parameter without what DataParallel and the like add."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)
