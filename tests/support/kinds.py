"""Runs that are spread over four ranks in all the ways that a model can be."""

import copy
from collections import OrderedDict

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from helper.distributed import load_sharded, save_sharded
from helper.history import History
from helper.ranks import all_gather
from helper.reproducibility import compute_sha256
from tests.support.many import caught, left_in, local, position, unsharded

PLAN = {"0": ColwiseParallel(), "2": RowwiseParallel()}


def block():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6), nn.LayerNorm(6))


def whole():
    """Return a model of two blocks, and a buffer that differs between ranks."""
    norm = nn.BatchNorm1d(6)
    norm.running_mean += position()[0]
    return chain(first=block(), second=block(), norm=norm)


def chain(**layers):
    return nn.Sequential(OrderedDict(layers))


def mesh(shape, *names):
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def fsdp():
    model = whole()
    for part in (model.first, model.second, model):
        fully_shard(part, mesh=mesh((4,), "dp"))
    return model


def hsdp():
    model = whole()
    fully_shard(model, mesh=mesh((2, 2), "replicas", "shards"))
    return model


def tensor_parallel():
    model = whole()
    for part in (model.first, model.second):
        parallelize_module(part, mesh((4,), "tp"), PLAN)
    return model


def tensor_parallel_and_fsdp():
    model, both = whole(), mesh((2, 2), "dp", "tp")
    for part in (model.first, model.second):
        parallelize_module(part, both["tp"], PLAN)
        fully_shard(part, mesh=both["dp"])  # the LayerNorm is on two meshes: dp for each rank of tp
    return model


def copies():
    """What DDP has: the same parameters on every rank."""
    return whole()


def my_stage(mesh_of_both):
    """Return the number of this rank's stage, and the mesh of the ranks that share it."""
    return mesh_of_both["pp"].get_local_rank(), mesh_of_both["dp"]


def stages(sharded=True, equal_names=False):
    """Two stages, each on two ranks."""
    number, ranks = my_stage(mesh((2, 2), "pp", "dp"))
    model = whole()
    name = ("first", "second")[number]
    stage = chain(**{"same" if equal_names else name: getattr(model, name)})
    if number == 1 and not equal_names:
        stage.add_module("norm", model.norm)
    if sharded:
        fully_shard(stage, mesh=ranks)
    return stage


def copied_stages():
    return stages(sharded=False)


def stages_with_equal_names():
    return stages(equal_names=True)


def experts():
    """A parameter that each rank has for itself, under one name, and that isn't a DTensor."""
    model = whole()
    with torch.no_grad():
        model.second[0].weight += position()[0]
    return model


def experts_of_two_shapes():
    model = whole()
    model.second = nn.Sequential(nn.Linear(6, 6 + position()[0]), nn.Linear(6 + position()[0], 6))
    return model


class Kind:
    """A fresh run of one kind, that each rank trains on numbers of its own."""

    def __init__(self, make, optimizer=torch.optim.AdamW, with_others=False):
        torch.manual_seed(1)
        self.model = make()
        parameters = [*self.model.parameters()]
        self.others = {}
        if with_others:
            self.others["second"] = torch.optim.SGD(parameters[-2:], lr=0.1, momentum=0.9)
            self.others["average"] = make()
            self.others["scaler"] = torch.amp.GradScaler("cpu", init_scale=8.0)
            self.others["noise"] = Noise()
            parameters = parameters[:-2]
        groups = [{"params": parameters[::2]}, {"params": parameters[1::2], "lr": 0.02}]
        self.optimizer = optimizer(groups, lr=torch.tensor(0.01))
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, total_iters=9)
        self.history = History(seed=5, batches_per_epoch=9, batch_size=4)

    @property
    def parts(self):
        return self.model, self.optimizer, self.scheduler, *self.others.values()

    def train(self, until):
        while self.history.batch < until:
            torch.manual_seed(self.history.batch)
            self.model(torch.randn(4, 6)).square().mean().backward()
            for part in self.parts:
                if isinstance(part, torch.optim.Optimizer):
                    part.step()
            self.model.zero_grad()
            self.scheduler.step()
            if self.others:
                average(self.others["average"], self.model)
                self.others["noise"].values += position()[0] + 1
            self.history.minibatch_loss.append(0.5)
        return self

    def save(self, folder="run", **settings):
        run = self.model, self.optimizer, self.scheduler, self.history
        save_sharded(folder, *run, **settings, **self.others)
        return self

    def load(self, folder="run", **settings):
        run = self.model, self.optimizer, self.scheduler
        self.history = load_sharded(folder, *run, **settings, **self.others)
        return self

    def sha256(self):
        """Return the SHA-256 of what this rank holds."""
        states = [part.state_dict() for part in (*self.parts, self.history)]
        return compute_sha256(*map(local, copy.deepcopy(states)))


@torch.no_grad()
def average(averaged, model):
    for one, other in zip(averaged.parameters(), model.parameters(), strict=True):
        one.lerp_(other, 0.5)


class Noise:
    """An object of the user's, with a tensor that differs between ranks."""

    def __init__(self):
        self.values = torch.zeros(3)

    def state_dict(self):
        return {"values": self.values, "name": "noise"}

    def load_state_dict(self, state):
        self.values = state["values"].clone()


# Tasks of a rank


def save_and_continue(make, optimizer=torch.optim.AdamW, with_others=False, wait=True):
    """Return what each of these steps leaves: saving, loading, and training after each of them."""
    run = Kind(make, optimizer, with_others).train(2)
    before = run.sha256()
    run.save(wait=wait)
    saved = run.sha256()
    trained = run.train(4).sha256()
    again = Kind(make, optimizer, with_others).load()
    return before, saved, again.sha256(), trained, again.train(4).sha256()


def save_what_is_refused(make, wait=True):
    run = Kind(make)
    return caught(lambda: run.save()), left_in("run")


def load_each_from_each(makes):
    """Save each kind, load it into each other; return the names of weights that differ."""
    differing = []
    for saving in makes:
        run = Kind(saving).train(1).save(saving.__name__)
        weights = everything(run.model)
        for loading in makes:
            other = everything(Kind(loading).load(saving.__name__).model)
            differing.append([name for name in weights if not weights[name].equal(other[name])])
    return differing


def everything(model):
    """Return the weights of the whole model, whoever has them."""
    weights = {}
    for of_one_rank in all_gather(unsharded(dict(model.named_parameters()))):
        weights |= of_one_rank
    return weights


class WithRows(torch.optim.SGD):
    """Also keeps the sum of each row's gradients: a state with a shape of its own."""

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if parameter.dim() == 2:
                    rows = parameter.grad.detach().sum(dim=1, keepdim=True)
                    state["rows"] = state.get("rows", 0.0) + rows
        return super().step()
