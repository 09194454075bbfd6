"""The audit: correct scripts pass, faulty ones are caught and the piece is named, nothing is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from audit.experiment import audit
from audit.report import REMEDIES, format_report
from audit.runs import Options

from tests.support.forked import Forked

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tests" / "support" / "audited"
CORRECT = sorted(path.stem for path in SCRIPTS.glob("*.py"))


def audited(script, **options):
    """Return the results of an audit whose runs are forked."""
    return audit(Options(Path(script), **options), start_process=Forked)


@pytest.mark.parametrize("name", CORRECT)
def test_correct_scripts_continue_exactly(name):
    again = "--resume" if name == "warmup" else ""
    results = audited(SCRIPTS / f"{name}.py", again=again)
    assert results["status"] == 0, format_report(results)
    assert "✓ The script continues exactly" in format_report(results)
    assert len(results["stops"]) >= 4


LOAD_OPTIMIZER = '    optimizer.load_state_dict(checkpoint["optimizer"])\n'
LOAD_SCHEDULER = '    scheduler.load_state_dict(checkpoint["scheduler"])\n'
# The script, the line that is wrong in it, what stands there instead, and what the audit must name.
FAULTS = {
    "optimizer not loaded": ("per_epoch", LOAD_OPTIMIZER, "", "optimizer state"),
    "optimizer saved in half precision": (
        "per_batch",
        '"optimizer": optimizer.state_dict(),',
        '"optimizer": {**optimizer.state_dict(), "state": {n: {k: v.half() for k, v in s.items()}'
        ' for n, s in optimizer.state_dict()["state"].items()}},',
        "optimizer state",
    ),
    "model saved in half precision": (
        "per_epoch",
        '"model": model.state_dict(),',
        '"model": {name: value.half() for name, value in model.state_dict().items()},',
        "weights",
    ),
    "model loaded with other names": (
        "per_epoch",
        'model.load_state_dict(checkpoint["model"])',
        'model.load_state_dict({f"module.{n}": v for n, v in checkpoint["model"].items()}, False)',
        "weights",
    ),
    "buffers not saved": (
        "per_epoch",
        'model.load_state_dict(checkpoint["model"])',
        'model.load_state_dict({n: checkpoint["model"][n] for n, _ in model.named_parameters()}, False)',
        "buffers",
    ),
    "a frozen layer trains again": (
        "per_epoch",
        "    model[4].eval()\n",
        "    model[4].train(first_epoch > 0)\n",
        "mode",
    ),
    "training mode by luck": ("evaluation", "    model.train()\n", "", "mode"),
    "epochs counted from 0": (
        "per_epoch",
        '    first_epoch = checkpoint["epoch"]\n',
        "",
        "batch",
    ),
    "one seed for all": ("per_epoch", "    torch.manual_seed(epoch)\n", "", "batch"),
    "one step skipped": (
        "per_batch",
        'done = checkpoint["done"]',
        'done = checkpoint["done"] + 1',
        "batch",
    ),
    "batches from the start": ("workers", "range(done, 16)", "range(0, 16 - done)", "batch"),
    "noise of its own": ("per_batch", "    noise.manual_seed(step)\n", "", "batch"),
    "NumPy not seeded": (
        "evaluation",
        "np.random.seed(epoch)",
        "np.random.seed(0) if epoch == 0 else None",
        "batch",
    ),
    "weight decay forgotten": (
        "per_epoch",
        LOAD_OPTIMIZER,
        LOAD_OPTIMIZER + '    optimizer.param_groups[0]["weight_decay"] = 0.2\n',
        "settings",
    ),
    "the scale starts over": (
        "scaler",
        '    scaler.load_state_dict(checkpoint["scaler"])\n',
        "",
        "settings",
    ),
    "another rate": (
        "per_epoch",
        LOAD_SCHEDULER,
        LOAD_SCHEDULER + '    optimizer.param_groups[0]["lr"] = 0.02\n',
        "learning rate",
    ),
    "scheduler not loaded": ("per_batch", LOAD_SCHEDULER, "", "learning rate"),
    "scheduler steps once more": (
        "per_batch",
        LOAD_SCHEDULER,
        LOAD_SCHEDULER + "    scheduler.step()\n",
        "learning rate",
    ),
    "scheduler of the warm-up not loaded": ("warmup", LOAD_SCHEDULER, "", "learning rate"),
    "annealing counts from the start": (
        "per_batch",
        "min(1.0, step / 20)",
        "min(1.0, (step - done) / 20)",
        "gradient",
    ),
    "dropout not seeded": (
        "per_batch",
        "    torch.manual_seed(step)\n    noise.manual_seed(step)\n    indices = torch.randint(60, (8,))\n",
        "    noise.manual_seed(step)\n    indices = torch.randint(60, (8,), generator=noise)\n",
        "gradient",
    ),
    "no clipping after a resume": (
        "per_batch",
        "clip_grad_norm_(model.parameters(), 1.0)",
        "clip_grad_norm_(model.parameters(), 100.0 if done else 1.0)",
        "gradient",
    ),
    "smoothed targets after a resume": (
        "per_batch",
        "cross_entropy(model(x), targets[indices])",
        "cross_entropy(model(x), targets[indices], label_smoothing=0.1 * (done > 0))",
        "gradient",
    ),
    "another teacher": (
        "teacher",
        'done = checkpoint["done"]',
        'done = checkpoint["done"]\n    teacher[0].reset_parameters()',
        "gradient",
    ),
    "one optimizer of two not loaded": (
        "two_optimizers",
        "part.load_state_dict(checkpoint[name])",
        'part.load_state_dict(checkpoint[name]) if name != "opt_g" else None',
        "optimizer state",
    ),
    "one model of two not loaded": (
        "two_optimizers",
        "part.load_state_dict(checkpoint[name])",
        'part.load_state_dict(checkpoint[name]) if name != "d" else None',
        "weights",
    ),
    "curvature not loaded": ("closure", LOAD_OPTIMIZER, "", "optimizer state"),
    "parameters in another order": (
        "per_epoch",
        "optimizer = torch.optim.AdamW(model.parameters(),",
        'there = os.path.exists("checkpoint.pt")\n'
        "pairs = sorted(model.named_parameters(), key=lambda p: p[1].shape, reverse=there)\n"
        "pairs = [*pairs[:6], *(reversed(pairs[6:]) if there else pairs[6:])]\n"
        "optimizer = torch.optim.AdamW([p for _, p in pairs],",
        "optimizer state",
    ),
}


def faulty(name, folder):
    """Write a script with one fault, and return its path."""
    script, right, wrong, _ = FAULTS[name]
    source = (SCRIPTS / f"{script}.py").read_text()
    assert source.count(right) == 1
    path = folder / "script.py"
    path.write_text(source.replace(right, wrong))
    return path


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_and_the_piece_is_named(name, tmp_path):
    """And it isn't named when the recording of that piece is switched off."""
    path, piece = faulty(name, tmp_path), FAULTS[name][3]
    again = "--resume" if FAULTS[name][0] == "warmup" else ""
    results = audited(path, again=again)
    named = {fault for stop in results["stops"] for fault in stop["faults"]}
    named = {"gradient" if fault == "random numbers" else fault for fault in named}
    assert results["status"] == 1, format_report(results)
    assert piece in named, format_report(results)
    blind = audited(path, again=again, without=(piece,))
    named = {fault for stop in blind["stops"] for fault in stop["faults"]}
    assert piece not in named and not (piece == "gradient" and "random numbers" in named)
