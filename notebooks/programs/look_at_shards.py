"""What each of several processes holds of LeNet-5; torchrun starts this file once for each."""

import os

import torch
import torch.distributed as dist
from train_many import new_run

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()

numbers = torch.tensor(rank + 1)
dist.all_reduce(numbers)  # the sum over all ranks, on every rank
lines = [f"Rank {rank} of {size}: I bring {rank + 1}; together we have {numbers}."]

model, _, _ = new_run(seed=123)
for name, parameter in model.named_parameters():
    local = parameter.to_local()
    shapes = f"{str([*parameter.shape]):14} of which {str([*local.shape]):14}"
    lines.append(f"    {name:20} {shapes} {local.nbytes:7,} bytes are mine")

for turn in range(size):  # one rank after the other
    if turn == rank:
        print(*lines, sep="\n", flush=True)
    dist.barrier()
os._exit(0)  # at a usual end, gloo's threads now and then abort the process
