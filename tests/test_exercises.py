"""The exercises: right, wrong, absurd and missing answers, and that they match their solutions."""

import copy
import io
import itertools
import math
import os
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import nbformat
import pytest
import torch

import exercises
from tests.test_notebooks import problems
from tools.make_exercises import NOTEBOOKS, SOLUTIONS, exercise_cells, insert, without_solution

LESSONS = sorted(path.name for path in SOLUTIONS.glob("*.ipynb"))
CHECKS = {
    name.removeprefix("check_"): check
    for name, check in vars(exercises).items()
    if name.startswith("check_")
}


def read(path):
    return nbformat.read(path, as_version=4)


def answers(blank):
    """Run the exercise cells of all solutions, solved or blank, and return their functions."""
    namespace = {"torch": torch, "os": os, "zipfile": zipfile}
    for name in LESSONS:
        for cell in read(SOLUTIONS / name).cells:
            if cell.source.startswith("def "):
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
        assert Path.cwd() == tmp_path
        assert tempfile.tempdir == str(tmp_path / "tmp")
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["tmp"]
        return printed.out.rstrip("\n")

    return ask


def test_there_are_three_exercises_to_a_notebook():
    assert [name[0] for name in LESSONS] == ["1", "2", "3", "6"]
    assert len(CHECKS) == 3 * len(LESSONS)
    for name in LESSONS:
        ids = [cell.id for cell in read(SOLUTIONS / name).cells]
        assert ids[3:] == ["exercises-imports"] + [
            f"exercise-{number}{part}" for number in (1, 2, 3) for part in ("-md", "", "-check")
        ]


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_is_right(ask, name):
    assert ask(name, SOLVED[name]).startswith("✓ ")


@pytest.mark.parametrize("name", CHECKS)
def test_a_missing_answer_is_no_error(ask, name):
    for answer in (BLANK[name], None, ..., lambda *_: None):
        assert ask(name, answer).startswith(f"Not answered yet: write {name} ")


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
    for answer in (42, "text", dict, Unequal(), torch.nn.Linear(2, 2)):
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


def renamed_but_not_strict(state, model, old, new):
    state = {name.replace(f"{old}.", f"{new}."): state[name] for name in state}
    model.load_state_dict(state, strict=False)


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


def without_the_two(save_time, year, machines):
    return (save_time * year / machines) ** 0.5


def no_root(save_time, year, machines):
    return 2 * save_time * year / machines


def one_machine(save_time, year, machines):
    return (2 * save_time * year) ** 0.5


def machines_multiplied(save_time, year, machines):
    return (2 * save_time * year * machines) ** 0.5


def interval_as_text(save_time, year, machines):
    return f"{SOLVED['save_interval'](save_time, year, machines)} hours"


def a_tenth_more(save_time, year, machines):
    return 1.1 * SOLVED["save_interval"](save_time, year, machines)


def number_of(name):
    return int(name[5:-3])


def sorted_as_texts(names, best, last):
    return sorted(name for name in names if name != best)[:-last]


def best_counts_among_the_newest(names, best, last):
    return [name for name in sorted(names, key=number_of)[:-last] if name != best]


def best_forgotten(names, best, last):
    return sorted(names, key=number_of)[:-last]


def those_to_keep(names, best, last):
    return [name for name in names if name not in SOLVED["files_to_delete"](names, best, last)]


def the_newest_are_kept_only(names, best, last):
    return sorted((name for name in names if name != best), key=number_of)[-last:]


def sorts_the_list_it_was_given(names, best, last):
    names.sort(key=number_of)
    return SOLVED["files_to_delete"](names, best, last)


def negative_slice(names, best, last):
    return sorted((name for name in names if name != best), key=number_of)[: len(names) - 1 - last]


def minus_zero(names, best, last):
    return sorted((name for name in names if name != best), key=number_of)[:-last]


def numbers_of_files(names, best, last):
    return [number_of(name) for name in SOLVED["files_to_delete"](names, best, last)]


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


