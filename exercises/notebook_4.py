"""The checks of the exercises in notebook 4."""

import functools
import os

import torch
from torch import nn
from torch.optim import SGD, Adam

from exercises.check import (
    Hint,
    Net,
    Unpicklable,
    copy_of,
    equal,
    exercise,
    is_state,
    read,
    refuses,
    require,
    require_number,
    same,
)


def kept_by(make, model):
    """Return how many bytes an optimizer keeps for a model, without its step counts."""
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    kept = [tensor for state in optimizer.state.values() for tensor in state.values()]
    return sum(t.nbytes for t in kept if isinstance(t, torch.Tensor) and t.dim() > 0)


@exercise
def check_checkpoint_bytes(call, folder):
    """Compare with real optimizers, and try a model that no memory holds."""
    momentum = functools.partial(SGD, momentum=0.9)
    for name, make, copies, dtype, frozen in [
        ("SGD without momentum", SGD, 0, torch.float32, False),
        ("SGD with momentum", momentum, 1, torch.float32, False),
        ("Adam with a model in float64", Adam, 2, torch.float64, False),
        ("SGD with momentum and frozen features", momentum, 1, torch.float32, True),
    ]:
        model = Net().to(dtype)
        model.features.requires_grad_(not frozen)
        model.register_buffer("cache", torch.zeros(5), persistent=False)
        before = copy_of(model)
        answer = call(model, copies, when=f"for {name}, ")
        require_number(answer)
        require(equal(copy_of(model), before), "your function changes the model.")

        state, parameters = before.values(), list(model.parameters())
        in_state, in_all = (sum(t.nbytes for t in tensors) for tensors in (state, parameters))
        kept = kept_by(make, model)
        if answer != in_state + kept:
            require(
                answer != in_all + kept, "the buffers are missing: model.state_dict() has them."
            )
            doubled = copies and answer == in_state * (1 + copies)
            require(not doubled, "an optimizer keeps tensors for parameters, not for buffers.")
            require(answer != in_state + copies * in_all, "it keeps nothing for frozen parameters.")
            in_cache = answer == in_state + kept + model.cache.nbytes
            require(not in_cache, "a buffer with persistent=False is not in model.state_dict().")
            raise Hint(f"for {name}, it is {in_state + kept} bytes, not {answer!s:.12}.")
    with torch.device("meta"):
        huge = nn.Linear(100_000, 1_000_000)  # shapes and types, and no memory
    answer = call(huge, 2, when="for a model of 400 GB, ")
    wanted = 3 * sum(p.nbytes for p in huge.parameters())
    require(answer == wanted, f"for a model of 400 GB, it is {wanted} bytes, not {answer!s:.20}.")
    return f"as real optimizers keep it; a model of 400 GB makes {wanted / 1e9:,.0f} GB with Adam"


@exercise
def check_to_half(call, folder):
    """Hand it numbers that half precision has, numbers that it doesn't have, and integers."""
    state = {
        "weight": torch.randn(3, 2),
        "largest": torch.tensor([65504.0, -65504.0]),
        "too_large": torch.tensor([1.0, 1e5]),
        "too_negative": torch.tensor([1.0, -1e5]),
        "double": torch.tensor([0.1, -0.2], dtype=torch.float64),
        "brain_float": torch.tensor([0.5, -3.0], dtype=torch.bfloat16),
        "nearly_too_large": torch.tensor([65510.0, -65510.0]),
        "counter": torch.tensor(100_001),
        "mask": torch.tensor([True, False]),
    }
    before = {name: tensor.clone() for name, tensor in state.items()}
    result = call(state)
    require(list(state) == list(before), "your function changes the dict that it was given.")
    require(equal(state, before), "your function changes the tensors that it was given.")
    require(is_state(result), f"the answer is of type {type(result).__name__}, not a state_dict.")
    require(set(result) == set(state), "the names in the answer differ from those in the state.")
    for name in ("counter", "mask"):
        require(
            same(result[name], state[name]),
            f"{name} is not a floating-point tensor: keep it as it is.",
        )
    for name in ("weight", "double", "largest", "brain_float"):
        require_half(name, result[name], state[name])
    for name in ("too_large", "too_negative"):
        infinite = result[name].isinf().any()
        require(not infinite, f"a number in {name} has become infinite: float16 ends at 65,504.")
        require(
            same(result[name], state[name]), f"{name} doesn't fit into float16: keep it as it is."
        )
    name = "nearly_too_large"
    require_half(name, result[name], state[name], " (65,510 is rounded to 65,504)")
    empty = {"empty": torch.empty(0, 2)}
    result = call(empty, when="for a tensor without elements, ")
    half = is_state(result) and equal(result, {"empty": empty["empty"].half()})
    require(half, "nothing in a tensor without elements becomes infinite: make it float16.")
    return "what fits is in half precision; what would overflow and the integers are unchanged"


