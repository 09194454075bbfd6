"""What the notebooks' prose claims about a run, beyond what its cells print.

Each claim names the notebook, the text cell and some words in it, and a function that takes `out`,
the printed text of each cell by `(notebook, cell id)`, and returns whether the words are true.
tests/test_claims.py checks the committed outputs, `make claims` checks runs with other arithmetics,
seeds and batch sizes, and with all of MNIST.
"""

import re
from typing import NamedTuple


class Claim(NamedTuple):
    notebook: int
    cell: str
    words: str
    holds: object


def numbers(text, pattern):
    """Return the groups of a pattern as floats; a missing one raises an AttributeError."""
    return [float(group.replace(",", "")) for group in re.search(pattern, text).groups()]


def losses(out, notebook):
    """Return the first loss and the average of the last ones, as the figure's sentence has them."""
    pattern = r"Loss from (\S+) in the first batch to (\S+), the average"
    return numbers(out[notebook, "plot-loss"], pattern)


def sizes(out, notebook, cell):
    """Return the sizes that a cell prints, by the name of the file."""
    found = re.findall(r"^(\S+\.pt) +(\S+) (?:bytes|MB)", out[notebook, cell], re.M)
    return {name: float(size.replace(",", "")) for name, size in found}


def tensors(out, cell):
    """Return the shape and the bytes of each tensor that a cell of notebook 1 lists."""
    return re.findall(r"(\([\d, ]+\)) +(\S+) bytes", out[1, cell])


def worth(out):
    """Return the first step that differs of each continuation in the lab, None where none does."""
    rows = re.findall(r"^([a-z ]+?) +(none|\d+) ", out[3, "worth-table"], re.M)
    return {name: None if step == "none" else int(step) for name, step in rows}


def rates(out):
    """Return the learning rates that each continuation in the lab used."""
    rows = re.findall(r"^([a-z ]+?) +(?:none|\d+) +\S+ +\S+ +(.+)", out[3, "worth-table"], re.M)
    return {name: [float(rate) for rate in used.split()] for name, used in rows}


def ends(out):
    """Return how far each continuation in the lab is from the uninterrupted run at the end."""
    sentence = out[3, "worth-figure"].partition("at the end: ")[2].partition(". For scale")[0]
    return {part.rpartition(" ")[0]: numbers(part, r" (\S+)$")[0] for part in sentence.split(", ")}


def changed(out):
    """Return for each of four states in the lab whether a step has changed it, in words."""
    return re.findall("(changed|as before)$", out[3, "view"], re.M)


def trained_again(out):
    """Return how many batches of the lab's killed process were trained a second time."""
    begun = numbers(out[3, "killed"], r"Begins after (\d+) epochs")[0]
    total = numbers(out[3, "killed"], r"Batch 0000/(\d+)")[0]
    epochs = numbers(out[3, "started-again"], r"Begins after (\d+) epochs")[0]
    inside = re.search(r"Begins after .* and (\d+) of", out[3, "started-again"])
    killed_after = begun * total + total + 2 * total // 3 + 1
    return killed_after - (epochs * total + (int(inside[1]) if inside else 0))


def same_lines(out):
    """Return whether the uninterrupted process has printed all that the continued one prints."""
    _, *continued = out[3, "started-again"].splitlines()
    return len(continued) > 3 and set(continued) <= set(out[3, "never-killed"].splitlines())


def memory(out):
    """Return the two factors of each way to load AlexNet."""
    rows = re.findall(r"(\d+\.\d) x +(\d+\.\d) x", out[5, "measure"])
    return [(float(load), float(predict)) for load, predict in rows]


def steps(out, cell, pattern=r"(?:after loading|that are saved): +(\d+)"):
    """Return a number of steps that a cell of notebook 6 prints about the schedule's horizon."""
    return numbers(out[6, cell], pattern)[0]


def begins(out, cell):
    """Return the step at which each process that a cell of notebook 8 starts begins."""
    return [int(step) for step in re.findall(r"beginning at step (\d+)", out[8, cell])]


def statuses(out, cell):
    """Return the statuses that a cell of notebook 8 prints."""
    return [int(status) for status in re.findall(r"status (-?\d+)", out[8, cell])]