WRONG = {
    "optimizer_bytes": {
        numbers_instead_of_bytes: "that is the number of elements",
        four_bytes_each: "not every element takes 4 bytes: think of SGD with momentum in float64",
        tensors_counted: "that is the number of tensors",
        momentum_only: "right for SGD, but Adam's tensors have other names",
        momentum_of_all: "for Adam, which keeps other tensors, your function raises KeyError",
        as_large_as_the_file: "a file adds names and packaging",
        bytes_as_text: "the answer is of type str, not a number",
        one_parameter: "too few for SGD with momentum: each parameter has a state",
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
        shares_the_classifier: "both models share one classifier now",
        moves_the_other_way: "your function changes the trained model",
    },
    "keep_if_better": {
        keeps_a_view: "the tensors of epoch 5: they changed as the model trained on",
        keeps_a_shallow_copy: "the tensors of epoch 5: they changed as the model trained on",
        keeps_the_last: "yours keeps 85.0, not 90",
        keeps_the_later_of_equals: "of two equally good epochs, the earlier one stays",
        keeps_the_worst: "yours keeps 70.0, not 90",
        keeps_the_first: "yours keeps 70.0, not 90",
        keeps_parameters_only: "the state misses the buffers",
        keeps_zeros: "these are not the tensors that the model had in epoch 2",
        puts_the_model_back: "your function changes the model",
        keeps_the_model: "the second of the pair should be a state",
        returns_only_what_is_better: "always return a pair: the new one or the old one",
        forgets_the_first_epoch: "in epoch 1, with best=None, your function raises TypeError",
        begins_at_zero: "the first epoch is the best so far, even with 0%",
    },
    "load_into_cpu": {
        no_map_location: "for a file from a GPU, your function raises RuntimeError",
        loads_a_part: "the model does not hold what is in the file",
        runs_code: "opening a file has just run code",
        runs_code_as_a_last_resort: "opening a file has just run code",
        reads_and_does_not_load: "the model is as it was",
        loads_and_returns_nothing: "your function returns nothing",
        returns_the_matched_keys: "something else than the model, of type _IncompatibleKeys",
        another_path: "your function raises FileNotFoundError",
    },
    "resume_slower": {
        rate_before_loading: "the rate is that of the file: loading overwrites what was set before",
        momentum_thrown_away: "the momentum is lost",
        first_group_only: "only the first group got the new rate",
        a_new_optimizer: "the optimizer that your function was given is as it was",
        rate_as_an_attribute: "the rate is that of the file",
        rate_of_the_constructor: "the rate is not the new one",
        momentum_set_to_zero: "the momentum is not that of the file",
        state_without_the_settings: "the weight decay of the file is lost",
    },
    "load_renamed": {
        not_renamed: "Do these names belong to the module that loads them?",
        not_renamed_and_not_strict: "output.weight still has its random numbers",
        all_names_wrong: "not one tensor was loaded, and no error said so",
        by_position: "tensors were matched by position",
        by_alphabet: "a layer holds the tensors of another one",
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
    },
    "is_intact": {
        it_loads: "half a file was found, but no CRC sum compared",
        size_is_not_zero: "a damaged file was called intact",
        all_are_intact: "a damaged file was called intact",
        what_testzip_returns: "your function should return True or False, whatever the file",
        never_calls_testzip: "half a file was found, but no CRC sum compared",
        half_a_file_raises: "for half a file, your function raises",
        the_other_way_round: "it is the other way round",
        nothing_is_intact: "a whole file was called damaged",
    },
    "save_atomically": {
        in_place: "a save broke off, and it spoilt the checkpoint before it",
        through_memory: "written in place: a kill in the middle leaves half a file",
        copied: "written in place: a kill in the middle leaves half a file",
        in_another_folder: "the temporary file is in another folder",
        deleted_first: "for a moment there is no checkpoint",
        deleted_at_once: "a save broke off, and the checkpoint before it is gone",
        backed_up: "a save broke off, and it spoilt the checkpoint before it",
        temporary_left_after_an_error: "a save broke off, and its temporary file is left behind",
        temporary_left_always: "a temporary file is left behind next to the checkpoint",
        error_kept: "your function kept the error to itself",
        another_name: "there is no file at the path",
        something_else: "the file is not what torch.save makes of the state",
    },
    "save_interval": {
        without_the_two: "the two in the formula is missing",
        no_root: "that is the square of the right answer",
        one_machine: "that is right for one machine",
        machines_multiplied: "too long: more machines fail more often",
        interval_as_text: "the answer is of type str, not a number",
        a_tenth_more: "it should be",
    },
    "files_to_delete": {
        sorted_as_texts: "step-100.pt comes before step-20.pt: compare numbers",
        best_counts_among_the_newest: "the best one was counted among the newest",
        best_forgotten: "yours deletes the best one",
        those_to_keep: "yours deletes the best one",
        the_newest_are_kept_only: "those are the files to keep",
        sorts_the_list_it_was_given: "your function changes the list of names",
        negative_slice: "of fewer files than are kept, none is to be deleted",
        minus_zero: "with last=0, all but the best are to be deleted",
        numbers_of_files: "holds something else than names",
    },
    "continues_exactly": {
        in_the_same_run: "the run was continued in itself",
        not_loaded: "a run that continues exactly was called inexact",
        nearly_equal: "a run that rounds what it loads was called exact",
        compared_at_the_cut: "a run that doesn't save its momentum was called exact",
        trained_to_the_cut_only: "no run was trained from step 0 to the end",
        begins_at_zero_again: "no run was continued from the cut to the end",
        the_other_way: "a run that continues exactly was called inexact",
        always_exact: "a run that doesn't save its momentum was called exact",
    },
}


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [(name, *pair) for name, wrong in WRONG.items() for pair in wrong.items()],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_answer_gets_its_hint(ask, name, answer, hint):
    line = ask(name, answer)
    assert line.startswith("✗ ")
    assert hint in line


