"""Right and wrong answers to the exercises of notebook 4, each wrong one with its hint."""

import copy
import io
import os
import re
from pathlib import Path

import torch

from tests.answers.collect import Answers
from tests.answers.solved import SOLVED

RIGHT, WRONG = {}, {}


# 1 · How large, for any model?

checkpoint_bytes = Answers("checkpoint_bytes", RIGHT, WRONG)


@checkpoint_bytes.right
def with_element_sizes(model, copies):
    total = 0
    for tensor in model.state_dict(keep_vars=True).values():
        size = tensor.numel() * tensor.element_size()
        total += size * (1 + copies) if tensor.requires_grad else size
    return total


@checkpoint_bytes.wrong("the buffers are missing")
def parameters_times(model, copies):
    return (1 + copies) * sum(p.nbytes for p in model.parameters())


@checkpoint_bytes.wrong("an optimizer keeps tensors for parameters, not for buffers")
def state_times(model, copies):
    return (1 + copies) * sum(t.nbytes for t in model.state_dict().values())


@checkpoint_bytes.wrong("it keeps nothing for frozen parameters")
def frozen_ones_too(model, copies):
    kept = copies * sum(p.nbytes for p in model.parameters())
    return sum(t.nbytes for t in model.state_dict().values()) + kept


@checkpoint_bytes.wrong("for SGD without momentum, it is 196 bytes, not 192")
def four_bytes_for_all(model, copies):
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    return 4 * (sum(t.numel() for t in model.state_dict().values()) + copies * sum(trained))


@checkpoint_bytes.wrong("a buffer with persistent=False is not in model.state_dict()")
def all_buffers(model, copies):
    """Has those that are not saved, too."""
    total = 0
    for tensor in [*model.parameters(), *model.buffers()]:
        size = tensor.numel() * tensor.element_size()
        total += size * (1 + copies) if tensor.requires_grad else size
    return total


@checkpoint_bytes.wrong("for SGD without momentum, it is 196 bytes")
def saved_to_memory(model, copies):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell() * (1 + copies)


@checkpoint_bytes.wrong("for a model of 400 GB, it is 1200012000000 bytes, not 1200012001280")
def in_single_precision(model, copies):
    return torch.tensor(float(SOLVED["checkpoint_bytes"](model, copies))).item()


@checkpoint_bytes.wrong("for a model of 400 GB, your function raises ")
def copied_to_measure(model, copies):
    model = copy.deepcopy(model).cpu() if copies < 2 else model.cpu()
    return SOLVED["checkpoint_bytes"](model, copies)


@checkpoint_bytes.wrong("your function changes the model")
def frozen_thrown_out(model, copies):
    model.load_state_dict({n: torch.zeros_like(t) for n, t in model.state_dict().items()})
    return SOLVED["checkpoint_bytes"](model, copies)


@checkpoint_bytes.right
def on_the_meta_device(model, copies):
    """Lets PyTorch count, with an optimizer's tensors that have shapes only."""
    sizes = [torch.empty_like(t, device="meta").nbytes for t in model.state_dict().values()]
    kept = [p.nbytes for p in model.parameters() if p.requires_grad] * copies
    print(len(sizes), "tensors and", len(kept), "copies")
    return sum(sizes + kept)


@checkpoint_bytes.wrong("for Adam with a model in float64, it is")
def copies_in_float32(model, copies):
    kept = copies * sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    return sum(t.nbytes for t in model.state_dict().values()) + kept


@checkpoint_bytes.wrong("it keeps nothing for frozen parameters")
def frozen_by_their_mode(model, copies):
    kept = copies * sum(p.nbytes for p in model.parameters() if model.training)
    return sum(t.nbytes for t in model.state_dict().values()) + kept


@checkpoint_bytes.wrong("for SGD with momentum, it is")
def only_what_has_a_gradient(model, copies):
    kept = copies * sum(p.nbytes for p in model.parameters() if p.grad is not None)
    return sum(t.nbytes for t in model.state_dict().values()) + kept


