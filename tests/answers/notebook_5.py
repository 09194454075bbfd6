"""Right and wrong answers to the exercises of notebook 5, each wrong one with its hint."""

import copy
import json
import mmap
import pickle
import struct
from pathlib import Path

import torch

from tests.answers.collect import Answers, load
from tests.answers.solved import SOLVED

RIGHT, WRONG = {}, {}


# 1 · Lean, and in the right type.

load_lean = Answers("load_lean", RIGHT, WRONG)


@load_lean.wrong("to_empty takes memory for a second copy of the model")
def filled_memory(path, make_model):
    with torch.device("meta"):
        model = make_model()
    model.to_empty(device="cpu")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


@load_lean.right
def types_noted_before(path, make_model):
    with torch.device("meta"):
        types = {name: tensor.dtype for name, tensor in make_model().state_dict().items()}
        model = make_model()
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor.to(types.get(name)) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


@load_lean.wrong("the model took memory: make it on meta")
def in_the_usual_way(path, make_model):
    model = make_model()
    model.load_state_dict(load(path))
    return model


@load_lean.wrong("0.weight is on meta: without assign=True, it stays empty")
def on_meta(path, make_model):
    with torch.device("meta"):
        return make_model()


@load_lean.wrong("0.weight is on meta: without assign=True, it stays empty")
def meta_without_assign(path, make_model):
    model = on_meta(path, make_model)
    model.load_state_dict(load(path))
    return model


@load_lean.wrong("0.weight is torch.float16, but make_model makes it torch.float32")
def types_of_the_file(path, make_model):
    model = on_meta(path, make_model)
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("2.weight is torch.float32, but make_model makes it torch.float64")
def all_in_float32(path, make_model):
    return types_of_the_file(path, make_model).float()


@load_lean.wrong("1.num_batches_tracked is torch.float32, but")
def state_in_float32(path, make_model):
    model = on_meta(path, make_model)
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor.float() for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("the model took memory: make it on meta")
def types_of_a_second_model(path, make_model):
    types = {name: tensor.dtype for name, tensor in make_model().state_dict().items()}
    model = on_meta(path, make_model)
    state = {name: tensor.to(types[name]) for name, tensor in load(path).items()}
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("meta is still the default device")
def by_the_default_device(path, make_model):
    torch.set_default_device("meta")
    model = make_model()
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: state[name].to(t.dtype) for name, t in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("doesn't hold the numbers in the file")
def empty_memory(path, make_model):
    return on_meta(path, make_model).to_empty(device="cpu")


@load_lean.wrong("a file without 0.bias is loaded without an error")
def lean_but_not_strict(path, make_model):
    model = on_meta(path, make_model)
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor.to(types[name]) for name, tensor in state.items()}
    model.load_state_dict(state, strict=False, assign=True)
    return model


@load_lean.wrong("your function returns nothing: return the model")
def loaded_and_not_returned(path, make_model):
    SOLVED["load_lean"](path, make_model)


@load_lean.wrong("return the model that make_model makes")
def in_a_model_around_it(path, make_model):
    return torch.nn.Sequential(SOLVED["load_lean"](path, make_model))


@load_lean.wrong("the model's parameters are missing or frozen")
def no_parameters(path, make_model):
    return SOLVED["load_lean"](path, make_model).requires_grad_(False)


@load_lean.right
def in_the_type_of_each_part(path, make_model):
    """Converts the model after loading it: a tensor at a time, by its own type."""
    with torch.device("meta"):
        model = make_model()
    types = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    state = torch.load(path, map_location=torch.device("cpu"), mmap=True)
    print(len(state), "tensors")
    for name in list(state):
        state[name] = state[name].type(types[name])
    print(model.load_state_dict(state, assign=True))
    return model


