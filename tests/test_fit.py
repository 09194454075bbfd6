"""A checkpoint is loaded into what it was saved from, or refused, and a refusal changes nothing."""

import warnings
from itertools import permutations

import pytest
import torch
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from helper.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from helper.history import History
from tests.support.checkpoints import (
    HISTORY,
    OPTIMIZERS,
    SCHEDULERS,
    Tied,
    assert_round_trip,
    make,
    net,
    refused,
    sequence,
    sha256,
    take_steps,
)

pytest_plugins = "tests.support.saved_run"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


# ---- The model ----


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: net(4, 3, 5), r"1\.weight is float32 \(2, 3\) in the file and float32 \(5, 3\)"),
        (lambda: net(4, 3, 2).double(), r"0\.weight is float32 \(3, 4\) .* float64 \(3, 4\)"),
        (lambda: net(4, 3), r"1\.weight is float32 \(2, 3\) in the file and missing in yours"),
        (
            lambda: net(4, 3, 2, 2),
            r"2\.weight is missing in the file and float32 \(2, 2\) in yours",
        ),
        (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), r"0\.weight is float32"),
        (lambda: nn.ModuleDict({"linear": nn.Linear(4, 3)}), r"linear\.weight is missing in the f"),
    ],
)
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_different_model(path, model, message, with_optimizer):
    saved = make(None, "momentum", "StepLR")
    take_steps(*saved)
    save_checkpoint(path, *saved, History())
    yours = make(model(), "momentum", "StepLR")
    with refused(
        yours, f"belongs to a different model: {message}.*Create the model with the same class"
    ):
        load_checkpoint(path, *(yours if with_optimizer else yours[:1]))


def test_tied_weights_and_untied_ones(path):
    for saved in (True, False):
        save_checkpoint(path, *make(Tied(saved), "Adam"), History())
        yours = make(Tied(not saved), "Adam")
        with refused(yours, "belongs to a different model: decode.weight is .*tied to encode"):
            load_checkpoint(path, *yours[:1])


class Model(nn.Module):
    """A model in which one layer or more can be wrapped."""

    def __init__(self, wrap=lambda layer: layer, wrap_other=lambda layer: layer):
        super().__init__()
        self.features = wrap(net(4, 3))
        self.classifier = wrap_other(nn.Linear(3, 2))


def compiled(model):
    return torch.compile(model, backend="eager")


class LikeDDP(nn.Module):
    """What DistributedDataParallel does with names, which needs no process group."""

    __name__ = DistributedDataParallel.__name__

    def __init__(self, module):
        super().__init__()
        self.module = module


WHOLE = {
    "DataParallel": (nn.DataParallel, "module"),
    "like DistributedDataParallel": (LikeDDP, "module"),
    "compiled": (compiled, "_orig_mod"),
    "parallel, compiled inside": (lambda m: nn.DataParallel(compiled(m)), "module._orig_mod"),
    "compiled, parallel inside": (lambda m: compiled(nn.DataParallel(m)), "_orig_mod.module"),
}
WRAPPERS = {"module": "DataParallel", "_orig_mod": "torch.compile"}


def load_advice(path, saved, loaded):
    """Save a model, see that loading it into the other one is refused, and return the advice."""
    save_checkpoint(path, *make(saved), History())
    load_checkpoint(path, saved)  # it fits itself
    before = sha256([loaded])
    with pytest.raises(CheckpointError, match="belongs to a different model") as refusal:
        load_checkpoint(path, loaded)
    assert sha256([loaded]) == before
    return str(refusal.value).partition(" in yours. ")[2]


@pytest.mark.parametrize("name", WHOLE)
def test_a_wrapped_model(path, name):
    """The commonest question about loading: the message says which model to pass."""
    wrap, inside = WHOLE[name]
    in_file = load_advice(path, wrap(Model()), Model())
    now = load_advice(path, Model(), wrap(Model()))
    assert f" model.{inside} instead." in now
    assert " Wrap model now too." in in_file
    for word in inside.split("."):
        assert WRAPPERS[word] in now
        assert WRAPPERS[word] in in_file


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled])
def test_a_wrapped_part_of_a_model(path, wrap):
    """As in AlexNet on two GPUs: there is no model.module, and the model isn't to be wrapped."""
    word = "module" if wrap is nn.DataParallel else "_orig_mod"
    for wrapped, layers in (
        (Model(wrap), ["features"]),
        (Model(wrap, wrap), ["features", "classifier"]),
    ):
        in_file = load_advice(path, wrapped, Model())
        now = load_advice(path, Model(), wrapped)
        for layer in layers:
            assert f"model.{layer}.{word}" in now
            assert f"model.{layer}" in in_file
        for advice in (now, in_file):
            assert WRAPPERS[word] in advice
            assert f"model.{word}" not in advice