@checkpoint_bytes.wrong("your function returns nothing")
def prints_megabytes(model, copies):
    print(f"{SOLVED['checkpoint_bytes'](model, copies) / 1e6:.1f} MB")


# 2 · Half of it, where it fits.

to_half = Answers("to_half", RIGHT, WRONG)


@to_half.wrong("nothing in nearly_too_large becomes infinite in float16")
def by_the_largest(state):
    def fits(t):
        return t.is_floating_point() and t.abs().max() <= torch.finfo(torch.float16).max

    return {name: t.half() if fits(t) else t.clone() for name, t in state.items()}


@to_half.right
def by_what_stays_finite(state):
    halved = {n: t.to(torch.float16) if t.is_floating_point() else t for n, t in state.items()}
    return {n: t if t.isfinite().all() else state[n] for n, t in halved.items()}


@to_half.wrong("counter is not a floating-point tensor")
def halved_whatever_it_is(state):
    return {name: tensor.half() for name, tensor in state.items()}


@to_half.wrong("a number in too_large has become infinite")
def halved_if_floating_point(state):
    return {n: t.half() if t.is_floating_point() else t for n, t in state.items()}


@to_half.wrong("nothing in weight becomes infinite in float16, but it is torch.float32")
def all_or_nothing(state):
    halved = halved_if_floating_point(state)
    return dict(state) if any(t.isinf().any() for t in halved.values()) else halved


@to_half.wrong("a number in too_negative has become infinite")
def looks_at_the_maximum(state):
    def fits(t):
        return t.is_floating_point() and t.max() <= 65504

    return {name: t.half() if fits(t) else t for name, t in state.items()}


@to_half.wrong("too_large doesn't fit into float16: keep it as it is")
def clamped(state):
    return {
        n: t.clamp(-65504, 65504).half() if t.is_floating_point() else t for n, t in state.items()
    }


@to_half.wrong("nothing in double becomes infinite in float16, but it is torch.float64")
def only_float32(state):
    def fits(t):
        return t.dtype == torch.float32 and not t.half().isinf().any()

    return {name: t.half() if fits(t) else t for name, t in state.items()}


@to_half.wrong("nothing in weight becomes infinite in float16, but it is torch.bfloat16")
def in_bfloat16(state):
    return {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}


@to_half.wrong("weight doesn't have the numbers that half() makes of it")
def rounded_twice(state):
    return {
        name: state[name].bfloat16().half() if tensor.dtype == torch.float16 else tensor
        for name, tensor in SOLVED["to_half"](state).items()
    }


@to_half.wrong("nothing in weight becomes infinite in float16, but it is torch.float32")
def rounded_only(state):
    return {n: t.half().to(t.dtype) if t.is_floating_point() else t for n, t in state.items()}


@to_half.wrong("your function changes the tensors that it was given")
def halved_in_place(state):
    state.update(SOLVED["to_half"](state))
    return state


@to_half.wrong("the names in the answer differ from those in the state")
def what_fits(state):
    return {n: t for n, t in SOLVED["to_half"](state).items() if t.dtype == torch.float16}


@to_half.right
def with_copies_of_the_rest(state):
    """Compares what is infinite before and after, and copies what stays as it is."""
    result = {}
    for name, tensor in state.items():
        half = tensor.to(torch.float16)
        overflows = torch.isinf(half).sum() > torch.isinf(tensor).sum()
        keep = overflows or tensor.dtype not in (torch.float32, torch.float64, torch.bfloat16)
        result[name] = tensor.clone() if keep else half
        print(name, result[name].dtype)
    return result


@to_half.wrong(
    "nothing in nearly_too_large becomes infinite in float16 (65,510 is rounded to 65,504)"
)
def by_the_largest_if_any(state):
    def fits(t):
        return t.is_floating_point() and (not t.numel() or t.abs().max() <= 65504)

    return {name: t.half() if fits(t) else t for name, t in state.items()}


@to_half.wrong("nothing in brain_float becomes infinite in float16, but it is torch.bfloat16")
def two_types_only(state):
    def fits(t):
        return t.dtype in (torch.float32, torch.float64) and not t.half().isinf().any()

    return {name: t.half() if fits(t) else t for name, t in state.items()}


