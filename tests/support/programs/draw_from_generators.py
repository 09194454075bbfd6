"""Seed every kind of generator for one batch, and print what each of them draws."""

import random

import numpy as np
import torch

from helper.reproducibility import Stream, seed_batch


def make_generators():
    """Return a generator of each kind, whose state nobody has seeded."""
    bit_generators = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937)
    bit_generators += (np.random.Philox, np.random.SFC64)
    generators = {kind.__name__: np.random.Generator(kind()) for kind in bit_generators}
    generators |= {"RandomState": np.random.RandomState(), "Random": random.Random()}
    generators["torch"] = torch.Generator()
    generators["torch"].seed()
    return generators


def draw_from_all(generators):
    """Return one normal number from each generator, to its last digit."""
    draws = []
    for generator in generators:
        if isinstance(generator, torch.Generator):
            draws.append(torch.randn(1, generator=generator).item())
        elif isinstance(generator, random.Random):
            draws.append(generator.gauss(0, 1))
        else:
            draws.append(float(generator.normal()))
    return draws


if __name__ == "__main__":
    generators = make_generators()
    seed_batch(7, 2, 3, Stream.FETCH, [*generators.values()])
    print(*draw_from_all(generators.values()))
