"""Right and wrong answers to the exercises of notebook 8, each wrong one with its hint."""

import contextlib
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.answers.collect import Answers
from tests.answers.solved import SOLVED

RIGHT, WRONG = {}, {}


# 1 · How often?

save_interval = Answers("save_interval", RIGHT, WRONG)


@save_interval.right
def young(save_time, mtbf, machines):
    return (2 * save_time * mtbf / machines) ** 0.5


@save_interval.right
def daly(save_time, mtbf, machines):
    return young(save_time, mtbf, machines) - save_time


@save_interval.wrong("the factor 2 in the formula is missing")
def without_the_two(save_time, mtbf, machines):
    return (save_time * mtbf / machines) ** 0.5


@save_interval.wrong("that is the square of the right answer")
def no_root(save_time, mtbf, machines):
    return 2 * save_time * mtbf / machines


@save_interval.wrong("that is right for one machine")
def one_machine(save_time, mtbf, machines):
    return (2 * save_time * mtbf) ** 0.5


@save_interval.wrong("too long: more machines fail more often")
def machines_multiplied(save_time, mtbf, machines):
    return (2 * save_time * mtbf * machines) ** 0.5


@save_interval.wrong("the number of machines belongs under the root")
def machines_outside_the_root(save_time, mtbf, machines):
    return (2 * save_time * mtbf) ** 0.5 / machines


@save_interval.wrong("the answer is of type str, not a number")
def interval_as_text(save_time, mtbf, machines):
    return f"{young(save_time, mtbf, machines)} hours"


@save_interval.wrong("it should be")
def a_tenth_more(save_time, mtbf, machines):
    return 1.1 * young(save_time, mtbf, machines)


@save_interval.wrong("it should be")
def a_save_more(save_time, mtbf, machines):
    return young(save_time, mtbf, machines) + save_time


@save_interval.right
def daly_in_full(save_time, mtbf, machines):
    """The formula of Daly's paper, with all its terms."""
    mtbf /= machines
    x = math.sqrt(save_time / (2 * mtbf))
    print("ratio:", x)
    return math.sqrt(2 * save_time * mtbf) * (1 + x / 3 + x * x / 9) - save_time


@save_interval.right
def with_numpy(save_time, mtbf, machines):
    return np.sqrt(2 * save_time * mtbf / machines)


@save_interval.wrong("that is the number of saves, not the time between two")
def how_many_saves(save_time, mtbf, machines):
    return mtbf / machines / young(save_time, mtbf, machines)


@save_interval.wrong("it should be 17.09, or 17.07 with Daly's refinement")
def whole_hours(save_time, mtbf, machines):
    return round(young(save_time, mtbf, machines))


@save_interval.wrong("for save_time=0.0167, mtbf=8760 and machines=1, it should be")
def in_minutes(save_time, mtbf, machines):
    return 60 * young(save_time, mtbf, machines)


@save_interval.wrong("too short: the number of machines belongs under the root")
def mtbf_of_all_after_the_root(save_time, mtbf, machines):
    return math.sqrt(2 * save_time * mtbf) / machines


# 2 · A log nobody counted.

continue_log = Answers("continue_log", RIGHT, WRONG)


def lines_of(path):
    with open(path) as file:
        return list(file)


def step_of(line):
    return int(line.split()[0])


def is_kept(line, step):
    return line.endswith("\n") and step_of(line) <= step


@continue_log.right
def with_a_temporary_file(path, step):
    if not os.path.exists(path):
        return
    kept = [line for line in lines_of(path) if is_kept(line, step)]
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False) as file:
        file.writelines(kept)
    os.rename(file.name, path)


def replace(path, lines):
    Path(f"{path}.new").write_text("".join(lines))
    os.replace(f"{path}.new", path)


@continue_log.right
def cut_in_bytes(path, step):
    with contextlib.suppress(FileNotFoundError):
        content = Path(path).read_bytes()
        end = 0
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n") or step_of(line) > step:
                break
            end += len(line)
        Path(path + ".tmp").write_bytes(content[:end])
        os.replace(path + ".tmp", path)


@continue_log.wrong("half a line stays at the end")
def keeps_the_half_line(path, step):
    if os.path.exists(path):
        replace(path, [line for line in lines_of(path) if line.strip() and step_of(line) <= step])


@continue_log.wrong("the steps 1 to 5 (5 lines) should stay")
def ends_the_half_line(path, step):
    if os.path.exists(path):
        lines = [line.rstrip("\n") + "\n" for line in lines_of(path)]
        replace(path, [line for line in lines if step_of(line) <= step])


@continue_log.wrong("for a log with every 10th step")
def first_lines(path, step):
    if os.path.exists(path):
        replace(path, [line for line in lines_of(path)[:step] if line.endswith("\n")])