@to_half.wrong("too_large doesn't fit into float16: keep it as it is")
def without_infinities(state):
    return {n: torch.nan_to_num(t.half()) if t.is_floating_point() else t for n, t in state.items()}


@to_half.wrong("a number in too_large has become infinite: float16 ends at 65,504")
def all_are_not_infinite(state):
    def fits(t):
        return t.is_floating_point() and not t.half().isinf().all()

    return {name: t.half() if fits(t) else t for name, t in state.items()}


@to_half.wrong("for a tensor without elements, your function raises RuntimeError: max()")
def by_the_largest_half(state):
    def fits(t):
        return t.is_floating_point() and t.half().abs().max() <= 65504

    return {name: t.half() if fits(t) else t for name, t in state.items()}


@to_half.wrong("nothing in a tensor without elements becomes infinite")
def if_any_is_finite(state):
    def fits(t):
        return t.is_floating_point() and t.half().isfinite().any() and not t.half().isinf().any()

    return {name: t.half() if fits(t) else t for name, t in state.items()}


@to_half.wrong("your function changes the dict that it was given")
def moved_to_a_new_dict(state):
    halved = SOLVED["to_half"](state)
    state.clear()
    return halved


@to_half.wrong("the answer is of type list, not a state_dict")
def tensors_only(state):
    return list(SOLVED["to_half"](state).values())


# 3 · Only the newest.

save_newest = Answers("save_newest", RIGHT, WRONG)


@save_newest.right
def with_pathlib_and_atomic(state, folder, epoch, keep):
    folder = Path(folder)
    SOLVED["save_atomically"](state, str(folder / f"epoch-{epoch}.pt"))
    paths = sorted(folder.glob("epoch-*.pt"), key=lambda path: int(path.stem[6:]), reverse=True)
    for path in paths[keep:]:
        path.unlink()


@save_newest.wrong("after epochs 1, 2, 3, 4 with keep=3, epoch-1.pt should be gone")
def keeps_all(state, folder, epoch, keep):
    torch.save(state, os.path.join(folder, f"epoch-{epoch}.pt"))


def delete(folder, epochs):
    for epoch in epochs:
        os.remove(os.path.join(folder, f"epoch-{epoch}.pt"))


def epochs_in(folder):
    return [int(name[6:-3]) for name in os.listdir(folder) if re.match(r"epoch-\d+\.pt", name)]


