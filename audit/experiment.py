"""The audit itself: run the script whole, twice, then kill it at chosen steps and compare."""

import shutil
import tempfile
from pathlib import Path

from audit.compare import Comparison, compare, first_difference, names_of_optimizers
from audit.report import cell, faults_of
from audit.ledger import PIECES
from audit.runs import Options, Run, Runner
from audit.stops import Stop, choose_stops


class NotAudited(Exception):
    """The script can't be audited; the message says why, and what to do."""


def audit(options: Options, show=lambda text: None, start_process=None) -> dict:
    """Audit a script, and return what was found; `results["status"]` is the exit status.

    `show` is called with the progress; `start_process` starts a run (tests fork instead).
    """
    folder = Path(tempfile.mkdtemp(prefix="audit-"))
    try:
        return audit_in(folder, options, show, start_process)
    except NotAudited as error:
        return {"script": str(options.script), "status": 2, "reason": str(error), "stops": []}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def audit_in(folder: Path, options: Options, show, start_process) -> dict:
    """Audit a script with all runs below `folder`."""
    runner = Runner(options, folder, show, start_process)
    whole, reference = runner.run(runner.new_folder("a"))
    check_whole(whole, options)
    repeated, _ = runner.run(runner.new_folder("b"))
    check_whole(repeated, options)
    check_repeats(whole, repeated)

    if options.stops is None:
        stops, left_out = choose_stops(whole.steps)
    else:
        stops, left_out = [], []
        for after in options.stops:
            if after < len(whole.steps):
                stops.append(Stop(f"after step {after}", after))
            else:
                left_out.append(f"after step {after}: the run takes {len(whole.steps)} steps")
    if not stops:
        raise NotAudited(f"There is no step to stop at. {' '.join(left_out)}")
    runner.planned = 2 + sum(3 if stop.again_after_save else 2 for stop in stops)
    results = []
    for number, stop in enumerate(stops):
        result = try_stop(runner, runner.new_folder(f"s{number}"), stop, whole, reference)
        if "left_out" in result:
            left_out.append(result["left_out"])
        if "table" in result:
            results.append(result)
    exact = all(result["outcome"] == "exact" for result in results)
    failures = [result["stop"] for result in results if result["outcome"] != "exact"]
    return {
        "script": str(options.script),
        "status": 0 if exact else 1,
        "steps": len(whole.steps),
        "optimizers": names_of_optimizers(whole.rows),
        "stops": results,
        "left_out": left_out,
        "verdict": (
            f"✓ The script continues exactly: {len(results)} of {len(results)} stops."
            if exact
            else f"✗ The script does not continue exactly: {len(failures)} of {len(results)} stops."
        ),
    }


def check_whole(run: Run, options: Options) -> None:
    """Raise NotAudited if a run that nobody stopped can't serve as a reference."""
    check_writes(run)
    if run.timed_out:
        raise NotAudited(
            f"A run takes more than {options.timeout:g} s. Use --timeout or --max-steps."
        )
    if run.notes("world size"):
        raise NotAudited("WORLD_SIZE is above 1. Audit the script with one process.")
    if run.status != 0:
        raise NotAudited(
            f"The script fails by itself (status {run.status}): {run.last_line}. It starts in an "
            "empty folder; make its inputs visible there with --link PATH."
        )
    if not run.steps:
        where = (
            "takes its steps in child processes" if run.notes("child steps") else "takes no step"
        )
        raise NotAudited(
            f"The script {where} with an optimizer of torch.optim in its own process. Keras has "
            "optimizers of its own, and several processes can't be audited."
        )


def check_writes(run: Run) -> None:
    """Raise NotAudited if the script wanted to write outside of its folder."""
    for note in run.notes("outside"):
        raise NotAudited(
            f"The script writes to {note['path']}, outside of the folder in which it is started; it "
            "was ended before it did. Let it write to the current folder (a relative path), or to a "
            "folder that it is told by an argument."
        )


def check_repeats(whole: Run, repeated: Run) -> None:
    """Raise NotAudited if two whole runs differ."""
    difference = first_difference(whole.rows, repeated.rows)
    if difference is None:
        return
    tensors = f" ({', '.join(difference.tensors[:3])})" if difference.tensors else ""
    raise NotAudited(
        f"Two whole runs differ, first in {difference.piece}{tensors} at step {difference.step}. A "
        "run that can't be repeated can't be continued exactly either. Seed it (or use --seed N), "
        "call torch.use_deterministic_algorithms(True), and look for times and sets."
    )


