"""The exercises: right, wrong, absurd and missing answers, and that they match their solutions."""

import contextlib
import copy
import hashlib
import io
import itertools
import json
import math
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

import exercises
from helper.atomic import atomic_file
from tests.support.wrong_about_many import WRONG_ABOUT_MANY
from tests.support.wrong_about_stops import RIGHT_ABOUT_STOPS, WRONG_ABOUT_STOPS
from tests.test_notebooks import problems
from tools.course import NOTEBOOKS, list_lessons
from tools.make_exercises import (
    SOLUTIONS,
    exercise_cells,
    insert,
    is_exercise,
    without_solution,
)

LESSONS = [lesson.path.name for lesson in list_lessons(SOLUTIONS)]
CHECKS = {
    name.removeprefix("check_"): check
    for name, check in vars(exercises).items()
    if name.startswith("check_")
}


def read(path):
    return nbformat.read(path, as_version=4)


def answers(blank):
    """Run the exercise cells of all solutions, solved or blank, and return their functions."""
    namespace = {"torch": torch, "np": np, "os": os, "re": re, "zipfile": zipfile}
    namespace |= {"hashlib": hashlib, "json": json, "Path": Path}
    for name in LESSONS:
        for cell in read(SOLUTIONS / name).cells:
            if is_exercise(cell) and cell.source.startswith("def "):
                exec(without_solution(cell.source) if blank else cell.source, namespace)
    return {name: namespace[name] for name in CHECKS}


SOLVED, BLANK = answers(blank=False), answers(blank=True)


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    """Return a function that gives a check an answer and returns the line that it prints.

    It looks whether files, settings or random numbers were changed.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def ask(name, answer):
        before = torch.get_rng_state(), torch.is_grad_enabled()
        CHECKS[name](answer)
        printed = capsys.readouterr()
        assert printed.err == ""
        assert printed.out.count("\n") == 1
        assert len(printed.out) < 260
        assert torch.equal(torch.get_rng_state(), before[0])
        assert torch.is_grad_enabled() == before[1]
        assert torch.empty(0).device.type == "cpu"
        assert Path.cwd() == tmp_path
        assert tempfile.tempdir == str(tmp_path / "tmp")
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["tmp"]
        return printed.out.rstrip("\n")

    return ask


COUNTS = dict.fromkeys(LESSONS, 3) | {"10-many-processes-load-and-continue.ipynb": 3}


def test_there_are_three_exercises_to_a_notebook():
    assert [lesson.path.name for lesson in list_lessons()] == LESSONS
    assert len(CHECKS) == sum(COUNTS.values())
    for name, count in COUNTS.items():
        cells = read(SOLUTIONS / name).cells
        ids = [cell.id for cell in cells]
        end, exercises = 4 + 3 * count, range(1, count + 1)
        assert ids[3:end] == ["exercises-imports"] + [
            f"exercise-{number}{part}" for number in exercises for part in ("-md", "", "-check")
        ]
        assert all(id.startswith("try-it-") for id in ids[end:])
        levels = [re.match(r"\*\*\d · (\w+): ", cell.source) for cell in cells[4:end:3]]
        assert [level[1] for level in levels] == ["Easy", "Medium", "Hard"][:count]


@pytest.mark.parametrize("name", LESSONS)
def test_each_question_of_a_recap_has_its_answer(name):
    (recap,) = [cell.source for cell in read(NOTEBOOKS / name).cells if cell.id == "recap"]
    questions = re.findall(r"^- (.+)", recap.partition("**Try it**")[2], re.M)
    ids = [cell.id for cell in read(SOLUTIONS / name).cells if cell.id.startswith("try-it-")]
    answers = [id for id in ids if re.fullmatch(r"try-it-\d-md", id)]
    assert answers == [f"try-it-{number}-md" for number in range(1, len(questions) + 1)]
    assert ("try-it-md" in ids) == bool(questions)


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_is_right(ask, name):
    assert ask(name, SOLVED[name]).startswith("✓ ")


@pytest.mark.parametrize("name", CHECKS)
def test_a_missing_answer_is_no_error(ask, name):
    assert ask(name, BLANK[name]).startswith(f"Not answered yet: write {name} ")


def test_an_error_of_pytorch_is_no_missing_answer(ask):
    line = ask("optimizer_bytes", lambda _: torch.empty(1, device="meta").cpu())
    assert line.startswith("✗ for SGD with momentum, your function raises NotImplementedError: ")


def nothing(*arguments):
    """Takes whatever it is given, does something, and returns nothing."""
    len(arguments)


def raises(error):
    def function(*_):
        raise error

    return function


class Evil(Exception):
    def __str__(self):
        raise ValueError("no message")


class Unequal:
    """What can't be compared, converted, printed or looped over."""

    def __eq__(self, other):
        raise RuntimeError("not comparable")

    __repr__ = __bool__ = __iter__ = __len__ = __float__ = __eq__


def destroy(*arguments):
    """Empty all that can be emptied, and delete all files."""
    for argument in arguments:
        if isinstance(argument, dict):
            argument.clear()
        elif isinstance(argument, torch.nn.Module):
            argument.__dict__.clear()
        elif isinstance(argument, torch.optim.Optimizer):
            argument.param_groups.clear()
        elif isinstance(argument, str):
            shutil.rmtree(Path(argument).parent)


def litter(*_):
    """Leave files where nobody asked for them, and work somewhere else."""
    Path("litter.pt").touch()
    tempfile.mkstemp()
    os.mkdir("folder")
    os.chdir("folder")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)


def swap(*arguments):
    """Return what it was given last, whatever that is."""
    return arguments[-1]


ABSURD = {
    "a number": 42,
    "a text": "optimizer",
    "a class": dict,
    "None": None,
    "three dots": ...,
    "an object": Unequal(),
    "a module": torch.nn.Linear(2, 2),
    "no argument": lambda: 1,
    "nine arguments": lambda a, b, c, d, e, f, g, h, i: 1,
    "nothing": nothing,
    "itself": lambda *_: SOLVED,
    "its last argument": swap,
    "42": lambda *_: 42,
    "infinity": lambda *_: float("inf"),
    "many digits": lambda *_: 10**5000,
    "a long text": lambda *_: "x" * 10**6,
    "endless": lambda *_: itertools.count(),
    "endless pair": lambda *_: (itertools.count(), itertools.count()),
    "pair of texts": lambda *_: ("90", {"weight": "x"}),
    "pair with numbers as names": lambda *_: (90.0, {1: torch.ones(2)}),
    "pair that can't be compared": lambda _, model, accuracy: (Unequal(), model.state_dict()),
    "empty dict": lambda *_: {},
    "a tensor": lambda *_: torch.ones(3),
    "a class in return": lambda *_: dict,
    "what can't be compared": lambda *_: Unequal(),
    "a generator": lambda *arguments: (yield arguments),
    "True": lambda *_: True,
    "False": lambda *_: False,
    "ValueError": raises(ValueError("two\nlines " * 500)),
    "an error without words": raises(Evil()),
    "exit": raises(SystemExit(1)),
    "stop": raises(KeyboardInterrupt()),
    "no end": lambda *arguments: ABSURD["no end"](*arguments),
    "too large": lambda *_: torch.empty(2**60),
    "destroy": destroy,
    "litter": litter,
}


@pytest.mark.parametrize("absurd", ABSURD)
@pytest.mark.parametrize("name", CHECKS)
def test_an_absurd_answer_gets_a_line(ask, name, absurd):
    line = ask(name, ABSURD[absurd])
    assert line.startswith("✗ "), line


def test_an_error_in_the_function_is_told_with_its_name(ask):
    line = ask("optimizer_bytes", raises(TypeError("no such thing")))
    assert line == "✗ for SGD with momentum, your function raises TypeError: no such thing"
    assert "takes 0 positional arguments but 2 were given" in ask("save_atomically", lambda: 1)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_asks_for_the_function_itself(ask, name):
    for answer in (42, "text", None, ..., Unequal()):
        assert ask(name, answer) == (
            f"✗ give the check the function {name} itself, without calling it."
        )


def test_a_solution_is_right_whatever_the_settings_of_the_notebook(ask):
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad():
            for name, solution in SOLVED.items():
                assert ask(name, solution).startswith("✓ ")
    finally:
        torch.use_deterministic_algorithms(False)


# Wrong answers. The name of a function begins with the name of its exercise.


def tensors_of(state):
    return [tensor for tensors in state["state"].values() for tensor in tensors.values()]


def load(path):
    return torch.load(path, weights_only=True)


def numbers_instead_of_bytes(state):
    return sum(tensor.numel() for tensor in tensors_of(state))


def four_bytes_each(state):
    return sum(4 * tensor.numel() for tensor in tensors_of(state))


def tensors_counted(state):
    return len(tensors_of(state))


def momentum_only(state):
    return sum(
        tensors["momentum_buffer"].nbytes
        for tensors in state["state"].values()
        if "momentum_buffer" in tensors
    )


def momentum_of_all(state):
    return sum(tensors["momentum_buffer"].nbytes for tensors in state["state"].values())


def as_large_as_the_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell()


def bytes_as_text(state):
    return f"{SOLVED['optimizer_bytes'](state)} bytes"