@load_lean.wrong("weights_only=False would run code from the file")
def runs_code(path, make_model):
    model = on_meta(path, make_model)
    state = torch.load(path, map_location="cpu", weights_only=False)
    for name, tensor in model.state_dict().items():
        if torch.is_tensor(state[name]):
            state[name] = state[name].to(tensor.dtype)
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong(
    "for a file in float16, saved on a GPU, your function raises RuntimeError: Attempt"
)
def wherever_it_was_saved(path, make_model):
    model = on_meta(path, make_model)
    state = load(path)
    for name, tensor in model.state_dict().items():
        state[name] = state[name].to(tensor.dtype)
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("1.running_mean is torch.float16, but make_model makes it torch.float32")
def parameters_only(path, make_model):
    model = on_meta(path, make_model)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, parameter in model.named_parameters():
        state[name] = state[name].to(parameter.dtype)
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("2.weight is torch.float32, but make_model makes it torch.float64")
def floats_in_float32(path, make_model):
    model = on_meta(path, make_model)
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("opening a file has just run code")
def runs_code_as_a_last_resort(path, make_model):
    model = on_meta(path, make_model)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        state = torch.load(path, map_location="cpu", weights_only=False)
    state = {name: state[name].to(t.dtype) for name, t in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


@load_lean.wrong("a file that would run code was refused, and the caller got no error")
def returns_none_for_what_is_unsafe(path, make_model):
    try:
        return SOLVED["load_lean"](path, make_model)
    except pickle.UnpicklingError as error:
        print(error)


@load_lean.wrong("the answer is of type OrderedDict, not a model")
def returns_its_state(path, make_model):
    return SOLVED["load_lean"](path, make_model).state_dict()


# 2 · Look before you load.

shapes_in = Answers("shapes_in", RIGHT, WRONG)


def header_of(path):
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


@shapes_in.right
def as_sizes(path):
    header = header_of(path)
    header.pop("__metadata__", None)
    return {name: torch.Size(entry["shape"]) for name, entry in header.items()}


@shapes_in.wrong("__metadata__ isn't a tensor")
def with_the_metadata(path):
    return {name: entry.get("shape", []) for name, entry in header_of(path).items()}


@shapes_in.wrong("return only the shape of each tensor")
def all_of_the_header(path):
    return {name: entry for name, entry in header_of(path).items() if name != "__metadata__"}


@shapes_in.wrong("whose tensors are still being downloaded, your function raises")
def loads_the_tensors(path):
    from safetensors.torch import load_file

    return {name: tensor.shape for name, tensor in load_file(path).items()}


@shapes_in.wrong("your function raises")
def big_endian(path):
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "big")))


@shapes_in.wrong("your function raises")
def guesses_the_length(path):
    with open(path, "rb") as file:
        text = file.read(200)[8:]
    header = json.loads(text[: text.rindex(b"}") + 1])
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


@shapes_in.wrong("only the shape of each tensor")
def numbers_of_elements(path):
    return {name: len(shape) for name, shape in SOLVED["shapes_in"](path).items()}


@shapes_in.wrong("the shape of dense.weight should be [3, 2]")
def first_dimension(path):
    return {name: shape[:1] for name, shape in SOLVED["shapes_in"](path).items()}


@shapes_in.wrong("the answer is of type list, not a dict")
def names_of_tensors(path):
    return list(SOLVED["shapes_in"](path))


@shapes_in.right
def with_struct(path):
    with open(path, "rb", buffering=0) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length).decode("utf-8"))
    print(header)
    return {k: tuple(v["shape"]) for k, v in header.items() if not k.startswith("__")}


@shapes_in.right
def with_a_mapped_file(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        length = int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8 : 8 + length])
    return {name: header[name]["shape"] for name in header if name != "__metadata__"}


@shapes_in.wrong("your function reads the tensors too")
def reads_all_of_it(path):
    with open(path, "rb") as file:
        content = file.read()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return {name: header[name]["shape"] for name in header if name != "__metadata__"}


@shapes_in.wrong("your function reads the tensors too")
def reads_all_bytes(path):
    content = Path(path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: header[name]["shape"] for name in header if name != "__metadata__"}


