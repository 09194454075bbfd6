"""Compares the ledger of a resumed run with that of the uninterrupted one."""

from collections import Counter
from dataclasses import dataclass, field

from audit.ledger import PIECES, hash_value

# Where a run resumes is seen from these, the first that is not as in a new run.
PLACING = ("weights", "optimizer state", "buffers", "batch", "gradient")
# A gradient comes of these: if one of them differs, that it differs as well is no news.
CAUSES_OF_GRADIENTS = ("weights", "buffers", "mode", "batch")


@dataclass
class Finding:
    """What became of one piece."""

    piece: str
    status: str = "unseen"  # "same", "different", "follows" from another, "may differ", "unseen"
    step: int | None = None  # at which it differs first
    origin: int | None = None  # the step that it is from, where the run begins
    tensors: list[str] = field(default_factory=list)  # the names that differ at that step
    reason: str = ""  # why it is unseen


@dataclass
class Comparison:
    """What became of a run with one optimizer after it was started again."""

    optimizer: str
    restored_to: int  # how many steps of the uninterrupted run were done
    first_step: int | None  # the first one after that with this optimizer
    findings: dict[str, Finding]
    extra_steps: int = 0  # more or fewer than the uninterrupted run takes from there
    steps: int = 0  # that the resumed run took with this optimizer
    seen_twice: int = 0  # batches
    never_seen: int = 0

    @property
    def faults(self) -> list[Finding]:
        """The pieces that differ, the first in time first."""
        different = [f for f in self.findings.values() if f.status == "different"]
        return sorted(different, key=lambda f: (f.step, PIECES.index(f.piece)))


def steps_of(ledger: list[dict], optimizer: str | None = None) -> list[dict]:
    """Return the rows of the steps of one optimizer, or of all."""
    return [r for r in ledger if "note" not in r and optimizer in (None, r["optimizer"])]


def end_of(ledger: list[dict], optimizer: str) -> dict | None:
    """Return the row that says what a run ended with."""
    ends = [r for r in ledger if r.get("note") == "end" and r["optimizer"] == optimizer]
    return ends[0] if ends else None


def names_of_optimizers(ledger: list[dict]) -> list[str]:
    """Return the names of all optimizers that took steps, in the order of their first steps."""
    return list(dict.fromkeys(row["optimizer"] for row in steps_of(ledger)))


def compare(whole: list[dict], resumed: list[dict], killed_after: int) -> list[Comparison]:
    """Compare a resumed run with the uninterrupted one, for each optimizer with steps to take."""
    resumed = with_names_of(whole, resumed)
    place = find_start(steps_of(whole), steps_of(resumed), killed_after)
    comparisons = []
    for optimizer in names_of_optimizers(whole):
        ours, theirs = steps_of(whole, optimizer), steps_of(resumed, optimizer)
        left = [row for row in ours if row["step"] >= place]
        if left or theirs:
            ends = end_of(whole, optimizer), end_of(resumed, optimizer)
            comparisons.append(compare_steps(optimizer, place, ours, theirs, ends))
    drop_consequences_of_others(comparisons)
    return comparisons


def compare_steps(optimizer, place: int, ours: list, theirs: list, ends: tuple) -> Comparison:
    """Compare the steps of one optimizer, from the place on at which the resumed run begins."""
    left = [row for row in ours if row["step"] >= place]
    findings = look_at_all(left, theirs, ours, ends)
    before = [batch_of(row) for row in ours if row["step"] < place]
    seen = Counter(before + [batch_of(row) for row in theirs])
    expected = Counter(batch_of(row) for row in ours)
    is_complete = ends[1] is not None or not theirs
    return Comparison(
        optimizer,
        restored_to=place,
        first_step=left[0]["step"] if left else None,
        findings=findings,
        extra_steps=len(theirs) - len(left) if is_complete else 0,
        steps=len(theirs),
        seen_twice=(seen - expected).total(),
        never_seen=(expected - seen).total() if is_complete else 0,
    )


def look_at_all(left: list, theirs: list, ours: list, ends: tuple) -> dict[str, Finding]:
    """Return what became of each piece, where the rows of two runs belong together."""
    pairs = list(zip(left, theirs, strict=False))
    findings = {piece: look_at(piece, pairs, ours) for piece in PIECES}
    drop_consequences(findings)
    same = len(left) == len(theirs) and all(f.status != "different" for f in findings.values())
    if same and all(ends):
        compare_ends(findings, *ends, step=ours[-1]["step"] + 1)
    return findings


