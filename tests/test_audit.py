"""The audit: correct scripts pass, faulty ones are caught and the piece is named."""

import copy
import shutil
from pathlib import Path

import nbformat
import pytest

from audit.experiment import audit, judge, run_all
from audit.report import REMEDIES, format_report
from audit.runs import Options
from tests.support.forked import Forked
from tools.course import list_lessons

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tests" / "support" / "audited"
CORRECT = sorted(path.stem for path in SCRIPTS.glob("*.py"))


def options_of(name, path=None, **options):
    """Return the options for one of our scripts, or for a changed one made of it."""
    again = ["--resume"] if name == "warmup" else []
    return Options(path or SCRIPTS / f"{name}.py", again=again, **options)


@pytest.mark.parametrize(
    "name",  # together, all but one are slow
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "per_batch")) for name in CORRECT],
)
def test_correct_scripts_continue_exactly(name):
    results = audit(options_of(name), start_process=Forked)
    report = format_report(results)
    assert results["status"] == 0, report
    assert "✓ The script continues exactly" in report
    assert len(results["stops"]) >= 4
    assert max(map(len, report.splitlines())) <= 150


@pytest.mark.slow
def test_the_recipe_of_notebook_6_continues_exactly(tmp_path):
    for name in ("recipe.py", "own_run.py"):
        shutil.copy(ROOT / "notebooks" / "programs" / name, tmp_path / name)
    results = audit(Options(tmp_path / "own_run.py"), start_process=Forked)
    assert results["status"] == 0, format_report(results)


LOAD_OPTIMIZER = '    optimizer.load_state_dict(checkpoint["optimizer"])\n'
LOAD_SCHEDULER = '    scheduler.load_state_dict(checkpoint["scheduler"])\n'
# The script, the line that is wrong in it, what is there instead, and what the audit must name.
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
        "trained = dict(model.named_parameters())\n"
        '    saved = {n: v for n, v in checkpoint["model"].items() if n in trained}\n'
        "    model.load_state_dict(saved, False)",
        "buffers",
    ),
    "a frozen layer trains again": (
        "per_epoch",
        "    model[4].eval()\n",
        "    model[4].train(first_epoch > 0)\n",
        "mode",
    ),
    "training mode by luck": ("evaluation", "    model.train()\n", "", "mode"),
    "epochs counted from 0": ("per_epoch", '    first_epoch = checkpoint["epoch"]\n', "", "batch"),
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
    "a smaller scale starts over": (
        "scaler",
        '    scaler.load_state_dict(checkpoint["scaler"])\n',
        "    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**20, growth_interval=3)\n",
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
        "    torch.manual_seed(step)\n    noise.manual_seed(step)\n"
        "    indices = torch.randint(60, (8,))\n",
        "    noise.manual_seed(step)\n    indices = torch.randint(60, (8,), generator=noise)\n",
        "gradient, random state",
    ),
    "no clipping after a resume": (
        "per_batch",
        "nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
        "nn.utils.clip_grad_norm_(model.parameters(), 1.0 if done else 0.01)",
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
        "swapped = [model[1], model[0], model[4], model[5]]  # of the same shapes: 1 and 4\n"
        'if os.path.exists("checkpoint.pt"):\n'
        "    swapped = [model[4], model[0], model[1], model[5]]\n"
        "optimizer = torch.optim.AdamW([p for m in swapped for p in m.parameters()],",
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


# One stop after a save shows all faults, but for those that need a number of their own.
STOPS = {"per_epoch": [9], "evaluation": [9], "per_batch": [11], "scaler": [14]}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_and_the_piece_is_named(name, tmp_path):
    """And it isn't named when the recording of that piece is switched off."""
    script, _, _, piece = FAULTS[name]
    stops = STOPS.get(script, [8])
    options = options_of(script, faulty(name, tmp_path), stops=stops)
    experiments = run_all(options, start_process=Forked)
    results = judge(options, experiments)
    assert results["status"] == 1, format_report(results)
    assert piece in results["stops"][0]["faults"], format_report(results)
    blind = judge(options, without(piece, experiments))
    assert piece not in blind["stops"][0]["faults"], format_report(blind)
    assert_unseen(blind, piece)


def without(piece, experiments):
    """Return what would have been recorded if a piece were not."""
    experiments = copy.deepcopy(experiments)
    for run in [experiments.whole, *(run for _, starts in experiments.stops for run in starts)]:
        if piece == "settings":  # the loss scale is one of them
            run.rows = [row for row in run.rows if row.get("note") != "skipped"]
        for row in run.rows:
            row.get("pieces", {}).pop(piece.split(",")[0], None)
    return experiments


def assert_unseen(results, piece):
    """Check that a piece that wasn't recorded is shown as that, never as a ✓."""
    for start in results["stops"][0]["starts"]:
        for optimizer in start["optimizers"]:
            assert optimizer["pieces"][piece.split(",")[0]]["status"] == "unseen"
    assert f"– {piece.split(',')[0]}: " in format_report(results) or not start["optimizers"]


def test_each_remedy_names_a_section_of_the_course():
    paths = {lesson.number: lesson.path for lesson in list_lessons()}
    for notebook, heading in {place for _, place in REMEDIES.values()}:
        cells = nbformat.read(paths[notebook], as_version=4).cells
        lines = [line for c in cells if c.cell_type == "markdown" for line in c.source.split("\n")]
        assert heading in {line.lstrip("# ") for line in lines if line.startswith("#")}
