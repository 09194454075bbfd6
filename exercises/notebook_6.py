"""The checks of the exercises in notebook 6."""

import math
import numbers

import torch

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
def check_files_to_delete(call, folder):
    """Have the best among the oldest and among the newest, and fewer files than are kept."""
    names = [f"step-{step}.pt" for step in (120, 20, 100, 80, 40, 60)]
    before = list(names)
    for best, last, wanted in [
        ("step-40.pt", 2, {20, 60, 80}),
        ("step-120.pt", 2, {20, 40, 60}),
        ("step-20.pt", 1, {40, 60, 80, 100}),
    ]:
        what = f"of 20, 40, ... 120 with the best {best} and last={last}, "
        answer = call(names, best, last, when=what)
        need(names == before, "your function changes the list of names that it was given.")
        need(
            isinstance(answer, (list, tuple, set)) and all(type(n) is str for n in answer),
            f"the answer is of type {type(answer).__name__}, or holds something else than names.",
        )
        need(set(answer) <= set(names), f"{what}yours deletes a file that is not in the list.")
        need(len(set(answer)) == len(answer), f"{what}yours deletes a file twice.")
        need(best not in answer, f"{what}yours deletes the best one.")
        wanted = {f"step-{step}.pt" for step in wanted}
        need(
            set(answer) != set(names) - wanted - {best},
            f"{what}those are the files to keep, not the ones to delete.",
        )
        by_text = sorted(name for name in names if name != best)[:-last]
        need(
            set(answer) == wanted or set(answer) != set(by_text),
            f"{what}sorted as texts, step-100.pt comes before step-20.pt: compare numbers.",
        )
        counted = before.copy()
        counted.sort(key=lambda name: int(name[5:-3]))
        need(
            set(answer) == wanted or set(answer) != set(counted[:-last]) - {best},
            f"{what}the best one was counted among the newest: each rule for itself.",
        )
        need(set(answer) == wanted, f"{what}those to delete are {', '.join(sorted(wanted))}.")
    few = call(names[:4], names[0], 4, when="for fewer files than are kept, ")
    need(few is not None and not list(few), "of fewer files than are kept, none is to be deleted.")
    none = call(names[:2], names[0], 0, when="for last=0, ")
    need(list(none) == [names[1]], "with last=0, all but the best are to be deleted.")
    return "the newest stay by their numbers, and the best stays wherever it stands"


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