@shapes_in.wrong("whose tensors are still being downloaded, your function raises")
def with_the_library(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


@shapes_in.wrong("dense.bias: return only the shape of each tensor, a list or tuple")
def as_text(path):
    return {name: str(shape) for name, shape in SOLVED["shapes_in"](path).items()}


@shapes_in.wrong("the names should be dense.weight, dense.bias, n")
def scalars_left_out(path):
    return {name: shape for name, shape in SOLVED["shapes_in"](path).items() if shape}


@shapes_in.wrong("your function returns nothing: return the dict")
def prints_the_shapes(path):
    print(SOLVED["shapes_in"](path))


# 3 · All layers but one.

take_over = Answers("take_over", RIGHT, WRONG)


@take_over.wrong("for a state without features.bias, raise a ValueError; yours raises RuntimeError")
def own_head_filled_in(state, model, head):
    own = {n: t for n, t in model.state_dict().items() if n.startswith(head + ".")}
    others = {n: t for n, t in state.items() if not n.startswith(head + ".")}
    copy.deepcopy(model).load_state_dict({**others, **own})
    model.load_state_dict({**others, **own})


@take_over.wrong(
    "for a state without features.bias, raise a ValueError; yours raises AssertionError"
)
def compared_before(state, model, head):
    names = {n for n in state if not n.startswith(head + ".")}
    own = {n for n in model.state_dict() if not n.startswith(head + ".")}
    assert names == own
    model.load_state_dict({name: state[name] for name in names}, strict=False)


@take_over.wrong("for a state with ten classes, your function raises RuntimeError")
def all_of_it(state, model, head):
    model.load_state_dict(state, strict=False)


@take_over.wrong("classifier.2.weight should stay new, but for a state with the same classes")
def whatever_fits(state, model, head):
    own = model.state_dict()
    fitting = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
    model.load_state_dict(fitting, strict=False)


@take_over.wrong("a state without features.bias is accepted")
def body_not_strict(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    model.load_state_dict(body, strict=False)


@take_over.wrong("a state without features.bias is refused, but after a part of it was loaded")
def missing_only(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    result = model.load_state_dict(body, strict=False)
    if missing := [name for name in result.missing_keys if not name.startswith(f"{head}.")]:
        raise ValueError(f"{missing} are missing")


@take_over.wrong("a state without features.bias is accepted")
def unexpected_only(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    if model.load_state_dict(body, strict=False).unexpected_keys:
        raise ValueError


@take_over.wrong("classifier.20.weight doesn't hold the state's tensor")
def similar_names(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(head)}
    result = model.load_state_dict(body, strict=False)
    if result.unexpected_keys or not all(name.startswith(head) for name in result.missing_keys):
        raise ValueError


@take_over.wrong("for a state with ten classes, your function raises RuntimeError")
def strict_as_ever(state, model, head):
    model.load_state_dict({name: state[name] for name in state if not name.startswith(f"{head}.")})


@take_over.wrong("your function changes the dict that it was given")
def takes_from_the_dict(state, model, head):
    for name in [name for name in state if name.startswith(f"{head}.")]:
        del state[name]
    SOLVED["take_over"](state, model, head)


@take_over.right
def one_error_for_each_name(state, model, head):
    prefix = f"{head}."
    own = [name for name in model.state_dict() if not name.startswith(prefix)]
    for name in own:
        if name not in state:
            raise ValueError(f"{name} is missing")
    for name in state:
        if not name.startswith(prefix) and name not in own:
            raise ValueError(f"{name} is unexpected")
    print(model.load_state_dict({name: state[name] for name in own}, strict=False))


@take_over.right
def tried_on_a_copy(state, model, head):
    own = {n: t for n, t in model.state_dict().items() if n.startswith(head + ".")}
    others = {n: t for n, t in state.items() if not n.startswith(head + ".")}
    try:
        copy.deepcopy(model).load_state_dict({**others, **own})
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    model.load_state_dict({**others, **own})


@take_over.wrong("a state without features.bias is refused, but after a part of it was loaded")
def loaded_and_then_refused(state, model, head):
    others = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    result = model.load_state_dict(others, strict=False)
    missing = [name for name in result.missing_keys if not name.startswith(f"{head}.")]
    if missing or result.unexpected_keys:
        raise ValueError(f"missing: {missing}, unexpected: {result.unexpected_keys}")


@take_over.wrong(
    "for a state without features.bias, raise a ValueError; yours raises AssertionError"
)
def asserts(state, model, head):
    others = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    result = model.load_state_dict(others, strict=False)
    assert not result.unexpected_keys
    assert all(name.startswith(f"{head}.") for name in result.missing_keys)


@take_over.wrong("for a state without features.bias, the error doesn't name features.bias")
def refuses_without_a_name(state, model, head):
    names = {name for name in state if not name.startswith(f"{head}.")}
    if names != {name for name in model.state_dict() if not name.startswith(f"{head}.")}:
        raise ValueError("the state doesn't fit")
    SOLVED["take_over"](state, model, head)


@take_over.wrong("a state with an extra layer is accepted without an error")
def what_the_model_has(state, model, head):
    own = [name for name in model.state_dict() if not name.startswith(f"{head}.")]
    if missing := [name for name in own if name not in state]:
        raise ValueError(f"missing: {missing}")
    model.load_state_dict({name: state[name] for name in own}, strict=False)
