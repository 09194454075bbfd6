"""The audit itself: run the script whole, twice, then kill it at chosen steps and compare."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from audit.compare import Comparison, compare, first_difference
from audit.ledger import PIECES, list_tensors
from audit.runs import Options, Run, Runner
from audit.stops import Stop, choose_stops


class NotAudited(Exception):
    """The script can't be audited; the message says why, and what to do."""


@dataclass
class Experiments:
    """What all runs of an audit have recorded."""

    whole: Run
    stops: list[tuple[Stop, list[Run]]]  # for each stop: the killed run, and those started again
    left_out: list[str]  # stops that could not be tried, with the reason


def audit(options: Options, show=lambda text: None, start_process=None) -> dict:
    """Audit a script, and return what was found; `results["status"]` is the exit status.

    `show` is called with the progress; `start_process` starts a run (tests fork instead).
    """
    try:
        return judge(options, run_all(options, show, start_process))
    except NotAudited as error:
        return {"script": str(options.script), "status": 2, "reason": str(error), "stops": []}


def run_all(options: Options, show=lambda text: None, start_process=None) -> Experiments:
    """Run a script whole, twice, then for each stop, in folders that are deleted afterwards."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise NotAudited("WORLD_SIZE is above 1. Audit the script with one process: unset it.")
    folder = Path(tempfile.mkdtemp(prefix="audit-"))
    try:
        runner = Runner(options, folder, show, start_process)
        whole = run_whole(runner, options)
        reference = runner.ledger
        repeated = run_whole(runner, options)
        check_repeats(whole, repeated)
        drop_unseeded(whole, repeated)
        stops, left_out = stops_of(options, whole)
        runner.planned = 2 + sum(3 if stop.again_after_save else 2 for stop in stops)
        tried = []
        for stop in stops:
            starts, reason = try_stop(runner, stop, whole, reference)
            if reason is None:
                tried.append((stop, starts))
            else:
                left_out.append(f"{stop.name}: {reason}")
        if not tried:
            raise NotAudited(f"No stop could be tried. {'; '.join(left_out)}.")
        return Experiments(whole, tried, left_out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- Whole runs ----


def run_whole(runner: Runner, options: Options) -> Run:
    """Run the script from its beginning to its end; raise NotAudited if that is no reference."""
    runner.new_folder()
    run = runner.run()
    check_writes(run)
    if run.timed_out:
        raise NotAudited(
            f"A run takes more than {options.timeout:g} s. Use --timeout or --max-steps."
        )
    if run.status != 0:
        todo = "It starts in an empty folder: make its inputs visible there with --link PATH."
        if "arguments are required" in run.error:
            todo = "Write its arguments after its name: python -m audit train.py --epochs 4."
        raise NotAudited(f"The script fails by itself: {run.error}. {todo}")
    if not run.steps and run.notes("child steps"):
        raise NotAudited(
            "The script takes its steps in child processes, and the audit follows only one. Start "
            "it with one process."
        )
    if not run.steps:
        raise NotAudited(
            "The script takes no step with an optimizer of torch.optim in its process. Steps in "
            "child processes and those of other optimizers (Keras has its own) are invisible."
        )
    return run


def check_writes(run: Run) -> None:
    """Raise NotAudited if the script wanted to write outside of its folder."""
    for note in run.notes("outside"):
        raise NotAudited(
            f"The script writes to {note['path']}, outside of the folder it starts in; it "
            "was ended before it did. Let it write to a relative path. If an argument names the "
            "folder, give a relative path there."
        )


def check_repeats(whole: Run, repeated: Run) -> None:
    """Raise NotAudited if two whole runs differ."""
    difference = first_difference(whole.rows, repeated.rows)
    if difference is not None:
        tensors = list_tensors(difference.tensors)
        raise NotAudited(
            f"Two whole runs differ, first at step {difference.step}: {difference.piece}{tensors}. "
            "What can't be repeated can't be continued exactly either. Seed the script (or use "
            "--seed N), call torch.use_deterministic_algorithms(True), look for times and sets."
        )


def drop_unseeded(whole: Run, repeated: Run) -> None:
    """Delete the states of generators that differ between two whole runs: nobody uses these."""
    pairs = [
        (one["pieces"].get("random state", {}), other["pieces"].get("random state", {}))
        for one, other in zip(whole.steps, repeated.steps, strict=False)
    ]
    unseeded = {name for one, other in pairs for name in one if one[name] != other.get(name)}
    for one, _ in pairs:
        for name in unseeded & one.keys():
            del one[name]


def stops_of(options: Options, whole: Run) -> tuple[list[Stop], list[str]]:
    """Return the stops to try, and what can't be tried, with the reason."""
    steps = len(whole.steps)
    if options.stops is None:
        return choose_stops(whole.steps)
    stops = [Stop(f"after step {after}", after) for after in options.stops if after < steps]
    left_out = [
        f"after step {after}: the run takes {steps} steps"
        for after in options.stops
        if after >= steps
    ]
    return stops, left_out


# ---- Killed runs ----


