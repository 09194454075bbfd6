"""Where to kill a run: the moments at which scripts go wrong in different ways."""

from dataclasses import dataclass


@dataclass
class Stop:
    """One experiment: kill the run after some steps, start it again, and maybe kill it again."""

    name: str
    after: int  # steps of all optimizers
    again_after_save: bool = False  # kill the resumed run too, after its first save


def choose_stops(rows: list[dict]) -> tuple[list[Stop], list[str]]:
    """Return the stops for a run with this ledger, and what can't be chosen, with the reason."""
    steps = len(rows)
    # A save is seen at the end of the step after it: so many steps are done then.
    saves = [row["step"] + 1 for row in rows if row["saved"]]
    stops, left_out = [], []
    if steps < 2:
        return [], ["all: the run takes fewer than two steps"]

    first_save = saves[0] if saves else steps
    stops.append(Stop("before the first save", max(1, (first_save - 1) // 2)))
    if not saves:
        left_out.append("right after a save, and two kills: no save was seen between two steps")

    inside = inside_an_epoch(rows, saves)
    if inside is None:
        left_out.append("inside an epoch: every step begins a new iteration over a DataLoader")
    else:
        stops.append(Stop("inside an epoch", inside))
    if saves:
        stops.append(Stop("right after a save", saves[len(saves) // 2]))
    stops.append(Stop("one step before the end", steps - 1))
    if saves:
        stops.append(Stop("two kills", inside or saves[0], again_after_save=True))

    chosen = {}
    for stop in stops:
        key = (stop.after, stop.again_after_save)
        if key in chosen:
            chosen[key].name += f", {stop.name}"
        else:
            chosen[key] = stop
    return list(chosen.values()), left_out


def inside_an_epoch(rows: list[dict], saves: list[int]) -> int | None:
    """Return after how many steps a run is in the middle of an epoch, best after its first save.

    No DataLoader may begin a new iteration between that step and the next.
    """
    inside = [row["step"] for row in rows[1:] if row["loaders"] == 0]
    just_saved = set(saves)
    best = [step for step in inside if saves and step > saves[0] and step not in just_saved]
    candidates = best or [step for step in inside if saves and step > saves[0]] or inside
    return candidates[len(candidates) // 2] if candidates else None