def require_half(name, answer, tensor, why=""):
    """Raise a hint unless an answer is a tensor in half precision."""
    half = answer.dtype == torch.float16
    fits = f"nothing in {name} becomes infinite in float16{why}"
    require(half, f"{fits}, but it is {answer.dtype}.")
    right = torch.equal(answer, tensor.half())
    require(right, f"{name} doesn't have the numbers that half() makes of it.")


@exercise
def check_save_newest(call, folder):
    """Save epochs with gaps among other files, with misleading modification times."""
    others, saved = ["best.pt", "epoch-1.txt", "old-epoch-2.pt"], []
    for name in others:
        open(os.path.join(folder, name), "w").close()
    for keep, epochs in {3: [1, 2, 3, 4], 2: [8, 9, 10, 12, 99, 100], 1: [101]}.items():
        for epoch in epochs:
            saved.append(epoch)
            state = {"epoch": torch.tensor(epoch)}
            call(state, folder, epoch, keep, when=f"for epoch {epoch}, ")
            after = f"after epochs {', '.join(map(str, saved))} with keep={keep},"
            path = os.path.join(folder, f"epoch-{epoch}.pt")
            own = f"{after} there is no epoch-{epoch}.pt: was it taken for an old one?"
            require(os.path.isfile(path), own)
            content = read(path)
            right = is_state(content) and equal(content, state)
            require(right, "the file doesn't hold what torch.save would write for this state.")
            there = set(os.listdir(folder))
            for name in others:
                require(name in there, f"{name} is not a checkpoint of an epoch, and it is gone.")
            for kept in saved[-keep:]:
                require(
                    f"epoch-{kept}.pt" in there, f"{after} epoch-{kept}.pt should still be there."
                )
                there.remove(f"epoch-{kept}.pt")
            for name in sorted(there - set(others)):
                raise Hint(f"{after} {name} should be gone.")
            os.utime(path, (1e9 - epoch, 1e9 - epoch))  # as after copying from another machine

    def save_again(what, epoch, keep):
        """Let a save fail partway, and compare the folder with what it was."""
        there = set(os.listdir(folder))
        told = refuses(call, {"broken": Unpicklable()}, folder, epoch, keep)
        left, gone = set(os.listdir(folder)) - there, there - set(os.listdir(folder))
        require(not gone, f"{what} failed partway, and the checkpoint before it is gone.")
        require(told, f"{what} failed partway, and your function kept the error to itself.")
        half = f"{what} failed partway, and left half a file: {', '.join(sorted(left))}."
        require(not left, half)

    save_again("a save", 102, 1)
    call({"epoch": torch.tensor(103)}, folder, 103, 2, when="for epoch 103, ")
    there = set(os.listdir(folder)) - set(others)
    right = there == {"epoch-101.pt", "epoch-103.pt"}
    require(right, "after saving epoch 102 failed, epochs 101 and 103 are the newest two.")
    save_again("saving epoch 103 again", 103, 2)
    content = read(os.path.join(folder, "epoch-103.pt"))
    whole = is_state(content) and equal(content, {"epoch": torch.tensor(103)})
    require(
        whole,
        "saving epoch 103 again failed partway, and its old file is damaged: don't write in it.",
    )
    return "the newest are kept by their numbers, and a save that fails partway changes nothing"
