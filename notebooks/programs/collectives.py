"""What happens to the other ranks when only rank 0 calls a collective."""

from datetime import timedelta

import torch
import torch.distributed as dist

from programs import ranks


def train_and_log():
    """Three training steps. Rank 0 also wants to print the loss of all ranks, and adds it up."""
    rank, seen = dist.get_rank(), []
    for step in (1, 2, 3):
        loss = torch.tensor([1, 2][rank])  # together 3
        gradient = torch.tensor([10, 20][rank] * step)  # together 30, 60, 90
        try:
            if rank == 0:
                dist.all_reduce(loss)  # the mistake
                seen.append(f"step {step}: loss {loss}")
            dist.all_reduce(gradient)
            seen.append(f"step {step}: gradient {gradient}")
        except RuntimeError:
            seen.append(f"step {step}: an error, because rank 1 has ended")
            break
    return seen


def wait_for_a_rank():
    """Rank 0 calls a collective, with a timeout of one second. Rank 1 waits until it's over."""
    group = dist.new_group(timeout=timedelta(seconds=1))
    seen = "did something else"
    if dist.get_rank() == 0:
        try:
            dist.all_reduce(torch.ones(1), group=group)
        except RuntimeError:
            seen = "gave up"
        ranks.store.set("rank 0 is done", "")
    else:
        ranks.store.wait(["rank 0 is done"])
    return seen