def test_wrapped_in_different_ways(path):
    """Each model must be named; and a layer may be called `module` without being wrapped."""
    advice = load_advice(path, nn.DataParallel(Model()), compiled(Model()))
    assert all(name in advice for name in ("DataParallel", "torch.compile", "model._orig_mod"))
    for saved, loaded in permutations([net(4, 3), nn.DataParallel(net(4, 3, 2))]):
        assert "Create the model with the same class" in load_advice(path, saved, loaded)


def test_a_wrapped_model_among_the_others(path):
    parts = make()
    save_checkpoint(path, *parts, History(), teacher=nn.DataParallel(net(4, 3)))
    with refused(parts, "different teacher: .*DataParallel"):
        load_checkpoint(path, *parts, teacher=net(4, 3))


# ---- The optimizer ----


def test_a_different_optimizer(path):
    """PyTorch itself takes any of them, and fails or goes astray at the next step."""
    kinds = set(OPTIMIZERS) - {"momentum", "nesterov", "amsgrad"}  # settings, not other optimizers
    for saved in sorted(kinds):
        parts = make(None, saved)
        take_steps(*parts)
        save_checkpoint(path, *parts, History())
        for yours in sorted(kinds - {saved}):
            names = [OPTIMIZERS[kind][0].__name__ for kind in (saved, yours)]
            with refused(
                other := make(None, yours), "class is {} in the file and {} in y".format(*names)
            ):
                load_checkpoint(path, *other)


def test_settings_of_the_optimizer_come_from_the_file(path):
    """The run continues with the momentum and the learning rate that it had, as in PyTorch."""
    for saved, yours in permutations(["SGD", "momentum", "nesterov"], 2):
        assert_round_trip(make(None, saved), make(None, yours), path)


@pytest.mark.parametrize(
    "groups",
    [
        lambda w0, b0, w1, b1: [w0, b0],
        lambda w0, b0, w1, b1: [w0, b0, w1, b1, nn.Parameter(torch.ones(1))],
        lambda w0, b0, w1, b1: [w1, b1, w0, b0],
        lambda w0, b0, w1, b1: [{"params": [w0, b0]}, {"params": [w1, b1]}],
    ],
)
@pytest.mark.parametrize("optimizer", ["momentum", "Adam"])
def test_an_optimizer_of_different_parameters(path, optimizer, groups):
    saved = make(None, optimizer)
    take_steps(*saved)
    save_checkpoint(path, *saved, History())
    model = net(4, 3, 2)
    optimizer_class, settings = OPTIMIZERS[optimizer]
    yours = model, optimizer_class(groups(*model.parameters()), lr=0.01, **settings), None
    with refused(yours, "belongs to a different (optimizer|model)"):
        load_checkpoint(path, *yours)


def test_parameters_of_one_shape_in_a_different_order(path):
    """PyTorch matches momentum by position, and says nothing."""
    model = net(3, 3, 3)
    first, second = list(model[0].parameters()), list(model[1].parameters())
    saved = model, optim.Adam([*first, *second]), None
    take_steps(*saved)
    save_checkpoint(path, *saved, History())
    with refused(saved[:1], "parameter 0 of group 0 is 0.weight in the file and 1.weight in yours"):
        load_checkpoint(path, model, optim.Adam([*second, *first]))


def test_a_layer_that_is_no_longer_frozen(path):
    saved, yours = make(None, "Adam"), make(None, "Adam")
    saved[0][0].requires_grad_(False)
    save_checkpoint(path, *saved, History())
    with refused(yours, "0.weight; frozen in the file and 0.weight in yours"):
        load_checkpoint(path, *yours)
    load_checkpoint(path, yours[0])  # to predict


# ---- The scheduler, and classes of one's own ----


def test_a_different_scheduler(path):
    kinds = set(SCHEDULERS) - {"none"}
    for saved in sorted(kinds):
        save_checkpoint(path, *make(None, "momentum", saved), History())
        for yours in sorted(kinds - {saved}):
            other = make(None, "momentum", yours)
            with refused(other, f"belongs to a different scheduler: class is {saved}"):
                load_checkpoint(path, *other)


def test_a_sequence_of_different_schedulers(path):
    saved, yours = make(), make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = *saved[:2], sequence(saved[1], "LinearLR", "StepLR")
        yours = *yours[:2], sequence(yours[1], "LinearLR", "CosineAnnealingLR")
    save_checkpoint(path, *saved, History())
    with refused(yours, r"SequentialLR\(LinearLR, StepLR\) in the file"):
        load_checkpoint(path, *yours)


class MySGD(optim.SGD):
    """A subclass of one's own."""