def one_parameter(state):
    return tensors_of(state)[0].nbytes


def prints_it(state):
    print(end="")


def without_step(state):
    states = state["state"].values()
    return sum(
        t.nbytes for s in states for name, t in s.items() if name != "step" and t is not None
    )


def all_have_nbytes(state):
    return sum(tensor.nbytes for tensor in tensors_of(state))


def lists_left_out(state):
    return sum(t.nbytes for t in tensors_of(state) if isinstance(t, torch.Tensor))


def parameters_only(state):
    lists = [value if isinstance(value, list) else [value] for value in tensors_of(state)]
    return sum(t.nbytes for values in lists for t in values if isinstance(t, torch.Tensor))


def saves_everything(trained, fresh, path):
    torch.save(trained.state_dict(), path)
    fresh.load_state_dict(load(path))


def forgets_to_load(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)


def forgets_to_save(trained, fresh, path):
    fresh.classifier.load_state_dict(trained.classifier.state_dict())


def names_do_not_fit(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.load_state_dict(load(path))


def strict_false_loads_nothing(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.load_state_dict(load(path), strict=False)


def saves_the_module(trained, fresh, path):
    torch.save(trained.classifier, path)
    fresh.classifier = torch.load(path, weights_only=False)


def saves_the_features(trained, fresh, path):
    torch.save(trained.features.state_dict(), path)


def loads_the_features_too(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.load_state_dict(trained.state_dict())


def shares_the_classifier(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.classifier = trained.classifier


def moves_the_other_way(trained, fresh, path):
    torch.save(fresh.classifier.state_dict(), path)
    trained.classifier.load_state_dict(load(path))


def never_reads(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.classifier.load_state_dict(trained.classifier.state_dict())


def never_reads_but_copies(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.classifier = copy.deepcopy(trained.classifier)


def a_path_of_its_own(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), "classifier.pt")
    fresh.classifier.load_state_dict(load("classifier.pt"))


def reads_another_file(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    torch.save(trained.classifier.state_dict(), "copy.pt")
    fresh.classifier.load_state_dict(load("copy.pt"))


def loads_weights_only(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    state = {name: tensor for name, tensor in load(path).items() if "weight" in name}
    fresh.classifier.load_state_dict(state, strict=False)


def keeps_a_view(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, model.state_dict()
    return best


def keeps_a_shallow_copy(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, dict(model.state_dict())
    return best


def keeps_the_last(best, model, accuracy):
    return accuracy, copy.deepcopy(model.state_dict())


def keeps_the_later_of_equals(best, model, accuracy):
    if best is None or accuracy >= best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


def keeps_the_worst(best, model, accuracy):
    if best is None or accuracy < best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


def keeps_the_first(best, model, accuracy):
    return best or (accuracy, copy.deepcopy(model.state_dict()))


def keeps_parameters_only(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, {name: p.detach().clone() for name, p in model.named_parameters()}
    return best


def keeps_zeros(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    return best


def puts_the_model_back(best, model, accuracy):
    best = SOLVED["keep_if_better"](best, model, accuracy)
    model.load_state_dict(best[1])
    return best


def keeps_the_model(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, copy.deepcopy(model)
    return best


def returns_only_what_is_better(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return None


def forgets_the_first_epoch(best, model, accuracy):
    if accuracy > best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


def begins_at_zero(best, model, accuracy):
    best = best or (0.0, None)
    if accuracy > best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


BEST = []


def remembers_earlier_runs(best, model, accuracy):
    if not BEST or accuracy > BEST[0][0]:
        BEST[:] = [(accuracy, copy.deepcopy(model.state_dict()))]
    return BEST[0]


def whole_percents(best, model, accuracy):
    if best is None or int(accuracy) > int(best[0]):
        return accuracy, copy.deepcopy(model.state_dict())
    return best


def accuracy_of_the_best_and_newest_state(best, model, accuracy):
    top = accuracy if best is None else max(best[0], accuracy)
    return top, copy.deepcopy(model.state_dict())


def no_map_location(path, model):
    model.load_state_dict(load(path))
    return model


def loads_a_part(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor for name, tensor in state.items() if "features" in name}
    model.load_state_dict(state, strict=False)
    return model


def runs_code(path, model):
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False))
    return model


def runs_code_as_a_last_resort(path, model):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        state = torch.load(path, map_location="cpu", weights_only=False)
    model.load_state_dict(state)
    return model


def swallows_the_error(path, model):
    with contextlib.suppress(Exception):
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


def swallows_what_is_unsafe(path, model):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return model
    model.load_state_dict(state)
    return model


def swallows_what_is_damaged(path, model):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except RuntimeError:
        return model
    model.load_state_dict(state)
    return model


def not_strict(path, model):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state, strict=False)
    return model


def from_one_gpu(path, model):
    state = torch.load(path, map_location={"cuda:0": "cpu"}, weights_only=True)
    model.load_state_dict(state)
    return model


def reads_and_does_not_load(path, model):
    return torch.load(path, map_location="cpu", weights_only=True)


def loads_and_returns_nothing(path, model):
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def returns_the_matched_keys(path, model):
    return model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def another_path(path, model):
    model.load_state_dict(load("saved_data/model.pt"))
    return model


def rate_before_loading(path, optimizer, learning_rate):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.load_state_dict(load(path))


def momentum_thrown_away(path, optimizer, learning_rate):
    load(path)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def first_group_only(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    optimizer.param_groups[0]["lr"] = learning_rate


def a_new_optimizer(path, optimizer, learning_rate):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)


def rate_as_an_attribute(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    optimizer.lr = learning_rate


def rate_of_the_constructor(path, optimizer, learning_rate):
    rate = optimizer.param_groups[0]["lr"]
    SOLVED["resume_slower"](path, optimizer, rate)


def momentum_set_to_zero(path, optimizer, learning_rate):
    SOLVED["resume_slower"](path, optimizer, learning_rate)
    for state in optimizer.state.values():
        state["momentum_buffer"].zero_()


def state_without_the_settings(path, optimizer, learning_rate):
    saved = load(path)
    saved["param_groups"] = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def changes_the_momentum(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    for group in optimizer.param_groups:
        group.update(lr=learning_rate, momentum=0.9)


def changes_nesterov(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    for group in optimizer.param_groups:
        group.update(lr=learning_rate, nesterov=False)


def settings_of_the_first_group(path, optimizer, learning_rate):
    optimizer.load_state_dict(load(path))
    first = {name: v for name, v in optimizer.param_groups[0].items() if name != "params"}
    for group in optimizer.param_groups:
        group.update(first, lr=learning_rate)


def state_by_number(path, optimizer, learning_rate):
    saved = load(path)
    optimizer.state.update(saved["state"])
    for group, of_file in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({name: v for name, v in of_file.items() if name != "params"})
        group["lr"] = learning_rate


def writes_the_file(path, optimizer, learning_rate):
    saved = load(path)
    for group in saved["param_groups"]:
        group["lr"] = learning_rate
    torch.save(saved, path)
    optimizer.load_state_dict(load(path))


def a_file_of_the_notebook(path, optimizer, learning_rate):
    SOLVED["resume_slower"]("optimizer.pt", optimizer, learning_rate)


def not_renamed(state, model, old, new):
    model.load_state_dict(state)


def not_renamed_and_not_strict(state, model, old, new):
    model.load_state_dict(state, strict=False)


def all_names_wrong(state, model, old, new):
    model.load_state_dict({f"{new}.{name}": state[name] for name in state}, strict=False)


def by_position(state, model, old, new):
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))


def by_alphabet(state, model, old, new):
    names = zip(sorted(model.state_dict()), sorted(state), strict=True)
    model.load_state_dict({name: state[before] for name, before in names})


def replaces_everywhere(state, model, old, new):
    model.load_state_dict({name.replace(old, new): state[name] for name in state})


def replaces_everywhere_and_not_strict(state, model, old, new):
    model.load_state_dict({name.replace(old, new): state[name] for name in state}, strict=False)


def plain_replace(state, model, old, new):
    model.load_state_dict({n.replace(f"{old}.", f"{new}."): state[n] for n in state})


def replaces_the_first(state, model, old, new):
    model.load_state_dict({n.replace(f"{old}.", f"{new}.", 1): state[n] for n in state})


def replaces_all_of_the_layer(state, model, old, new):
    renamed = {n.replace(f"{old}.", f"{new}.") if n.startswith(f"{old}.") else n: n for n in state}
    model.load_state_dict({name: state[before] for name, before in renamed.items()})


def without_the_dot(state, model, old, new):
    renamed = {new + n.removeprefix(old) if n.startswith(old) else n: n for n in state}
    model.load_state_dict({name: state[before] for name, before in renamed.items()})


def weight_and_bias(state, model, old, new):
    state = dict(state)
    for kind in ("weight", "bias"):
        state[f"{new}.{kind}"] = state.pop(f"{old}.{kind}")
    model.load_state_dict(state)


def renamed(state, old, new):
    return {
        new + name.removeprefix(old) if name.startswith(f"{old}.") else name: tensor
        for name, tensor in state.items()
    }


def renamed_but_not_strict(state, model, old, new):
    model.load_state_dict(renamed(state, old, new), strict=False)


def only_the_layer_is_strict(state, model, old, new):
    state = renamed(state, old, new)
    inner = {n.removeprefix(f"{new}."): t for n, t in state.items() if n.startswith(f"{new}.")}
    model.get_submodule(new).load_state_dict(inner)
    model.load_state_dict(state, strict=False)


def fills_gaps(state, model, old, new):
    model.load_state_dict({**model.state_dict(), **renamed(state, old, new)})


def zeroes_the_old_one(state, model, old, new):
    model.load_state_dict(renamed(state, old, new))
    next(iter(state.values())).zero_()


def renames_in_place(state, model, old, new):
    for name in list(state):
        if name.startswith(f"{old}."):
            state[name.replace(old, new, 1)] = state.pop(name)
    model.load_state_dict(state)


def prefix_replaced_everywhere(state):
    return {name.replace("module.", ""): tensor for name, tensor in state.items()}


def letters_stripped(state):
    return {name.lstrip("module."): tensor for name, tensor in state.items()}  # noqa: B005


def seven_letters_cut(state):
    return {name[7:]: tensor for name, tensor in state.items()}


def split_at_the_first_dot(state):
    return {name.split(".", 1)[1]: tensor for name, tensor in state.items()}


def the_last_part_only(state):
    return {name.split(".")[-1]: tensor for name, tensor in state.items()}


def the_same(state):
    return dict(state)


def names_only(state):
    return [name.removeprefix("module.") for name in state]


def stripped_in_place(state):
    for name in list(state):
        state[name.removeprefix("module.")] = state.pop(name)
    return state


def looks_at_the_first_name(state):
    if next(iter(state)).startswith("module."):
        return {name[7:]: tensor for name, tensor in state.items()}
    return dict(state)


def any_first_word(state):
    words = ("module", "module2")
    return {n.partition(".")[2] if n.partition(".")[0] in words else n: t for n, t in state.items()}


def without_the_dot_of_module(state):
    return {n.removeprefix("module").lstrip("."): tensor for n, tensor in state.items()}


def it_loads(path):
    try:
        load(path)
    except Exception:
        return False
    return True


def size_is_not_zero(path):
    return os.path.getsize(path) > 0


def all_are_intact(path):
    return os.path.exists(path)


def what_testzip_returns(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile:
        return "damaged"


def never_calls_testzip(path):
    return zipfile.is_zipfile(path)


def half_a_file_raises(path):
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def only_bad_zip_files(path):
    """The solution of old: other errors of a broken list of records are let through."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def only_the_sums(path):
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:
        return False


def large_enough(path):
    """Takes a file for complete if it is large."""
    complete = zipfile.is_zipfile(path) and SOLVED["is_intact"](path)
    return complete or (not zipfile.is_zipfile(path) and os.path.getsize(path) > 2000)


def not_if_empty(path):
    return os.path.getsize(path) == 0 or SOLVED["is_intact"](path)


def the_other_way_round(path):
    return not SOLVED["is_intact"](path)


def nothing_is_intact(path):
    return os.path.isdir(path)


def in_place(state, path):
    torch.save(state, path)


def through_memory(state, path):
    memory = io.BytesIO()
    torch.save(state, memory)
    Path(path).write_bytes(memory.getvalue())


def copied(state, path):
    try:
        torch.save(state, path + ".tmp")
        shutil.copy(path + ".tmp", path)
    finally:
        os.remove(path + ".tmp")


def in_another_folder(state, path):
    with tempfile.NamedTemporaryFile(delete=False) as file:
        torch.save(state, file)
    os.replace(file.name, path)


def deleted_first(state, path):
    try:
        torch.save(state, path + ".tmp")
        if os.path.exists(path):
            os.remove(path)
        os.rename(path + ".tmp", path)
    finally:
        if os.path.exists(path + ".tmp"):
            os.remove(path + ".tmp")


def removed_and_linked(state, path):
    """Never renames anything."""
    torch.save(state, path + ".tmp")
    if os.path.exists(path):
        os.remove(path)
    os.link(path + ".tmp", path)
    os.remove(path + ".tmp")


def set_aside(state, path):
    try:
        torch.save(state, path + ".tmp")
        if os.path.exists(path):
            os.rename(path, path + ".old")
        os.rename(path + ".tmp", path)
        if os.path.exists(path + ".old"):
            os.remove(path + ".old")
    finally:
        if os.path.exists(path + ".tmp"):
            os.remove(path + ".tmp")


def in_the_working_directory(state, path):
    try:
        torch.save(state, "checkpoint.tmp")
        os.replace("checkpoint.tmp", path)
    finally:
        if os.path.exists("checkpoint.tmp"):
            os.remove("checkpoint.tmp")


def tried_first_and_in_place(state, path):
    torch.save(state, io.BytesIO())
    torch.save(state, path)


def moved_from_elsewhere(state, path):
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, os.path.join(folder, "new.pt"))
        shutil.move(os.path.join(folder, "new.pt"), path)


def deleted_when_it_fails(state, path):
    try:
        SOLVED["save_atomically"](state, path)
    except Exception:
        os.remove(path)
        raise


def first_one_in_place(state, path):
    if os.path.exists(path):
        SOLVED["save_atomically"](state, path)
    else:
        torch.save(state, path)


def deleted_at_once(state, path):
    if os.path.exists(path):
        os.remove(path)
    SOLVED["save_atomically"](state, path)


def backed_up(state, path):
    if os.path.exists(path):
        os.replace(path, path + ".old")
    torch.save(state, path)


def temporary_left_after_an_error(state, path):
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


def temporary_left_always(state, path):
    torch.save(state, path + ".tmp")
    shutil.copy(path + ".tmp", path + ".tmp2")
    os.replace(path + ".tmp2", path)


def error_kept(state, path):
    try:
        torch.save(state, path + ".tmp")
        os.replace(path + ".tmp", path)
    except Exception:
        os.remove(path + ".tmp")


def another_name(state, path):
    torch.save(state, path + ".pt")


def something_else(state, path):
    SOLVED["save_atomically"]({"state": state}, path)


def parameters_times(model, copies):
    return (1 + copies) * sum(p.nbytes for p in model.parameters())


def state_times(model, copies):
    return (1 + copies) * sum(t.nbytes for t in model.state_dict().values())


def frozen_ones_too(model, copies):
    kept = copies * sum(p.nbytes for p in model.parameters())
    return sum(t.nbytes for t in model.state_dict().values()) + kept


def four_bytes_for_all(model, copies):
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    return 4 * (sum(t.numel() for t in model.state_dict().values()) + copies * sum(trained))


def all_buffers(model, copies):
    """Has those that are not saved, too."""
    total = 0
    for tensor in [*model.parameters(), *model.buffers()]:
        size = tensor.numel() * tensor.element_size()
        total += size * (1 + copies) if tensor.requires_grad else size
    return total


def saved_to_memory(model, copies):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell() * (1 + copies)


def in_single_precision(model, copies):
    return torch.tensor(float(SOLVED["checkpoint_bytes"](model, copies))).item()


def copied_to_measure(model, copies):
    model = copy.deepcopy(model).cpu() if copies < 2 else model.cpu()
    return SOLVED["checkpoint_bytes"](model, copies)


def frozen_thrown_out(model, copies):
    model.load_state_dict({n: torch.zeros_like(t) for n, t in model.state_dict().items()})
    return SOLVED["checkpoint_bytes"](model, copies)


def halved_whatever_it_is(state):
    return {name: tensor.half() for name, tensor in state.items()}


def halved_if_floating_point(state):
    return {n: t.half() if t.is_floating_point() else t for n, t in state.items()}


def all_or_nothing(state):
    halved = halved_if_floating_point(state)
    return dict(state) if any(t.isinf().any() for t in halved.values()) else halved


def looks_at_the_maximum(state):
    def fits(t):
        return t.is_floating_point() and t.max() <= 65504

    return {name: t.half() if fits(t) else t for name, t in state.items()}


def clamped(state):
    return {
        n: t.clamp(-65504, 65504).half() if t.is_floating_point() else t for n, t in state.items()
    }


def only_float32(state):
    def fits(t):
        return t.dtype == torch.float32 and not t.half().isinf().any()

    return {name: t.half() if fits(t) else t for name, t in state.items()}


def in_bfloat16(state):
    return {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}


def rounded_twice(state):
    return {
        name: state[name].bfloat16().half() if tensor.dtype == torch.float16 else tensor
        for name, tensor in SOLVED["to_half"](state).items()
    }


def rounded_only(state):
    return {n: t.half().to(t.dtype) if t.is_floating_point() else t for n, t in state.items()}


def halved_in_place(state):
    state.update(SOLVED["to_half"](state))
    return state


def what_fits(state):
    return {n: t for n, t in SOLVED["to_half"](state).items() if t.dtype == torch.float16}


def epochs_in(folder):
    return [int(name[6:-3]) for name in os.listdir(folder) if re.match(r"epoch-\d+\.pt", name)]


def delete(folder, epochs):
    for epoch in epochs:
        os.remove(os.path.join(folder, f"epoch-{epoch}.pt"))


def keeps_all(state, folder, epoch, keep):
    torch.save(state, os.path.join(folder, f"epoch-{epoch}.pt"))


def by_the_alphabet(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    delete(folder, sorted(epochs_in(folder), key=str)[:-keep])


def by_the_time(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    paths = sorted(Path(folder).glob("epoch-*.pt"), key=os.path.getmtime)
    for path in paths[:-keep]:
        path.unlink()


def one_too_many(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    delete(folder, sorted(epochs_in(folder))[: -keep - 1])


def without_gaps(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    if os.path.exists(os.path.join(folder, f"epoch-{epoch - keep}.pt")):
        delete(folder, [epoch - keep])


def without_gaps_or_an_error(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    delete(folder, [epoch - keep])


def one_at_a_time(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    epochs = sorted(epochs_in(folder))
    if len(epochs) > keep:
        delete(folder, epochs[:1])


def counted_from_the_end(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    epochs = sorted(epochs_in(folder))
    delete(folder, epochs[: len(epochs) - keep])


def deleted_before(state, folder, epoch, keep):
    delete(folder, sorted({*epochs_in(folder), epoch})[:-keep])
    keeps_all(state, folder, epoch, keep)


def everything_else(state, folder, epoch, keep):
    SOLVED["save_newest"](state, folder, epoch, keep)
    for name in os.listdir(folder):
        if not name.startswith("epoch-"):
            os.remove(os.path.join(folder, name))


def every_pt_file(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    epochs = [int(path.stem.split("-")[-1]) for path in Path(folder).glob("*.pt")]
    delete(folder, sorted(epochs)[:-keep])


def another_file_name(state, folder, epoch, keep):
    torch.save(state, os.path.join(folder, f"epoch-{epoch:03d}.pt"))


def with_its_epoch(state, folder, epoch, keep):
    SOLVED["save_newest"]({"epoch": epoch, "state": state}, folder, epoch, keep)


def error_of_saving_kept(state, folder, epoch, keep):
    try:
        keeps_all(state, folder, epoch, keep)
    except Exception:
        return
    delete(folder, sorted(epochs_in(folder))[:-keep])


def in_the_usual_way(path, make_model):
    model = make_model()
    model.load_state_dict(load(path))
    return model


def on_meta(path, make_model):
    with torch.device("meta"):
        return make_model()


def meta_without_assign(path, make_model):
    model = on_meta(path, make_model)
    model.load_state_dict(load(path))
    return model


def types_of_the_file(path, make_model):
    model = on_meta(path, make_model)
    model.load_state_dict(load(path), assign=True)
    return model


def all_in_float32(path, make_model):
    return types_of_the_file(path, make_model).float()


def state_in_float32(path, make_model):
    model = on_meta(path, make_model)
    state = {name: tensor.float() for name, tensor in load(path).items()}
    model.load_state_dict(state, assign=True)
    return model


def types_of_a_second_model(path, make_model):
    types = {name: tensor.dtype for name, tensor in make_model().state_dict().items()}
    model = on_meta(path, make_model)
    state = {name: tensor.to(types[name]) for name, tensor in load(path).items()}
    model.load_state_dict(state, assign=True)
    return model


def by_the_default_device(path, make_model):
    torch.set_default_device("meta")
    model = make_model()
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: state[name].to(t.dtype) for name, t in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


def empty_memory(path, make_model):
    return on_meta(path, make_model).to_empty(device="cpu")


def lean_but_not_strict(path, make_model):
    model = on_meta(path, make_model).to_empty(device="cpu")
    model.load_state_dict(load(path), strict=False)
    return model


def loaded_and_not_returned(path, make_model):
    SOLVED["load_lean"](path, make_model)


def in_a_model_around_it(path, make_model):
    return torch.nn.Sequential(SOLVED["load_lean"](path, make_model))


def no_parameters(path, make_model):
    return SOLVED["load_lean"](path, make_model).requires_grad_(False)


def all_of_it(state, model, head):
    model.load_state_dict(state, strict=False)


def whatever_fits(state, model, head):
    own = model.state_dict()
    fitting = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
    model.load_state_dict(fitting, strict=False)


def body_not_strict(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    model.load_state_dict(body, strict=False)


def missing_only(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    result = model.load_state_dict(body, strict=False)
    if [name for name in result.missing_keys if not name.startswith(f"{head}.")]:
        raise ValueError


def unexpected_only(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(f"{head}.")}
    if model.load_state_dict(body, strict=False).unexpected_keys:
        raise ValueError


def similar_names(state, model, head):
    body = {name: state[name] for name in state if not name.startswith(head)}
    result = model.load_state_dict(body, strict=False)
    if result.unexpected_keys or not all(name.startswith(head) for name in result.missing_keys):
        raise ValueError


def strict_as_ever(state, model, head):
    model.load_state_dict({name: state[name] for name in state if not name.startswith(f"{head}.")})


def takes_from_the_dict(state, model, head):
    for name in [name for name in state if name.startswith(f"{head}.")]:
        del state[name]
    SOLVED["take_over"](state, model, head)


def header_of(path):
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def with_the_metadata(path):
    return {name: entry.get("shape", []) for name, entry in header_of(path).items()}


def all_of_the_header(path):
    return {name: entry for name, entry in header_of(path).items() if name != "__metadata__"}


def loads_the_tensors(path):
    from safetensors.torch import load_file

    return {name: tensor.shape for name, tensor in load_file(path).items()}


def big_endian(path):
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "big")))


def guesses_the_length(path):
    with open(path, "rb") as file:
        text = file.read(200)[8:]
    header = json.loads(text[: text.rindex(b"}") + 1])
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def numbers_of_elements(path):
    return {name: len(shape) for name, shape in SOLVED["shapes_in"](path).items()}


def first_dimension(path):
    return {name: shape[:1] for name, shape in SOLVED["shapes_in"](path).items()}


def names_of_tensors(path):
    return list(SOLVED["shapes_in"](path))


def in_the_same_run(make_run, train, cut, end):
    whole, run = make_run(), make_run()
    train(whole, 0, end)
    train(run, 0, cut)
    run.load_state_dict(run.state_dict())
    train(run, cut, end)
    return same_states(whole, run)


def same_states(one, other, equal=torch.equal):
    one, other = one.state_dict(), other.state_dict()
    return all(equal(one[name], other[name]) for name in one)


def exact_but(load=True, equal=torch.equal):
    def answer(make_run, train, cut, end):
        whole, stopped, continued = make_run(), make_run(), make_run()
        train(whole, 0, end)
        train(stopped, 0, cut)
        if load:
            continued.load_state_dict(stopped.state_dict())
        train(continued, cut, end)
        return same_states(whole, continued, equal)

    return answer


def not_loaded(make_run, train, cut, end):
    return exact_but(load=False)(make_run, train, cut, end)


def nearly_equal(make_run, train, cut, end):
    return exact_but(equal=torch.allclose)(make_run, train, cut, end)


def compared_at_the_cut(make_run, train, cut, end):
    whole, stopped, continued = make_run(), make_run(), make_run()
    train(whole, 0, end)
    train(stopped, 0, cut)
    continued.load_state_dict(stopped.state_dict())
    result = same_states(stopped, continued)
    train(continued, cut, end)
    return result


def trained_to_the_cut_only(make_run, train, cut, end):
    stopped, continued = make_run(), make_run()
    train(stopped, 0, cut)
    continued.load_state_dict(stopped.state_dict())
    return same_states(stopped, continued)


def begins_at_zero_again(make_run, train, cut, end):
    whole, stopped, continued = make_run(), make_run(), make_run()
    train(whole, 0, end)
    train(stopped, 0, cut)
    continued.load_state_dict(stopped.state_dict())
    train(continued, 0, end - cut)
    return same_states(whole, continued)


def the_other_way(make_run, train, cut, end):
    return not SOLVED["continues_exactly"](make_run, train, cut, end)


def always_exact(make_run, train, cut, end):
    SOLVED["continues_exactly"](make_run, train, cut, end)
    return True


def also_before_the_first(batches_done, group, save_every):
    return batches_done % (group * save_every) == 0


def counted_in_batches(batches_done, group, save_every):
    return batches_done > 0 and batches_done % save_every == 0


def in_the_middle(batches_done, group, save_every):
    return batches_done >= group and batches_done // group % save_every == 0


def after_each_step(batches_done, group, save_every):
    return batches_done > 0 and batches_done % group == 0


def both_divide(batches_done, group, save_every):
    return batches_done > 0 and batches_done % group == 0 and batches_done % save_every == 0


def one_batch_early(batches_done, group, save_every):
    return (batches_done + 1) % (group * save_every) == 0


def only_once(batches_done, group, save_every):
    return batches_done == group * save_every


def only_from_the_second_on(batches_done, group, save_every):
    return batches_done > group * save_every and batches_done % (group * save_every) == 0


def divided(batches_done, group, save_every):
    return batches_done / group / save_every


def zero_before_the_first(batches_done, group, save_every):
    return batches_done and batches_done % (group * save_every) == 0


def prints_whether(batches_done, group, save_every):
    print(end="")


def batches(draw=None, slice_of=None, first=0, per_epoch=None):
    """Return a function like batch_indices, with one part of it replaced."""

    def numpy_order(length, seed, epoch):
        return np.random.default_rng([seed, epoch]).permutation(length).tolist()

    def batch_indices(step, length, batch_size, seed):
        count = (per_epoch or (lambda n, size: -(-n // size)))(length, batch_size)
        epoch, batch = divmod(step - first, count)
        order = (draw or numpy_order)(length, seed, epoch)
        if slice_of:
            return slice_of(order, batch, batch_size)
        return order[batch * batch_size : (batch + 1) * batch_size]

    return batch_indices


def named(name, answer):
    answer.__name__ = name
    return answer


def by_torch(length, seed, epoch):
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    return torch.randperm(length, generator=generator).tolist()


def globally_by_torch(length, seed, epoch):
    torch.manual_seed(1000 * seed + epoch)
    return torch.randperm(length).tolist()


def globally_by_numpy(length, seed, epoch):
    np.random.seed(1000 * seed + epoch)
    return np.random.permutation(length).tolist()


def globally_by_python(length, seed, epoch):
    random.seed(f"{seed} {epoch}")
    return random.sample(range(length), length)


def by_python(length, seed, epoch):
    return random.Random(f"{seed} {epoch}").sample(range(length), length)


def padded(order, batch, size):
    return (order + order)[batch * size : (batch + 1) * size]


def drawn_for_each_step(step, length, batch_size, seed):
    batch = step % -(-length // batch_size)
    order = np.random.default_rng([seed, step]).permutation(length).tolist()
    return order[batch * batch_size : (batch + 1) * batch_size]


def never_wraps(step, length, batch_size, seed):
    order = np.random.default_rng(seed).permutation(length).tolist()
    return order[step * batch_size : (step + 1) * batch_size]


def first_epoch_again(step, length, batch_size, seed):
    return SOLVED["batch_indices"](step % -(-length // batch_size), length, batch_size, seed)


def returns_a_tensor(step, length, batch_size, seed):
    return torch.tensor(SOLVED["batch_indices"](step, length, batch_size, seed))


def returns_an_array(step, length, batch_size, seed):
    return np.array(SOLVED["batch_indices"](step, length, batch_size, seed))


def returns_a_list_of_tensors(step, length, batch_size, seed):
    return list(returns_a_tensor(step, length, batch_size, seed))


def returns_floats(step, length, batch_size, seed):
    return [float(index) for index in SOLVED["batch_indices"](step, length, batch_size, seed)]


def prints_the_batch(step, length, batch_size, seed):
    print(end="")


def numbered_from_one(step, length, batch_size, seed):
    return [index + 1 for index in SOLVED["batch_indices"](step, length, batch_size, seed)]


def with_replacement(length, seed, epoch):
    return np.random.default_rng([seed, epoch]).integers(length, size=length).tolist()


def without_the_last_example(length, seed, epoch):
    return [*np.random.default_rng([seed, epoch]).permutation(length - 1).tolist(), 0]


WRONG_BATCHES = {
    named(name, batches(**options)): hint
    for name, options, hint in [
        ("same_order", {"draw": lambda n, seed, _: by_torch(n, seed, 0)}, "0 and 1 have the same"),
        ("unshuffled", {"draw": lambda n, *_: [*range(n)]}, "0 and 1 have the same order"),
        ("two_orders", {"draw": lambda n, s, e: by_torch(n, s, e % 2)}, "0 and 2 have the same"),
        ("no_seed", {"draw": lambda n, _, epoch: by_torch(n, 0, epoch)}, "with a different seed"),
        ("seed_times_epoch", {"draw": lambda n, s, e: by_torch(n, 0, s * e)}, "seed, epoch 0 has"),
        ("replacement", {"draw": with_replacement}, "is in batches 0 and 1 of an epoch"),
        ("one_missing", {"draw": without_the_last_example}, "0 is in epoch 0 more than once"),
        (
            "dropped",
            {"per_epoch": lambda n, size: n // size},
            "has 2 examples; yours has 8: don't drop the last",
        ),
        (
            "padded",
            {"slice_of": padded},
            "yours has 8: don't drop the last batch, and don't fill it up",
        ),
        ("one_more", {"per_epoch": lambda n, size: n // size + 1}, "has 8 examples; yours has 0"),
        ("from_one", {"first": 1, "draw": by_torch}, "step 0 should be the first batch"),
        (
            "from_one_numpy",
            {"first": 1},
            "for step 0 of 50 examples in batches of 8, your function",
        ),
        ("before", {"slice_of": lambda o, b, n: o[(b - 1) * n : b * n]}, "step 0 should be the"),
        ("overlapping", {"slice_of": lambda o, b, n: o[b : b + n]}, "slices that don't overlap"),
        ("every_nth", {"slice_of": lambda o, b, n: o[b::n]}, "has 8 examples; yours has 7"),
        ("no_end", {"slice_of": lambda o, b, n: o[b * n :]}, "is in batches 0 and 1"),
        (
            "length_as_end",
            {"slice_of": lambda o, b, n: o[b * n : n]},
            "has 8 examples; yours has 0",
        ),
        (
            "torch_decides",
            {"draw": lambda n, *_: torch.randperm(n).tolist()},
            "depends on the global random numbers of torch",
        ),
        (
            "numpy_decides",
            {"draw": lambda n, *_: [*np.random.permutation(n)]},
            "depends on the global random numbers of numpy",
        ),
        (
            "python_decides",
            {"draw": lambda n, *_: random.sample(range(n), n)},
            "depends on the global random numbers of random",
        ),
        (
            "torch_seeded",
            {"draw": globally_by_torch},
            "disturbs the global random numbers of torch",
        ),
        (
            "numpy_seeded",
            {"draw": globally_by_numpy},
            "disturbs the global random numbers of numpy",
        ),
        ("python_seeded", {"draw": globally_by_python}, "the global random numbers of random"),
        (
            "unseeded",
            {"draw": lambda n, *_: [*np.random.default_rng().permutation(n)]},
            "asked twice",
        ),
        (
            "initial_seed",
            {"draw": lambda n, seed, epoch: by_torch(n, torch.initial_seed() + seed, epoch)},
            "asked twice for the same step",
        ),
    ]
}


WRONG = {
    "shapes_in": {
        with_the_metadata: "__metadata__ isn't a tensor",
        all_of_the_header: "return only the shape of each tensor",
        loads_the_tensors: "whose tensors are still being downloaded, your function raises",
        big_endian: "your function raises",
        guesses_the_length: "your function raises",
        numbers_of_elements: "only the shape of each tensor",
        first_dimension: "the shape of dense.weight should be [3, 2]",
        names_of_tensors: "the answer is of type list, not a dict",
    },
    "is_time_to_save": {
        also_before_the_first: "before the first batch, there is nothing to save",
        counted_in_batches: "save_every counts steps of the optimizer",
        in_the_middle: "saves after 25 batches, in the middle of a group",
        after_each_step: "saves after 4 batches: how many steps of the optimizer is that?",
        both_divide: "saves after 12 batches: how many steps of the optimizer is that?",
        one_batch_early: "saves after 23 batches, in the middle of a group",
        only_once: "doesn't save after 48 batches, 12 steps of the optimizer",
        only_from_the_second_on: "doesn't save after 24 batches, 6 steps of the optimizer",
        divided: "the answer is of type float, not True or False",
        zero_before_the_first: "after 0 batches, the answer is of type int",
        prints_whether: "your function returns nothing",
    },
    "batch_indices": {
        drawn_for_each_step: "is in batches 0 and 1 of an epoch: an epoch has one order",
        never_wraps: "step 7 is batch 0 of epoch 1 and has 8 examples; yours has 0",
        first_epoch_again: "epochs 0 and 1 have the same order",
        returns_a_tensor: "the answer is of type Tensor, not a list: add .tolist()",
        returns_an_array: "the answer is of type ndarray, not a list: add .tolist()",
        returns_a_list_of_tensors: "an item of type Tensor, not int: .tolist() gives you ints",
        returns_floats: "the list for step 0 has an item of type float, not int",
        prints_the_batch: "your function returns nothing",
        numbered_from_one: "50 is not the number of an example: 50 examples are 0 to 49",
        **WRONG_BATCHES,
    },
    "continues_exactly": {
        in_the_same_run: "the same run was continued",
        not_loaded: "a run that continues exactly was called inexact",
        nearly_equal: "a run that rounds what it loads was called exact",
        compared_at_the_cut: "a run that doesn't save its momentum was called exact",
        trained_to_the_cut_only: "no run was trained from step 0 to the end",
        begins_at_zero_again: "no run was continued from the cut to the end",
        the_other_way: "a run that continues exactly was called inexact",
        always_exact: "a run that doesn't save its momentum was called exact",
    },
    "optimizer_bytes": {
        numbers_instead_of_bytes: "that is the number of elements",
        four_bytes_each: "too few bytes for Adam in float64: not every element takes 4 bytes",
        prints_it: "your function returns nothing: print shows, return hands back",
        without_step: "too few bytes for Adam, which keeps other tensors: they are exp_avg",
        all_have_nbytes: "for SparseAdam, whose step is a plain number, your function raises Attr",
        lists_left_out: "too few bytes for LBFGS, which also keeps lists: tensors are in the lists",
        parameters_only: "too few bytes for SGD with lr=torch.tensor(0.1): this tensor counts, too",
        tensors_counted: "that is the number of tensors",
        momentum_only: "too few bytes for Adam, which keeps other tensors: they are exp_avg",
        momentum_of_all: "for Adam, which keeps other tensors, your function raises KeyError",
        as_large_as_the_file: "too many bytes for SGD with momentum: only tensors count",
        bytes_as_text: "the answer is of type str, not a number",
        one_parameter: "too few bytes for SGD with momentum: each parameter has a state",
    },
    "move_classifier": {
        saves_everything: "the file holds more than the classifier's parameters",
        forgets_to_load: "classifier is as it was: load it",
        forgets_to_save: "there is no file at the path",
        names_do_not_fit: "Do these names belong to the module that loads them?",
        strict_false_loads_nothing: "no name in it fitted, which strict=False hides",
        saves_the_module: "the file does not hold a state",
        saves_the_features: "the file does not hold all parameters of the classifier",
        loads_the_features_too: "the features of the fresh model have changed, too",
        shares_the_classifier: "got the trained one's tensors without reading it",
        never_reads: "got the trained one's tensors without reading it",
        never_reads_but_copies: "got the trained one's tensors without reading it",
        a_path_of_its_own: "there is no file at the path that your function was given",
        reads_another_file: "the fresh model's classifier is not what is in it",
        loads_weights_only: "the fresh model's classifier is not what is in it",
        moves_the_other_way: "your function changes the trained model",
    },
    "keep_if_better": {
        keeps_a_view: "what was kept has changed as the model trained on: is it a copy?",
        keeps_a_shallow_copy: "what was kept has changed as the model trained on: is it a copy?",
        keeps_the_last: "after 70% and 90% and 80%, yours keeps 80.0, not 90",
        keeps_the_later_of_equals: "of two equally good epochs, the earlier one stays",
        keeps_the_worst: "after 70% and 90%, yours keeps 70.0, not 90",
        keeps_the_first: "after 70% and 90%, yours keeps 70.0, not 90",
        keeps_parameters_only: "the state lacks features.1.running_mean, which model.state_dict()",
        keeps_zeros: "after 70%, the state is not the one that epoch 1 ended with",
        accuracy_of_the_best_and_newest_state: "the state is not the one that epoch 2 ended with",
        remembers_earlier_runs: "after 0%, yours keeps 90.0, not 0",
        whole_percents: "after 91.2% and 91.4%, yours keeps 91.2, not 91.4",
        puts_the_model_back: "your function changes the model",
        keeps_the_model: "after 70%, the second of the pair is no state of the model",
        returns_only_what_is_better: "return a pair: the new one or the old one, but always one",
        forgets_the_first_epoch: "in epoch 1, with best=None, your function raises TypeError",
        begins_at_zero: "after 0%, the second of the pair is no state of the model",
    },
    "load_into_cpu": {
        no_map_location: "for a file from a GPU, your function raises RuntimeError",
        loads_a_part: "the model does not hold what is in the file",
        runs_code: "opening a file has just run code",
        runs_code_as_a_last_resort: "opening a file has just run code",
        swallows_the_error: "would run code was refused, and the caller got no error",
        swallows_what_is_unsafe: "would run code was refused, and the caller got no error",
        swallows_what_is_damaged: "a cut file can't be loaded, and the caller got no error",
        not_strict: "a file without classifier.0.bias does not fit, and the caller got no error",
        from_one_gpu: "for a file from a GPU, your function raises RuntimeError",
        reads_and_does_not_load: "the model is as it was",
        loads_and_returns_nothing: "your function returns nothing",
        returns_the_matched_keys: "something else than the model, of type _IncompatibleKeys",
        another_path: "your function raises FileNotFoundError",
    },
    "resume_slower": {
        rate_before_loading: "the rates are those of the file: loading overwrites what was set",
        momentum_thrown_away: "the momentum is lost",
        first_group_only: "only the first group got the new rate",
        a_new_optimizer: "the optimizer that your function was given is as it was",
        rate_as_an_attribute: "the rates are those of the file",
        rate_of_the_constructor: "the rate is not the new one",
        momentum_set_to_zero: "the momentum is not that of the file",
        state_without_the_settings: "momentum was 0.75 and is 0: only the rate should change",
        changes_the_momentum: "momentum was 0.75 and is 0.9: only the rate should change",
        changes_nesterov: "nesterov was True and is False: only the rate should change",
        settings_of_the_first_group: "momentum was 0.5 and is 0.75: only the rate should change",
        state_by_number: "its next step is not that of the saved one",
        writes_the_file: "your function changes the file",
        a_file_of_the_notebook: "your function raises FileNotFoundError",
    },
    "load_renamed": {
        not_renamed: "Do these names belong to the module that loads them?",
        not_renamed_and_not_strict: "output.last.weight still has its random numbers",
        all_names_wrong: "not one tensor was loaded, and no error said so",
        by_position: "tensors were matched by position",
        by_alphabet: "weight does not hold the tensor of",
        plain_replace: "Do these names belong to the module that loads them?",
        replaces_the_first: "Do these names belong to the module that loads them?",
        replaces_all_of_the_layer: "Do these names belong to the module that loads them?",
        without_the_dot: "Do these names belong to the module that loads them?",
        weight_and_bias: "your function raises KeyError: 'dense.weight'",
        only_the_layer_is_strict: "right, but a state without stem.bias loads as well",
        fills_gaps: "right, but a state without stem.bias loads as well",
        zeroes_the_old_one: "your function changes the dict it was given",
        replaces_everywhere: "Do these names belong to the module that loads them?",
        replaces_everywhere_and_not_strict: "dense2.weight still has its random numbers",
        renamed_but_not_strict: "a state without stem.bias loads as well",
        renames_in_place: "your function changes the dict it was given",
    },
    "strip_module": {
        prefix_replaced_everywhere: "submodule.weight became subweight",
        letters_stripped: "dense.weight became nse.weight",
        seven_letters_cut: "names without the prefix have changed, too",
        split_at_the_first_dot: "names without the prefix have changed, too",
        the_last_part_only: "the names, or the tensors, are not those of model.weight",
        the_same: "the names still begin with module.",
        names_only: "the answer is of type list, not a state_dict",
        stripped_in_place: "your function changes the dict it was given",
        looks_at_the_first_name: "some names have the prefix and others not",
        any_first_word: "names without the prefix have changed, too",
        without_the_dot_of_module: "names without the prefix have changed, too",
    },
    "is_intact": {
        it_loads: "half a file is found, but no CRC sum compared",
        size_is_not_zero: "a file with a flipped bit was called intact",
        all_are_intact: "a file with a flipped bit was called intact",
        what_testzip_returns: "for a whole file, return True or False, not a NoneType",
        only_bad_zip_files: "for a flipped bit in byte",
        only_the_sums: "opening it raises",
        large_enough: "a file without its last bytes was called intact",
        not_if_empty: "an empty file was called intact",
        never_calls_testzip: "half a file is found, but no CRC sum compared",
        half_a_file_raises: "for half a file, your function raises",
        the_other_way_round: "a whole file was called damaged",
        nothing_is_intact: "a whole file was called damaged",
    },
    "save_atomically": {
        in_place: "written in place: a kill in the middle leaves half a file",
        tried_first_and_in_place: "written in place: a kill in the middle leaves half a file",
        removed_and_linked: "for a moment there is no checkpoint",
        set_aside: "for a moment there is no checkpoint",
        in_the_working_directory: "the temporary file is in another folder",
        moved_from_elsewhere: "the temporary file is in another folder",
        through_memory: "written in place: a kill in the middle leaves half a file",
        copied: "written in place: a kill in the middle leaves half a file",
        in_another_folder: "the temporary file is in another folder",
        deleted_first: "for a moment there is no checkpoint",
        deleted_when_it_fails: "a save broke off, and the checkpoint before it is gone",
        first_one_in_place: "the very first save broke off, and it left half a file",
        deleted_at_once: "for a moment there is no checkpoint",
        backed_up: "for a moment there is no checkpoint",
        temporary_left_after_an_error: "a save broke off, and its temporary file is left behind",
        temporary_left_always: "a temporary file is left behind next to the checkpoint",
        error_kept: "your function kept the error to itself",
        another_name: "there is no file at the path",
        something_else: "the file is not what torch.save makes of the state",
    },
    "checkpoint_bytes": {
        parameters_times: "the buffers are missing",
        state_times: "an optimizer keeps something for parameters, and not for buffers",
        all_buffers: "a buffer with persistent=False is not in model.state_dict()",
        frozen_ones_too: "it keeps nothing for frozen parameters",
        four_bytes_for_all: "for SGD without momentum, it is 196 bytes, not 192",
        saved_to_memory: "for SGD without momentum, it is 196 bytes",
        in_single_precision: "for a model of 400 GB, it is 1200012000000 bytes, not 1200012001280",
        copied_to_measure: "for a model of 400 GB, your function raises ",
        frozen_thrown_out: "your function changes the model",
    },
    "to_half": {
        halved_whatever_it_is: "counter is no floating-point tensor",
        halved_if_floating_point: "a number in too_large has become infinite",
        all_or_nothing: "weight has numbers that fit into float16, but it is torch.float32",
        looks_at_the_maximum: "a number in too_negative has become infinite",
        clamped: "too_large does not fit into float16: keep it as it is",
        only_float32: "double has numbers that fit into float16, but it is torch.float64",
        in_bfloat16: "weight has numbers that fit into float16, but it is torch.bfloat16",
        rounded_twice: "weight has not the numbers that half() makes of it",
        rounded_only: "weight has numbers that fit into float16, but it is torch.float32",
        halved_in_place: "your function changes the tensors it was given",
        what_fits: "the names of the answer are not those of the state",
    },
    "save_newest": {
        keeps_all: "after epochs 1, 2, 3, 4 with keep=3, epoch-1.pt should be gone",
        by_the_alphabet: "after epochs 1, 2, 3, 4, 8, 9, 10 with keep=2, there is no epoch-10.pt",
        by_the_time: "should still be there",
        one_too_many: "with keep=3, epoch-1.pt should be gone",
        without_gaps: "after epochs 1, 2, 3, 4, 8 with keep=2, epoch-2.pt should be gone",
        one_at_a_time: "after epochs 1, 2, 3, 4, 8 with keep=2, epoch-3.pt should be gone",
        without_gaps_or_an_error: "for epoch 1, your function raises FileNotFoundError",
        counted_from_the_end: "after epochs 1, 2 with keep=3, epoch-1.pt should still be there",
        deleted_before: "a save broke off, and the checkpoint before it is gone",
        everything_else: "best.pt is no checkpoint of an epoch, and it is gone",
        every_pt_file: "for epoch 1, your function raises ValueError: invalid literal for int()",
        another_file_name: "there is no epoch-1.pt",
        with_its_epoch: "the file is not what torch.save makes of the state",
        error_of_saving_kept: "your function kept the error to itself",
    },
    "load_lean": {
        in_the_usual_way: "the model took memory: make it on meta",
        types_of_a_second_model: "the model took memory: make it on meta",
        on_meta: "0.weight is on meta: without assign=True, it stays empty",
        meta_without_assign: "0.weight is on meta: without assign=True, it stays empty",
        types_of_the_file: "0.weight is torch.float16, but make_model makes it torch.float32",
        all_in_float32: "2.weight is torch.float32, but make_model makes it torch.float64",
        state_in_float32: "1.num_batches_tracked is torch.float32, but",
        by_the_default_device: "meta is still the default device",
        empty_memory: "doesn't hold the numbers in the file",
        lean_but_not_strict: "a file without 0.bias is loaded without an error",
        loaded_and_not_returned: "your function returns nothing: return the model",
        in_a_model_around_it: "return the model that make_model makes",
        no_parameters: "the model has lost parameters",
    },
    "take_over": {
        all_of_it: "for a state with ten classes, your function raises RuntimeError",
        whatever_fits: "classifier.2.weight should stay new, but for a state with the same classes",
        body_not_strict: "a state without features.bias is accepted",
        missing_only: "a state with an extra layer is accepted",
        unexpected_only: "a state without features.bias is accepted",
        similar_names: "classifier.20.weight doesn't hold the state's tensor",
        strict_as_ever: "for a state with ten classes, your function raises RuntimeError",
        takes_from_the_dict: "your function changes the dict it was given",
    },
    **WRONG_ABOUT_MANY,
    **WRONG_ABOUT_STOPS,
}


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [(name, *pair) for name, wrong in WRONG.items() for pair in wrong.items()],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_wrong_answer_gets_its_hint(ask, name, answer, hint):
    line = ask(name, answer)
    assert line.startswith("✗ ")
    assert hint in line


def test_each_exercise_has_two_hints_of_its_own():
    assert set(WRONG) == set(CHECKS)
    for wrong in WRONG.values():
        assert len(set(wrong.values())) >= 2


# Other right answers.


def with_a_list_of_what_waits(state):
    total, waiting = 0, [state]
    for value in waiting:
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
    return total


def from_what_is_pickled(state):
    """Has each tensor of the state told by a pickler, in whatever it lies."""
    total = 0

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            nonlocal total
            if isinstance(value, torch.Tensor):
                total += value.nbytes
            return "a tensor" if isinstance(value, torch.Tensor) else None

    Pickler(io.BytesIO()).dump(state)
    return total


def names_with_the_prefix(trained, fresh, path):
    state = trained.state_dict()
    torch.save({n: t for n, t in state.items() if n.startswith("classifier.")}, path)
    fresh.load_state_dict(load(path), strict=False)


def under_a_name(trained, fresh, path):
    torch.save({"classifier": trained.classifier.state_dict()}, path)
    fresh.classifier.load_state_dict(load(path)["classifier"])


def through_an_open_file(trained, fresh, path):
    with open(path, "wb") as file:
        torch.save(obj=dict(trained.classifier.named_parameters()), f=file)
    with open(path, "rb") as file:
        fresh.classifier.load_state_dict(torch.load(file, weights_only=True), assign=True)


def one_by_one(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    with torch.no_grad():
        for name, tensor in load(path).items():
            fresh.classifier.get_parameter(name).copy_(tensor)


def with_a_save_of_its_own(trained, fresh, path, save=torch.save):
    """Has its own name for torch.save, as after `from torch import save`."""
    save(trained.classifier.state_dict(), path)
    fresh.classifier.load_state_dict(load(path))


def deep_copied(best, model, accuracy):
    if best is None or accuracy > best[0]:
        best = [accuracy, copy.deepcopy(model.state_dict())]
    return best


def of_a_copied_model(best, model, accuracy):
    new = (accuracy, copy.deepcopy(model).state_dict())
    return new if best is None else max(best, new, key=lambda pair: pair[0])


def through_a_file(best, model, accuracy):
    if best is None or best[0] < accuracy:
        torch.save((accuracy, model.state_dict()), "best.pt")
        return load("best.pt")
    return best


def default_of_weights_only(path, model):
    model.load_state_dict(torch.load(path, map_location=torch.device("cpu")))
    return model


def with_a_function_for_the_place(path, model):
    state = torch.load(path, map_location=lambda storage, _: storage, weights_only=True)
    model.load_state_dict(state)
    return model


def told_and_raised_again(path, model):
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ValueError("can't be loaded") from error
    return model.eval()


def rate_in_the_state(path, optimizer, learning_rate):
    state = load(path)
    for group in state["param_groups"]:
        group["lr"] = learning_rate
    optimizer.load_state_dict(state)
    return optimizer


def a_copy_renamed(state, model, old, new):
    state = dict(state)
    for name in [name for name in state if name.startswith(old + ".")]:
        state[new + name[len(old) :]] = state.pop(name)
    model.load_state_dict(state)


def with_a_pattern(state, model, old, new):
    model.load_state_dict({re.sub(rf"^{old}\.", f"{new}.", n): t for n, t in state.items()})


def by_hand(state, model, old, new):
    names = [new + n[len(old) :] if n.split(".")[0] == old else n for n in state]
    if set(names) != set(model.state_dict()):
        raise KeyError("a tensor is missing")
    for name, tensor in zip(names, state.values(), strict=True):
        model.state_dict()[name].copy_(tensor)


def with_a_slice(state):
    return {n[len("module.") :] if n[:7] == "module." else n: t for n, t in state.items()}


def with_the_function_of_torch(state):
    state = dict(state)
    torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def first_word_only(state):
    return {n.partition(".")[2] if n.split(".")[0] == "module" else n: t for n, t in state.items()}


def loaded_before(path):
    try:
        torch.load(path)
        return zipfile.ZipFile(path).testzip() is None
    except Exception:
        return False


def every_record_read(path):
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                archive.read(record)
        torch.load(path, mmap=True, weights_only=True)
    except Exception:
        return False
    else:
        return True


def with_pathlib(state, path):
    temporary = Path(path).with_suffix(".new")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def with_tempfile(state, path, replace=os.replace):
    """Has its own name for os.replace, as after `from os import replace`."""
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def with_a_temporary_folder(state, path):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        torch.save(state, os.path.join(folder, "new.pt"))
        os.replace(src=os.path.join(folder, "new.pt"), dst=path)


def with_a_temporary_folder_and_move(state, path):
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        torch.save(state, Path(folder) / "new.pt")
        shutil.move(Path(folder) / "new.pt", path)


def in_memory_first(state, path):
    memory = io.BytesIO()
    torch.save(state, memory)
    Path(path + ".tmp").write_bytes(memory.getvalue())
    os.rename(path + ".tmp", path)


def with_the_helper(state, path):
    with atomic_file(path) as file:
        torch.save(state, file)


def in_a_process(state, path):
    try:
        torch.save(state, path + ".tmp")
        program = "import os, sys; os.replace(*sys.argv[1:])"
        subprocess.run([sys.executable, "-c", program, path + ".tmp", path], check=True)
    finally:
        Path(path + ".tmp").unlink(missing_ok=True)


def with_element_sizes(model, copies):
    total = 0
    for tensor in model.state_dict(keep_vars=True).values():
        size = tensor.numel() * tensor.element_size()
        total += size * (1 + copies) if tensor.requires_grad else size
    return total


def by_the_largest(state):
    def fits(t):
        return t.is_floating_point() and t.abs().max() <= torch.finfo(torch.float16).max

    return {name: t.half() if fits(t) else t.clone() for name, t in state.items()}


def by_what_stays_finite(state):
    halved = {n: t.to(torch.float16) if t.is_floating_point() else t for n, t in state.items()}
    return {n: t if t.isfinite().all() else state[n] for n, t in halved.items()}


def with_pathlib_and_atomic(state, folder, epoch, keep):
    folder = Path(folder)
    SOLVED["save_atomically"](state, str(folder / f"epoch-{epoch}.pt"))
    paths = sorted(folder.glob("epoch-*.pt"), key=lambda path: int(path.stem[6:]), reverse=True)
    for path in paths[keep:]:
        path.unlink()


def filled_memory(path, make_model):
    with torch.device("meta"):
        model = make_model()
    model.to_empty(device="cpu")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def types_noted_before(path, make_model):
    with torch.device("meta"):
        types = {name: tensor.dtype for name, tensor in make_model().state_dict().items()}
        model = make_model()
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: tensor.to(types.get(name)) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def own_head_filled_in(state, model, head):
    own = {n: t for n, t in model.state_dict().items() if n.startswith(head + ".")}
    others = {n: t for n, t in state.items() if not n.startswith(head + ".")}
    model.load_state_dict({**others, **own})


def compared_before(state, model, head):
    names = {n for n in state if not n.startswith(head + ".")}
    own = {n for n in model.state_dict() if not n.startswith(head + ".")}
    assert names == own
    model.load_state_dict({name: state[name] for name in names}, strict=False)


def as_sizes(path):
    header = header_of(path)
    header.pop("__metadata__", None)
    return {name: torch.Size(entry["shape"]) for name, entry in header.items()}


def cut_through_a_file(make_run, train, cut, end):
    run = make_run()
    train(run, 0, cut)
    torch.save(run.state_dict(), "cut.pt")
    continued, whole = make_run(), make_run()
    continued.load_state_dict(load("cut.pt"))
    train(continued, cut, end)
    train(whole, 0, end)
    return same_states(continued, whole)


def in_whole_groups(batches_done, group, save_every):
    steps, rest = divmod(batches_done, group)
    return steps >= 1 and rest == 0 and not steps % save_every


def in_a_range(batches_done, group, save_every):
    step = group * save_every
    return batches_done in range(step, batches_done + 1, step)


def drawn_epoch_by_epoch(step, length, batch_size, seed):
    """Seeds one generator, and draws the orders of all epochs up to this one."""
    starts = [*range(0, length, batch_size)]
    rng = random.Random(seed)
    for _ in range(step // len(starts) + 1):
        order = rng.sample(range(length), length)
    start = starts[step % len(starts)]
    return order[start : start + batch_size]


def with_numpy_integers(step, length, batch_size, seed):
    epoch, batch = divmod(step, (length + batch_size - 1) // batch_size)
    order = np.random.RandomState([seed, epoch]).permutation(length)
    return list(order[batch * batch_size : (batch + 1) * batch_size])


def with_samplers(step, length, batch_size, seed):
    count = math.ceil(length / batch_size)
    generator = torch.Generator()
    generator.manual_seed(seed * 10**6 + step // count)
    sampler = torch.utils.data.RandomSampler(range(length), generator=generator)
    return [*torch.utils.data.BatchSampler(sampler, batch_size, drop_last=False)][step % count]


def with_a_loader(step, length, batch_size, seed):
    count = math.ceil(length / batch_size)
    loader = torch.utils.data.DataLoader(
        range(length),
        batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed * 10**6 + step // count),
    )
    return next(itertools.islice(loader, step % count, None)).tolist()


def with_global_numbers_restored(step, length, batch_size, seed):
    """Uses the global generator of PyTorch, and restores it."""
    epoch, batch = divmod(step, math.ceil(length / batch_size))
    with torch.random.fork_rng([]):
        torch.manual_seed(hash((seed, epoch)))
        return torch.randperm(length).split(batch_size)[batch].tolist()


def sorted_by_a_hash(length, seed, epoch):
    def digest(index):
        return hashlib.sha256(f"{seed} {epoch} {index}".encode()).digest()

    return sorted(range(length), key=digest)


RIGHT = {
    **RIGHT_ABOUT_STOPS,
    "shapes_in": [as_sizes],
    "is_time_to_save": [in_whole_groups, in_a_range],
    "batch_indices": [
        named("of_torch", batches(draw=by_torch)),
        named("of_python", batches(draw=by_python)),
        named("of_hashes", batches(draw=sorted_by_a_hash)),
        drawn_epoch_by_epoch,
        with_numpy_integers,
        with_samplers,
        with_a_loader,
        with_global_numbers_restored,
    ],
    "continues_exactly": [cut_through_a_file],
    "optimizer_bytes": [with_a_list_of_what_waits, from_what_is_pickled],
    "move_classifier": [
        names_with_the_prefix,
        under_a_name,
        through_an_open_file,
        one_by_one,
        with_a_save_of_its_own,
    ],
    "keep_if_better": [deep_copied, of_a_copied_model, through_a_file],
    "load_into_cpu": [
        default_of_weights_only,
        with_a_function_for_the_place,
        told_and_raised_again,
    ],
    "resume_slower": [rate_in_the_state],
    "load_renamed": [a_copy_renamed, with_a_pattern, by_hand],
    "strip_module": [with_a_slice, with_the_function_of_torch, first_word_only],
    "is_intact": [loaded_before, every_record_read],
    "save_atomically": [
        with_pathlib,
        with_tempfile,
        with_a_temporary_folder,
        with_a_temporary_folder_and_move,
        in_memory_first,
        in_a_process,
        with_the_helper,
    ],
    "checkpoint_bytes": [with_element_sizes],
    "to_half": [by_the_largest, by_what_stays_finite],
    "save_newest": [with_pathlib_and_atomic],
    "load_lean": [filled_memory, types_noted_before],
    "take_over": [own_head_filled_in, compared_before],
}


@pytest.mark.parametrize(
    ("name", "answer"),
    [(name, answer) for name, right in RIGHT.items() for answer in right],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of files that an answer leaves open
def test_another_right_answer_is_right(ask, name, answer):
    assert ask(name, answer).startswith("✓ ")


# The notebooks.


@pytest.mark.parametrize("name", LESSONS)
def test_exercises_and_solutions_have_not_drifted_apart(name):
    if not (NOTEBOOKS / name).exists():
        pytest.skip("this notebook is not there yet")
    notebook = read(NOTEBOOKS / name)
    made = copy.deepcopy(notebook)
    insert(made, exercise_cells(read(SOLUTIONS / name), name))
    assert made == notebook, "run `make notebooks`"


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_solution_is_clean_and_right(name):
    solution = read(SOLUTIONS / name)
    assert problems(solution, lesson=False) == []
    lines = [cell.outputs[0].text for cell in solution.cells if cell.id.endswith("-check")]
    assert [line[0] for line in lines] == ["✓"] * COUNTS[name]


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_exercises_are_unanswered(name):
    if not (NOTEBOOKS / name).exists():
        pytest.skip("this notebook is not there yet")
    checks = [c for c in read(NOTEBOOKS / name).cells if c.id.startswith("exercise-")]
    lines = [cell.outputs[0].text for cell in checks if cell.id.endswith("-check")]
    assert [line.partition(":")[0] for line in lines] == ["Not answered yet"] * COUNTS[name]


def test_exercises_go_before_the_recap_once_and_keep_their_outputs():
    new = nbformat.v4.new_markdown_cell
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [new("# Title", id="title"), new("## Recap", id="recap")]
    cells = exercise_cells(read(SOLUTIONS / LESSONS[0]), LESSONS[0])
    insert(notebook, cells)
    ids = [cell.id for cell in notebook.cells]
    assert ids == ["title", *(cell.id for cell in cells), "recap"]
    assert f"(solutions/{LESSONS[0]})" in notebook.cells[1].source

    notebook.cells[2].execution_count = 5
    insert(notebook, exercise_cells(read(SOLUTIONS / LESSONS[0]), LESSONS[0]))
    assert [cell.id for cell in notebook.cells] == ids
    assert notebook.cells[2].execution_count == 5


def test_nothing_of_a_solution_stays_in_its_exercise():
    source = 'def f(\n    a,\n    b,\n):\n    """Add."""\n    c = a + b\n    return c'
    last = "    raise NotImplementedError  # your lines here"
    blank = f'def f(\n    a,\n    b,\n):\n    """Add."""\n{last}'
    assert without_solution(source) == blank
    assert without_solution("def f(a):\n    return a") == f"def f(a):\n{last}"
    assert without_solution("import os") == "import os"
    for name in LESSONS:
        for cell in read(SOLUTIONS / name).cells:
            if is_exercise(cell) and cell.source.startswith("def "):
                solved = cell.source.splitlines()
                assert without_solution(cell.source).splitlines()[:-1] == solved[:2]
                assert 1 <= len(solved) - 2 <= 8
