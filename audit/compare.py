"""Compares the ledger of a resumed run with that of the uninterrupted one."""

from collections import Counter
from dataclasses import dataclass, field

from audit.ledger import PIECES, hash_value

# A gradient comes of these: if one of them differs, that it differs too is no news.
CAUSES_OF_GRADIENTS = ("weights", "buffers", "mode", "batch")


@dataclass
class Finding:
    """What became of one piece: restored, restored to a different step, different later, unseen."""

    piece: str
    status: str = "same"  # "same", "different" or "unseen"
    step: int | None = None  # at which it differs first
    origin: int | None = None  # the step that it is from, where the run begins
    tensors: list[str] = field(default_factory=list)  # the names that differ at that step
    reason: str = ""  # why it is unseen


@dataclass
class Comparison:
    """What became of a run with one optimizer after it was started again."""

    optimizer: str
    restored_to: int  # the step from which it goes on
    findings: dict[str, Finding]
    extra_steps: int = 0  # more or fewer than the uninterrupted run takes from there
    seen_twice: int = 0
    never_seen: int = 0
    is_complete: bool = True

    @property
    def faults(self) -> list[Finding]:
        """The pieces that differ, the first in time first."""
        different = [f for f in self.findings.values() if f.status == "different"]
        return sorted(different, key=lambda f: (f.step, PIECES.index(f.piece)))

    @property
    def is_exact(self) -> bool:
        return not self.faults and not (self.is_complete and self.extra_steps)


def steps_of(ledger: list[dict], optimizer: str) -> list[dict]:
    """Return the rows of the steps of one optimizer."""
    return [r for r in ledger if "note" not in r and r["optimizer"] == optimizer]


def end_of(ledger: list[dict], optimizer: str) -> dict | None:
    """Return the row that says what a run ended with."""
    ends = [r for r in ledger if r.get("note") == "end" and r["optimizer"] == optimizer]
    return ends[0] if ends else None


def names_of_optimizers(ledger: list[dict]) -> list[str]:
    """Return the names of all optimizers that took steps, in the order of their first steps."""
    return list(dict.fromkeys(row["optimizer"] for row in ledger if "note" not in row))


def compare(whole: list[dict], resumed: list[dict], optimizer: str, killed_after: int):
    """Compare a resumed run with the uninterrupted one, for one optimizer."""
    ours, theirs = steps_of(whole, optimizer), steps_of(resumed, optimizer)
    place = find_start(ours, theirs, killed_after)
    if place is None:
        return None
    pairs = list(zip(ours[place:], theirs))
    findings = {piece: look_at(piece, pairs, ours, theirs) for piece in PIECES}
    drop_consequences(findings)
    ends = end_of(whole, optimizer), end_of(resumed, optimizer)
    if all(ends) and not any(f.status == "different" for f in findings.values()):
        compare_ends(findings, *ends, step=ours[-1]["step"] + 1)
    seen = Counter(batch_of(row) for row in [*ours[:place], *theirs])
    expected = Counter(batch_of(row) for row in ours)
    return Comparison(
        optimizer,
        restored_to=ours[place]["step"],
        findings=findings,
        extra_steps=len(theirs) - (len(ours) - place),
        seen_twice=(seen - expected).total(),
        never_seen=(expected - seen).total(),
        is_complete=any(row.get("note") == "end" for row in resumed),
    )


def batch_of(row: dict) -> str:
    """Return one hash of a row's whole batch."""
    return hash_value(row["pieces"].get("batch", {}))


def find_start(ours: list[dict], theirs: list[dict], killed_after: int) -> int | None:
    """Return where in the uninterrupted run a resumed one begins, or None if it takes no step.

    That is where its weights are from; if they are those of a new run, or of no step, where its
    optimizer state is from, and so on. All places are tried, and the one that agrees longest wins: a
    warm-up from rate 0 or a skipped step leaves the weights as they were.
    """
    if not ours or not theirs:
        return None
    for piece in ("weights", "optimizer state", "buffers", "batch"):
        found = theirs[0]["pieces"].get(piece)
        places = [n for n, row in enumerate(ours) if found and row["pieces"].get(piece) == found]
        if places and 0 not in places or len(places) > 1:
            agreement = {place: agree(ours[place:], theirs) for place in places}
            longest = max(agreement.values())
            best = [place for place in places if agreement[place] == longest]
            if best[-1] > 0:
                return best[-1]
    if any(is_same(ours[0], theirs[0], piece) for piece in ("weights", "optimizer state")):
        return 0
    scores = [agree([row], theirs[:1]) for row in ours]
    near = [place for place, score in enumerate(scores) if score == max(scores)]
    before = [place for place in near if ours[place]["step"] <= killed_after]
    return before[-1] if before else near[0]


