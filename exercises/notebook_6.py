"""The checks of the exercises in notebook 6."""

import collections
import itertools
import math
import numbers
import random

import numpy as np
import torch

from exercises.check import Hint, exercise, require
from helper.reproducibility import compute_sha256


@exercise
def check_is_time_to_save(call, folder):
    """Ask after every batch, the last one first: nothing may depend on earlier calls."""
    for group, save_every in [(4, 6), (4, 3), (3, 1), (1, 5), (1, 1)]:
        when = f"with group={group} and save_every={save_every}, "
        end, times = 3 * group * save_every + 1, []
        for batches_done in reversed(range(end)):
            answer = call(batches_done, group, save_every, when=when)
            require(answer is not None, "your function returns nothing: return True or False.")
            kind = type(answer).__name__
            text = f"after {batches_done} batches, the answer is of type {kind}"
            require(isinstance(answer, bool), f"{text}, not True or False.")
            times += [batches_done] * answer
        compare_times(times[::-1], group, save_every, end, when)
    return "only whole groups are saved, every save_every steps of the optimizer"


def compare_times(times, group, save_every, end, when):
    """Raise a hint unless a run saves at the right times, counted in batches."""
    require(0 not in times, "before the first batch, there is nothing to save.")
    require(times, f"{when}your run never saves.")
    right = list(range(group * save_every, end, group * save_every))
    in_batches = list(range(save_every, end, save_every))
    require(
        times == right or times != in_batches,
        "save_every counts steps of the optimizer, and each takes a group of batches.",
    )
    for batches_done in times:
        steps, rest = divmod(batches_done, group)
        saves = f"{when}your run saves after {batches_done} batches"
        require(rest == 0, f"{saves}, in the middle of a group: its gradients would be lost.")
        require(batches_done in right, f"{saves}: how many steps of the optimizer is that?")
    for batches_done in right:
        text = f"{when}your run doesn't save after {batches_done} batches"
        require(batches_done in times, f"{text}, {batches_done // group} steps of the optimizer.")


@exercise
def check_batch_indices(call, folder):
    """Ask for three epochs, forward and backward, and look for what the calls have in common."""
    for length, batch_size in [(50, 8), (48, 8), (3, 5)]:
        per_epoch = math.ceil(length / batch_size)
        steps = range(3 * per_epoch)

        def ask(step, seed, length=length, batch_size=batch_size):
            when = f"for step {step} of {length} examples in batches of {batch_size}, "
            return indices(call(step, length, batch_size, seed, when=when), step)

        set_global_seeds(1)
        before = global_states()
        batches = [ask(step, 7) for step in steps]
        changed = [name for name, state in global_states().items() if state != before[name]]
        set_global_seeds(2)
        again = [ask(step, 7) for step in reversed(steps)][::-1]
        seen = f"the global random numbers of {' and '.join(changed)}: use a generator of your own"
        require(
            batches == again or not changed,
            f"the answer depends on {seen}, seeded from seed and epoch.",
        )
        require(
            batches == again,
            "asked twice for the same step, your function gives different examples: the answer "
            "must depend on its arguments only.",
        )
        require(not changed, f"your function disturbs {seen}.")
        compare_sizes(batches, length, batch_size)
        epochs = [batches[i : i + per_epoch] for i in range(0, len(batches), per_epoch)]
        for number, epoch in enumerate(epochs):
            compare_examples(epoch, number, length)
        if length > batch_size:
            for one, two in itertools.combinations(range(3), 2):
                text = f"epochs {one} and {two} have the same order: each should have its own."
                require(epochs[one] != epochs[two], text)
            for number, epoch in enumerate(epochs):
                other = [ask(step, 8) for step in steps[number * per_epoch :][:per_epoch]]
                require(
                    other != epoch, f"with a different seed, epoch {number} has the same order."
                )
    return "each epoch has every example once, and step and seed alone decide where"


