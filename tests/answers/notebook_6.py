"""Right and wrong answers to the exercises of notebook 6, each wrong one with its hint."""

import hashlib
import io
import itertools
import math
import random

import numpy as np
import torch

from tests.answers.collect import Answers, load
from tests.answers.solved import SOLVED

RIGHT, WRONG = {}, {}


# 1 · Whole groups only.

is_time_to_save = Answers("is_time_to_save", RIGHT, WRONG)


@is_time_to_save.right
def in_whole_groups(batches_done, group, save_every):
    steps, rest = divmod(batches_done, group)
    return steps >= 1 and rest == 0 and not steps % save_every


@is_time_to_save.right
def in_a_range(batches_done, group, save_every):
    step = group * save_every
    return batches_done in range(step, batches_done + 1, step)


@is_time_to_save.wrong("before the first batch, there is nothing to save")
def also_before_the_first(batches_done, group, save_every):
    return batches_done % (group * save_every) == 0


@is_time_to_save.wrong("save_every counts steps of the optimizer")
def counted_in_batches(batches_done, group, save_every):
    return batches_done > 0 and batches_done % save_every == 0


@is_time_to_save.wrong("saves after 25 batches, in the middle of a group")
def in_the_middle(batches_done, group, save_every):
    return batches_done >= group and batches_done // group % save_every == 0


@is_time_to_save.wrong("saves after 4 batches: how many steps of the optimizer is that?")
def after_each_step(batches_done, group, save_every):
    return batches_done > 0 and batches_done % group == 0


@is_time_to_save.wrong("saves after 12 batches: how many steps of the optimizer is that?")
def both_divide(batches_done, group, save_every):
    return batches_done > 0 and batches_done % group == 0 and batches_done % save_every == 0


@is_time_to_save.wrong("saves after 23 batches, in the middle of a group")
def one_batch_early(batches_done, group, save_every):
    return (batches_done + 1) % (group * save_every) == 0


@is_time_to_save.wrong("doesn't save after 48 batches, 12 steps of the optimizer")
def only_once(batches_done, group, save_every):
    return batches_done == group * save_every


@is_time_to_save.wrong("doesn't save after 24 batches, 6 steps of the optimizer")
def only_from_the_second_on(batches_done, group, save_every):
    return batches_done > group * save_every and batches_done % (group * save_every) == 0


@is_time_to_save.wrong("the answer is of type float, not True or False")
def divided(batches_done, group, save_every):
    return batches_done / group / save_every


@is_time_to_save.wrong("after 0 batches, the answer is of type int")
def zero_before_the_first(batches_done, group, save_every):
    return batches_done and batches_done % (group * save_every) == 0


@is_time_to_save.wrong("your function returns nothing")
def prints_whether(batches_done, group, save_every):
    print(end="")


@is_time_to_save.right
def in_fractions(batches_done, group, save_every):
    print(batches_done / group, "steps")
    return batches_done > 0 and batches_done / group % save_every == 0


@is_time_to_save.right
def searched_for(batches_done, group, save_every):
    return any(n * group * save_every == batches_done for n in range(1, batches_done + 1))


@is_time_to_save.wrong("saves after 25 batches, in the middle of a group")
def from_then_on(batches_done, group, save_every):
    return batches_done >= group * save_every


@is_time_to_save.wrong("saves after 4 batches: how many steps of the optimizer is that?")
def sum_instead_of_product(batches_done, group, save_every):
    return batches_done % group == 0 and batches_done > 0 and batches_done // group <= save_every


@is_time_to_save.wrong("the answer is of type str, not True or False")
def in_words(batches_done, group, save_every):
    return "yes" if SOLVED["is_time_to_save"](batches_done, group, save_every) else "no"


@is_time_to_save.wrong("your run never saves")
def never(batches_done, group, save_every):
    return False


# 2 · Which examples come next?

batch_indices = Answers("batch_indices", RIGHT, WRONG)