def with_names_of(whole: list[dict], resumed: list[dict]) -> list[dict]:
    """Return a ledger in which optimizers are called as in another: by what they step.

    An optimizer that later gets more parameters, or them in a different order, is still the same.
    """
    ours = {r["optimizer"]: set(r["parameters"]) for r in whole if r.get("note") == "optimizer"}
    theirs = {r["optimizer"]: set(r["parameters"]) for r in resumed if r.get("note") == "optimizer"}
    names = {name: name for name in theirs if name in ours}
    for name in theirs.keys() - names.keys():
        free = {n for n in ours if n not in names.values() and n.split(" of ")[0] in name}
        best = max(free, key=lambda n: len(ours[n] & theirs[name]), default=name)
        names[name] = best
    return [
        {**row, "optimizer": names.get(row["optimizer"], row["optimizer"])}
        if "optimizer" in row
        else row
        for row in resumed
    ]


def batch_of(row: dict) -> str:
    """Return one hash of a row's whole batch."""
    return hash_value(row["pieces"].get("batch", {}))


# ---- Where a resumed run begins ----


def find_start(ours: list[dict], theirs: list[dict], killed_after: int) -> int:
    """Return how many steps of the uninterrupted run were done when a resumed one began.

    That is where its weights are from; if they are those of a new run, or of no step, where its
    optimizer state is from, and so on. Where several steps fit (a warm-up from rate 0, a skipped
    step), the one that agrees longest wins.
    """
    firsts = {}
    for number, row in enumerate(theirs):
        firsts.setdefault(row["optimizer"], (number, row))
    new_run = False
    for piece in PLACING:
        places = set()
        for optimizer, (number, row) in firsts.items():
            fitting = places_of(piece, row, ours, optimizer, number)
            if 0 in fitting:
                new_run = new_run or piece in ("weights", "optimizer state")
            else:
                places |= {place for place in fitting if place <= killed_after}
        if places:
            return max(places, key=lambda place: (agree(ours[place:], theirs), place))
    if not theirs:
        return killed_after
    # Nothing is certain: the place, among those that fit best, that agrees longest.
    candidates = range(min(killed_after, len(ours) - 1) + 1)
    fit = {place: agree(ours[place : place + 1], theirs[:1]) for place in candidates}
    best = [place for place in candidates if fit[place] == max(fit.values())]
    longest = max(agree(ours[place:], theirs) for place in best)
    best = [place for place in best if agree(ours[place:], theirs) == longest]
    return best[0] if new_run else best[-1]


def places_of(piece: str, row: dict, ours: list[dict], optimizer: str, number: int) -> set[int]:
    """Return the places at which a piece was what it is in row `number` of a resumed run."""
    value = row["pieces"].get(piece)
    if not value:
        return set()
    return {
        max(0, other["step"] - number)
        for other in ours
        if other["optimizer"] == optimizer and other["pieces"].get(piece) == value
    }


def agree(ours: list[dict], theirs: list[dict]) -> int:
    """Return in how many pieces two runs agree, up to the step after which their weights differ."""
    total = 0
    for one, other in zip(ours, theirs, strict=False):
        if one["optimizer"] != other["optimizer"]:
            break
        mine, others = one["pieces"], other["pieces"]
        seen = "weights" in mine and "weights" in others
        if seen and mine["weights"] != others["weights"] and total > 0:
            break
        total += sum(p in mine and p in others and mine[p] == others[p] for p in PIECES)
    return total


# ---- What became of the pieces ----


def look_at(piece: str, pairs: list, ours: list[dict]) -> Finding:
    """Return what became of one piece."""
    finding = Finding(piece)
    for number, (one, other) in enumerate(pairs):
        if piece not in one["pieces"] or piece not in other["pieces"]:
            missing = one["missing"].get(piece) or other["missing"].get(piece)
            finding.reason = finding.reason or missing or "not hashed at these steps"
            continue
        expected, found = one["pieces"][piece], other["pieces"][piece]
        if finding.status == "unseen":
            finding.status = "same"
        if number == 0:
            expected, found = without_earlier(piece, one, other)
        if piece == "random state":  # of the generators that are seeded
            found = {name: value for name, value in found.items() if name in expected}
        if expected != found:
            names = dict.fromkeys([*expected, *found])
            finding.status, finding.step = "different", one["step"]
            finding.tensors = [name for name in names if expected.get(name) != found.get(name)]
            if number == 0:
                finding.origin = origin_of(piece, found, ours)
            break
    return finding