@continue_log.wrong("the steps 1 to 5 (5 lines) should stay")
def without_the_saved_step(path, step):
    if os.path.exists(path):
        replace(path, [line for line in lines_of(path) if is_kept(line, step - 1)])


@continue_log.wrong("the steps are compared as text")
def compared_as_text(path, step):
    if os.path.exists(path):
        lines = [line for line in lines_of(path) if line.endswith("\n")]
        replace(path, [line for line in lines if line.split()[0] <= str(step)])


@continue_log.wrong("the log is written in place")
def in_place(path, step):
    if os.path.exists(path):
        Path(path).write_text("".join([line for line in lines_of(path) if is_kept(line, step)]))


@continue_log.wrong("the log is written in place")
def truncated_in_place(path, step):
    if os.path.exists(path):
        os.truncate(path, sum(len(line) for line in lines_of(path) if is_kept(line, step)))


@continue_log.wrong("for a moment, there is no log")
def deleted_first(path, step):
    if os.path.exists(path):
        kept = [line for line in lines_of(path) if is_kept(line, step)]
        os.unlink(path)
        replace(path, kept)


@continue_log.wrong("for a moment, the log holds only part")
def written_to_the_end_after_the_rename(path, step):
    if os.path.exists(path):
        kept = [line for line in lines_of(path) if is_kept(line, step)]
        replace(path, kept[:10])
        with open(path, "a") as file:
            file.writelines(kept[10:])


@continue_log.wrong("for a moment, the log holds only part")
def emptied_before_the_rename(path, step):
    if os.path.exists(path):
        kept = [line for line in lines_of(path) if is_kept(line, step)]
        Path(path).write_text("")
        replace(path, kept)


@continue_log.wrong("the last line has lost its newline")
def without_line_ends(path, step):
    if os.path.exists(path):
        replace(path, "\n".join(line[:-1] for line in lines_of(path) if is_kept(line, step)))


@continue_log.wrong("the lines that stay should not change")
def only_the_steps(path, step):
    if os.path.exists(path):
        replace(path, [f"{step_of(line)}\n" for line in lines_of(path) if is_kept(line, step)])


@continue_log.wrong("for a log that isn't there yet, your function raises FileNotFoundError")
def needs_a_log(path, step):
    replace(path, [line for line in lines_of(path) if is_kept(line, step)])


@continue_log.wrong("a file is left over: run.log.old")
def leaves_a_backup(path, step):
    if os.path.exists(path):
        Path(f"{path}.old").write_bytes(Path(path).read_bytes())
        replace(path, [line for line in lines_of(path) if is_kept(line, step)])


@continue_log.right
def stops_at_the_first(path, step):
    """Steps only grow in a log, so the first one that is too large ends it; prints how many."""
    if not os.path.isfile(path):
        return
    kept = []
    for line in Path(path).read_text().splitlines(keepends=True):
        if not line.endswith("\n") or step_of(line) > step:
            break
        kept.append(line)
    print(len(kept), "lines are kept")
    replace(path, kept)


@continue_log.wrong("the steps 1 to 5 (5 lines) should stay; yours keeps none")
def starts_a_new_log(path, step):
    if os.path.exists(path):
        replace(path, [])


@continue_log.wrong("the steps 10 to 20 (2 lines) should stay; yours keeps none")
def only_if_the_step_is_there(path, step):
    if os.path.exists(path):
        lines = [line for line in lines_of(path) if line.endswith("\n")]
        steps = [step_of(line) for line in lines]
        replace(path, lines[: steps.index(step) + 1] if step in steps else [])


@continue_log.wrong("the new log is written in a different folder, maybe on a different disk")
def in_the_temporary_folder(path, step):
    if os.path.exists(path):
        kept = [line for line in lines_of(path) if is_kept(line, step)]
        with tempfile.NamedTemporaryFile("w", delete=False) as file:
            file.writelines(kept)
        os.replace(file.name, path)


@continue_log.wrong("the steps 1 to 2 (2 lines) should stay; yours keeps 1 to 1 (1 lines)")
def always_without_the_last_line(path, step):
    if os.path.exists(path):
        replace(path, [line for line in lines_of(path)[:-1] if is_kept(line, step)])


@continue_log.wrong("the log is gone")
def deletes_the_log(path, step):
    if os.path.exists(path):
        os.remove(path)


# 3 · Until it's done.

run_until_done = Answers("run_until_done", RIGHT, WRONG)


@run_until_done.right
def with_a_list(start):
    steps = [0]
    while True:
        status, step = start()
        steps.append(max(step, steps[-1]))
        if status == 0:
            return len(steps) - 1
        if steps[-1:] * 2 == steps[-3:-1]:
            raise RuntimeError("stuck")