@save_newest.wrong("after epochs 1, 2, 3, 4, 8, 9, 10 with keep=2, there is no epoch-10.pt")
def by_the_alphabet(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    delete(folder, sorted(epochs_in(folder), key=str)[:-keep])


@save_newest.wrong("should still be there")
def by_the_time(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    paths = sorted(Path(folder).glob("epoch-*.pt"), key=os.path.getmtime)
    for path in paths[:-keep]:
        path.unlink()


@save_newest.wrong("with keep=3, epoch-1.pt should be gone")
def one_too_many(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    delete(folder, sorted(epochs_in(folder))[: -keep - 1])


@save_newest.wrong("after epochs 1, 2, 3, 4, 8 with keep=2, epoch-2.pt should be gone")
def without_gaps(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    if os.path.exists(os.path.join(folder, f"epoch-{epoch - keep}.pt")):
        delete(folder, [epoch - keep])


@save_newest.wrong("for epoch 1, your function raises FileNotFoundError")
def without_gaps_or_an_error(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    delete(folder, [epoch - keep])


@save_newest.wrong("after epochs 1, 2, 3, 4, 8 with keep=2, epoch-3.pt should be gone")
def one_at_a_time(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    epochs = sorted(epochs_in(folder))
    if len(epochs) > keep:
        delete(folder, epochs[:1])


@save_newest.wrong("after epochs 1, 2 with keep=3, epoch-1.pt should still be there")
def counted_from_the_end(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    epochs = sorted(epochs_in(folder))
    delete(folder, epochs[: len(epochs) - keep])


@save_newest.wrong("a save failed partway, and the checkpoint before it is gone")
def deleted_before(state, folder, epoch, keep):
    delete(folder, sorted({*epochs_in(folder), epoch})[:-keep])
    keeps_all(state, folder, epoch, keep)


@save_newest.wrong("best.pt is not a checkpoint of an epoch, and it is gone")
def everything_else(state, folder, epoch, keep):
    SOLVED["save_newest"](state, folder, epoch, keep)
    for name in os.listdir(folder):
        if not name.startswith("epoch-"):
            os.remove(os.path.join(folder, name))


@save_newest.wrong("for epoch 1, your function raises ValueError: invalid literal for int()")
def every_pt_file(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    epochs = [int(path.stem.split("-")[-1]) for path in Path(folder).glob("*.pt")]
    delete(folder, sorted(epochs)[:-keep])


@save_newest.wrong("there is no epoch-1.pt")
def another_file_name(state, folder, epoch, keep):
    torch.save(state, os.path.join(folder, f"epoch-{epoch:03d}.pt"))


@save_newest.wrong("the file doesn't hold what torch.save would write for this state")
def with_its_epoch(state, folder, epoch, keep):
    SOLVED["save_newest"]({"epoch": epoch, "state": state}, folder, epoch, keep)


@save_newest.wrong("your function kept the error to itself")
def error_of_saving_kept(state, folder, epoch, keep):
    try:
        keeps_all(state, folder, epoch, keep)
    except Exception:
        return
    delete(folder, sorted(epochs_in(folder))[:-keep])


@save_newest.right
def with_temporary_files(state, folder, epoch, keep):
    path = os.path.join(folder, f"epoch-{epoch}.pt")
    try:
        torch.save(state, path + ".tmp")
        os.replace(path + ".tmp", path)
    except BaseException:
        os.remove(path + ".tmp")
        raise
    for old in sorted(epochs_in(folder), reverse=True)[keep:]:
        print("deleting epoch", old)
        delete(folder, [old])


@save_newest.wrong("a save failed partway, and left half a file: epoch-102.pt")
def in_place(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    delete(folder, sorted(epochs_in(folder))[:-keep])


@save_newest.wrong("saving epoch 103 again failed partway, and the checkpoint before it is gone")
def deleted_if_it_fails(state, folder, epoch, keep):
    try:
        keeps_all(state, folder, epoch, keep)
    except BaseException:
        delete(folder, [epoch])
        raise
    delete(folder, sorted(epochs_in(folder))[:-keep])


@save_newest.wrong("saving epoch 103 again failed partway, and its old file is damaged")
def deleted_if_it_is_new(state, folder, epoch, keep):
    new = epoch not in epochs_in(folder)
    try:
        keeps_all(state, folder, epoch, keep)
    except BaseException:
        if new:
            delete(folder, [epoch])
        raise
    delete(folder, sorted(epochs_in(folder))[:-keep])


@save_newest.wrong("a save failed partway, and left half a file: epoch-102.pt.tmp")
def with_a_leftover(state, folder, epoch, keep):
    path = os.path.join(folder, f"epoch-{epoch}.pt")
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)
    delete(folder, sorted(epochs_in(folder))[:-keep])


@save_newest.wrong("with keep=3, epoch-1.pt should still be there")
def found_anywhere_in_the_name(state, folder, epoch, keep):
    keeps_all(state, folder, epoch, keep)
    found = [(re.search(r"epoch-(\d+)\.pt", name), name) for name in os.listdir(folder)]
    for _, name in sorted((int(m[1]), name) for m, name in found if m)[:-keep]:
        os.remove(os.path.join(folder, name))


SAVED = []


@save_newest.wrong("after saving epoch 102 failed, epochs 101 and 103 are the newest two")
def counts_what_it_tried(state, folder, epoch, keep):
    if epoch == 1:
        SAVED.clear()
    SAVED.append(epoch)
    SOLVED["save_newest"](state, folder, epoch, 10**6)
    delete(folder, [old for old in epochs_in(folder) if old not in SAVED[-keep:]])
