"""What the notebooks' prose claims about a run, beyond what its cells print.

Each claim names the notebook, the text cell and the words that stand in it, and a function that
takes `out`, the printed text of a cell by `(notebook, cell id)`, and tells whether they are true.
tests/test_claims.py holds them against the committed outputs, `make claims` against runs with other
arithmetics, seeds and batch sizes.
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


def worth(out):
    """Return the first step that differs of each continuation in the lab, None where none does."""
    rows = re.findall(r"^([a-z ]+?) +(none|\d+) ", out[3, "worth-table"], re.M)
    return {name: None if step == "none" else int(step) for name, step in rows}


def trained_again(out):
    """Return how many batches of the lab's killed process were trained a second time."""
    epochs, batches, total = numbers(
        out[3, "started-again"], r"after (\d+) epochs and (\d+) of (\d+)"
    )
    begun = numbers(out[3, "killed"], r"Begins after (\d+) epochs")[0]
    killed_after = total + 2 * total // 3 + 1
    return begun * total + killed_after - (epochs * total + batches)


def same_lines(out):
    """Tell whether all that the continued process prints, the whole one has printed, too."""
    _, *continued = out[3, "started-again"].splitlines()
    return len(continued) > 3 and set(continued) <= set(out[3, "never-killed"].splitlines())


def never_seen(out):
    """Return how many of ten examples were never seen, for each line of pitfall 12."""
    lists = re.findall(r"never seen: \[(.*)\]", out[3, "wrong-side-run"])
    return [len(examples.split(", ")) if examples else 0 for examples in lists]


def memory(out):
    """Return the two factors of each way to load AlexNet."""
    rows = re.findall(r"(\d+\.\d) x +(\d+\.\d) x", out[5, "measure"])
    return [(float(load), float(predict)) for load, predict in rows]


def steps(out, cell, pattern=r"(?:after loading|that are saved): +(\d+)"):
    """Return a number of steps that a cell of notebook 6 prints about the schedule's horizon."""
    return numbers(out[6, cell], pattern)[0]


def taken_away(out):
    """Return where the run is stopped by SIGTERM, goes on, is killed, and goes on."""
    return numbers(
        out[6, "outer"],
        r"way out in step (\d+)\nbegins after step +(\d+): killed in step (\d+)\n"
        r"begins after step +(\d+): finished",
    )


def packaging(out):
    """Return how much larger AlexNet's checkpoint is than its tensors, as a share of these."""
    tensors, disk = numbers(out[4, "file-size"], r"table (\S+) MB, on the disk (\S+) MB")
    return disk / tensors - 1


def changed_labels(out):
    """Return the share of the labels that half precision changes."""
    changed, all_labels = numbers(out[4, "half"], r"label for (\d+) of (\d+)")
    return changed / all_labels


FILES_OF_RANKS = ("__0_0.distcp", "__1_0.distcp")


def shards(out):
    """Return how many rows each parameter has, and how many of them each rank holds."""
    pairs = re.findall(r"\[(\d+).*?\] +of which \[(\d+)", out[7, "look"])
    return [(int(whole), int(mine)) for whole, mine in pairs]


def kilobytes(out):
    """Return the sizes of the files in a sharded checkpoint, by name."""
    found = re.findall(r"^checkpoint-\d+/(\S+) +(\d+) kB$", out[7, "folder"], re.M)
    return {name: int(size) for name, size in found}