def try_stop(runner: Runner, folder: Path, stop: Stop, whole: Run, reference: Path) -> dict:
    """Kill the script at one stop, start it again, and return what was found."""
    killed, _ = runner.run(folder, kill_after=stop.after)
    check_writes(killed)
    if not killed.was_killed:
        raise NotAudited(
            f"The run was to be killed after step {stop.after}, which it never reached."
        )
    check_beginning(whole, killed)
    starts = [killed]
    if stop.again_after_save:
        second, _ = runner.run(folder, again=True, kill_after_save=True, reference=reference)
        starts.append(second)
        if not second.was_killed:
            missing = f"{stop.name}: the resumed run saved nothing before its end, or failed"
            if second.status == 0:
                return {"left_out": missing}
    if starts[-1].was_killed:
        last, _ = runner.run(folder, again=True, reference=reference)
        starts.append(last)
    for run in starts:
        check_writes(run)
        if run.timed_out:
            raise NotAudited("A run that was started again didn't end in time. Use --timeout.")
    return judge(stop, starts, whole)


def check_beginning(whole: Run, killed: Run) -> None:
    """Raise NotAudited if a run differs from the whole one before it is killed."""
    difference = first_difference(whole.rows[: len(killed.steps)], killed.steps)
    if difference is not None:
        raise NotAudited(
            f"A run differs from the whole one at step {difference.step} ({difference.piece}), before "
            "it is killed: the script isn't deterministic."
        )


def judge(stop: Stop, starts: list[Run], whole: Run) -> dict:
    """Return what the runs of one stop have shown."""
    done = stop.after
    saved = any(row["saved"] for row in starts[0].steps)
    table, sentences, faults, unseen, pieces = [], [], [], [], []
    outcome = "exact"
    for number, run in enumerate(starts[1:]):
        if run.status != 0 and not run.was_killed:
            outcome = "failed"
            faults.append("failed")
            sentences.append(f"failed when it was started again: {run.last_line}")
            table.append([stop.name, str(done), "failed", *["" for _ in PIECES]])
            break
        for optimizer in names_of_optimizers(whole.rows):
            comparison = compare(whole.rows, run.rows, optimizer, done)
            name = stop.name if number == 0 else f"{stop.name} (again)"
            if comparison is None:
                outcome = "different"
                faults.append("no steps")
                sentences.append(f"{optimizer} took no step after the start.")
                table.append([name, str(done), "no steps", *["" for _ in PIECES]])
                continue
            started_over = saved and comparison.restored_to == 0
            where = describe_place(comparison, started_over)
            table.append([name, str(done), where, *(cell(comparison, piece) for piece in PIECES)])
            sentences += describe_comparison(comparison, done, started_over, saved)
            found = ["started over"] if started_over else faults_of(comparison)
            faults += found
            if found:
                outcome = "started over" if started_over else "different"
            unseen += [
                f"{f.piece}: {f.reason}"
                for f in comparison.findings.values()
                if f.status == "unseen"
            ]
            pieces.append(as_json(comparison))
        if run.was_killed and pieces:
            done = pieces[-1]["restored_to"] + len(run.steps)
        saved = saved or any(row["saved"] for row in run.steps)
        if outcome != "exact":
            break
    return {
        "stop": stop.name,
        "killed_after": stop.after,
        "outcome": outcome,
        "faults": list(dict.fromkeys(faults)),
        "optimizers": pieces,
        "table": table,
        "sentences": sentences,
        "unseen": list(dict.fromkeys(unseen)),
        "error": starts[-1].last_line if outcome == "failed" else None,
    }


def describe_place(comparison: Comparison, started_over: bool) -> str:
    """Return to which step a run was restored."""
    return "started over" if started_over else f"step {comparison.restored_to}"


def describe_comparison(comparison: Comparison, done: int, started_over: bool, saved: bool):
    """Return sentences about a run that was started again."""
    if started_over:
        return ["started over, although a checkpoint had been saved."]
    sentences = []
    if comparison.is_exact:
        lost = done - comparison.restored_to
        steps = "1 step was" if lost == 1 else f"{lost} steps were"
        return [f"continues exactly from step {comparison.restored_to}; {steps} lost."]
    for finding in comparison.faults[:1]:
        tensors = f" ({', '.join(finding.tensors[:3])})" if finding.tensors else ""
        sentences.append(
            f"the first difference is in {finding.piece}{tensors} at step {finding.step}."
        )
    origins = [
        f"{finding.piece} of step {finding.origin}"
        for finding in comparison.faults
        if finding.origin is not None
    ]
    if origins:
        sentences.append(
            f"it began with weights of step {comparison.restored_to}, {', '.join(origins)}."
        )
    if comparison.is_complete and comparison.extra_steps:
        word = "more" if comparison.extra_steps > 0 else "fewer"
        sentences.append(f"it took {abs(comparison.extra_steps)} {word} steps than were left.")
    if comparison.seen_twice or comparison.never_seen:
        sentences.append(
            f"{comparison.seen_twice} batches were seen twice, {comparison.never_seen} never."
        )
    return sentences


def as_json(comparison: Comparison) -> dict:
    """Return a comparison as plain values."""
    return {
        "optimizer": comparison.optimizer,
        "restored_to": comparison.restored_to,
        "extra_steps": comparison.extra_steps,
        "seen_twice": comparison.seen_twice,
        "never_seen": comparison.never_seen,
        "pieces": {piece: vars(finding) for piece, finding in comparison.findings.items()},
    }