def try_stop(runner: Runner, stop: Stop, whole: Run, reference: Path):
    """Kill the script at one stop and start it again; return its runs, and why it can't be done."""
    runner.new_folder()
    killed = runner.run(kill_after=stop.after)
    check_writes(killed)
    difference = first_difference(whole.rows, killed.rows, beginning=True)
    if difference is not None or not killed.was_killed:
        where = f"step {difference.step} ({difference.piece})" if difference else "its end"
        raise NotAudited(
            f"A run that was to be killed after step {stop.after} differs from the whole ones "
            f"before, at {where}: the script isn't deterministic."
        )
    if len(killed.steps) == len(whole.steps):
        return [], "the script ignored the signal and trained to its end"
    starts = [killed]
    if stop.again_after_save:
        starts.append(runner.run(again=True, kill_after_save=True, reference=reference))
        if not starts[-1].was_killed and starts[-1].status == 0:
            return [], "the resumed run saved nothing before its end"
    if starts[-1].was_killed:
        starts.append(runner.run(again=True, reference=reference))
    for run in starts:
        check_writes(run)
        if run.timed_out:
            raise NotAudited("A run that was started again didn't end in time. Use --timeout.")
    return starts, None


# ---- The judgement ----


def judge(options: Options, experiments: Experiments) -> dict:
    """Return what the runs of an audit have shown."""
    whole, stops = experiments.whole, experiments.stops
    results = [judge_stop(stop, starts, whole) for stop, starts in stops]
    if not any(has_continued(result) for result in results):
        raise NotAudited(
            "Nothing was continued: each run that was started again began at step 0, and no stop "
            "came after a save. Let the script save before it ends, and load what it saved; or "
            "choose later stops, with --stops or --max-steps."
        )
    return {
        "script": str(options.script),
        "status": 0 if all(result["outcome"] == "exact" for result in results) else 1,
        "steps": len(whole.steps),
        "saves": [row["step"] for row in whole.steps if row["saved"]],
        "every": options.every,
        "stops": results,
        "left_out": experiments.left_out,
    }


def has_continued(result: dict) -> bool:
    """Return whether a stop shows something: it isn't exact, or a run went on from a later step."""
    return result["outcome"] != "exact" or any(start["restored_to"] for start in result["starts"])


def judge_stop(stop: Stop, starts: list[Run], whole: Run) -> dict:
    """Return what the runs of one stop have shown, up to the first that isn't exact."""
    done, saved = len(starts[0].steps), starts[0].has_saved
    results = []
    for number, run in enumerate(starts[1:]):
        name = stop.name if not stop.again_after_save else f"{stop.name}: kill {number + 1}"
        result = judge_start(run, whole, done, saved)
        results.append({"name": name, **result})
        if result["outcome"] != "exact":
            break
        done, saved = result["restored_to"] + len(run.steps), saved or run.has_saved
    return {
        "stop": stop.name,
        "outcome": results[-1]["outcome"],
        "faults": results[-1]["faults"],
        "starts": results,
    }


def judge_start(run: Run, whole: Run, done: int, saved: bool) -> dict:
    """Return what one run has shown that was started again after `done` steps and maybe a save."""
    result = {"killed_after": done, "restored_to": None, "lost": None, "optimizers": []}
    if run.status != 0 and not run.was_killed:
        return result | {"outcome": "failed", "faults": ["failed"], "error": run.error}
    comparisons = compare(whole.rows, run.rows, done)
    if not run.steps:
        faults = ["settings"] if run.notes("skipped") else ["no steps"]
        return result | {"outcome": "different", "faults": faults, "skipped": run.notes("skipped")}
    place = comparisons[0].restored_to
    optimizers = [describe(comparison) for comparison in comparisons]
    result |= {"restored_to": place, "lost": done - place, "optimizers": optimizers}
    like_new = all(c.findings["weights"].step != place for c in comparisons)
    if saved and place == 0 and like_new:
        return result | {"outcome": "started over", "faults": ["started over"]}
    faults = list(dict.fromkeys(name for c in comparisons for name in faults_of(c)))
    return result | {"outcome": "different" if faults else "exact", "faults": faults}


def faults_of(comparison: Comparison) -> list[str]:
    """Return what is wrong with a resumed run: the pieces, and the number of steps."""
    if comparison.steps == 0:
        return ["no steps"]
    names, findings = [finding.piece for finding in comparison.faults], comparison.findings
    if "gradient" in names and findings["random state"].status == "may differ":
        names[names.index("gradient")] = "gradient, random state"
    scale = any("loss scale" in name for name in findings["settings"].tensors)
    if comparison.extra_steps and not scale:  # a wrong scale skips steps
        names.append("steps")
    return names


def describe(comparison: Comparison) -> dict:
    """Return what was found for one optimizer, as JSON has it."""
    first = comparison.faults[0] if comparison.faults else None
    return {
        "name": comparison.optimizer,
        "pieces": {piece: vars(comparison.findings[piece]) for piece in PIECES},
        "first_difference": None if first is None else vars(first),
        "extra_steps": comparison.extra_steps,
        "batches_seen_twice": comparison.seen_twice,
        "batches_never_seen": comparison.never_seen,
    }
