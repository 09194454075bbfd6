"""The checks of the exercises in notebook 6."""

import json
import math
import numbers
import os

import torch
from safetensors.torch import save_file

from exercises.check import exercise, need


@exercise
def check_save_interval(call, folder):
    """Ask for one machine, for a hundred, and in another unit."""
    hours = 24 * 365
    for save_time, year, machines in [(1 / 60, hours, 1), (1 / 60, hours, 100), (2, 900, 4)]:
        what = f"for a save of {save_time:.3g}, a failure every {year} and {machines} machines, "
        answer = call(save_time, year, machines, when=what)
        kind = type(answer).__name__
        real = isinstance(answer, numbers.Real) and not isinstance(answer, bool)
        need(real, f"the answer is of type {kind}, not a number.")
        right = math.sqrt(2 * save_time * year / machines)

        def equals(wrong, answer=answer):
            return math.isclose(answer, wrong, rel_tol=1e-6)

        need(not equals(right**2), f"{what}that is the square of the right answer.")
        need(not equals(right / math.sqrt(2)), f"{what}the two in the formula is missing.")
        need(
            machines == 1 or not equals(right * math.sqrt(machines)),
            f"{what}that is right for one machine; of {machines}, one fails so much earlier.",
        )
        need(
            machines == 1 or not equals(right * machines),
            f"{what}too long: more machines fail more often.",
        )
        need(equals(right), f"{what}it should be {right:.3g}.")
    return "a hundred machines save ten times as often as one"


@exercise
def check_shapes_in(call, folder):
    """Hand it a whole file, and one of which only the header has arrived."""
    path = os.path.join(folder, "model.safetensors")
    tensors = {"dense.weight": torch.ones(3, 2), "dense.bias": torch.ones(3), "n": torch.ones(())}
    save_file(tensors, path, metadata={"trained on": "digits, until they were known by heart"})
    wanted = {name: list(tensor.shape) for name, tensor in tensors.items()}
    compare_shapes(call(path, when="for a whole file, "), wanted)

    header = {"w": {"dtype": "F32", "shape": [50_000, 40_000], "data_offsets": [0, 8 * 10**9]}}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
    when = "for a file whose tensors are still on their way, "
    compare_shapes(call(path, when=when), {"w": [50_000, 40_000]})
    return "the header alone tells the shapes, even of 8 GB that are not there yet"


def compare_shapes(answer, wanted):
    """Raise a hint unless an answer is a dict from the names to these shapes."""
    kind = type(answer).__name__
    need(isinstance(answer, dict), f"the answer is of type {kind}, not a dict.")
    need("__metadata__" not in answer, "__metadata__ is no tensor: it is text about the file.")
    need(set(answer) == set(wanted), f"the names should be {', '.join(wanted)}.")
    for name, shape in answer.items():
        need(
            isinstance(shape, (list, tuple)),
            f"{name}: the shape of each tensor, not all that the header says of it.",
        )
        need(list(shape) == wanted[name], f"the shape of {name}: it should be {wanted[name]}.")


class Run:
    """A run of numbers: a weight, a momentum, and what a careless program does with them."""

    def __init__(self, flaw):
        self.flaw, self.count = flaw, 0
        self.state = {name: torch.ones(30) for name in ("weight", "momentum")}

    def state_dict(self):
        state = dict(self.state)
        if self.flaw == "forgets":
            del state["momentum"]
        return state

    def load_state_dict(self, state):
        self.state.update({name: tensor.clone() for name, tensor in state.items()})
        if self.flaw == "rounds":  # in the sixth digit
            self.state["weight"] = (self.state["weight"] * 2**20).round() / 2**20


def train(run, first, last):
    """Take the steps `first` to `last`, each with numbers of its own."""
    for step in range(first, last):
        run.count += 1
        number = run.count if run.flaw == "counts for itself" else step
        gradient = torch.sin(torch.arange(30.0) + number)
        run.state["momentum"] *= 0.9
        run.state["momentum"] += gradient
        run.state["weight"] -= 0.1 * run.state["momentum"]


@exercise
def check_continues_exactly(call, folder):
    """Hand it a run that continues exactly, and three that don't."""
    calls = []

    def noted(run, first, last):
        calls.append((run, first, last))
        train(run, first, last)

    answers = {}
    for flaw in (None, "forgets", "counts for itself", "rounds"):
        calls.clear()
        when = "for a run that continues exactly, " if flaw is None else f"for one that {flaw}, "
        answer = call(lambda flaw=flaw: Run(flaw), noted, 5, 12, when=when)
        kind = type(answer).__name__
        need(isinstance(answer, bool), f"the answer is of type {kind}, not True or False.")
        answers[flaw] = answer
        steps = {(first, last) for _, first, last in calls}
        need(calls, "your function trains nothing.")
        need((0, 12) in steps, "no run was trained from step 0 to the end without a cut.")
        need((5, 12) in steps, "no run was continued from the cut to the end.")
        parts = [[run for run, *at in calls if at == steps] for steps in ([0, 5], [5, 12])]
        need(parts[0], "no run was trained from step 0 to the cut.")
        same = any(one is other for one in parts[0] for other in parts[1])
        need(not same, "the run was continued in itself: what is only in memory is not missed.")
    need(answers[None], "a run that continues exactly was called inexact: was the state loaded?")
    need(not answers["forgets"], "a run that doesn't save its momentum was called exact.")
    need(
        not answers["counts for itself"],
        "a run whose batches depend on the process, not on the step, was called exact.",
    )
    need(
        not answers["rounds"],
        "a run that rounds what it loads was called exact: compare every bit, at the end.",
    )
    return "a forgotten momentum, batches in another order and a rounded weight are found"
