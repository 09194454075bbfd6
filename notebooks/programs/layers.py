"""Three ways to make a sharded model. With the first, the whole model has to fit into one rank."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from helper.distributed import load_sharded, save_sharded
from helper.history import History
from helper.reproducibility import compute_sha256, set_all_seeds, set_deterministic
from programs.train_many import full_tensors


class Deep(nn.Module):
    """Eight layers, and a buffer that isn't part of the state. `ready` gets each new layer."""

    def __init__(self, ready=lambda layer: None):
        super().__init__()
        self.layers = nn.Sequential()
        for _ in range(8):
            layer = nn.Linear(64, 64)
            ready(layer)  # before the next one is created
            self.layers.append(layer)
        self.register_buffer("scale", torch.full((64,), 0.5), persistent=False)

    def forward(self, x):
        return self.layers(x) * self.scale


def shard(module):
    fully_shard(module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def whole_first(seed):
    """Every rank holds the whole model for a moment."""
    set_all_seeds(seed)
    model = Deep()
    for layer in model.layers:
        shard(layer)
    shard(model)
    return model


def layer_by_layer(seed):
    """A rank never holds more than its shards and one whole layer."""
    set_all_seeds(seed)
    model = Deep(ready=shard)
    shard(model)
    return model


def on_meta():
    """No numbers yet: only shapes. `to_empty` then makes room for this rank's rows."""
    with torch.device("meta"):
        model = Deep(ready=shard)
        shard(model)
    model.to_empty(device="cpu")
    return model


def meta_and_reset(seed):
    """Each rank draws numbers for its own rows."""
    model = on_meta()
    set_all_seeds(seed)
    for layer in model.layers:
        layer.reset_parameters()
    return model


def hash_models(seed):
    """Return the SHA-256 of the weights that each way makes."""
    return {
        way.__name__: compute_sha256(full_tensors(way(seed).state_dict()))
        for way in (whole_first, layer_by_layer, meta_and_reset)
    }


def save(folder, seed):
    model = layer_by_layer(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_sharded(folder, model, optimizer, None, History(seed=seed))
    return model(torch.ones(64)).sum().item()


def load(folder, set_buffers):
    """Load into a model made on `meta`; return its answer, and which buffers weren't loaded."""
    set_deterministic()  # which also fills empty tensors with NaN
    model = on_meta()
    load_sharded(folder, model)
    left = {name for name, _ in model.named_buffers()} - {*model.state_dict()}
    if set_buffers:
        model.scale = torch.full((64,), 0.5)
    return model(torch.ones(64)).sum().item(), sorted(left)
