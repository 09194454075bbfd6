"""What the audit found, as a user reads it: a table, and a sentence for each kind of fault."""

from audit.ledger import PIECES, list_tensors

# What is missing when a piece comes back wrong, and the section of the course with the remedy: the
# number of the notebook, and the heading.
REMEDIES = {
    "weights": (
        "The weights are not those that were saved. Save model.state_dict() as it is (no half "
        "precision), and load it with strict=True before training starts.",
        (3, "`strict=False` may load nothing"),
    ),
    "buffers": (
        "Buffers (BatchNorm's statistics, for example) are not those that were saved. Save and "
        "load the model's whole state_dict(), not its parameters alone.",
        (3, "What each piece is for ★"),
    ),
    "mode": (
        "Modules train that were in eval mode, or the reverse. Call model.train() before each "
        "epoch, and eval() on what is frozen.",
        (3, "The mode is not in the `state_dict` ★"),
    ),
    "optimizer state": (
        "The optimizer's state is not the one that was saved. Save and load "
        "optimizer.state_dict(), and create the optimizer with its parameters in the same order.",
        (3, "What each piece is for ★"),
    ),
    "settings": (
        "The optimizer's settings or the loss scale are not those of that step. Load the states of "
        "optimizer, scheduler and GradScaler after all of them are created.",
        (6, "Mixed precision with float16: the scale (you can skip this)"),
    ),
    "learning rate": (
        "The learning rate is not that of that step. Save and load scheduler.state_dict(), and "
        "step the scheduler at the same places as before.",
        (3, "What each piece is for ★"),
    ),
    "batch": (
        "The batches are not those of that step: the position in the data, their order or their "
        "random augmentation isn't restored.",
        (3, "The same seed is not the same run ★"),
    ),
    "gradient": (
        "The gradients differ although weights, buffers, modes and batches are the same. The cause "
        "is something outside the model and the optimizer: targets, a loss weight, a second model.",
        (6, "Also save when you use ..."),
    ),
    "gradient, random state": (
        "The gradients differ although weights, buffers, modes and batches are the same. The cause "
        "is something outside the model and the optimizer: targets, a loss weight, a second model; "
        "or random numbers in the step (dropout, noise), because the random state differs as well.",
        (3, "Looking is not free"),
    ),
    "steps": (
        "The resumed run takes more or fewer steps than were left. Save how many epochs and "
        "batches are done, and start the loops from there.",
        (3, "What each piece is for ★"),
    ),
    "no steps": (
        "The resumed run ends without a step, although steps were left. Save how many epochs and "
        "batches are done, and start the loops from there.",
        (3, "What each piece is for ★"),
    ),
    "started over": (
        "The script starts over although it had saved. Let it load its checkpoint when there is "
        "one; if it does so when told, add the argument: --again '--resume'.",
        (2, "Continuing, with a stop"),
    ),
    "failed": (
        "The script fails when it is started again. Fix the error that is shown above.",
        (6, "The recipe"),
    ),
}
HEADINGS = ("stop", "killed\nafter", "restored\nto step", "steps\nlost")
WORDS = {"optimizer state": "optimizer\nstate", "learning rate": "learning\nrate"}
WORDS["random state"] = "random\nstate"


def format_report(results: dict) -> str:
    """Return the report of an audit."""
    if results["status"] == 2:
        return f"This script could not be audited. {results['reason']}"
    parts = [
        format_table(rows_of_table(results)),
        legend_of(results),
        "\n".join(sentences_of(results)),
        "\n".join(remedies_of(results)),
        "\n".join([*unseen_of(results), *(f"Not tried: {text}." for text in results["left_out"])]),
        verdict_of(results),
    ]
    return "\n\n".join(part for part in parts if part)


def verdict_of(results: dict) -> str:
    """Return the last line of the report."""
    tried = len(results["stops"])
    exact = sum(result["outcome"] == "exact" for result in results["stops"])
    if exact < tried:
        return f"✗ The script does not continue exactly: {tried - exact} of {tried} stops differ."
    but = ", except for what could not be compared" if unseen_of(results) else ""
    return f"✓ The script continues exactly: {tried} of {tried} stops{but}."


# ---- The table ----


def rows_of_table(results: dict) -> list[list[str]]:
    """Return the rows of the table: for each start, one for all optimizers that agree."""
    rows = [[*HEADINGS, *(WORDS.get(piece, piece) for piece in PIECES)]]
    for start in starts_of(results):
        if not start["optimizers"]:
            rows.append(
                [start["name"], str(start["killed_after"]), "–", "–", *("–" for _ in PIECES)]
            )
            continue
        begin = [start["name"], start["killed_after"], start["restored_to"], start["lost"]]
        found = {}
        for optimizer in start["optimizers"]:
            cells = tuple(cell(optimizer["pieces"][p], start["restored_to"]) for p in PIECES)
            found.setdefault(cells, []).append(optimizer["name"])
        for cells, names in found.items():
            rows.append([*map(str, begin), *cells])
            if len(found) > 1:
                rows.append([f"  {', '.join(names)}"])
    return rows


