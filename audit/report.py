"""What the audit found, in a table, in sentences, and as JSON."""

from audit.compare import Comparison
from audit.ledger import PIECES

COURSE = "notebook {}"
# What is missing when a piece comes back wrong, and the section of the course that shows the remedy:
# (the number of the notebook, the heading).
REMEDIES = {
    "weights": (
        "The weights are not those that were saved. Save model.state_dict() as it is (no half "
        "precision, no strict=False), and load it before training goes on.",
        (3, "9 · `strict=False` may load nothing, without an error"),
    ),
    "buffers": (
        "Buffers (BatchNorm's statistics, for example) are not those that were saved. Save the "
        "model's whole state_dict(), not its parameters alone.",
        (3, "What each piece is worth ★"),
    ),
    "mode": (
        "Modules are in training mode that were in eval mode, or the reverse. Call model.train() "
        "before each epoch, and eval() again on what is frozen.",
        (3, "11 · Training and evaluation mode are not in the state"),
    ),
    "optimizer state": (
        "The optimizer's state is not the one that was saved. Save and load "
        "optimizer.state_dict(), with the parameters in the same order.",
        (3, "What each piece is worth ★"),
    ),
    "settings": (
        "The optimizer's settings or the loss scale are not those of that step. Load the states of "
        "optimizer, scheduler and GradScaler after all of them are created.",
        (6, "Mixed precision with float16: the scale"),
    ),
    "learning rate": (
        "The learning rate is not that of that step. Save and load scheduler.state_dict(), and step "
        "the scheduler at the same places as before.",
        (3, '5 · "My new learning rate applies" ★'),
    ),
    "batch": (
        "The batches are not those of that step: the position in the data, their order or their "
        "random augmentation isn't restored.",
        (3, "1 · The same seed is not the same run ★"),
    ),
    "gradient": (
        "The gradients differ although weights, buffers, modes and batch are the same. It is "
        "something outside the model and the optimizer: targets, a loss weight, another model.",
        (6, "Also save when you use ..."),
    ),
    "random numbers": (
        "The gradients differ although weights, buffers, modes and batch are the same, and so do the "
        "random states: random numbers in the step (dropout, noise) are not those of that step. "
        "Or it is something outside the model and the optimizer: targets, a loss weight, another "
        "model.",
        (3, "12 · Random states, restored on the wrong side of `iter(loader)` ★"),
    ),
    "steps": (
        "The resumed run takes more or fewer steps than were left. Save how many epochs and batches "
        "are done, and start the loops from there.",
        (3, "What each piece is worth ★"),
    ),
    "started over": (
        "The script starts over although it had saved. Let it load its checkpoint when there is one; "
        "if it does so with an argument, name it: --again '--resume'.",
        (2, "Continuing"),
    ),
    "failed": (
        "The script fails when it is started again.",
        (6, "The recipe, without helper/"),
    ),
    "no steps": (
        "The resumed run ends without a step of this optimizer, although steps were left.",
        (2, "Continuing"),
    ),
}


def faults_of(comparison: Comparison) -> list[str]:
    """Return the names of the remedies that a comparison calls for."""
    names = []
    for finding in comparison.faults:
        is_random = comparison.findings["random state"].status == "may differ"
        names.append(
            "random numbers" if finding.piece == "gradient" and is_random else finding.piece
        )
    if comparison.is_complete and comparison.extra_steps:
        names.append("steps")
    return names


def cell(comparison: Comparison, piece: str) -> str:
    """Return what the table says about a piece: ✓, where it is from, since when it differs, or –."""
    finding = comparison.findings[piece]
    if finding.status == "unseen":
        return "–"
    if finding.status in ("same", "follows", "may differ"):
        return {"same": "✓", "follows": "(follows)", "may differ": "(differs)"}[finding.status]
    if finding.origin is not None:
        return f"✗ of step {finding.origin}"
    if finding.step > comparison.restored_to:
        return f"✗ from step {finding.step}"
    return "✗ of no step"


def format_table(rows: list[list[str]]) -> str:
    """Return rows of text as columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows
    )


def format_report(results: dict) -> str:
    """Return the report of an audit."""
    lines = []
    if results["status"] == 2:
        return f"This script could not be audited. {results['reason']}"
    rows = [["stop", "killed after", "restored to", *PIECES]]
    for result in results["stops"]:
        rows += result["table"]
    lines.append(format_table(rows))
    lines.append("")
    for result in results["stops"]:
        lines += [f"{result['stop']}: {sentence}" for sentence in result["sentences"]]
    remedies = dict.fromkeys(name for result in results["stops"] for name in result["faults"])
    if remedies:
        lines.append("")
    for name in remedies:
        sentence, (notebook, heading) = REMEDIES[name]
        lines.append(f"{sentence} See notebook {notebook}, “{heading}”.")
    reasons = dict.fromkeys(reason for result in results["stops"] for reason in result["unseen"])
    lines += [f"– {reason}" for reason in reasons]
    lines += [f"Left out: {reason}." for reason in results["left_out"]]
    lines.append("")
    lines.append(results["verdict"])
    return "\n".join(lines)
