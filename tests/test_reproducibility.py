"""Seeds, deterministic algorithms, and a hash that notices every change and never lies."""

import contextlib
import functools
import os
import random
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from helper.reproducibility import (
    LARGE,
    Stream,
    compute_sha256,
    find_generators,
    find_parts,
    preserve_rng_state,
    seed_batch,
    seed_generator,
    seed_loader,
    set_all_seeds,
    set_deterministic,
)
from tests.support.programs.draw_from_generators import draw_from_all, make_generators

ROOT = Path(__file__).parents[1]


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


# ---- The numbers of one batch ----


def test_every_use_of_a_seed_has_its_own_numbers():
    seeds = {
        seed_batch(seed, epoch, batch, stream)
        for seed in (0, 1, 2**32 - 1)
        for epoch in (1, 2)
        for batch in (0, 1, 2)
        for stream in Stream
    }
    assert len(seeds) == 3 * 2 * 3 * len(Stream)


@pytest.mark.parametrize("kind", make_generators())
def test_each_kind_of_generator_is_seeded(kind):
    one, other = make_generators()[kind], make_generators()[kind]
    seed_generator(one, 2**32 - 1)
    before = draw_from_all([one])
    assert draw_from_all([one]) != before
    draw_from_all([other])
    seed_generator(other, 2**32 - 1)
    assert draw_from_all([other]) == before
    seed_generator(other, 1)
    assert draw_from_all([other]) != before


def test_half_a_number_that_is_left_over_is_forgotten():
    """NumPy and Python keep the second of two normal numbers, or half of 64 bits, for later."""
    for generator in make_generators().values():
        seed_generator(generator, 5)
        expected = draw_from_all([generator])
        if isinstance(generator, np.random.Generator):
            generator.integers(9, dtype=np.int32)
        elif isinstance(generator, np.random.RandomState):
            generator.randn()
        elif isinstance(generator, random.Random):
            generator.gauss(0, 1)
        seed_generator(generator, 5)
        assert draw_from_all([generator]) == expected


def test_generators_and_the_global_ones_have_different_numbers():
    one, other = torch.Generator(), torch.Generator()
    seed_batch(5, 1, 2, Stream.FETCH, [one, other])
    draws = torch.rand(1).item(), *draw_from_all([one, other])
    assert len(set(draws)) == 3
    assert seed_batch(5, 1, 2, Stream.FETCH) == seed_batch(5, 1, 2, Stream.FETCH, [one])
    assert (torch.rand(1).item(), *draw_from_all([one])) == draws[:2]  # more of them change nothing


