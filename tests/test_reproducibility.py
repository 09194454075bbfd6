"""Seeds, deterministic algorithms, and a hash that notices every change and never lies."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from helper.reproducibility import (
    FETCH,
    ORDER,
    STEP,
    TEST_ACCURACY,
    TRAIN_ACCURACY,
    VALID_ACCURACY,
    compute_sha256,
    seed_batch,
    set_all_seeds,
    set_deterministic,
)


def test_seeds_cover_python_numpy_and_torch():
    def draw():
        set_all_seeds(3)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()
    assert draw() != (set_all_seeds(4), random.random(), np.random.rand())[1:]


def test_deterministic_algorithms_are_on():
    set_deterministic()
    try:
        assert torch.are_deterministic_algorithms_enabled()
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    finally:
        torch.use_deterministic_algorithms(False)


def state():
    return {"weight": torch.arange(6.0).reshape(2, 3), "step": 1, "rates": [0.1, 0.2]}


def test_sha256_is_the_same_for_equal_states_wherever_they_lie_in_memory():
    other = state()
    other["weight"] = torch.arange(6.0).reshape(2, 3).t().contiguous().t()
    assert compute_sha256(state()) == compute_sha256(other)
    assert len(compute_sha256(state())) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.arange(6.0).reshape(3, 2)},
        {"weight": torch.arange(6, dtype=torch.int32).reshape(2, 3)},
        {"weight": torch.nextafter(torch.arange(6.0), torch.tensor(9.0)).reshape(2, 3)},
        {"weight": -torch.zeros(2, 3)},
        {"step": 1.0},
        {"rates": [0.1], "more": [0.2]},
        {"rates": [0.1, 0.2, []]},
        {"other": 1},
        {"step": True},
        {"step": "1"},
        {"step": None},
        {"weight": np.arange(6.0, dtype=np.float32).reshape(2, 3)},
    ],
)
def test_sha256_notices_every_change(change):
    assert compute_sha256(state() | change) != compute_sha256(state())


def test_sha256_takes_every_type_of_tensor():
    for tensor in (torch.tensor(3.0), torch.zeros(0), torch.ones(2).bfloat16(), torch.tensor(True)):
        assert compute_sha256(tensor) == compute_sha256(tensor.clone())


def test_sha256_sees_every_element_of_an_array():
    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1  # NumPy prints neither
    assert compute_sha256(one) != compute_sha256(other)
    assert compute_sha256(one) == compute_sha256(np.zeros(5000))


@pytest.mark.parametrize("value", [nn.Linear(2, 2), {1, 2}, object(), np.array([None]), len])
def test_sha256_refuses_what_it_cannot_see_into(value):
    with pytest.raises(TypeError, match="compute_sha256 can't see into a"):
        compute_sha256({"state": [value]})


def test_sha256_refuses_sparse_tensors_and_takes_views():
    with pytest.raises(TypeError):
        compute_sha256(torch.eye(3).to_sparse())
    complex_tensor = torch.tensor([1 + 2j])
    assert compute_sha256(complex_tensor.conj()) != compute_sha256(complex_tensor)
    assert compute_sha256(torch.ones(1).expand(4)) == compute_sha256(torch.ones(4))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, ["dict", ("a", 1)]),
        (torch.zeros(0), ["tensor", "torch.float32", 0]),
        (np.int32([1, 2]), ["array", "int32", 2, np.int32([1, 2]).tobytes()]),
        ([[1], 2], [[1, 2]]),
        (["ab"], ["a", "b"]),
        ({"a": {"b": 1}}, {"a": {}, "b": 1}),
    ],
)
def test_sha256_of_different_things_that_look_alike(one, other):
    assert compute_sha256(one) != compute_sha256(other)


@pytest.mark.parametrize(
    "value",
    [
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        torch.ones(3, device="meta"),
        nn.LazyLinear(3).weight,
        np.ma.array([1, 2], mask=[1, 0]),
    ],
    ids=["quantized", "meta", "lazy", "masked"],
)
def test_sha256_refuses_what_has_no_bits_of_its_own(value):
    with pytest.raises(TypeError):
        compute_sha256(value)


def test_every_use_of_a_seed_has_its_own_numbers():
    seeds = {
        seed_batch(seed, epoch, batch, use)
        for seed in (0, 1, 123)
        for epoch in (1, 2)
        for batch in (0, 1, 2)
        for use in (ORDER, FETCH, STEP, TRAIN_ACCURACY, VALID_ACCURACY, TEST_ACCURACY)
    }
    assert len(seeds) == 3 * 2 * 3 * 6