def save_table(out, cell):
    """Return the minutes between two saves and the percentage lost, by the number of machines."""
    rows = re.findall(r"^ *(\S+) +\S+ hours +(\S+) min +(\S+)%", out[8, cell], re.M)
    rows = [[float(number.replace(",", "")) for number in row] for row in rows]
    return {int(machines): (interval, lost) for machines, interval, lost in rows}


def logged(out):
    """Return the beginnings of the lines of both logs that notebook 8 prints."""
    logs = [line for line in out[8, "log-try"].splitlines() if " | " in line]
    return [[re.sub(r" [\d.]+$", "", line) for line in log.split(" | ")] for log in logs]


def first_words(out):
    """Return what the table of notebook 7 says of the first row after the cut, then of the weights.

    These are the words for its weights, batch and gradient, and for the weights one row later.
    """
    rows = [line.split() for line in out[7, "weights-only"].splitlines()[1:]]
    half = len(rows) // 2
    return [*rows[half][1:], rows[half + 1][1]]


def crosses_of_a_report(out, cell):
    """Return the crosses without parentheses in the table of a report in notebook 7."""
    (row,) = re.findall(r"^after step 20 .*", out[7, cell], re.M)
    return re.findall(r"(?<!\()✗(?: \w+ \d+)?(?!\))", row)


def rows_of_others(out):
    """Return the cells of each row of the table of tools in notebook 7."""
    lines = out[7, "others"].splitlines()[1:]
    rows = [re.split(r"  +", line.strip()) for line in lines]
    return [row for row in rows if len(row) == 6]


def pieces_that_others_lose(out):
    """Return the pieces with a cross in that table."""
    marks = [cell for row in rows_of_others(out) for cell in row[2:] if cell.startswith("✗ ")]
    return [piece for mark in marks for piece in mark[2:].partition(" (")[0].split(", ")]


def last_rows_of_others(out):
    """Return the last row of each tool in that table."""
    return list({row[0]: row for row in rows_of_others(out)}.values())


def packaging(out):
    """Return how much larger AlexNet's checkpoint is than its tensors, as a share of these."""
    tensors, disk = numbers(out[4, "file-size"], r"Tensors (\S+) MB, on the disk (\S+) MB")
    return disk / tensors - 1


LARGE_LAYERS = ("classifier.1", "classifier.4")


def layers(out):
    """Return the megabytes of AlexNet's parameters, of SGD's state and of Adam's, by layer."""
    rows = re.findall(r"^(\S+\.\d+) +(\S+) MB +(\S+) MB +(\S+) MB$", out[4, "layers"], re.M)
    return {name: tuple(map(float, megabytes)) for name, *megabytes in rows}


def alexnet_mb(out):
    """Return the megabytes of AlexNet's checkpoint."""
    return sizes(out, 4, "save-model")["alexnet.pt"]


def changed_labels(out):
    """Return the share of the labels that half precision changes."""
    changed, all_labels = numbers(out[4, "half"], r"labels for (\d+) of (\d+)")
    return changed / all_labels


FILES_OF_RANKS = ("__0_0.distcp", "__1_0.distcp")


def differences(out):
    """Return how far the losses of the first batch differ, for each number of processes."""
    found = re.findall(r"by (\S+) in the first batch", out[10, "difference"])
    return [float(difference) for difference in found]


def same_on_ranks(out):
    """Return whether each thing is the same on both ranks under DDP, by its name."""
    rows = re.findall(r"^(\w+) +the same on both ranks: (\w+)$", out[9, "ddp"], re.M)
    return {name: same == "True" for name, same in rows}


def sums(out):
    """Return the sums that each rank gets in the loop with one call too many."""
    ranks = out[9, "mistake"].split("Rank ")[1:]
    return [[int(number) for number in re.findall(r"(?:loss|gradient) (\d+)", r)] for r in ranks]


def made(out):
    """Return a letter for the weights on 1, 2 and 3 ranks, for each way to make a model."""
    rows = re.findall(r"^(\w+) +([A-I]) ([A-I]) ([A-I])$", out[9, "large"], re.M)
    return {way: on for way, *on in rows}


def split_losses(out):
    """Return the first and the last losses on 1, 2 and 4 ranks: plain, BatchNorm, dropout."""
    rows = re.findall(r"^ +[124] +(.*)", out[9, "split"], re.M)
    rows = [[float(number) for number in re.findall(r"\d+\.\d+", row)] for row in rows]
    return [list(zip(*[row[i : i + 2] for row in rows], strict=True)) for i in (0, 2, 4)]


