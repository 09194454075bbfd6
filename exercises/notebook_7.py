"""The checks of the exercises in notebook 7."""

import copy
from pathlib import Path

from audit.experiment import NotAudited, judge, run_all
from audit.runs import Options
from exercises.check import Hint, exercise, require

SAVES_INSIDE = Path(__file__).resolve().parent.parent / "notebooks/programs/saves_inside.py"

# What the report of each script shows, in the words of a hint.
CAUSES = {
    "A": (3, "only the buffers differ, and they are those of a new run: what has a model besides?"),
    "B": (7, "after the first save in an epoch, the batches begin with the epoch's first again."),
    "C": (1, "two pieces are those of step 0: where does an optimizer keep its learning rate?"),
    "D": (
        6,
        "weights, mode and batch are right, the gradient isn't: what draws random numbers there?",
    ),
    "E": (4, "the weights are those of no step at all: something has changed them on the way."),
}


@exercise
def check_diagnose(call, folder):
    """Compare the answer with the five causes."""
    answer = call()
    require(answer is not None, "your function returns nothing: return the dict.")
    require(isinstance(answer, dict), f"the answer is of type {type(answer).__name__}, not a dict.")
    for letter, (cause, hint) in CAUSES.items():
        require(letter in answer, f"there is no {letter} in your dict.")
        given = answer[letter]
        is_number = isinstance(given, int) and not isinstance(given, bool)
        require(is_number and 1 <= given <= 8, f"{letter} is {given!r}, not a number from 1 to 8.")
        require(given == cause, f"report {letter}: {hint}")
    extra = set(answer) - set(CAUSES)
    require(not extra, f"there is no report {min(map(str, extra), default='')}.")
    return "five reports, five causes"


def make_row(step, weights=None):
    """Return a row of a ledger whose hashes belong to a step."""
    return {
        "weights": f"w{step if weights is None else weights}",
        "batch": f"b{step}",
        "gradient": f"g{step}",
    }


@exercise
def check_restored_to(call, folder):
    """Look rows up in a plain ledger, in one with a warm-up, and rows that aren't in it."""
    plain = [make_row(step) for step in range(12)]
    warm_up = [make_row(step, weights=max(0, step - 2)) for step in range(12)]
    lost = {"weights": "w5", "batch": "b0", "gradient": "another"}
    other_batch = {"weights": "w0", "batch": "another", "gradient": "another"}
    two_epochs = [{"weights": "w", "batch": f"b{step % 4}", "gradient": "g"} for step in range(8)]
    cases = [
        (plain, plain[7], 7, "for a row that is equal to row 7, "),
        (plain, plain[0], 0, "for a row that is equal to row 0, "),
        (plain, lost, 5, "for the weights of row 5 with the batch of row 0, "),
        (plain, make_row(99), None, "for weights that no row has, "),
        (plain, make_row(3) | {"weights": "w99"}, None, "for weights that no row has, "),
        (
            warm_up,
            warm_up[1],
            1,
            "for a row equal to row 1, with the same weights in rows 0 to 2, ",
        ),
        (
            warm_up,
            warm_up[0],
            0,
            "for a row equal to row 0, with the same weights in rows 0 to 2, ",
        ),
        (warm_up, other_batch, 2, "for the weights of rows 0 to 2 and a batch of none of them, "),
        (two_epochs, two_epochs[1], 5, "for weights and batch of rows 1 and 5, "),
        ([], make_row(0), None, "for an empty ledger, "),
    ]
    for ledger, row, right, when in cases:
        whole, first = copy.deepcopy(ledger), copy.deepcopy(row)
        answer = call(whole, first, when=when)
        require((whole, first) == (ledger, row), f"{when}your function changes what it is given.")
        is_step = answer is None or isinstance(answer, int) and not isinstance(answer, bool)
        require(is_step, f"{when}the answer is of type {type(answer).__name__}, not int or None.")
        require(answer == right, f"{when}the answer should be {right}; yours is {answer}.")
    return "found by its weights, then by its batch, and None where nothing fits"


@exercise
def check_repair(call, folder):
    """Audit the repaired script: kill it inside an epoch, right after a save was due and before."""
    script = SAVES_INSIDE.read_text("utf-8")
    answer = call(script)
    require(answer is not None, "your function returns nothing: return the repaired script.")
    kind = type(answer).__name__
    require(isinstance(answer, str), f"the answer is of type {kind}, not the text of a script.")
    require(answer != script, "the script is as it was.")
    try:
        compile(answer, "repaired.py", "exec")
    except SyntaxError as error:
        raise Hint(f"line {error.lineno} of your script isn't Python: {error.msg}.") from error
    path = Path(folder) / "repaired.py"
    path.write_text(answer, "utf-8")
    options = Options(script=path, stops=[11, 19])
    try:
        experiments = run_all(options)
    except NotAudited as error:
        raise Hint(f"the audit of your script says: {str(error)[:170]}") from error
    compare_training(experiments.whole.steps, answer)
    for stop, result in zip([11, 19], judge(options, experiments)["stops"], strict=True):
        compare_stop(stop, result)
    return "killed after steps 11 and 19, your script continues exactly"


def compare_training(steps, script):
    """Raise a hint if the repaired script trains or saves less than the original."""
    require(len(steps) == 24, f"your script takes {len(steps)} steps; keep 2 epochs of 12 batches.")
    batches = {tuple(row["pieces"]["batch"].values()) for row in steps}
    require(len(batches) == 24, "two epochs have the same order: keep the shuffling.")
    require("Dropout(0.2)" in script, "the model has lost its dropout: keep it.")
    require(any(row["saved"] for row in steps), "your script saves nothing before its end.")


def compare_stop(stop, result):
    """Raise a hint if the run that was killed after a step did not continue exactly."""
    (start,) = result["starts"]
    when = f"killed after step {stop}, "
    if result["outcome"] == "failed":
        raise Hint(f"{when}your script fails when it is started again: {start['error'][:150]}")
    require(result["outcome"] != "started over", f"{when}your script starts over.")
    if result["outcome"] != "exact":
        first = start["optimizers"][0]["first_difference"] if start["optimizers"] else None
        where = f"at step {first['step']}: {first['piece']}" if first else result["faults"][0]
        restored = f"and restored to step {start['restored_to']}, "
        raise Hint(f"{when}{restored}your run first differs {where}.")
    text = f"{when}your run loses {start['lost']} steps: keep a save every four batches."
    require(start["lost"] <= 4, text)