def starts_of(results: dict) -> list[dict]:
    """Return what was found for each start, in the order of the stops."""
    return [start for result in results["stops"] for start in result["starts"]]


def cell(finding: dict, restored_to: int) -> str:
    """Return what the table says about a piece."""
    status, step = finding["status"], finding["step"]
    if status != "different":
        return {"same": "✓", "unseen": "–", "follows": "(✗)", "may differ": "(≠)"}[status]
    if finding["origin"] is not None:
        return f"✗ of {finding['origin']}"
    return f"✗ at {step}" if step > restored_to else "✗"


def format_table(rows: list[list[str]]) -> str:
    """Return rows of text as columns; the first row is a heading of up to two lines."""
    heading = [text.split("\n") for text in rows[0]]
    top = [words[0] if len(words) > 1 else "" for words in heading]
    lines = [top, [words[-1] for words in heading], *rows[1:]]
    full = [line for line in lines if len(line) > 1]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        if len(line) > 1
        else line[0]
        for line in lines
    )


def legend_of(results: dict) -> str:
    """Return what the signs in the table mean, those that appear."""
    text = format_table(rows_of_table(results))
    signs = {
        "✗ of": "✗ of N: it is that of step N",
        "✗ at": "✗ at N: differs from step N on",
        "✗  ": "✗: it is that of no step",
        "(✗)": "(✗): differs too, perhaps as a consequence",
        "(≠)": "(≠): differs, which matters only if something draws from it",
        "–": "–: could not be compared",
    }
    return "; ".join(meaning for sign, meaning in signs.items() if sign in text + "  ")


# ---- The sentences ----


def sentences_of(results: dict) -> list[str]:
    """Return what went wrong at which stops; what is the same at several is said once."""
    stops = {}
    for start in starts_of(results):
        for sentence in describe_start(start):
            stops.setdefault(sentence, []).append(start["name"])
    return [f"{'; '.join(names)}: {sentence}" for sentence, names in stops.items()]


def describe_start(start: dict) -> list[str]:
    """Return sentences about a run that was started again and isn't exact."""
    if start["outcome"] == "failed":
        return [f"failed when it was started again: {start['error']}"]
    if start["outcome"] == "started over":
        return ["started over, although it had saved."]
    if start["outcome"] == "exact":
        return []
    if start.get("skipped"):
        count, scale = len(start["skipped"]), start["skipped"][0]["scale"]
        return [f"a GradScaler skipped all {count} steps; its loss scale began at {scale:g}."]
    count = len(start["optimizers"])
    sentences = [describe_optimizer(found, count) for found in start["optimizers"]]
    return [sentence for sentence in sentences if sentence] or ["took no step."]


def describe_optimizer(found: dict, count: int) -> str:
    """Return what differs for one optimizer."""
    parts = []
    if found["first_difference"] is not None:
        first = found["first_difference"]
        parts.append(
            f"first difference at step {first['step']}: {first['piece']}"
            f"{list_tensors(first['tensors'])}"
        )
    if found["extra_steps"]:
        word = "more" if found["extra_steps"] > 0 else "fewer"
        number = abs(found["extra_steps"])
        parts.append(
            f"{number} {word} {'step than was' if number == 1 else 'steps than were'} left"
        )
    if found["batches_seen_twice"] or found["batches_never_seen"]:
        twice, never = found["batches_seen_twice"], found["batches_never_seen"]
        parts.append(f"{twice} {'batch' if twice == 1 else 'batches'} seen twice, {never} never")
    name = f"{found['name']}: " if count > 1 and parts else ""
    return f"{name}{'; '.join(parts)}." if parts else ""


def remedies_of(results: dict) -> list[str]:
    """Return what is missing, for each kind of fault, and where the course shows the remedy."""
    names = dict.fromkeys(name for start in starts_of(results) for name in start["faults"])
    lines = []
    for name in names:
        sentence, (notebook, heading) = REMEDIES[name]
        lines.append(f"{sentence} See notebook {notebook}, “{heading}”.")
    return lines


def unseen_of(results: dict) -> list[str]:
    """Return why some pieces could not be compared."""
    reasons = {}
    for start in starts_of(results):
        for optimizer in start["optimizers"]:
            for piece, finding in optimizer["pieces"].items():
                if finding["status"] == "unseen":
                    reasons.setdefault(f"– {piece}: {finding['reason'] or 'no step to compare'}.")
    return list(reasons)