def is_same(one: dict, other: dict, piece: str) -> bool:
    """Return whether a piece is there in two rows, and the same."""
    pieces, others = one["pieces"], other["pieces"]
    return piece in pieces and piece in others and pieces[piece] == others[piece]


def agree(ours: list[dict], theirs: list[dict]) -> int:
    """Return in how many pieces two runs agree, up to the first step whose weights differ."""
    total = 0
    for one, other in zip(ours, theirs):
        if "weights" in one["pieces"] and "weights" in other["pieces"]:
            if not is_same(one, other, "weights") and total > 0:
                break
        total += sum(is_same(one, other, piece) for piece in PIECES)
    return total


def look_at(piece: str, pairs: list, ours: list[dict], theirs: list[dict]) -> Finding:
    """Return what became of one piece."""
    finding = Finding(piece, status="unseen")
    for one, other in pairs:
        if piece not in one["pieces"] or piece not in other["pieces"]:
            missing = one["missing"].get(piece) or other["missing"].get(piece)
            finding.reason = finding.reason or missing or "not hashed at these steps"
            continue
        expected, found = one["pieces"][piece], other["pieces"][piece]
        if finding.status == "unseen":
            finding.status = "same"
        if expected != found:
            names = dict.fromkeys([*expected, *found])
            finding.status, finding.step = "different", one["step"]
            finding.tensors = [name for name in names if expected.get(name) != found.get(name)]
            break
    if finding.status == "different" and pairs[0][0]["step"] == finding.step:
        found = theirs[0]["pieces"][piece]
        origins = [row["step"] for row in ours if row["pieces"].get(piece) == found]
        finding.origin = origins[0] if origins else None
    return finding


def drop_consequences(findings: dict[str, Finding]) -> None:
    """Keep the differences at the first step at which anything differs: the others follow from them.

    Which batches come and which modules train follows from nothing else, so these are kept. A random
    state that differs is no fault: what it changes shows in the batch or in the gradient.
    """
    random_state = findings["random state"]
    different = [
        finding
        for finding in findings.values()
        if finding.status == "different" and finding is not random_state
    ]
    if random_state.status == "different":
        random_state.status = "may differ"
    if not different:
        return
    first = min(finding.step for finding in different)
    for finding in different:
        if finding.step > first and finding.piece not in ("batch", "mode"):
            finding.status = "follows"
    causes = [findings[name] for name in CAUSES_OF_GRADIENTS]
    gradient = findings["gradient"]
    if gradient.status == "different":
        if any(f.status == "different" and f.step <= gradient.step for f in causes):
            gradient.status = "follows"


def compare_ends(findings: dict[str, Finding], one: dict, other: dict, step: int) -> None:
    """Compare what two runs end with, if nothing before differs."""
    for piece, expected in one["pieces"].items():
        found = other["pieces"].get(piece, {})
        if found != expected:
            names = dict.fromkeys([*expected, *found])
            tensors = [name for name in names if expected.get(name) != found.get(name)]
            findings[piece] = Finding(piece, "different", step=step, tensors=tensors)


def first_difference(whole: list[dict], repeated: list[dict]) -> Finding | None:
    """Return where two whole runs differ first, or None if they are the same."""
    for optimizer in names_of_optimizers(whole):
        comparison_rows = steps_of(whole, optimizer), steps_of(repeated, optimizer)
        pairs = list(zip(*comparison_rows))
        findings = {piece: look_at(piece, pairs, *comparison_rows) for piece in PIECES}
        drop_consequences(findings)
        different = [f for f in findings.values() if f.status == "different"]
        if different:
            return min(different, key=lambda f: (f.step, PIECES.index(f.piece)))
        ends = end_of(whole, optimizer), end_of(repeated, optimizer)
        if all(ends):
            compare_ends(findings, *ends, step=len(comparison_rows[0]))
            different = [f for f in findings.values() if f.status == "different"]
            if different:
                return different[0]
    if len(whole) != len(repeated):
        return Finding("number of steps", "different", step=min(len(whole), len(repeated)))
    return None
