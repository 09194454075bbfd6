"""Which infinite numbers and NaN are refused, wherever they are and whatever type they have."""

import os

import pytest
import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel

from helper.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from helper.finite import FINITE, INFINITE, NAN, find_infinite, find_not_finite, kind_of_numbers
from helper.history import History

INF, NOT_A_NUMBER = float("inf"), float("nan")
TYPES = [
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.complex64,
    torch.complex128,
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("value", "kind"), [(INF, INFINITE), (-INF, INFINITE), (NOT_A_NUMBER, NAN)]
)
def test_every_type_of_number(dtype, value, kind):
    assert kind_of_numbers(torch.ones(3, 4).to(dtype)) == FINITE
    values = torch.ones(3, 4)
    values[1, 2] = value
    assert kind_of_numbers(values.to(dtype)) == kind
    assert kind_of_numbers(values.to(dtype).t()) == kind
    if dtype.is_complex:  # in either half, also of a tensor that is only marked as conjugate
        imaginary = torch.complex(torch.ones_like(values), values).to(dtype)
        assert kind_of_numbers(imaginary) == kind_of_numbers(imaginary.conj()) == kind


def test_nan_is_found_beside_infinity_and_in_types_that_have_no_infinity():
    assert kind_of_numbers(torch.tensor([INF, NOT_A_NUMBER, -INF])) == NAN
    assert kind_of_numbers(torch.tensor([1.0, NOT_A_NUMBER]).to(torch.float8_e4m3fn)) == NAN


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(0),
        torch.zeros(0, dtype=torch.complex64),
        torch.tensor([2**62, -1]),
        torch.tensor(True),
        torch.ones(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.tensor(torch.finfo().max),
        torch.ones(2, requires_grad=True),
        "NaN",
        None,
        INF,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_such_number(value):
    assert kind_of_numbers(value) == FINITE


class Net(nn.Module):
    """Whatever a model can consist of; the first layer is frozen, and the mask stays infinite."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.spectral = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.full((2, 2), -INF).triu(1))
        self.register_buffer("temporary", torch.tensor(NOT_A_NUMBER), persistent=False)

    def forward(self, x):
        return self.norm(self.frozen(x)) * self.spectral.abs()


def trained():
    model = Net()
    optimizer = optim.Adam(model.parameters())
    model(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def pick(name, model, optimizer, others):
    """Return the tensor with the name that the message should give it."""
    start, _, rest = name.partition(".")
    if " of parameter " in name:
        number = int(name.split(" of parameter ")[1].split()[0])
        optimizer = others["second"] if name.endswith("second") else optimizer
        return [*optimizer.state.values()][number][name.split()[0]]
    module, name = (others[start], rest) if start in others else (model, name)
    return module.state_dict()[name]


@pytest.mark.parametrize(
    ("name", "infinite_too"),
    [
        ("spectral", True),
        ("norm.weight", True),
        ("norm.running_var", False),
        ("frozen.weight", False),
        ("mask", False),
        ("exp_avg of parameter 0 in the optimizer", True),  # a complex one
        ("exp_avg_sq of parameter 2 in the optimizer", True),
        ("average.module.norm.weight", False),
        ("average.module.norm.running_mean", False),
        ("critic.weight", True),
        ("exp_avg of parameter 1 in the second", True),
    ],
)
@pytest.mark.parametrize("value", [INF, NOT_A_NUMBER])
def test_each_place_in_a_run(name, infinite_too, value, tmp_path):
    model, optimizer = trained()
    critic = nn.Linear(2, 1)
    second = optim.Adam(critic.parameters())
    critic(torch.ones(1, 2)).sum().backward()
    second.step()
    others = {"average": AveragedModel(model), "critic": critic, "second": second}
    run = (tmp_path / "run.pt", model, optimizer, None, History())
    save_checkpoint(*run, **others)
    before = run[0].read_bytes()

    with torch.no_grad():
        pick(name, model, optimizer, others).view(-1)[-1] = value
    if value == INF and not infinite_too:
        save_checkpoint(*run, **others)
        load_checkpoint(*run[:3], **others)
    else:
        with pytest.raises(CheckpointError, match=f"{name} is not finite. Training has failed"):
            save_checkpoint(*run, **others)
        assert run[0].read_bytes() == before
    assert os.listdir(tmp_path) == ["run.pt"]


def test_train_model_says_which_tensors_may_be_infinite():
    """Those that were when it began: a mask is meant to be; a variance has become so."""
    model, optimizer = trained()
    may_be_infinite = find_infinite(model)
    assert may_be_infinite == {"mask"}
    assert find_not_finite(model, optimizer, may_be_infinite=may_be_infinite) is None
    model.norm.running_var[1] = INF
    assert find_not_finite(model, optimizer) is None
    name = find_not_finite(model, optimizer, may_be_infinite=may_be_infinite)
    assert name == "norm.running_var"
    # Nobody may allow a trained parameter to be infinite.
    model.norm.running_var[1] = 1.0
    model.norm.weight.data[0], name = INF, "norm.weight"
    assert find_not_finite(model, optimizer, may_be_infinite=may_be_infinite | {name}) == name


def test_tied_weights_and_an_optimizer_that_keeps_more_than_tensors():
    model = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(2)])
    model[1].weight = model[0].weight
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state["steps"] = INF
    optimizer.state[model[0].weight]["phase"] = "warm"
    assert find_not_finite(model, optimizer) is None
    model[0].weight.data.fill_(INF)
    assert find_not_finite(model, optimizer) == "0.weight"