@batch_indices.right
def drawn_epoch_by_epoch(step, length, batch_size, seed):
    """Seeds one generator, and draws the orders of all epochs up to this one."""
    starts = [*range(0, length, batch_size)]
    rng = random.Random(seed)
    for _ in range(step // len(starts) + 1):
        order = rng.sample(range(length), length)
    start = starts[step % len(starts)]
    return order[start : start + batch_size]


@batch_indices.right
def with_numpy_integers(step, length, batch_size, seed):
    epoch, batch = divmod(step, (length + batch_size - 1) // batch_size)
    order = np.random.RandomState([seed, epoch]).permutation(length)
    return list(order[batch * batch_size : (batch + 1) * batch_size])


@batch_indices.right
def with_samplers(step, length, batch_size, seed):
    count = math.ceil(length / batch_size)
    generator = torch.Generator()
    generator.manual_seed(seed * 10**6 + step // count)
    sampler = torch.utils.data.RandomSampler(range(length), generator=generator)
    return [*torch.utils.data.BatchSampler(sampler, batch_size, drop_last=False)][step % count]


@batch_indices.right
def with_a_loader(step, length, batch_size, seed):
    count = math.ceil(length / batch_size)
    loader = torch.utils.data.DataLoader(
        range(length),
        batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed * 10**6 + step // count),
    )
    return next(itertools.islice(loader, step % count, None)).tolist()


@batch_indices.right
def with_global_numbers_restored(step, length, batch_size, seed):
    """Uses the global generator of PyTorch, and restores it."""
    epoch, batch = divmod(step, math.ceil(length / batch_size))
    with torch.random.fork_rng([]):
        torch.manual_seed(hash((seed, epoch)))
        return torch.randperm(length).split(batch_size)[batch].tolist()


@batch_indices.wrong("is in batches 0 and 1 of an epoch: an epoch has one order")
def drawn_for_each_step(step, length, batch_size, seed):
    batch = step % -(-length // batch_size)
    order = np.random.default_rng([seed, step]).permutation(length).tolist()
    return order[batch * batch_size : (batch + 1) * batch_size]


@batch_indices.wrong("step 7 is batch 0 of epoch 1 and has 8 examples; yours has 0")
def never_wraps(step, length, batch_size, seed):
    order = np.random.default_rng(seed).permutation(length).tolist()
    return order[step * batch_size : (step + 1) * batch_size]


@batch_indices.wrong("epochs 0 and 1 have the same order")
def first_epoch_again(step, length, batch_size, seed):
    return SOLVED["batch_indices"](step % -(-length // batch_size), length, batch_size, seed)


@batch_indices.wrong("the answer is of type Tensor, not a list: add .tolist()")
def returns_a_tensor(step, length, batch_size, seed):
    return torch.tensor(SOLVED["batch_indices"](step, length, batch_size, seed))


@batch_indices.wrong("the answer is of type ndarray, not a list: add .tolist()")
def returns_an_array(step, length, batch_size, seed):
    return np.array(SOLVED["batch_indices"](step, length, batch_size, seed))


@batch_indices.wrong("an item of type Tensor, not int: .tolist() gives you ints")
def returns_a_list_of_tensors(step, length, batch_size, seed):
    return list(returns_a_tensor(step, length, batch_size, seed))


@batch_indices.wrong("the list for step 0 has an item of type float, not int")
def returns_floats(step, length, batch_size, seed):
    return [float(index) for index in SOLVED["batch_indices"](step, length, batch_size, seed)]


@batch_indices.wrong("your function returns nothing")
def prints_the_batch(step, length, batch_size, seed):
    print(end="")


@batch_indices.wrong("50 is not the number of an example: 50 examples are 0 to 49")
def numbered_from_one(step, length, batch_size, seed):
    return [index + 1 for index in SOLVED["batch_indices"](step, length, batch_size, seed)]


def named(name, answer):
    answer.__name__ = name
    return answer


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


def by_torch(length, seed, epoch):
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    return torch.randperm(length, generator=generator).tolist()


def with_replacement(length, seed, epoch):
    return np.random.default_rng([seed, epoch]).integers(length, size=length).tolist()


def without_the_last_example(length, seed, epoch):
    return [*np.random.default_rng([seed, epoch]).permutation(length - 1).tolist(), 0]


def padded(order, batch, size):
    return (order + order)[batch * size : (batch + 1) * size]


def globally_by_torch(length, seed, epoch):
    torch.manual_seed(1000 * seed + epoch)
    return torch.randperm(length).tolist()


def globally_by_numpy(length, seed, epoch):
    np.random.seed(1000 * seed + epoch)
    return np.random.permutation(length).tolist()


def globally_by_python(length, seed, epoch):
    random.seed(f"{seed} {epoch}")
    return random.sample(range(length), length)


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
]:
    batch_indices.wrong(hint)(named(name, batches(**options)))


def by_python(length, seed, epoch):
    return random.Random(f"{seed} {epoch}").sample(range(length), length)


def sorted_by_a_hash(length, seed, epoch):
    def digest(index):
        return hashlib.sha256(f"{seed} {epoch} {index}".encode()).digest()

    return sorted(range(length), key=digest)


batch_indices.right(named("of_torch", batches(draw=by_torch)))
batch_indices.right(named("of_python", batches(draw=by_python)))
batch_indices.right(named("of_hashes", batches(draw=sorted_by_a_hash)))


@batch_indices.right
def like_a_distributed_sampler(step, length, batch_size, seed):
    """Adds seed and epoch, as PyTorch's DistributedSampler does, and prints the epoch."""
    epoch, batch = divmod(step, -(-length // batch_size))
    print("epoch", epoch)
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch))
    return order.split(batch_size)[batch].tolist()


@batch_indices.wrong("step 3 is batch 3 of epoch 0 and has 8 examples; yours has 2")
def shuffles_whole_batches(step, length, batch_size, seed):
    batches = [list(range(length))[i : i + batch_size] for i in range(0, length, batch_size)]
    epoch, batch = divmod(step, len(batches))
    random.Random(f"{seed} {epoch}").shuffle(batches)
    return batches[batch]


@batch_indices.wrong("asked twice for the same step, your function gives different examples")
def remembers_its_generator(step, length, batch_size, seed, rngs={}):  # noqa: B006
    rng = rngs.setdefault(seed, random.Random(seed))
    batch = step % -(-length // batch_size)
    return rng.sample(range(length), length)[batch * batch_size : (batch + 1) * batch_size]


@batch_indices.wrong("epochs 0 and 1 have the same order")
def forgets_the_epoch(step, length, batch_size, seed):
    batch = step % -(-length // batch_size)
    order = random.Random(seed).sample(range(length), length)
    return order[batch * batch_size : (batch + 1) * batch_size]


# 3 · The test that every training script should have.

continues_exactly = Answers("continues_exactly", RIGHT, WRONG)


def same_bits(one, other):
    one, other = (io.BytesIO(), one), (io.BytesIO(), other)
    for file, tensor in (one, other):
        torch.save(tensor.clone(), file)
    return one[0].getvalue() == other[0].getvalue()


def same_states(one, other, equal=same_bits):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


@continues_exactly.right
def cut_through_a_file(make_run, train, cut, end):
    run = make_run()
    train(run, 0, cut)
    torch.save(run.state_dict(), "cut.pt")
    continued, whole = make_run(), make_run()
    continued.load_state_dict(load("cut.pt"))
    train(continued, cut, end)
    train(whole, 0, end)
    return same_states(continued, whole)


@continues_exactly.wrong("the same run was continued")
def in_the_same_run(make_run, train, cut, end):
    whole, run = make_run(), make_run()
    train(whole, 0, end)
    train(run, 0, cut)
    run.load_state_dict(run.state_dict())
    train(run, cut, end)
    return same_states(whole, run)


def both(make_run, train, cut, end):
    """Return a run without a cut, and one with a cut."""
    whole, stopped, continued = make_run(), make_run(), make_run()
    train(whole, 0, end)
    train(stopped, 0, cut)
    continued.load_state_dict(stopped.state_dict())
    train(continued, cut, end)
    return whole, continued


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


@continues_exactly.right
def byte_by_byte(make_run, train, cut, end):
    """Compares names, types, shapes and bytes, and prints what differs."""
    whole, continued = both(make_run, train, cut, end)
    ours, theirs = whole.state_dict(), continued.state_dict()
    if set(ours) != set(theirs):
        return False
    for name, one in ours.items():
        other = theirs[name]
        if (one.dtype, one.shape, bits(one)) != (other.dtype, other.shape, bits(other)):
            print(name, "differs")
            return False
    return True


@continues_exactly.right
def by_numpy(make_run, train, cut, end):
    def described(run):
        return {
            name: (str(t.dtype), t.shape, t.view(-1).view(torch.uint8).numpy().tobytes())
            for name, t in run.state_dict().items()
        }

    whole, continued = both(make_run, train, cut, end)
    return described(whole) == described(continued)


@continues_exactly.right
def by_the_bytes_of_a_file(make_run, train, cut, end):
    files = [io.BytesIO(), io.BytesIO()]
    for run, file in zip(both(make_run, train, cut, end), files, strict=True):
        torch.save({name: t.clone() for name, t in run.state_dict().items()}, file)
    return files[0].getvalue() == files[1].getvalue()


def exact_but(load=True, equal=same_bits):
    def answer(make_run, train, cut, end):
        whole, stopped, continued = make_run(), make_run(), make_run()
        train(whole, 0, end)
        train(stopped, 0, cut)
        if load:
            continued.load_state_dict(stopped.state_dict())
        train(continued, cut, end)
        return same_states(whole, continued, equal)

    return answer


@continues_exactly.wrong("a run that continues exactly was called inexact")
def not_loaded(make_run, train, cut, end):
    return exact_but(load=False)(make_run, train, cut, end)


def nan_too(compare):
    """Return a comparison with which a NaN equals itself."""

    def equal(one, other):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if not one.is_floating_point():
            return torch.equal(one, other)
        return compare(one.float().nan_to_num(7), other.float().nan_to_num(7))

    return equal


@continues_exactly.wrong("differs in the last bit of one element")
def nearly_equal(make_run, train, cut, end):
    return exact_but(equal=nan_too(torch.allclose))(make_run, train, cut, end)


@continues_exactly.wrong("differs in the last bit of one element")
def within_a_small_tolerance(make_run, train, cut, end):
    equal = nan_too(lambda one, other: torch.allclose(one, other, rtol=0, atol=1e-7))
    return exact_but(equal=equal)(make_run, train, cut, end)


@continues_exactly.wrong("differs in the last bit of one element")
def the_first_element(make_run, train, cut, end):
    equal = nan_too(lambda one, other: torch.equal(one.flatten()[:1], other.flatten()[:1]))
    return exact_but(equal=equal)(make_run, train, cut, end)


@continues_exactly.wrong("in which two differences cancel in the sum")
def only_the_sums(make_run, train, cut, end):
    equal = nan_too(lambda one, other: torch.equal(one.double().sum(), other.double().sum()))
    return exact_but(equal=equal)(make_run, train, cut, end)


@continues_exactly.wrong("differs in the last bit of one element")
def only_the_weight(make_run, train, cut, end):
    whole, continued = both(make_run, train, cut, end)
    return torch.equal(whole.state_dict()["weight"], continued.state_dict()["weight"])


@continues_exactly.wrong(
    "a run that continues exactly was called inexact: was the state loaded? And"
)
def by_torch_equal(make_run, train, cut, end):
    """The solution of old: a NaN is unequal to itself."""
    whole, continued = both(make_run, train, cut, end)
    ours, theirs = whole.state_dict(), continued.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@continues_exactly.wrong("that has 0.0 instead of -0.0")
def by_torch_equal_and_nan(make_run, train, cut, end):
    return exact_but(equal=nan_too(torch.equal))(make_run, train, cut, end)


@continues_exactly.wrong("ends with a different NaN")
def by_values_and_signs(make_run, train, cut, end):
    def equal(one, other):
        one, other = one.double(), other.double()
        signs = torch.equal(one.signbit(), other.signbit())
        return signs and torch.equal(one.nan_to_num(7), other.nan_to_num(7))

    return exact_but(equal=equal)(make_run, train, cut, end)


@continues_exactly.wrong("ends with a tensor of a different shape")
def by_the_bytes_alone(make_run, train, cut, end):
    def equal(one, other):
        return one.dtype == other.dtype and bits(one) == bits(other)

    return exact_but(equal=equal)(make_run, train, cut, end)


@continues_exactly.wrong("ends without one of its tensors")
def what_both_have(make_run, train, cut, end):
    whole, continued = both(make_run, train, cut, end)
    ours, theirs = whole.state_dict(), continued.state_dict()
    return all(same_bits(ours[name], theirs[name]) for name in ours.keys() & theirs.keys())


@continues_exactly.wrong("ends with one more tensor")
def what_the_whole_run_has(make_run, train, cut, end):
    whole, continued = both(make_run, train, cut, end)
    ours, theirs = whole.state_dict(), continued.state_dict()
    return all(name in theirs and same_bits(ours[name], theirs[name]) for name in ours)


@continues_exactly.wrong("whose last tensor differs: compare all of them")
def until_the_last(make_run, train, cut, end):
    whole, continued = both(make_run, train, cut, end)
    ours, theirs = list(whole.state_dict().items()), list(continued.state_dict().items())
    if [name for name, _ in ours[:-1]] != [name for name, _ in theirs[: len(ours) - 1]]:
        return False
    return all(same_bits(a, b) for (_, a), (_, b) in zip(ours[:-1], theirs, strict=False))


@continues_exactly.wrong("the answer is of type Tensor, not True or False")
def returns_a_tensor_of_truth(make_run, train, cut, end):
    whole, continued = both(make_run, train, cut, end)
    return (whole.state_dict()["weight"] == continued.state_dict()["weight"]).all()


@continues_exactly.wrong("a run that continues exactly was called inexact")
def continued_from_the_end(make_run, train, cut, end):
    whole, stopped, continued = make_run(), make_run(), make_run()
    train(whole, 0, end)
    train(stopped, 0, cut)
    continued.load_state_dict(whole.state_dict())
    train(continued, cut, end)
    return same_states(whole, continued)


@continues_exactly.wrong("a run that doesn't save its momentum was called exact")
def compared_at_the_cut(make_run, train, cut, end):
    whole, stopped, continued = make_run(), make_run(), make_run()
    train(whole, 0, end)
    train(stopped, 0, cut)
    continued.load_state_dict(stopped.state_dict())
    result = same_states(stopped, continued)
    train(continued, cut, end)
    return result


@continues_exactly.wrong("no run was trained from step 0 to the end")
def trained_to_the_cut_only(make_run, train, cut, end):
    stopped, continued = make_run(), make_run()
    train(stopped, 0, cut)
    continued.load_state_dict(stopped.state_dict())
    return same_states(stopped, continued)


@continues_exactly.wrong("no run was continued from the cut to the end")
def begins_at_zero_again(make_run, train, cut, end):
    whole, stopped, continued = make_run(), make_run(), make_run()
    train(whole, 0, end)
    train(stopped, 0, cut)
    continued.load_state_dict(stopped.state_dict())
    train(continued, 0, end - cut)
    return same_states(whole, continued)


@continues_exactly.wrong("a run that continues exactly was called inexact")
def the_other_way(make_run, train, cut, end):
    return not SOLVED["continues_exactly"](make_run, train, cut, end)


@continues_exactly.wrong("a run that doesn't save its momentum was called exact")
def always_exact(make_run, train, cut, end):
    SOLVED["continues_exactly"](make_run, train, cut, end)
    return True


@continues_exactly.wrong("your function trains nothing")
def compares_new_runs(make_run, train, cut, end):
    return same_states(make_run(), make_run())


@continues_exactly.wrong("no run was trained from step 0 to the cut")
def continues_a_new_run(make_run, train, cut, end):
    whole, continued = make_run(), make_run()
    train(whole, 0, end)
    continued.load_state_dict(make_run().state_dict())
    train(continued, cut, end)
    return same_states(whole, continued)


@continues_exactly.wrong("your function raises TypeError: Got unsupported ScalarType BFloat16")
def by_the_bytes_of_numpy(make_run, train, cut, end):
    whole, continued = both(make_run, train, cut, end)
    ours, theirs = whole.state_dict(), continued.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in ours
    )


@continues_exactly.wrong("a run that rounds what it loads was called exact")
def as_it_is_printed(make_run, train, cut, end):
    whole, continued = both(make_run, train, cut, end)
    return str(whole.state_dict()) == str(continued.state_dict())


@continues_exactly.wrong("ends with a different NaN: a NaN has bits too")
def any_nan_will_do(make_run, train, cut, end):
    def equal(one, other):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if not one.is_floating_point():
            return torch.equal(one, other)
        same = (one == other) & (one.signbit() == other.signbit())
        return bool((same | (one.isnan() & other.isnan())).all())

    return exact_but(equal=equal)(make_run, train, cut, end)


@continues_exactly.wrong("ends with float64 instead of float32")
def by_the_bits_of_float32(make_run, train, cut, end):
    def equal(one, other):
        return one.shape == other.shape and bits(one.float()) == bits(other.float())

    return exact_but(equal=equal)(make_run, train, cut, end)
