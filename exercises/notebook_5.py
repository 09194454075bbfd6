"""The checks of the exercises in notebook 5."""

import os

import torch
from torch import nn

from exercises.check import copy_of, equal, exercise, named_layers, need, refuses, train_on
from helper.reproducibility import compute_sha256


def small_model():
    """Return a model with tensors of three types."""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=torch.float64))


@exercise
def check_load_lean(call, folder):
    """Hand it a file in the model's own types, and one in half precision."""
    path, devices = os.path.join(folder, "saved.pt"), []

    def make_model():
        devices.append(torch.empty(0).device.type)
        return small_model()

    trained = small_model()
    train_on(trained)
    state = trained.state_dict()
    for kind, convert in [("float32", lambda t: t), ("float16", torch.Tensor.half)]:
        saved = {n: convert(t) if t.is_floating_point() else t for n, t in state.items()}
        torch.save(saved, path)
        try:
            model = call(path, make_model, when=f"for a file in {kind}, ")
        finally:
            if on_meta := torch.empty(0).is_meta:
                torch.set_default_device(None)
        need(
            not on_meta, "from now on, all is made on meta: `with torch.device` would have an end."
        )
        need(model is not None, "your function returns nothing: return the model.")
        found = type(model).__name__
        need(isinstance(model, nn.Module), f"the answer is of type {found}, not a model.")
        need(devices and set(devices) == {"meta"}, "the model took memory: make it on meta.")
        tensors = model.state_dict()
        need(set(tensors) == set(state), "the model is not one of make_model.")
        for name, tensor in tensors.items():
            on = tensor.device.type
            need(on == "cpu", f"{name} is on {on}: without assign=True, it has nothing to fill.")
            own = f"make_model makes it {state[name].dtype}"
            need(tensor.dtype == state[name].dtype, f"{name} is {tensor.dtype}, but {own}.")
            right = torch.equal(tensor, saved[name].to(tensor.dtype))
            need(right, f"{name} does not hold the numbers of the file.")
        learns = all(p.requires_grad for p in model.parameters())
        need(learns and len([*model.parameters()]) == 6, "the model has lost parameters.")
        del model, tensors, tensor  # so that nothing of the file is mapped when it is written anew

    del saved["0.bias"]
    torch.save(saved, path)
    need(refuses(call, path, make_model), "a file without 0.bias is loaded, and no error says so.")
    return "made on meta, filled from the file, each tensor in the type that the model gives it"


LAYERS = ["features", "classifier.1", "classifier.2", "classifier.20"]


def network():
    """Return a model with layers of similar names, and with a buffer."""
    model = named_layers(*LAYERS)
    model.register_buffer("mean", torch.ones(2))
    return model


def without(state, prefix):
    """Return a state without the names that begin with a prefix."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


@exercise
def check_take_over(call, folder):
    """Hand it states with another last layer or none, and three that don't fit otherwise."""
    head = "classifier.2"
    state = copy_of(network())
    state["mean"] += 1
    other = {f"{head}.weight": torch.ones(10, 2), f"{head}.bias": torch.ones(10)}
    for kind, given in [
        ("with ten classes", {**state, **other}),
        (f"without {head}", without(state, f"{head}.")),
        ("with as many classes", state),
    ]:
        model, before = network(), dict(given)
        fresh = copy_of(model)
        call(given, model, head, when=f"for a state {kind}, ")
        need(list(given) == list(before), "your function changes the dict it was given.")
        after = copy_of(model)
        for name in after:
            if name.startswith(f"{head}."):
                as_it_was = torch.equal(after[name], fresh[name])
                need(as_it_was, f"{name} should stay new, but for a state {kind}, it has changed.")
            else:
                need(
                    torch.equal(after[name], state[name]),
                    f"for a state {kind}, {name} does not hold the tensor of the state.",
                )

    for kind, given in [
        ("without features.bias", without(state, "features.bias")),
        ("without classifier.20", without(state, "classifier.20.")),
        ("that has a layer too many", {**state, "extra.weight": torch.ones(2)}),
        ("whose names begin with module.", {f"module.{n}": t for n, t in state.items()}),
    ]:
        refused = refuses(call, given, network(), head)
        need(refused, f"a state {kind} is accepted, and no error says so.")
    return "all layers but the last are taken over, and a state that does not fit is refused"


@exercise
def check_load_head(call, folder):
    """Load into the network of the file, and into four that differ from it."""
    path, head = os.path.join(folder, "head.pt"), "classifier.2"
    trained = network()
    state = copy_of(trained)
    backbone = without(state, f"{head}.")
    layer = trained.get_submodule(head).state_dict()
    torch.save({"last_layer": layer, "backbone_sha256": compute_sha256(backbone)}, path)

    model = network()
    model.load_state_dict(backbone, strict=False)
    before = copy_of(model)
    call(path, model, head, when="for the network of the file, ")
    after = copy_of(model)
    need(not equal(after, before), "the layer was not loaded into the network that it belongs to.")
    need(equal(after, state), "the layer is loaded, but the network is not the one that was saved.")

    for name in ["features.weight", "classifier.20.bias", "mean", "classifier.1.weight"]:
        model = network()
        model.load_state_dict(backbone, strict=False)
        model.state_dict()[name].view(-1)[0] += 1e-3
        before = copy_of(model)
        refused = refuses(call, path, model, head)
        need(refused, f"a network with another {name} gets the layer, and no error says so.")
        need(equal(copy_of(model), before), "a network was refused, but it has changed already.")
    return "the layer goes into its own network, and one that differs in a number is refused"