@pytest.mark.slow
def test_the_same_numbers_in_every_process():
    program = ROOT / "tests" / "support" / "programs" / "draw_from_generators.py"
    result = subprocess.run(
        [sys.executable, "-B", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    generators = [*make_generators().values()]
    seed_batch(7, 2, 3, Stream.FETCH, generators)
    assert result.stdout.split() == [str(number) for number in draw_from_all(generators)]


def test_random_numbers_are_preserved():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    set_all_seeds(3)
    expected = draw()
    set_all_seeds(3)
    with contextlib.suppress(ZeroDivisionError), preserve_rng_state("cpu"):
        assert draw() == expected
        set_all_seeds(4)
        raise ZeroDivisionError
    assert draw() == expected


# ---- What a loader holds ----


IN_A_GLOBAL_VARIABLE = torch.Generator()


class Slotted:
    __slots__ = ("empty", "generator")

    def __init__(self, generator):
        self.generator = generator


class SlottedBelow(Slotted):
    __slots__ = ("more",)


class Watchful:
    """Notices when somebody calls its property, which may open a file or draw a number."""

    def __init__(self, generator):
        self.generator, self.calls = generator, 0

    @property
    def image(self):
        self.calls += 1
        return torch.Generator()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AssertionError(f"somebody has asked for {name}")

    def draw(self):
        return self.generator


def closure(generator):
    def draw():
        return generator, not_yet

    if generator is None:
        not_yet = 1
    return draw


def keyword_only(generator):
    def draw(*, generator=generator):
        return generator

    return draw


def on_class(value):
    """Return an object whose class has inherited an attribute."""
    return type("Below", (type("Above", (), {"attribute": value}),), {})()


def in_a_cycle(generator):
    one, other = [], {}
    one += [other, one]
    other |= {"one": one, "generator": generator}
    return one


HOLDERS = {
    "itself": lambda g: g,
    "attribute": lambda g: SimpleNamespace(deeper=SimpleNamespace(generator=g)),
    "slot": Slotted,
    "slot of a base class": SlottedBelow,
    "class attribute": on_class,
    "list on the class": lambda g: on_class([g]),
    "default of a method": lambda g: on_class(lambda self, generator=g: generator),
    "closure of a method": lambda g: on_class(closure(g)),
    "static method": lambda g: on_class(staticmethod(closure(g))),
    "class method": lambda g: on_class(classmethod(closure(g))),
    "property": lambda g: on_class(property(closure(g))),
    "deque": lambda g: deque([g]),
    "list": lambda g: [1, [g]],
    "tuple": lambda g: ("a", (g,)),
    "dict": lambda g: {"a": {"b": g}},
    "argument of a partial": lambda g: functools.partial(max, 1, g),
    "keyword of a partial": lambda g: functools.partial(max, key=g),
    "bound method": lambda g: Watchful(g).draw,
    "closure": closure,
    "lambda with a default": lambda g: lambda x, generator=g: x,
    "keyword-only default": keyword_only,
    "module of PyTorch": lambda g: nn.Sequential(Draw(g)),
    "cycle": in_a_cycle,
    "a long list's neighbor": lambda g: [[0] * (LARGE + 1), g],
    "list of 1,000": lambda g: [*range(LARGE - 1), g],
    "dataset": lambda g: DataLoader(Watchful(g), batch_size=None),
    "sampler": lambda g: DataLoader(
        [1, 2], sampler=torch.utils.data.RandomSampler([1], generator=g)
    ),
    "collate function": lambda g: DataLoader([1, 2], collate_fn=functools.partial(max, key=g)),
}


class Draw(nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.generator = generator


@pytest.mark.parametrize("place", HOLDERS)
def test_where_a_generator_is_found(place):
    kinds = ["torch"] if place == "sampler" else make_generators()
    for kind in kinds:
        generator = make_generators()[kind]
        found = find_generators(find_parts(HOLDERS[place](generator)))
        assert [each is generator for each in found] == [True], kind


@pytest.mark.parametrize(
    "holder",
    [
        lambda g: [*range(LARGE), g],
        lambda g: {**dict.fromkeys(range(LARGE)), "generator": g},
        lambda g: {g},
        lambda g: SimpleNamespace(_iterator=g),
        lambda g: lambda: IN_A_GLOBAL_VARIABLE,
        lambda g: SimpleNamespace(transform=Watchful(1).draw),
        lambda g: [1, "a", torch.ones(3), np.array([g], dtype=object)],
    ],
)
def test_where_nobody_looks(holder):
    assert find_generators(find_parts(holder(torch.Generator()))) == []


def test_what_is_found_once_comes_once_and_the_nearest_comes_first():
    near, far = torch.Generator(), random.Random()
    holder = {"deep": [[far]], "twice": (near, near), "again": [near, far]}
    assert find_generators(find_parts(holder, [far])) == [far, near]
    watchful = Watchful(near)
    assert find_generators(find_parts([watchful, watchful.draw])) == [near]
    assert watchful.calls == 0


def test_a_structure_without_end():
    class Endless:
        def __init__(self):
            self.first = torch.Generator()

    chain = root = Endless()
    for _ in range(20_000):
        chain.next = Endless()
        chain = chain.next
    assert 0 < len(find_generators(find_parts(root))) <= 10_000


@pytest.mark.parametrize("shuffle", ["loader", "its generator", "DistributedSampler"])
def test_the_order_of_a_loader_depends_on_seed_epoch_and_stream_alone(shuffle):
    def make_loader():
        dataset = TensorDataset(torch.arange(50))
        if shuffle == "DistributedSampler":
            return DataLoader(dataset, sampler=DistributedSampler(dataset, 1, 0))
        generator = torch.Generator() if shuffle == "its generator" else None
        return DataLoader(dataset, shuffle=True, generator=generator)

    def order(loader, *position):
        seed_loader(loader, *position)
        return [batch.item() for (batch,) in loader]

    used, new = make_loader(), make_loader()
    orders = [order(used, 5, epoch, Stream.ORDER) for epoch in (1, 2, 1)]
    assert orders[0] == orders[2] == order(new, 5, 1, Stream.ORDER)
    assert orders[0] != orders[1]
    if shuffle != "DistributedSampler":  # it has a seed of its own
        assert (
            order(used, 6, 1, Stream.ORDER) != orders[0] != order(used, 5, 1, Stream.TEST_ACCURACY)
        )