def set_global_seeds(seed):
    """Seed the generators that everyone shares."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def global_states():
    """Return the states of the generators that everyone shares, as hashes."""
    states = {
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    return {name: compute_sha256(state) for name, state in states.items()}


def indices(answer, step):
    """Return an answer as a list of ints, or raise a hint."""
    require(answer is not None, "your function returns nothing: return the list.")
    kind = type(answer).__name__
    extra = ": add .tolist()" if isinstance(answer, (torch.Tensor, np.ndarray)) else ""
    require(isinstance(answer, list), f"the answer is of type {kind}, not a list{extra}.")
    for item in answer:
        kind, extra = type(item).__name__, ""
        if isinstance(item, torch.Tensor):
            extra = ": .tolist() gives you ints"
        text = f"the list for step {step} has an item of type {kind}, not int{extra}."
        require(isinstance(item, numbers.Integral) and not isinstance(item, bool), text)
    return [int(item) for item in answer]


def compare_sizes(batches, length, batch_size):
    """Raise a hint unless each batch has the right number of examples."""
    per_epoch = math.ceil(length / batch_size)
    rest = length - (per_epoch - 1) * batch_size
    right = [*[batch_size] * (per_epoch - 1), rest]
    sizes = [len(batch) for batch in batches]
    when = f"with {length} examples in batches of {batch_size}, step"
    require(
        sizes[0] > 0 and (sizes[:per_epoch] == right or sizes[1 : per_epoch + 1] != right),
        f"{when} 0 should be the first batch of epoch 0, and step 1 the second.",
    )
    shared = set(batches[0]).intersection(batches[1]) if per_epoch > 1 else ()
    require(
        not shared,
        f"example {min(shared, default=0)} is in batches 0 and 1 of an epoch: an epoch has one "
        "order, and its batches are slices that don't overlap.",
    )
    for step, size in enumerate(sizes):
        epoch, batch = divmod(step, per_epoch)
        text = f"{when} {step} is batch {batch} of epoch {epoch} and has {right[batch]} examples"
        require(
            size <= rest or batch != per_epoch - 1,
            f"{text}; yours has {size}: don't drop the last batch, and don't fill it up.",
        )
        require(size == right[batch], f"{text}; yours has {size}.")


def compare_examples(epoch, number, length):
    """Raise a hint unless an epoch has each example once."""
    found = collections.Counter(index for batch in epoch for index in batch)
    for index in sorted(found):
        text = f"{index} is not the number of an example: {length} examples are 0 to {length - 1}."
        require(0 <= index < length, text)
    twice = [index for index in found if found[index] > 1]
    require(not twice, f"example {min(twice, default=0)} is in epoch {number} more than once.")


def change_a_bit(tensor, index):
    """Change the last bit of an element of a float32 tensor."""
    tensor.view(torch.int32)[index] ^= 1


def change_the_last_element(state):
    change_a_bit(state["momentum"], -2)


def change_the_last_tensor(state):
    state["steps"] += 1


def cancel_in_the_sum(state):
    state["weight"][3] += 0.5
    state["weight"][4] -= 0.5


def lose_a_sign(state):
    state["skipped"] = state["skipped"].abs()


def change_a_nan(state):
    change_a_bit(state["best"], ...)


def change_a_type(state):
    state["average"] = state["average"].double()


def change_a_shape(state):
    state["average"] = state["average"].reshape(2, 2)


def drop_a_name(state):
    del state["average"]


def add_a_name(state):
    state["extra"] = torch.zeros(2)


# What a careless program does when it is continued: to the state that it loads, or to the one that
# it ends with, and a hint for an answer that calls it exact.
CARELESS = [
    ("forgets its momentum", None, "a run that doesn't save its momentum was called exact."),
    (
        "counts for itself",
        None,
        "a run whose batches depend on the process, not on the step, was called exact.",
    ),
    (
        "rounds what it loads",
        None,
        "a run that rounds what it loads was called exact: compare every bit, at the end.",
    ),
    (
        "changes a bit",
        change_the_last_element,
        "a run was called exact that differs in the last bit of one element.",
    ),
    (
        "changes its last tensor",
        change_the_last_tensor,
        "a run was called exact whose last tensor differs: compare all of them.",
    ),
    (
        "moves a half from one weight to another",
        cancel_in_the_sum,
        "a run was called exact in which two differences cancel in the sum.",
    ),
    (
        "loses the sign of a zero",
        lose_a_sign,
        "a run was called exact that has 0.0 instead of -0.0: they are equal, but not bit for bit.",
    ),
    (
        "changes a NaN",
        change_a_nan,
        "a run was called exact that ends with a different NaN: a NaN has bits too.",
    ),
    (
        "changes a type",
        change_a_type,
        "a run was called exact that ends with float64 instead of float32: compare types too.",
    ),
    (
        "changes a shape",
        change_a_shape,
        "a run was called exact that ends with a tensor of a different shape.",
    ),
    (
        "loses a tensor",
        drop_a_name,
        "a run was called exact that ends without one of its tensors: compare the names too.",
    ),
    (
        "gets an extra tensor",
        add_a_name,
        "a run was called exact that ends with one more tensor: compare the names too.",
    ),
]


class Run:
    """A run of numbers: some tensors, and what a careless program does with them."""

    def __init__(self, flaw=None, spoil=None):
        self.flaw, self.spoil, self.count, self.is_continued = flaw, spoil, 0, False
        self.state = {
            "best": torch.tensor(torch.nan),  # nothing has been evaluated yet
            "weight": torch.ones(30),
            "momentum": torch.ones(30),
            "average": torch.zeros(4),
            "half": torch.ones(2, dtype=torch.bfloat16),
            "skipped": torch.tensor([-0.0, 1.0]),
            "empty": torch.empty(0),
            "steps": torch.tensor(0),
        }

    def state_dict(self):
        state = dict(self.state)
        if self.flaw == "forgets its momentum":
            del state["momentum"]
        if self.spoil and self.is_continued:
            state = {name: tensor.clone() for name, tensor in state.items()}
            self.spoil(state)
        return state

    def load_state_dict(self, state):
        self.is_continued = True
        self.state.update({name: tensor.clone() for name, tensor in state.items()})
        if self.flaw == "rounds what it loads":  # in the sixth decimal
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
        run.state["average"] += 0.1 * (run.state["weight"][:4] - run.state["average"])
        run.state["steps"] += 1


@exercise
def check_continues_exactly(call, folder):
    """Hand it a run that continues exactly, and some that don't."""

    def ask(when, *careless):
        """Return the answer for a kind of run, and check which runs were trained."""
        calls = []

        def train_and_note(run, first, last):
            calls.append((run, first, last))
            train(run, first, last)

        answer = call(lambda: Run(*careless), train_and_note, 5, 12, when=when)
        kind = type(answer).__name__
        require(isinstance(answer, bool), f"the answer is of type {kind}, not True or False.")
        steps = {(first, last) for _, first, last in calls}
        require(calls, "your function trains nothing.")
        require((0, 12) in steps, "no run was trained from step 0 to the end without a cut.")
        require((5, 12) in steps, "no run was continued from the cut to the end.")
        parts = [[run for run, *at in calls if at == steps] for steps in ([0, 5], [5, 12])]
        require(parts[0], "no run was trained from step 0 to the cut.")
        same = any(one is other for one in parts[0] for other in parts[1])
        require(not same, "the same run was continued: only a new one shows what the state lacks.")
        return answer

    if not ask("for a run that continues exactly, "):
        raise Hint(
            "a run that continues exactly was called inexact: was the state loaded? "
            "And is a NaN equal to itself, bit for bit?"
        )
    for flaw, spoil, hint in CARELESS:
        require(not ask(f"for a run that {flaw}, ", flaw, spoil), hint)
    return "forgotten momentum, a different order, and a single wrong bit are found"
