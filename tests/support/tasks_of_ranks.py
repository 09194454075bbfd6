"""Tasks of the ranks in tests/test_many_programs.py. Each rank imports this: it imports little."""

import os
import signal

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException


def who_am_i(*arguments):
    return dist.get_rank(), dist.get_world_size(), arguments


def fail_on_rank_one(action):
    if dist.get_rank() == 1:
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "raise":
            raise KeyError("mine")
        if action == "raise dcp's error":  # a BaseException
            raise CheckpointException("mine", {})
    return "fine"


def add_up():
    number = torch.tensor(dist.get_rank() + 1)
    dist.all_reduce(number)
    print("lost")
    return number.item()


def equal_halves():
    from programs import layers

    model = layers.meta_and_reset(5)
    return [torch.equal(*p.full_tensor().chunk(2)) for p in model.parameters()]


def most_bytes():
    """Return the most bytes that the layers have held while a model was made."""
    from programs import layers

    most = 0

    def shard_and_count(layer):
        nonlocal most
        created.append(layer)
        most = max(most, held())
        layers.shard(layer)

    def held():
        parameters = [p for layer in created for p in layer.parameters()]
        return sum(getattr(p, "to_local", lambda p=p: p)().nbytes for p in parameters)

    created = []
    layers.Deep(ready=shard_and_count)
    return most, held()