def origin_of(piece: str, found: dict, ours: list[dict]) -> int | None:
    """Return the first step at which a piece was like this, or None."""
    return next((row["step"] for row in ours if row["pieces"].get(piece) == found), None)


def without_earlier(piece: str, one: dict, other: dict) -> tuple[dict, dict]:
    """Return a piece of two first rows without what only one of two runs did before the step.

    A script may call its model before training (for a summary), or evaluate between a save and the
    next step; a GradScaler may have skipped a step before the save.
    """
    expected, found = one["pieces"][piece], other["pieces"][piece]
    if piece == "settings":
        return {n: v for n, v in expected.items() if "skipped" not in n or n in found}, found
    if piece == "batch" and one["pieces"].get("gradient") == other["pieces"].get("gradient"):
        ours, theirs = calls_of(expected), calls_of(found)
        shorter = min(len(ours), len(theirs))
        if ours[-shorter:] == theirs[-shorter:]:
            return expected, expected
    return expected, found


def calls_of(batch: dict[str, str]) -> list[dict[str, str]]:
    """Return what each call of a module was given."""
    calls = {}
    for name, value in batch.items():
        call, _, place = name.partition(": ")
        calls.setdefault(call, {})[place] = value
    return list(calls.values())


def drop_consequences(findings: dict[str, Finding]) -> None:
    """Keep the differences at the first step that differs: the others follow from them.

    Which batches come and which modules train follows from nothing else, so these are kept. A
    random state that differs is no fault: what it changes shows in the batch or in the gradient.
    """
    random_state, gradient = findings["random state"], findings["gradient"]
    if random_state.status == "different":
        random_state.status = "may differ"
    different = [finding for finding in findings.values() if finding.status == "different"]
    first = min((finding.step for finding in different), default=None)
    scale = any("loss scale" in name for name in findings["settings"].tensors)
    for finding in different:
        piece = finding.piece
        if finding.step > first and (piece not in ("batch", "mode") or scale):
            finding.status = "follows"
        if scale and piece in ("batch", "gradient"):  # steps were skipped, or gradients rounded
            finding.status = "follows"
    causes = [f for f in different if f.piece in CAUSES_OF_GRADIENTS and f.status == "different"]
    if gradient.status == "different" and any(f.step <= gradient.step for f in causes):
        gradient.status = "follows"


def drop_consequences_of_others(comparisons: list[Comparison]) -> None:
    """Drop gradients that differ because of the model of a different optimizer."""
    causes = [
        (c.optimizer, c.restored_to if f.step == c.first_step else f.step)
        for c in comparisons
        for f in c.faults
        if f.piece in CAUSES_OF_GRADIENTS
    ]
    for comparison in comparisons:
        gradient = comparison.findings["gradient"]
        others = [step for optimizer, step in causes if optimizer != comparison.optimizer]
        if gradient.status == "different" and any(step <= gradient.step for step in others):
            gradient.status = "follows"


def compare_ends(findings: dict[str, Finding], one: dict, other: dict, step: int) -> None:
    """Compare what two runs end with, if nothing before differs."""
    for piece, expected in one["pieces"].items():
        found = other["pieces"].get(piece, {})
        if found != expected:
            names = dict.fromkeys([*expected, *found])
            tensors = [name for name in names if expected.get(name) != found.get(name)]
            findings[piece] = Finding(piece, "different", step=step, tensors=tensors)


def first_difference(whole: list[dict], repeated: list[dict], beginning=False) -> Finding | None:
    """Return where two runs from the same start differ first, or None if they are the same.

    `beginning` says that the second one was killed.
    """
    found = []
    for optimizer in names_of_optimizers(whole):
        ours, theirs = steps_of(whole, optimizer), steps_of(repeated, optimizer)
        ends = (
            (None, None) if beginning else (end_of(whole, optimizer), end_of(repeated, optimizer))
        )
        findings = look_at_all(ours, theirs, ours, ends)
        found += [f for f in findings.values() if f.status == "different"]
    ours, theirs = len(steps_of(whole)), len(steps_of(repeated))
    if ours != theirs and not beginning:
        found.append(Finding("number of steps", "different", step=min(ours, theirs)))
    order = [*PIECES, "number of steps"]
    return min(found, key=lambda f: (f.step, order.index(f.piece)), default=None)
