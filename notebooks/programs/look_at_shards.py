"""What each of several ranks holds of LeNet-5."""

import torch
import torch.distributed as dist

from helper.distributed import load_sharded, save_sharded
from helper.history import History
from programs.train_many import hash_run, new_run


def look():
    """Return lines that say what this rank holds, and how many bytes that are."""
    rank, size = dist.get_rank(), dist.get_world_size()
    numbers = torch.tensor(rank + 1)
    dist.all_reduce(numbers)  # the sum over all ranks, on every rank
    lines = [f"Rank {rank} of {size}: I bring {rank + 1}; together we have {numbers}."]

    model, _, _ = new_run(seed=123)
    num_bytes = 0
    for name, parameter in model.named_parameters():
        local = parameter.to_local()  # this rank's rows
        shapes = f"{str([*parameter.shape]):14} of which {str([*local.shape]):14}"
        lines.append(f"    {name:20} {shapes} {local.nbytes:7,} bytes")
        num_bytes += local.nbytes
    return "\n".join(lines), num_bytes


def save_new_run(folder, seed):
    """Save a run that hasn't been trained yet."""
    save_sharded(folder, *new_run(seed), History(seed=seed))


def load_and_hash(folder):
    """Load a run; return how far it is, and the SHA-256 over all its rows."""
    run = new_run(seed=42)
    history = load_sharded(folder, *run)
    return history.position, hash_run(run)