@run_until_done.wrong("yours stops after 1: there is progress")
def once(start):
    start()
    return 1


@run_until_done.wrong("yours keeps starting it: two in a row have saved nothing")
def forever(start):
    number = 1
    while start()[0] != 0:
        number += 1
    return number


@run_until_done.wrong("yours stops after 10: there is progress")
def at_most_ten_times(start):
    for number in range(1, 11):
        if start()[0] == 0:
            return number
    raise RuntimeError("no success")


@run_until_done.wrong("one attempt may save nothing, even the first")
def no_patience(start):
    best = number = 0
    while True:
        number += 1
        status, step = start()
        if status == 0:
            return number
        if step <= best:
            raise RuntimeError("no progress")
        best = step


@run_until_done.wrong("yours keeps starting it: two in a row have saved nothing")
def three_attempts(start):
    best = stuck = number = 0
    while stuck < 3:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), 0 if step > best else stuck + 1
    raise RuntimeError("no progress")


@run_until_done.wrong("yours stops after 4: one attempt may save nothing")
def in_all_not_in_a_row(start):
    best = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), stuck + (step <= best)
    raise RuntimeError("no progress")


@run_until_done.wrong("40 and 45 are less than 50")
def compared_with_the_attempt_before(start):
    before = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        before, stuck = step, 0 if step > before else stuck + 1
    raise RuntimeError("no progress")


@run_until_done.wrong("40 and 45 are less than 50")
def equal_is_stuck(start):
    before = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        before, stuck = step, stuck + 1 if step == before else 0
    raise RuntimeError("no progress")


@run_until_done.wrong("143 without progress is no progress")
def sigterm_is_always_fine(start):
    best = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        stuck = 0 if step > best or status == 143 else stuck + 1
        best = max(best, step)
    raise RuntimeError("no progress")


@run_until_done.wrong("your function raises RuntimeError: no progress")
def progress_before_success(start):
    best = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        best, stuck = max(best, step), 0 if step > best else stuck + 1
        if status == 0 and not stuck:
            return number
    raise RuntimeError("no progress")


@run_until_done.wrong("yours keeps starting it: two in a row have saved nothing")
def anything_is_progress_at_first(start):
    best, stuck, number = -1, 0, 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), 0 if step > best else stuck + 1
    raise RuntimeError("no progress")


@run_until_done.wrong("raise a RuntimeError when you give up")
def silently(start):
    best = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), 0 if step > best else stuck + 1
    return number


@run_until_done.wrong("the answer should be 1; yours is 0")
def status_of_the_last(start):
    with_a_list(start)
    return 0


@run_until_done.right
def by_recursion(start, best=0, stuck=0, number=1):
    """Waits before it tries again, and prints each attempt."""
    status, step = start()
    print(number, status, step)
    if status == 0:
        return number
    stuck = 0 if step > best else stuck + 1
    if stuck == 2:
        raise RuntimeError("no progress")
    time.sleep(5)
    return by_recursion(start, max(best, step), stuck, number + 1)


@run_until_done.wrong("raise a RuntimeError when you give up")
def gives_up_with_a_message(start):
    try:
        return SOLVED["run_until_done"](start)
    except RuntimeError as error:
        print(error)
        return None


@run_until_done.wrong("raise a RuntimeError when you give up")
def raises_a_timeout(start):
    try:
        return SOLVED["run_until_done"](start)
    except RuntimeError:
        raise TimeoutError("no progress") from None


@run_until_done.wrong("the answer should be 1; yours is 0")
def counts_the_restarts(start):
    return SOLVED["run_until_done"](start) - 1


@run_until_done.wrong("for [(1, 20), (137, 41), (0, 93)], yours stops after 2")
def any_signal_ends_it(start):
    number = 0
    while True:
        number += 1
        status, _ = start()
        if status == 0 or status > 128:
            return number


@run_until_done.wrong("raise a RuntimeError when you give up")
def exits(start):
    try:
        return SOLVED["run_until_done"](start)
    except RuntimeError as error:
        raise SystemExit(1) from error


@run_until_done.wrong("yours starts another run after status 0")
def twice_to_be_sure(start):
    number = 0
    for _ in range(2):
        number += SOLVED["run_until_done"](start)
    return number


@run_until_done.wrong("return how often the run was started")
def returns_the_last_outcome(start):
    outcome = start()
    while outcome[0] != 0:
        outcome = start()
    return outcome


@run_until_done.wrong("yours gives up after 3")
def the_same_outcome_twice(start):
    number, outcomes = 0, []
    while True:
        number += 1
        outcomes.append(start())
        if outcomes[-1][0] == 0:
            return number
        if outcomes[-2:-1] == outcomes[-1:]:
            raise RuntimeError("no progress")
