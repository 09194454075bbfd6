"""Right and wrong answers to the exercises of notebook 1, each wrong one with its hint."""

import copy
import io
import pickle
import sys

import torch

from tests.answers.collect import Answers, load
from tests.answers.solved import SOLVED

RIGHT, WRONG = {}, {}


# 1 · A part of a model.

move_classifier = Answers("move_classifier", RIGHT, WRONG)


@move_classifier.right
def names_with_the_prefix(trained, fresh, path):
    state = trained.state_dict()
    torch.save({n: t for n, t in state.items() if n.startswith("classifier.")}, path)
    fresh.load_state_dict(load(path), strict=False)


@move_classifier.right
def under_a_name(trained, fresh, path):
    torch.save({"classifier": trained.classifier.state_dict()}, path)
    fresh.classifier.load_state_dict(load(path)["classifier"])


@move_classifier.right
def through_an_open_file(trained, fresh, path):
    with open(path, "wb") as file:
        torch.save(obj=dict(trained.classifier.named_parameters()), f=file)
    with open(path, "rb") as file:
        fresh.classifier.load_state_dict(torch.load(file, weights_only=True), assign=True)


@move_classifier.right
def one_by_one(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    with torch.no_grad():
        for name, tensor in load(path).items():
            fresh.classifier.get_parameter(name).copy_(tensor)


@move_classifier.right
def with_a_save_of_its_own(trained, fresh, path, save=torch.save):
    """Has its own name for torch.save, as after `from torch import save`."""
    save(trained.classifier.state_dict(), path)
    fresh.classifier.load_state_dict(load(path))


@move_classifier.wrong("the file holds more than the classifier's parameters")
def saves_everything(trained, fresh, path):
    torch.save(trained.state_dict(), path)
    fresh.load_state_dict(load(path))


@move_classifier.wrong("classifier is unchanged: load it")
def forgets_to_load(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)


@move_classifier.wrong("there is no file at the path")
def forgets_to_save(trained, fresh, path):
    fresh.classifier.load_state_dict(trained.classifier.state_dict())


@move_classifier.wrong("Do these names belong to the module that loads them?")
def names_do_not_fit(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.load_state_dict(load(path))


@move_classifier.wrong("no name in it matched, which strict=False hides")
def strict_false_loads_nothing(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.load_state_dict(load(path), strict=False)


@move_classifier.wrong("the file doesn't hold a state")
def saves_the_module(trained, fresh, path):
    torch.save(trained.classifier, path)
    fresh.classifier = torch.load(path, weights_only=False)


@move_classifier.wrong("the file doesn't hold all parameters of the classifier")
def saves_the_features(trained, fresh, path):
    torch.save(trained.features.state_dict(), path)


@move_classifier.wrong("the features of the fresh model have changed too")
def loads_the_features_too(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.load_state_dict(trained.state_dict())


@move_classifier.wrong("got the trained one's tensors without reading it")
def shares_the_classifier(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.classifier = trained.classifier


@move_classifier.wrong("your function changes the trained model")
def moves_the_other_way(trained, fresh, path):
    torch.save(fresh.classifier.state_dict(), path)
    trained.classifier.load_state_dict(load(path))


@move_classifier.wrong("got the trained one's tensors without reading it")
def never_reads(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.classifier.load_state_dict(trained.classifier.state_dict())


@move_classifier.wrong("got the trained one's tensors without reading it")
def never_reads_but_copies(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    fresh.classifier = copy.deepcopy(trained.classifier)


@move_classifier.wrong("there is no file at the path that your function was given")
def a_path_of_its_own(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), "classifier.pt")
    fresh.classifier.load_state_dict(load("classifier.pt"))


@move_classifier.wrong("the fresh model's classifier is not what is in it")
def reads_another_file(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    torch.save(trained.classifier.state_dict(), "copy.pt")
    fresh.classifier.load_state_dict(load("copy.pt"))


@move_classifier.wrong("the fresh model's classifier is not what is in it")
def loads_weights_only(trained, fresh, path):
    torch.save(trained.classifier.state_dict(), path)
    state = {name: tensor for name, tensor in load(path).items() if "weight" in name}
    fresh.classifier.load_state_dict(state, strict=False)


@move_classifier.right
def with_a_copied_state(trained, fresh, path):
    """Loads a state of the whole model, and strictly."""
    torch.save(copy.deepcopy(trained.classifier).state_dict(), path)
    part = {f"classifier.{name}": tensor for name, tensor in load(path).items()}
    fresh.load_state_dict({**fresh.state_dict(), **part})


@move_classifier.right
def written_to_memory_first(trained, fresh, path):
    memory = io.BytesIO()
    torch.save(trained.classifier.state_dict(), memory)
    with open(path, "wb") as file:
        file.write(memory.getvalue())
    fresh.classifier.load_state_dict(load(path))


@move_classifier.wrong("your function freezes a part of the fresh model")
def freezes_the_features(trained, fresh, path):
    SOLVED["move_classifier"](trained, fresh, path)
    for parameter in fresh.features.parameters():
        parameter.requires_grad = False


@move_classifier.wrong("your function puts the trained model into a different mode")
def evaluates_first(trained, fresh, path):
    trained.eval()
    SOLVED["move_classifier"](trained, fresh, path)


@move_classifier.wrong("your function leaves an extra file behind: part.pt.bak")
def leaves_a_backup(trained, fresh, path):
    SOLVED["move_classifier"](trained, fresh, path)
    torch.save(trained.classifier.state_dict(), f"{path}.bak")


@move_classifier.wrong("got the trained one's tensors without reading it")
def never_reads_with_a_save_of_its_own(trained, fresh, path, save=torch.save):
    save(trained.classifier.state_dict(), path)
    fresh.classifier.load_state_dict(trained.classifier.state_dict())


@move_classifier.wrong("the file doesn't hold a state: save a state_dict")
def pickles_it(trained, fresh, path):
    with open(path, "wb") as file:
        pickle.dump(trained.classifier.state_dict(), file, protocol=2)
    with open(path, "rb") as file:
        fresh.classifier.load_state_dict(pickle.load(file))


@move_classifier.wrong(
    "the file doesn't hold a state: save a state_dict, neither a module nor a list"
)
def saves_a_list(trained, fresh, path):
    torch.save([p.detach() for p in trained.classifier.parameters()], path)
    for p, saved in zip(fresh.classifier.parameters(), load(path), strict=True):
        p.data.copy_(saved)


@move_classifier.wrong("the file holds more than the classifier's parameters")
def saves_all_and_loads_a_part(trained, fresh, path):
    torch.save(trained.state_dict(), path)
    state = {n[11:]: t for n, t in load(path).items() if n.startswith("classifier.")}
    fresh.classifier.load_state_dict(state)


# 2 · Keep the best.

keep_if_better = Answers("keep_if_better", RIGHT, WRONG)


@keep_if_better.right
def deep_copied(best, model, accuracy):
    if best is None or accuracy > best[0]:
        best = [accuracy, copy.deepcopy(model.state_dict())]
    return best


@keep_if_better.right
def of_a_copied_model(best, model, accuracy):
    new = (accuracy, copy.deepcopy(model).state_dict())
    return new if best is None else max(best, new, key=lambda pair: pair[0])


@keep_if_better.right
def through_a_file(best, model, accuracy):
    if best is None or best[0] < accuracy:
        torch.save((accuracy, model.state_dict()), "best.pt")
        return load("best.pt")
    return best


@keep_if_better.wrong("what was kept has changed as the model kept training: is it a copy?")
def keeps_a_view(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, model.state_dict()
    return best


@keep_if_better.wrong("what was kept has changed as the model kept training: is it a copy?")
def keeps_a_shallow_copy(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, dict(model.state_dict())
    return best


@keep_if_better.wrong("after 70% and 90% and 80%, yours keeps 80.0, not 90")
def keeps_the_last(best, model, accuracy):
    return accuracy, copy.deepcopy(model.state_dict())


@keep_if_better.wrong("of two equally good epochs, the earlier one stays")
def keeps_the_later_of_equals(best, model, accuracy):
    if best is None or accuracy >= best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


@keep_if_better.wrong("after 70% and 90%, yours keeps 70.0, not 90")
def keeps_the_worst(best, model, accuracy):
    if best is None or accuracy < best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


@keep_if_better.wrong("after 70% and 90%, yours keeps 70.0, not 90")
def keeps_the_first(best, model, accuracy):
    return best or (accuracy, copy.deepcopy(model.state_dict()))


@keep_if_better.wrong("the state lacks features.1.running_mean, which model.state_dict()")
def keeps_parameters_only(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, {name: p.detach().clone() for name, p in model.named_parameters()}
    return best


@keep_if_better.wrong("after 70%, the state is not the one that epoch 1 ended with")
def keeps_zeros(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    return best


@keep_if_better.wrong("your function changes the model")
def puts_the_model_back(best, model, accuracy):
    best = SOLVED["keep_if_better"](best, model, accuracy)
    model.load_state_dict(best[1])
    return best


@keep_if_better.wrong("after 70%, the second of the pair is not a state of the model")
def keeps_the_model(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, copy.deepcopy(model)
    return best


@keep_if_better.wrong("return a pair: the new one or the old one, but always a pair")
def returns_only_what_is_better(best, model, accuracy):
    if best is None or accuracy > best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return None


@keep_if_better.wrong("in epoch 1, with best=None, your function raises TypeError")
def forgets_the_first_epoch(best, model, accuracy):
    if accuracy > best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


@keep_if_better.wrong("after 0%, the second of the pair is not a state of the model")
def begins_at_zero(best, model, accuracy):
    best = best or (0.0, None)
    if accuracy > best[0]:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


BEST = []


@keep_if_better.wrong("after 0%, yours keeps 90.0, not 0")
def remembers_earlier_runs(best, model, accuracy):
    if not BEST or accuracy > BEST[0][0]:
        BEST[:] = [(accuracy, copy.deepcopy(model.state_dict()))]
    return BEST[0]


@keep_if_better.wrong("after 91.2% and 91.4%, yours keeps 91.2, not 91.4")
def whole_percents(best, model, accuracy):
    if best is None or int(accuracy) > int(best[0]):
        return accuracy, copy.deepcopy(model.state_dict())
    return best


@keep_if_better.wrong("the state is not the one that epoch 2 ended with")
def accuracy_of_the_best_and_newest_state(best, model, accuracy):
    top = accuracy if best is None else max(best[0], accuracy)
    return top, copy.deepcopy(model.state_dict())


@keep_if_better.right
def in_the_memory_of_the_best(best, model, accuracy):
    """Copies into the tensors that it has, instead of taking new memory."""
    if best is None:
        return accuracy, copy.deepcopy(model.state_dict())
    if accuracy > best[0]:
        for name, tensor in model.state_dict().items():
            best[1][name].copy_(tensor)
        return accuracy, best[1]
    return best


@keep_if_better.right
def that_prints(best, model, accuracy):
    print("accuracy:", accuracy)
    return SOLVED["keep_if_better"](best, model, accuracy)


@keep_if_better.wrong("after 91.4% and 91.41%, yours keeps 91.4, not 91.41")
def clearly_better(best, model, accuracy):
    if best is None or accuracy > best[0] + 0.1:
        return accuracy, copy.deepcopy(model.state_dict())
    return best


@keep_if_better.wrong("after 91.4% and 91.41%, yours keeps 91.4, not 91.41")
def one_decimal(best, model, accuracy):
    accuracy = round(accuracy, 1)
    return SOLVED["keep_if_better"](best, model, accuracy)


@keep_if_better.wrong("your function puts the model into a different mode")
def left_in_eval_mode(best, model, accuracy):
    model.eval()
    return SOLVED["keep_if_better"](best, model, accuracy)


@keep_if_better.wrong("the copies are part of the graph: detach them")
def attached_to_the_graph(best, model, accuracy):
    if best is None or accuracy > best[0]:
        state = model.state_dict(keep_vars=True)
        return accuracy, {name: tensor.clone() for name, tensor in state.items()}
    return best


@keep_if_better.wrong("after 70%, the second of the pair is not a state of the model")
def keeps_a_file_name(best, model, accuracy):
    if best is None or accuracy > best[0]:
        torch.save(model.state_dict(), "best.pt")
        return accuracy, "best.pt"
    return best


@keep_if_better.wrong("of two equally good epochs, the earlier one stays")
def maximum_of_both(best, model, accuracy):
    new = (accuracy, copy.deepcopy(model.state_dict()))
    return new if best is None else max(new, best, key=lambda pair: pair[0])


# 3 · How large will it be?

optimizer_bytes = Answers("optimizer_bytes", RIGHT, WRONG)


@optimizer_bytes.right
def with_a_list_of_what_waits(state):
    total, waiting = 0, [state]
    for value in waiting:
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        elif isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
    return total


@optimizer_bytes.right
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


def tensors_of(state):
    return [tensor for tensors in state["state"].values() for tensor in tensors.values()]


@optimizer_bytes.wrong("that is the number of elements")
def numbers_instead_of_bytes(state):
    return sum(tensor.numel() for tensor in tensors_of(state))


@optimizer_bytes.wrong("too few bytes for Adam in float64: not every element takes 4 bytes")
def four_bytes_each(state):
    return sum(4 * tensor.numel() for tensor in tensors_of(state))


@optimizer_bytes.wrong("that is the number of tensors")
def tensors_counted(state):
    return len(tensors_of(state))


@optimizer_bytes.wrong("too few bytes for Adam, which keeps different tensors: they are exp_avg")
def momentum_only(state):
    return sum(
        tensors["momentum_buffer"].nbytes
        for tensors in state["state"].values()
        if "momentum_buffer" in tensors
    )


@optimizer_bytes.wrong("for Adam, which keeps different tensors, your function raises KeyError")
def momentum_of_all(state):
    return sum(tensors["momentum_buffer"].nbytes for tensors in state["state"].values())


@optimizer_bytes.wrong("too many bytes for SGD with momentum: only tensors count")
def as_large_as_the_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell()


@optimizer_bytes.wrong("the answer is of type str, not a number")
def bytes_as_text(state):
    return f"{SOLVED['optimizer_bytes'](state)} bytes"


@optimizer_bytes.wrong("too few bytes for SGD with momentum: each parameter has a state")
def one_parameter(state):
    return tensors_of(state)[0].nbytes


@optimizer_bytes.wrong("your function returns nothing: print shows a value, return hands it back")
def prints_it(state):
    print(end="")


@optimizer_bytes.wrong("too few bytes for Adam, which keeps different tensors: they are exp_avg")
def without_step(state):
    states = state["state"].values()
    return sum(
        t.nbytes for s in states for name, t in s.items() if name != "step" and t is not None
    )


@optimizer_bytes.wrong("for SparseAdam, whose step is a plain number, your function raises Attr")
def all_have_nbytes(state):
    return sum(tensor.nbytes for tensor in tensors_of(state))


@optimizer_bytes.wrong(
    "too few bytes for LBFGS, which also keeps lists: the tensors in its lists count"
)
def lists_left_out(state):
    return sum(t.nbytes for t in tensors_of(state) if isinstance(t, torch.Tensor))


@optimizer_bytes.wrong("too few bytes for SGD with lr=torch.tensor(0.1): this tensor counts too")
def parameters_only(state):
    lists = [value if isinstance(value, list) else [value] for value in tensors_of(state)]
    return sum(t.nbytes for values in lists for t in values if isinstance(t, torch.Tensor))


@optimizer_bytes.right
def by_a_pytree(state):
    leaves = torch.utils._pytree.tree_leaves(state)
    return sum(leaf.nbytes for leaf in leaves if torch.is_tensor(leaf))


@optimizer_bytes.right
def that_prints_each(state):
    if isinstance(state, dict):
        return sum(map(that_prints_each, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(that_prints_each, state))
    print(type(state))
    return state.nbytes if torch.is_tensor(state) else 0


@optimizer_bytes.wrong("too few bytes for Adam with a tuple of tensors as betas")
def tuples_left_out(state):
    if isinstance(state, torch.Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state
    return sum(map(tuples_left_out, values)) if isinstance(state, (dict, list)) else 0


@optimizer_bytes.wrong("your function changes the state")
def emptied_on_the_way(state):
    total, waiting = 0, [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            while value:
                waiting.append(value.popitem()[1])
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        elif isinstance(value, torch.Tensor):
            total += value.nbytes
    return total


@optimizer_bytes.wrong("too many bytes for SGD with momentum: only tensors count")
def as_python_counts(state):
    if isinstance(state, dict):
        return sum(map(as_python_counts, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(as_python_counts, state))
    return state.nbytes if torch.is_tensor(state) else sys.getsizeof(state)


@optimizer_bytes.wrong("too few bytes for LBFGS, which also keeps lists")
def hasattr_nbytes(state):
    values = [v for s in state["state"].values() for v in s.values()]
    return sum(v.nbytes for v in values if hasattr(v, "nbytes"))