def test_each_exercise_has_two_hints_of_its_own():
    assert set(WRONG) == set(CHECKS)
    for wrong in WRONG.values():
        assert len(set(wrong.values())) >= 2


# Other right answers.


def with_a_comprehension(state):
    return sum(t.nbytes for s in state["state"].values() for t in s.values())


def by_element_size(state):
    return sum(t.numel() * t.element_size() for t in tensors_of(state))


def names_with_the_prefix(trained, fresh, path):
    state = trained.state_dict()
    torch.save({n: t for n, t in state.items() if n.startswith("classifier.")}, path)
    fresh.load_state_dict(load(path), strict=False)


def deep_copied(best, model, accuracy):
    if best is None or accuracy > best[0]:
        best = [accuracy, copy.deepcopy(model.state_dict())]
    return best


def default_of_weights_only(path, model):
    model.load_state_dict(torch.load(path, map_location=torch.device("cpu")))
    return model


def rate_in_the_state(path, optimizer, learning_rate):
    state = load(path)
    for group in state["param_groups"]:
        group["lr"] = learning_rate
    optimizer.load_state_dict(state)
    return optimizer


def a_copy_renamed(state, model, old, new):
    state = dict(state)
    for kind in ("weight", "bias"):
        state[f"{new}.{kind}"] = state.pop(f"{old}.{kind}")
    model.load_state_dict(state)


def with_a_slice(state):
    return {n[len("module.") :] if n[:7] == "module." else n: t for n, t in state.items()}


def any_error_is_damage(path):
    try:
        return zipfile.ZipFile(path).testzip() is None
    except Exception:
        return False


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


def with_math(save_time, year, machines):
    return math.sqrt(2 * save_time * (year / machines))


def a_set_of_names(names, best, last):
    numbers = sorted((number_of(name) for name in names if name != best), reverse=True)
    return {f"step-{number}.pt" for number in numbers[last:]}


def through_a_file(make_run, train, cut, end):
    run = make_run()
    train(run, 0, cut)
    torch.save(run.state_dict(), "cut.pt")
    continued, whole = make_run(), make_run()
    continued.load_state_dict(load("cut.pt"))
    train(continued, cut, end)
    train(whole, 0, end)
    return same_states(continued, whole)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("save_interval", with_math),
        ("files_to_delete", a_set_of_names),
        ("continues_exactly", through_a_file),
        ("optimizer_bytes", with_a_comprehension),
        ("optimizer_bytes", by_element_size),
        ("move_classifier", names_with_the_prefix),
        ("keep_if_better", deep_copied),
        ("load_into_cpu", default_of_weights_only),
        ("resume_slower", rate_in_the_state),
        ("load_renamed", a_copy_renamed),
        ("strip_module", with_a_slice),
        ("is_intact", any_error_is_damage),
        ("save_atomically", with_pathlib),
        ("save_atomically", with_tempfile),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
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
    assert [line[0] for line in lines] == ["✓"] * 3


@pytest.mark.parametrize("name", LESSONS)
def test_the_committed_exercises_are_unanswered(name):
    if not (NOTEBOOKS / name).exists():
        pytest.skip("this notebook is not there yet")
    checks = [c for c in read(NOTEBOOKS / name).cells if c.id.startswith("exercise-")]
    lines = [cell.outputs[0].text for cell in checks if cell.id.endswith("-check")]
    assert [line.partition(":")[0] for line in lines] == ["Not answered yet"] * 3


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
    blank = 'def f(\n    a,\n    b,\n):\n    """Add."""\n    ...  # your lines here'
    assert without_solution(source) == blank
    assert without_solution("def f(a):\n    return a") == "def f(a):\n    ...  # your lines here"
    assert without_solution("import os") == "import os"
    for name in LESSONS:
        for cell in read(SOLUTIONS / name).cells:
            if cell.source.startswith("def "):
                solved = cell.source.splitlines()
                assert without_solution(cell.source).splitlines()[:-1] == solved[:2]
                assert 1 <= len(solved) - 2 <= 8