def spread(numbers):
    return max(numbers) - min(numbers)


def shards(out):
    """Return how many rows each parameter has, and how many of them each rank holds."""
    pairs = re.findall(r"\[(\d+).*?\] +of which \[(\d+)", out[9, "look"])
    return [(int(whole), int(mine)) for whole, mine in pairs]


def kilobytes(out):
    """Return the sizes of the files in a sharded checkpoint, by name."""
    found = re.findall(r"^checkpoint-\d+/(\S+) +(\d+) kB$", out[9, "folder"], re.M)
    return {name: int(size) for name, size in found}


CLAIMS = [
    Claim(
        1,
        "loop-md",
        "It is empty for now",
        lambda out: out[1, "optimizer-new"] == "{}\n",
    ),
    Claim(
        1,
        "optimizer-state-after-md",
        "The same shapes and bytes as the model, line by line",
        lambda out: tensors(out, "model-state") == tensors(out, "optimizer-state") != [],
    ),
    Claim(
        1,
        "train-after-md",
        "It has learned something, but it still makes mistakes",
        lambda out: 20 < numbers(out[1, "final"], r"test accuracy (\S+)%")[0] < 100,
    ),
    Claim(
        1,
        "plot-loss-after-md",
        "about 2.3, and that is where the curve begins",
        lambda out: 2.1 < losses(out, 1)[0] < 2.5,
    ),
    Claim(
        1,
        "plot-loss-after-md",
        "shows how the loss falls",
        lambda out: losses(out, 1)[1] < losses(out, 1)[0],
    ),
    Claim(
        1,
        "plot-loss-after-md",
        "five test digits that the network gets right, and the first ten that it gets wrong",
        lambda out: (
            numbers(out[1, "examples"], r"(\d+) images, (\d+) of them mistakes") == [15, 10]
        ),
    ),
    Claim(
        1,
        "sizes-after-md",
        "and a few thousand more",
        lambda out: 1_000 < sizes(out, 1, "save")["model.pt"] - 246_824 < 10_000,
    ),
    Claim(
        1,
        "sizes-after-md",
        "`optimizer.pt` is about as large",
        lambda out: (
            abs(sizes(out, 1, "save")["optimizer.pt"] - sizes(out, 1, "save")["model.pt"]) < 1_000
        ),
    ),
    Claim(
        1,
        "sizes-after-md",
        "`scheduler.pt` holds a few plain values",
        lambda out: sizes(out, 1, "save")["scheduler.pt"] < 5_000,
    ),
    Claim(
        2,
        "untrained-after-md",
        "an untrained network may be well above or below",
        lambda out: 2 < numbers(out[2, "untrained"], r"untrained: (\S+)%")[0] < 30,
    ),
    Claim(
        2,
        "check-after-md",
        "we have the accuracy that notebook 1 ended with",
        lambda out: (
            numbers(out[2, "check"], r"accuracy: (\S+)%")
            == numbers(out[1, "final"], r"test accuracy (\S+)%")
        ),
    ),
    Claim(
        2,
        "lecture-after-md",
        "It trains, and it looks fine",
        lambda out: numbers(out[2, "lecture"], r"Test accuracy: (\S+)%")[0] > 60,
    ),
    Claim(
        2,
        "check-checkpoint-md",
        "You'd never guess that the two are related",
        lambda out: len(set(re.findall(r"[0-9a-f]{64}", out[2, "hash"]))) == 2,
    ),
    Claim(
        2,
        "stop-after-md",
        "The current step was completed",
        lambda out: (
            numbers(out[2, "stop"], r"in the next one: (\d+)")[0]
            == numbers(out[2, "stop"], r"of (\d+) batches")[0] // 2 + 1
        ),
    ),
    Claim(
        2,
        "overlay-after-md",
        "from then on this is a different run",
        lambda out: len(set(numbers(out[2, "overlay"], r": (\S+) of (\S+) losses differ"))) == 1,
    ),
    Claim(
        2,
        "overlay-after-md",
        "there is nothing to see but the line at zero",
        lambda out: numbers(out[2, "overlay"], r"checkpoint, .*: (\S+) of \S+ losses") == [0],
    ),
    Claim(
        2,
        "proof-after-md",
        "One ✗ and two ✓",
        lambda out: (
            re.findall("[✓✗]", out[2, "counterexample"] + out[2, "proof"]) == ["✗", "✓", "✓"]
        ),
    ),
    Claim(
        2,
        "examples-md",
        "Training accuracy usually ends above validation accuracy",
        lambda out: (
            numbers(out[2, "plot-accuracy"], r"validation .*? to (\S+)%")[0]
            < numbers(out[2, "plot-accuracy"], r"Training .*? to (\S+)%,")[0]
        ),
    ),
    Claim(
        3,
        "worth-after-md",
        "no step differs. This is the exact continuation",
        lambda out: worth(out)["everything"] is None,
    ),
    Claim(
        3,
        "worth-after-md",
        "the first step has no earlier direction to keep, so it differs",
        lambda out: worth(out)["no momentum"] == 1,
    ),
    Claim(
        3,
        "worth-after-md",
        "a new optimizer begins with its initial rate, ten times too high by now",
        lambda out: (
            worth(out)["no learning rate"] == 1
            and rates(out)["no learning rate"][0] == 10 * rates(out)["everything"][0]
        ),
    ),
    Claim(
        3,
        "worth-after-md",
        "Its steps are too long, so it strays far",
        lambda out: (
            sorted(ends(out), key=ends(out).get)[-2:]
            in (["no learning rate", "model alone"], ["model alone", "no learning rate"])
        ),
    ),
    Claim(
        3,
        "worth-after-md",
        "exact until the uninterrupted run's scheduler reaches the next multiple of four",
        lambda out: (
            worth(out)["no scheduler"]
            == 1 + 2 * numbers(out[3, "reference"], r"(\d+) in each epoch")[0]
        ),
    ),
    Claim(
        3,
        "worth-after-md",
        "so it keeps the rate and diverges",
        lambda out: len(set(rates(out)["no scheduler"])) == 1 < len(set(rates(out)["everything"])),
    ),
    Claim(
        3,
        "worth-after-md",
        "so the first step differs",
        lambda out: worth(out)["no history"] == 1,
    ),
    Claim(
        3,
        "worth-after-md",
        "all of these at once",
        lambda out: worth(out)["model alone"] == 1,
    ),
    Claim(
        3,
        "same-seed-lesson",
        "The first epoch's order again, instead of the second's",
        lambda out: (
            out[3, "same-seed"].splitlines()[1] == out[3, "same-seed"].splitlines()[-2]
            and out[3, "same-seed"].splitlines()[2] != out[3, "same-seed"].splitlines()[-2]
        ),
    ),
    Claim(
        3,
        "looking-between-md",
        "the sequence is a different one",
        lambda out: len(set(re.findall(r"\[.*\]", out[3, "looking"]))) == 2,
    ),
    Claim(
        3,
        "other-model-lesson",
        "finds none, and does nothing",
        lambda out: out[3, "other-model"] == "No error. The model has changed: False\n",
    ),
    Claim(
        3,
        "another-order-check-md",
        "the momentum of one layer now pushes the other one",
        lambda out: re.findall(": (True|False)", out[3, "another-order-load"]) == ["False", "True"],
    ),
    Claim(
        3,
        "view-lesson",
        "is a view of its tensors, and changes with them",
        lambda out: changed(out)[:2] == ["changed", "as before"],
    ),
    Claim(
        3,
        "view-lesson",
        "loading an optimizer takes over the tensors themselves",
        lambda out: changed(out)[2:] == ["as before", "changed"],
    ),
    Claim(
        3,
        "strict-lesson",
        "No name matched, so nothing was loaded",
        lambda out: "10 missing, 10 unexpected" in out[3, "strict"],
    ),
    Claim(
        3,
        "mode-lesson",
        "its dropout keeps dropping while you predict",
        lambda out: re.findall(": +(True|False)", out[3, "mode"]) == ["False", "True"],
    ),
    Claim(
        3,
        "overwrite-lesson",
        "both the old checkpoint and the new one are gone",
        lambda out: "torch.save died: True. Left: nothing" in out[3, "overwrite"],
    ),
    Claim(
        3,
        "overwrite-lesson",
        "renames it only once it is complete",
        lambda out: (
            numbers(out[3, "overwrite"], r"save_checkpoint died: True.*after (\d+) epochs")
            == numbers(out[3, "save-lab"], r"Epoch: 00(\d)/00\1")
        ),
    ),
    Claim(
        3,
        "flip-lesson",
        "`torch.load` doesn't look at the checksums; `zipfile` does",
        lambda out: re.search(r"no complaint\nzipfile: archive/data/\d is", out[3, "flip"]),
    ),
    Claim(
        3,
        "attack-lesson",
        "means running code",
        lambda out: re.findall("(True|False)\n", out[3, "attack"]) == ["False", "False", "True"],
    ),
    Claim(
        3,
        "refused-md",
        "You know that class",
        lambda out: out[3, "refused"].endswith("\n['argparse.Namespace']\n"),
    ),
    Claim(
        3,
        "refused-md",
        "with plain values only, it loads anywhere",
        lambda out: numbers(out[3, "convert"], r"^{'learning_rate': (\S+)}$") == [0.1],
    ),
    Claim(
        3,
        "started-again-md",
        "At most eight batches are trained again",
        lambda out: 0 <= trained_again(out) <= 8,
    ),
    Claim(
        3,
        "started-again-md",
        "Wherever both runs print the loss of the same batch, it is the same",
        same_lines,
    ),
    Claim(
        4,
        "where-after-md",
        "Two of the eight layers hold almost everything",
        lambda out: (
            len(layers(out)) == 8
            and sum(mb[0] for name, mb in layers(out).items() if name in LARGE_LAYERS)
            > 0.9 * sum(mb[0] for mb in layers(out).values())
        ),
    ),
    Claim(
        4,
        "where-after-md",
        "All five convolutions together take about 10 MB",
        lambda out: (
            9.5 < sum(mb[0] for name, mb in layers(out).items() if "features" in name) < 10.5
        ),
    ),
    Claim(
        4,
        "where-after-md",
        "twice the model with momentum, three times the model with Adam",
        lambda out: (
            len(layers(out)) == 8
            and all(
                abs(own - sgd) < 0.11 and abs(2 * own - adam) < 0.11
                for own, sgd, adam in layers(out).values()
            )
        ),
    ),
    Claim(
        4,
        "file-size-after-md",
        "It's twice the model's plus 64 bytes",
        lambda out: (
            numbers(out[4, "describe"], r"optimizer +all 48 tensors +(\S+)")[0]
            == 2 * numbers(out[4, "describe"], r"model +all 16 tensors +(\S+)")[0] + 64
        ),
    ),
    Claim(
        4,
        "file-size-after-md",
        "Names, losses and packaging add less than a thousandth",
        lambda out: 0 < packaging(out) < 0.001,
    ),
    Claim(
        4,
        "half-after-md",
        "Few labels change, if any",
        lambda out: changed_labels(out) <= 0.02,
    ),
    Claim(
        4,
        "recap",
        "in a third of the bytes, in half precision in a sixth",
        lambda out: (
            abs(3 * sizes(out, 4, "save-model")["alexnet-model.pt"] - alexnet_mb(out)) < 1
            and abs(6 * sizes(out, 4, "save-model")["alexnet-half.pt"] - alexnet_mb(out)) < 1
        ),
    ),
    Claim(
        5,
        "measure-after-md",
        "The usual way holds the model twice",
        lambda out: memory(out)[0][1] > 1.6,
    ),
    Claim(
        5,
        "measure-after-md",
        "`mmap=True` alone doesn't help",
        lambda out: memory(out)[1][1] > 1.6,
    ),
    Claim(
        5,
        "measure-after-md",
        "takes the memory of one",
        lambda out: 0.8 < memory(out)[2][1] < 1.4,
    ),
    Claim(
        5,
        "measure-after-md",
        "loading takes next to nothing",
        lambda out: memory(out)[3][0] < 0.3,
    ),
    Claim(
        5,
        "mapped-after-md",
        "Overwriting in place changes the model in your hands",
        lambda out: re.findall(r": +(\S+)", out[5, "mapped"])[:2] == ["1.0", "2.0"],
    ),
    Claim(
        5,
        "mapped-after-md",
        "Replacing is harmless",
        lambda out: re.findall(r": +(\S+)", out[5, "mapped"])[1:] == ["2.0", "2.0"],
    ),
    Claim(
        5,
        "dropout-after-md",
        "Not in training mode",
        lambda out: re.findall(r"twice: (\w+)", out[5, "dropout"]) == ["False", "True"],
    ),
    Claim(
        5,
        "proof-after-md",
        "A run this short predicts little better than guessing",
        lambda out: numbers(out[5, "uninterrupted"], r"Test accuracy: (\S+)%")[0] < 30,
    ),
    Claim(
        6,
        "horizon-after-md",
        "loading put the old one back",
        lambda out: steps(out, "horizon", r"epochs: +(\d+)") == 2 * steps(out, "horizon"),
    ),
    Claim(
        6,
        "horizon-after-md",
        "until the schedule runs out",
        lambda out: (
            steps(out, "horizon-error", r"Tried to step (\d+) times") - 1
            == steps(out, "horizon-error")
            == steps(out, "horizon")
        ),
    ),
    Claim(
        6,
        "accumulate-lesson",
        "A cut inside a group loses the gradients that are already in the sum",
        lambda out: (
            re.findall(r", (\d) in the sum: the same run: (\w+)", out[6, "accumulate"])
            == [(str(number), str(number == 0)) for number in (0, 1, 2, 3, 0)]
        ),
    ),
    Claim(
        6,
        "bfloat16-lesson",
        "the weights stay float32 (BatchNorm counts its batches in int64)",
        lambda out: "of the model: torch.float32 torch.int64\n" in out[6, "bfloat16"],
    ),
    Claim(
        6,
        "float16-lesson",
        "A new scaler begins at the top again",
        lambda out: (
            numbers(out[6, "float16-cut"], r"is cut: (\S+)")[0] < 2**24
            and "without the scaler's state: the same run: False" in out[6, "float16-cut"]
        ),
    ),
    Claim(
        6,
        "averaged-lesson",
        "without its state, the average starts over at the cut",
        lambda out: "without the average: the same run: False" in out[6, "averaged-cut"],
    ),
    Claim(
        6,
        "audit-lesson",
        "Two steps, and five",
        lambda out: (
            re.findall(r"after step (\d+) +\1 +(\d+)", out[6, "audit"])
            == [("7", "5"), ("20", "15")]
        ),
    ),
    Claim(
        6,
        "workers-lesson",
        "The status is 128 plus 15",
        lambda out: numbers(out[6, "workers"], r"when it was stopped: (\d+)") == [128 + 15],
    ),
    Claim(
        6,
        "compile-inside-md",
        "The prefix `_orig_mod.`",
        lambda out: (
            re.findall(r": +(\S+)", out[6, "compile"])
            == ["hidden.0.weight", "_orig_mod.hidden.0.weight"]
        ),
    ),
    Claim(
        6,
        "compile-lesson",
        "the batch of 5 is computed by a program for any size in one run, and by one of its own in",
        lambda out: (
            re.findall(r"dynamic=None.*: (\[.*\])", out[6, "compile-sizes"])
            == ["[9, 'any']", "[5, 'any']"]
        ),
    ),
    Claim(
        6,
        "compile-lesson",
        "but only up to eight programs",
        lambda out: (
            [
                len(sizes.split(","))
                for sizes in re.findall(r"Sizes .*: \[(.*)\]", out[6, "compile-sizes"])
            ]
            == [8, 8]
        ),
    ),
    Claim(
        7,
        "weights-only-after-md",
        "They differ one step later than you might have thought.",
        lambda out: first_words(out) == ["same", "same", "same", "different"],
    ),
    Claim(
        7,
        "audit-after-md",
        "it was restored to step 18, the end of the third epoch. That cost two steps",
        lambda out: numbers(out[7, "audit"], r"step 20 +20 +(\d+) +(\d+) ") == [18, 2],
    ),
    Claim(
        7,
        "audit-after-md",
        "Eighteen batches were seen twice, and eighteen never.",
        lambda out: numbers(out[7, "audit"], r"(\d+) batches seen twice, (\d+) never") == [18, 18],
    ),
    Claim(
        7,
        "audit-after-md",
        "In one column: the batch.",
        lambda out: crosses_of_a_report(out, "audit") == ["✗ of 0"],
    ),
    Claim(
        7,
        "fix-order-after-md",
        "at step 24, the learning rate differs",
        lambda out: (
            crosses_of_a_report(out, "fix-order") == ["✗ at 24"]
            and "difference at step 24: learning rate" in out[7, "fix-order"]
        ),
    ),
    Claim(
        7,
        "sets-after-md",
        "At step 0, the weights and the batch are the same, and the gradient isn't.",
        lambda out: "differ, first at step 0: gradient" in out[7, "sets"],
    ),
    Claim(
        7,
        "others-after-md",
        "No row lost its weights, its optimizer or its schedule.",
        lambda out: set(pieces_that_others_lose(out)) == {"batch", "gradient", "random state"},
    ),
    Claim(
        7,
        "others-after-md",
        "each in its last row",
        lambda out: [row[-4:] for row in last_rows_of_others(out)] == 6 * [4 * ["✓"]],
    ),
    Claim(
        7,
        "lie-after-md",
        "one wrong bit has spread to other tensors, as the last line shows",
        lambda out: numbers(out[7, "lie-loss"], r"at the end: (\d) of 4")[0] > 1,
    ),
    Claim(
        8,
        "signals-after-md",
        "They begin at 0, 18, 25 and 33.",
        lambda out: begins(out, "signals") == [0, 18, 25, 33],
    ),
    Claim(
        8,
        "signals-after-md",
        "Python reports a kill as -9",
        lambda out: statuses(out, "signals") == [143, -9, 143, 0],
    ),
    Claim(
        8,
        "one-after-md",
        "The shell keeps the signal to itself.",
        lambda out: (
            re.findall("received (.*)", out[8, "one-ask"]) == ["nothing", "SIGTERM"]
            and "python; true: the program received nothing" in out[8, "one-ask"]
        ),
    ),
    Claim(
        8,
        "loop-lesson",
        "It does: one attempt without progress isn't the end.",
        lambda out: (
            re.findall(r"(\d+) steps saved", out[8, "loop-try"]) == ["0", "20"]
            and begins(out, "loop-try") == [0, 0, 20]
            and "\nfinished\n" in out[8, "loop-try"]
        ),
    ),
    Claim(
        8,
        "loop-lesson",
        "The hopeless run gets two.",
        lambda out: statuses(out, "loop-stuck") == [1, 1] and "given up" in out[8, "loop-stuck"],
    ),
    Claim(
        8,
        "simulate-after-md",
        "About a tenth: 1/20 for the saves, and 10/200 for what is trained again.",
        lambda out: 9 < numbers(out[8, "simulate-figure"], r"every 20 saves loses (\S+)%")[0] < 11,
    ),
    Claim(
        8,
        "machines-after-md",
        "Ten times as often: the square root is kind.",
        lambda out: (
            9.5 < save_table(out, "machines")[1][0] / save_table(out, "machines")[100][0] < 10.5
        ),
    ),
    Claim(
        8,
        "machines-after-md",
        "Where a fifth of the time is lost",
        lambda out: 17 < save_table(out, "machines")[10_000][1] < 23,
    ),
    Claim(
        8,
        "often-lesson",
        "What remains of the fifth is about a twentieth.",
        lambda out: 4.5 < save_table(out, "machines-background")[10_000][1] < 5.7,
    ),
    Claim(
        8,
        "keep-lesson",
        "All three are good",
        lambda out: (
            re.findall(r"pt(\S*)': (\d+)", out[8, "full"])
            == [("", "500"), (".1", "400"), (".best", "200")]
            and "left over: away-keep.pt.best.tmp" in out[8, "full"]
        ),
    ),
    Claim(
        8,
        "log-lesson",
        "Lines 6 and 7 twice, and between them half a line 8 that the next one runs into.",
        lambda out: (
            logged(out)[0] == ["5", "6", "7", "8 0.006", "7", "8", "9"]
            and logged(out)[1] == [str(step) for step in range(5, 12)]
        ),
    ),
    Claim(
        9,
        "ddp-after-md",
        "Each rank saw its own digits and computed its own loss.",
        lambda out: (
            [name for name, same in same_on_ranks(out).items() if not same] == ["digits", "loss"]
        ),
    ),
    Claim(
        9,
        "mistake-after-md",
        "Rank 1 gets 21 as its first gradient: 20 of its own, and rank 0's *loss*.",
        lambda out: sums(out) == [[21, 50, 61], [21, 50, 61]],
    ),
    Claim(
        9,
        "look-after-md",
        "half the rows",
        lambda out: (
            len(shards(out)) == 20 and all(whole == 2 * mine for whole, mine in shards(out))
        ),
    ),
    Claim(
        9,
        "large-after-md",
        "Layer by layer does, on any number of ranks.",
        lambda out: (
            made(out)["whole_first"] == made(out)["layer_by_layer"] == ["A", "A", "A"]
            and len({*made(out)["meta_and_reset"]}) == 3
        ),
    ),
    Claim(
        9,
        "split-after-md",
        "Without the two layers, the losses agree, except for rounding.",
        lambda out: max(map(spread, split_losses(out)[0])) < 0.002,
    ),
    Claim(
        9,
        "split-after-md",
        "with either of them, a different number of ranks is a different method",
        lambda out: all(0.005 < spread(last) < 1 for _, last in split_losses(out)[1:]),
    ),
    Claim(
        9,
        "curves-after-md",
        "Apart from rounding, this is notebook 1's curve",
        lambda out: (
            abs(
                numbers(out[9, "load"], r"validation accuracy (\S+)%")[0]
                - numbers(out[1, "final"], r"validation accuracy (\S+)%")[0]
            )
            < 1
        ),
    ),
    Claim(
        9,
        "folder-after-md",
        "Each rank has written one file of its own",
        lambda out: (
            set(kilobytes(out)) == {*FILES_OF_RANKS, ".metadata", "manifest.json", "run.pt"}
        ),
    ),
    Claim(
        9,
        "folder-after-md",
        "The others are small",
        lambda out: (
            max(size for name, size in kilobytes(out).items() if name not in FILES_OF_RANKS)
            < min(kilobytes(out)[name] for name in FILES_OF_RANKS) / 10
        ),
    ),
    Claim(
        9,
        "rows-after-md",
        "Of six filters, ranks 0 to 2 hold two each and rank 3 holds none.",
        lambda out: "6 rows are cut into 2, 2, 2;" in out[9, "rows-figure"],
    ),
    Claim(
        9,
        "rows-after-md",
        "Of ten rows, it holds the one that is left.",
        lambda out: "10 rows are cut into 3, 3, 3, 1." in out[9, "rows-figure"],
    ),
    Claim(
        9,
        "flip-lesson",
        "`load_sharded` says which one is broken, renames it, and loads the one before.",
        lambda out: (
            numbers(out[9, "flip"], r"checkpoint-(\d+) is broken.*checkpoint-(\d+)\.broken")
            == [numbers(out[9, "folder"], r"checkpoint-(\d+)")[0] + 10] * 2
        ),
    ),
    Claim(
        10,
        "kill-lesson",
        "The steps since the last checkpoint are lost, and no more than these",
        lambda out: 15 <= numbers(out[10, "kill-lost"], r"Of 25 steps, (\d+) are")[0] < 25,
    ),
    Claim(
        10,
        "difference-lesson",
        "it begins in the last digits of a float32",
        lambda out: max(differences(out)) < 1e-5,
    ),
    Claim(
        10,
        "torn-after-md",
        "half a step in the file",
        lambda out: re.findall(r"(\d+) of 10 tensors", out[10, "torn"]) == ["5", "5"],
    ),
    Claim(
        10,
        "from-one-file-lesson",
        "they would continue with the batch that notebook 2 continues with",
        lambda out: (
            numbers(out[10, "from-one-file"], r"run, after (\d+) epochs")
            == numbers(out[1, "final"], r"Saved after epoch (\d+)")
        ),
    ),
]


def crosses(number, notebook):
    """Return the cells that print a ✗, a line each.

    A counterexample has to print one, and a report says what it has found.
    """
    out = printed(notebook)
    tags = {cell.id: cell.metadata.get("tags", []) for cell in notebook.cells}
    return [
        f"notebook {number}, cell {cell}: {text}"
        for cell, text in out.items()
        if "✗" in text and not {"counterexample", "report"} & {*tags[cell]}
    ]


def printed(notebook):
    """Return what each code cell of a notebook has printed, by its id."""
    return {
        cell.id: "".join(
            output.get("text", "")
            + output.get("data", {}).get("text/plain", "")
            + "\n" * ("data" in output)
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def outputs_of(notebooks):
    """Return `out` for notebooks by their numbers."""
    return {(n, cell): text for n, nb in notebooks.items() for cell, text in printed(nb).items()}


def is_true(claim, out):
    """Return whether a claim holds. It doesn't if what it needs was not printed."""
    try:
        return bool(claim.holds(out))
    except (AttributeError, IndexError, KeyError, ValueError):
        return False
