"""Find infinite and NaN values that must not be saved in a checkpoint."""

from collections.abc import Collection

import torch
from torch import nn
from torch.optim import Optimizer

FINITE, INFINITE, NAN = "finite", "infinite", "NaN"


def find_not_finite(
    model: nn.Module,
    optimizer: Optimizer,
    others: dict | None = None,
    may_be_infinite: Collection[str] | None = None,
) -> str | None:
    """Return the name of a tensor that must not be saved, or None.

    Trained parameters and the tensors of optimizers must be finite. The rest of the model and of
    the modules among `others` (buffers, frozen parameters) must not be NaN. They may be infinite,
    as attention masks are; in `model`, if `may_be_infinite` is given, only the tensors it names
    may.
    """
    others = others or {}
    optimizers = {"optimizer": optimizer}
    optimizers |= {name: part for name, part in others.items() if isinstance(part, Optimizer)}
    modules = {name: part for name, part in others.items() if isinstance(part, nn.Module)}

    trained = set()
    for optimizer_name, part in optimizers.items():
        for group in part.param_groups:
            trained |= {id(parameter) for parameter in group["params"] if parameter.requires_grad}
        for number, state in enumerate(part.state.values()):
            for name, value in state.items() if isinstance(state, dict) else ():
                if kind_of_numbers(value) != FINITE:
                    return f"{name} of parameter {number} in the {optimizer_name}"

    for prefix, module in {"": model, **modules}.items():
        parameters = dict(module.named_parameters(remove_duplicate=False))
        for name, value in module.state_dict().items():
            kind = kind_of_numbers(value)
            is_trained = name in parameters and id(parameters[name]) in trained
            is_allowed = prefix != "" or may_be_infinite is None or name in may_be_infinite
            if kind == NAN or (kind == INFINITE and (is_trained or not is_allowed)):
                return f"{prefix}.{name}".strip(".")
    return None


def find_infinite(model: nn.Module) -> set[str]:
    """Return the names of the tensors in the state of a model that hold an infinite number."""
    return {n for n, value in model.state_dict().items() if kind_of_numbers(value) == INFINITE}


def kind_of_numbers(value) -> str:
    """Return NAN or INFINITE for a tensor with such an element (NAN first), otherwise FINITE.

    Lazy, sparse and meta tensors count as FINITE.
    """
    if not isinstance(value, torch.Tensor) or nn.parameter.is_lazy(value):
        return FINITE
    if value.layout != torch.strided or value.is_meta:
        return FINITE
    if hasattr(value, "to_local"):
        value = value.to_local()  # this process's share of a tensor that is spread over many
    value = value.detach()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if not value.is_floating_point() or value.numel() == 0:
        return FINITE
    if "float4" in str(value.dtype):
        return FINITE  # float4 has neither
    if value.dtype.itemsize == 1:
        value = value.float()  # float8 can't be compared
    smallest, largest = torch.aminmax(value)  # 30 times as fast as isfinite; NaN if there is one
    if smallest.isnan():
        return NAN
    return INFINITE if smallest.isinf() or largest.isinf() else FINITE