CLAIMS = [
    Claim(
        1,
        "train-after-md",
        "it is most of them",
        lambda out: numbers(out[1, "final"], r"test accuracy (\S+)%")[0] > 50,
    ),
    Claim(
        1,
        "train-after-md",
        "but not all",
        lambda out: numbers(out[1, "final"], r"test accuracy (\S+)%")[0] < 100,
    ),
    Claim(
        1,
        "plot-accuracy-md",
        "The loss starts near 2.3",
        lambda out: 2.1 < losses(out, 1)[0] < 2.5,
    ),
    Claim(
        1,
        "plot-accuracy-md",
        "The thick line shows how it falls",
        lambda out: losses(out, 1)[1] < losses(out, 1)[0],
    ),
    Claim(
        1,
        "sizes-after-md",
        "and a few thousand more",
        lambda out: 1_000 < sizes(out, 1, "sizes")["model.pt"] - 246_824 < 10_000,
    ),
    Claim(
        1,
        "sizes-after-md",
        "`optimizer.pt` is as large",
        lambda out: (
            abs(sizes(out, 1, "sizes")["optimizer.pt"] - sizes(out, 1, "sizes")["model.pt"]) < 1_000
        ),
    ),
    Claim(
        1,
        "sizes-after-md",
        "`scheduler.pt` is small",
        lambda out: sizes(out, 1, "sizes")["scheduler.pt"] < 5_000,
    ),
    Claim(
        2,
        "untrained-after-md",
        "an untrained network may lie somewhat above or below",
        lambda out: 2 < numbers(out[2, "untrained"], r"untrained: (\S+)%")[0] < 30,
    ),
    Claim(
        2,
        "check-after-md",
        "it is the accuracy that notebook 1 ended with",
        lambda out: (
            numbers(out[2, "check"], r"accuracy: (\S+)%")
            == numbers(out[1, "final"], r"test accuracy (\S+)%")
        ),
    ),
    Claim(
        2,
        "curves-after-md",
        "The loss goes on where notebook 1 left it",
        lambda out: (
            losses(out, 2)[0] == losses(out, 1)[0] and losses(out, 2)[1] < losses(out, 1)[1]
        ),
    ),
    Claim(
        2,
        "curves-after-md",
        "the training accuracy usually ends above the validation accuracy",
        lambda out: (
            numbers(out[2, "plot-accuracy"], r"validation .*? to (\S+)%")[0]
            < numbers(out[2, "plot-accuracy"], r"Training .*? to (\S+)%,")[0]
        ),
    ),
    Claim(
        2,
        "examples-after-md",
        "On the left, all of them stand in a frame",
        lambda out: (
            len(set(numbers(out[2, "examples"], r": (\d+) images, (\d+) of them mistakes"))) == 1
        ),
    ),
    Claim(
        2,
        "overlay-after-md",
        "the distance is zero",
        lambda out: numbers(out[2, "overlay"], r"between them is (\S+)\.")[0] == 0,
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
        "So it goes elsewhere at once",
        lambda out: worth(out)["no optimizer"] == worth(out)["model alone"] == 1,
    ),
    Claim(
        3,
        "worth-after-md",
        "exact until the scheduler of the exact run comes to the next multiple of four",
        lambda out: (
            worth(out)["no scheduler"]
            == 1 + 2 * numbers(out[3, "reference"], r"(\d+) in each epoch")[0]
        ),
    ),
    Claim(
        3,
        "worth-after-md",
        "so the first step differs",
        lambda out: worth(out)["no history"] == 1,
    ),
    Claim(
        3,
        "same-seed-after-md",
        "The continuation sees the first epoch's order again instead of the second's",
        lambda out: (
            out[3, "same-seed"].splitlines()[1] == out[3, "same-seed"].splitlines()[-2]
            and out[3, "same-seed"].splitlines()[2] != out[3, "same-seed"].splitlines()[-2]
        ),
    ),
    Claim(
        3,
        "looking-between-md",
        "the random numbers are another sequence",
        lambda out: len(set(re.findall(r"\[.*\]", out[3, "looking"]))) == 2,
    ),
    Claim(
        3,
        "three-files-lesson",
        "Neither does",
        lambda out: out[3, "three-files"] == "<All keys matched successfully>\nNone\n",
    ),
    Claim(
        3,
        "three-files-lesson",
        "the first step goes elsewhere",
        lambda out: "Equal after the first step: False" in out[3, "three-files-train"],
    ),
    Claim(
        3,
        "strict-lesson",
        "No name fitted, so nothing was loaded",
        lambda out: "10 missing, 10 unexpected" in out[3, "strict"],
    ),
    Claim(
        3,
        "wrong-side-lesson",
        "the state gives the same order again, however often the run is stopped",
        lambda out: never_seen(out)[:2] == [0, 0],
    ),
    Claim(
        3,
        "wrong-side-lesson",
        "some examples are seen twice and others not at all",
        lambda out: never_seen(out)[2] > 0 and never_seen(out)[3] > 0,
    ),
    Claim(
        3,
        "started-again-md",
        "at most eight batches, is trained again",
        lambda out: 0 <= trained_again(out) <= 8,
    ),
    Claim(
        3,
        "started-again-md",
        "the losses that both processes print are the same",
        same_lines,
    ),
    Claim(
        4,
        "loss-after-md",
        "The loss starts near 2.3",
        lambda out: 2.1 < losses(out, 4)[0] < 2.5,
    ),
    Claim(
        4,
        "loss-after-md",
        "and fall only then",
        lambda out: losses(out, 4)[1] < 0.8 * losses(out, 4)[0],
    ),
    Claim(
        4,
        "file-size-after-md",
        "Names, losses and packaging are almost nothing",
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
        "half-after-md",
        "the logits hardly move",
        lambda out: numbers(out[4, "half"], r"change by (\S+)%")[0] < 1,
    ),
    Claim(
        5,
        "measure-after-md",
        "In the usual way, the model is there twice",
        lambda out: memory(out)[0][1] > 1.6,
    ),
    Claim(
        5,
        "measure-after-md",
        "`mmap=True` alone saves nothing",
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
        "a file that is replaced stays with those who use it",
        lambda out: re.findall(r": +(\S+)", out[5, "mapped"]) == ["1.0", "1.0"],
    ),
    Claim(
        5,
        "mapped-after-md",
        "Overwritten in place, it changes under the model",
        lambda out: re.findall(r": +(\S+)", out[5, "mapped-in-place"]) == ["2.0", "1.0"],
    ),
    Claim(
        5,
        "dropout-after-md",
        "The same images give other logits each time",
        lambda out: "twice the same?   False" in out[5, "dropout"],
    ),
    Claim(
        5,
        "take-over-after-md",
        "Only the last layer is missing, and nothing was unexpected",
        lambda out: (
            out[5, "take-over"].split()
            == ["Missing:", "['classifier.6.weight',", "'classifier.6.bias']", "Unexpected:", "[]"]
        ),
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
        "until the schedule is over",
        lambda out: (
            steps(out, "horizon-error", r"Tried to step (\d+) times") - 1
            == steps(out, "horizon-error")
            == steps(out, "horizon")
        ),
    ),
    Claim(
        6,
        "accumulate-lesson",
        "A cut inside a group loses the gradients that are in the sum already",
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
        "A fresh scaler begins at the top again",
        lambda out: (
            numbers(out[6, "float16-cut"], r"is cut: (\S+)")[0] < 2**24
            and "without the scaler's state: the same run: False" in out[6, "float16-cut"]
        ),
    ),
    Claim(
        6,
        "averaged-lesson",
        "without its state, the average begins anew at the cut",
        lambda out: "without the average: the same run: False" in out[6, "averaged-cut"],
    ),
    Claim(
        6,
        "workers-lesson",
        "where the worker draws, the number of workers belongs to the run",
        lambda out: (
            re.findall(r"the same run: (\w+)", out[6, "workers-number"]) == ["False", "True"]
        ),
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
            == ["['9 images', 'any size']", "['5 images', 'any size']"]
        ),
    ),
    Claim(
        6,
        "outer-lesson",
        "After SIGTERM nothing is lost: the second process begins where the first one ended",
        lambda out: taken_away(out)[0] == taken_away(out)[1],
    ),
    Claim(
        6,
        "outer-lesson",
        "The kill costs the steps since the last multiple of five",
        lambda out: taken_away(out)[3] == (taken_away(out)[2] - 1) // 5 * 5,
    ),
    Claim(
        6,
        "simulate-after-md",
        "half or twice the best interval costs a quarter more",
        lambda out: 5 < numbers(out[6, "simulate-figure"], r"loses (\S+)% of the time")[0] < 15,
    ),
    Claim(
        6,
        "often-lesson",
        "Where a fifth of the time is lost",
        lambda out: 17 < numbers(out[6, "machines"], r"10,000 .* (\S+)%")[0] < 23,
    ),
    Claim(
        6,
        "over-safe-lesson",
        "`save_model`, which leaves the second name out",
        lambda out: out[6, "over-safe-tied"] == "In the file: 0.bias 0.weight 1.bias\n",
    ),
    Claim(
        7,
        "look-after-md",
        "half the rows",
        lambda out: (
            len(shards(out)) == 20 and all(whole == 2 * mine for whole, mine in shards(out))
        ),
    ),
    Claim(
        7,
        "curves-after-md",
        "These are the curves of notebook 1 but for rounding",
        lambda out: (
            abs(
                numbers(out[7, "plot-accuracy"], r"validation .*? to (\S+)%")[0]
                - numbers(out[1, "final"], r"validation accuracy (\S+)%")[0]
            )
            < 1
        ),
    ),
    Claim(
        7,
        "folder-after-md",
        "Each rank has written one file of its own",
        lambda out: (
            set(kilobytes(out)) == {*FILES_OF_RANKS, ".metadata", "manifest.json", "run.pt"}
        ),
    ),
    Claim(
        7,
        "folder-after-md",
        "The others are small",
        lambda out: (
            max(size for name, size in kilobytes(out).items() if name not in FILES_OF_RANKS)
            < min(kilobytes(out)[name] for name in FILES_OF_RANKS) / 10
        ),
    ),
    Claim(
        7,
        "rows-after-md",
        "Every bar is cut at the same share of its rows",
        lambda out: "pieces that begin at [0.0, 0.5] of its rows" in out[7, "rows-figure"],
    ),
    Claim(
        7,
        "flip-lesson",
        "The broken one is passed over and named",
        lambda out: (
            numbers(out[7, "flip"], r"checkpoint-(\d+) is passed over")[0]
            == numbers(out[7, "folder"], r"checkpoint-(\d+)")[0] + 1
        ),
    ),
    Claim(
        8,
        "kill-lesson",
        "The steps since the last checkpoint are lost, and no more than these",
        lambda out: 15 <= numbers(out[8, "kill-lost"], r"Of 25 steps, (\d+) are")[0] < 25,
    ),
    Claim(
        8,
        "difference-lesson",
        "it begins in the last digits of a float32",
        lambda out: (
            max(map(float, re.findall(r"by (\S+) in the first batch", out[8, "difference"]))) < 1e-5
        ),
    ),
    Claim(
        8,
        "from-one-file-lesson",
        "the two processes went on with the batch that notebook 2 goes on with",
        lambda out: (
            numbers(out[8, "from-one-file"], r"Loaded after (\d+) epochs, ")
            == numbers(out[1, "final"], r"Saved after epoch (\d+)")
        ),
    ),
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
    """Tell whether a claim holds; not where what it needs was not printed."""
    try:
        return bool(claim.holds(out))
    except (AttributeError, IndexError, KeyError, ValueError):
        return False