def test_subclasses_and_classes_that_only_their_name_distinguishes(path):
    def make_parts(optimizer_class, scheduler_class):
        model = net(4, 3, 2)
        optimizer = optimizer_class(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, scheduler_class(optimizer, lambda epoch: 0.9)

    kinds = [
        (o, s)
        for o in (optim.SGD, MySGD)
        for s in (lr_scheduler.LambdaLR, lr_scheduler.MultiplicativeLR)
    ]
    for kind in kinds:
        assert_round_trip(make_parts(*kind), make_parts(*kind), path)
        for other in kinds:
            if other != kind:
                yours = make_parts(*other)
                with refused(yours, "belongs to a different (optimizer|scheduler)"):
                    load_checkpoint(path, *yours)


# ---- Parts that don't belong together, or are missing ----


def test_wrong_wiring_is_refused(run, new_run, path):
    save_checkpoint(path, *run, History(**HISTORY))
    model, optimizer, scheduler = run
    _, other_optimizer, other_scheduler = new_run()
    for parts, message in (
        ((model, other_optimizer, None), "optimizer belongs to a different model"),
        ((model, optimizer, other_scheduler), "scheduler belongs to a different optimizer"),
    ):
        with pytest.raises(CheckpointError, match=message):
            save_checkpoint(path, *parts, History())
        with refused(parts, message):
            load_checkpoint(path, *parts)
    assert load_checkpoint(path, *run) == History(**HISTORY)


def test_what_was_not_saved_cannot_be_loaded(path):
    parts, average = make(None, "Adam", "StepLR"), AveragedModel(nn.Linear(2, 2))
    save_checkpoint(path, *parts[:2], None, History(), average=average)
    with refused(parts, "was saved without a scheduler. Load it without one too"):
        load_checkpoint(path, *parts)
    with refused([*parts, average], "was saved without a ema"):
        load_checkpoint(path, *parts[:2], ema=average)
    save_checkpoint(path, *parts, History())
    with refused([*parts, average], "was saved without a average"):
        load_checkpoint(path, *parts, average=average)


# ---- All or nothing: what refuses when a part of it is loaded already ----


def refuse(*_):
    raise RuntimeError("not this one")


@pytest.mark.parametrize("part", ["model hook", "optimizer hook", "scheduler", "other"])
def test_what_refuses_at_last_leaves_everything_as_it_was(part, path, monkeypatch):
    saved = make(None, "Adam", "CyclicLR")
    take_steps(*saved)
    save_checkpoint(path, *saved, History(), other=torch.amp.GradScaler("cpu"))
    yours, other = make(None, "Adam", "CyclicLR"), torch.amp.GradScaler("cpu", init_scale=2.0)
    take_steps(*yours, num_steps=1)

    if part == "model hook":
        yours[0].register_load_state_dict_post_hook(refuse)
    elif part == "optimizer hook":
        yours[1].register_load_state_dict_post_hook(refuse)
    elif part == "scheduler":
        load = lr_scheduler.CyclicLR.load_state_dict

        def refuse_or_load(scheduler, state):
            return refuse() if state["last_epoch"] == 3 else load(scheduler, state)

        monkeypatch.setattr(lr_scheduler.CyclicLR, "load_state_dict", refuse_or_load)
    else:
        load = other.load_state_dict
        other.load_state_dict = lambda s: refuse() if s["scale"] != 2.0 else load(s)
    with refused(yours, "not this one"):
        load_checkpoint(path, *yours, other=other)
    assert other.get_scale() == 2.0


class Particular(nn.Linear):
    """A layer that puts a new tensor in the place of its buffer when it is loaded."""

    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("scale", torch.rand(3))

    def _load_from_state_dict(self, state, prefix, *arguments):
        super()._load_from_state_dict(state, prefix, *arguments)
        self.scale = state[prefix + "scale"].clone()


class WithVocabulary(nn.Linear):
    """A layer that saves something of its own, and is particular about what it loads."""

    def __init__(self, vocabulary="abc"):
        super().__init__(4, 3)
        self.vocabulary, self.loaded = vocabulary, 0

    def get_extra_state(self):
        return {"vocabulary": self.vocabulary, "loaded": self.loaded}

    def set_extra_state(self, state):
        self.loaded = state["loaded"]
        if state["vocabulary"] != self.vocabulary:
            raise ValueError("not this one")


def test_layers_that_refuse_when_their_tensors_are_copied_already(path):
    for layer, other in ((Particular, Particular), (WithVocabulary, lambda: WithVocabulary("xyz"))):
        saved = make(layer(), "momentum", "StepLR")
        assert_round_trip(saved, make(layer(), "momentum", "StepLR"), path)
        yours = make(other(), "momentum", "StepLR")
        if layer is Particular:
            yours[0].register_load_state_dict_post_hook(refuse)
        with refused(yours, "not this one"):
            load_checkpoint(path, *yours)
