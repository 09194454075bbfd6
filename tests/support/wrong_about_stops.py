"""Right and wrong answers to the exercises of notebook 8, the wrong ones with their hints."""

import contextlib
import os
import tempfile
from pathlib import Path

# 1 · How often to save.


def young(save_time, mtbf, machines):
    return (2 * save_time * mtbf / machines) ** 0.5


def daly(save_time, mtbf, machines):
    return young(save_time, mtbf, machines) - save_time


def without_the_two(save_time, mtbf, machines):
    return (save_time * mtbf / machines) ** 0.5


def no_root(save_time, mtbf, machines):
    return 2 * save_time * mtbf / machines


def one_machine(save_time, mtbf, machines):
    return (2 * save_time * mtbf) ** 0.5


def machines_multiplied(save_time, mtbf, machines):
    return (2 * save_time * mtbf * machines) ** 0.5


def machines_outside_the_root(save_time, mtbf, machines):
    return (2 * save_time * mtbf) ** 0.5 / machines


def interval_as_text(save_time, mtbf, machines):
    return f"{young(save_time, mtbf, machines)} hours"


def a_tenth_more(save_time, mtbf, machines):
    return 1.1 * young(save_time, mtbf, machines)


def a_save_more(save_time, mtbf, machines):
    return young(save_time, mtbf, machines) + save_time


# 2 · A log nobody counted.


def step_of(line):
    return int(line.split()[0])


def is_kept(line, step):
    return line.endswith("\n") and step_of(line) <= step


def replace(path, lines):
    Path(f"{path}.new").write_text("".join(lines))
    os.replace(f"{path}.new", path)


def lines_of(path):
    with open(path) as file:
        return list(file)


def with_a_temporary_file(path, step):
    if not os.path.exists(path):
        return
    kept = [line for line in lines_of(path) if is_kept(line, step)]
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False) as file:
        file.writelines(kept)
    os.rename(file.name, path)


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


def keeps_the_half_line(path, step):
    if os.path.exists(path):
        replace(path, [line for line in lines_of(path) if line.strip() and step_of(line) <= step])


def ends_the_half_line(path, step):
    if os.path.exists(path):
        lines = [line.rstrip("\n") + "\n" for line in lines_of(path)]
        replace(path, [line for line in lines if step_of(line) <= step])


def first_lines(path, step):
    if os.path.exists(path):
        replace(path, [line for line in lines_of(path)[:step] if line.endswith("\n")])


def without_the_saved_step(path, step):
    if os.path.exists(path):
        replace(path, [line for line in lines_of(path) if is_kept(line, step - 1)])


def compared_as_text(path, step):
    if os.path.exists(path):
        lines = [line for line in lines_of(path) if line.endswith("\n")]
        replace(path, [line for line in lines if line.split()[0] <= str(step)])


def in_place(path, step):
    if os.path.exists(path):
        Path(path).write_text("".join([line for line in lines_of(path) if is_kept(line, step)]))


def truncated_in_place(path, step):
    if os.path.exists(path):
        os.truncate(path, sum(len(line) for line in lines_of(path) if is_kept(line, step)))


def deleted_first(path, step):
    if os.path.exists(path):
        kept = [line for line in lines_of(path) if is_kept(line, step)]
        os.unlink(path)
        replace(path, kept)


def written_to_the_end_after_the_rename(path, step):
    if os.path.exists(path):
        kept = [line for line in lines_of(path) if is_kept(line, step)]
        replace(path, kept[:10])
        with open(path, "a") as file:
            file.writelines(kept[10:])


def emptied_before_the_rename(path, step):
    if os.path.exists(path):
        kept = [line for line in lines_of(path) if is_kept(line, step)]
        Path(path).write_text("")
        replace(path, kept)


def without_line_ends(path, step):
    if os.path.exists(path):
        replace(path, "\n".join(line[:-1] for line in lines_of(path) if is_kept(line, step)))


def only_the_steps(path, step):
    if os.path.exists(path):
        replace(path, [f"{step_of(line)}\n" for line in lines_of(path) if is_kept(line, step)])


def needs_a_log(path, step):
    replace(path, [line for line in lines_of(path) if is_kept(line, step)])


def leaves_a_backup(path, step):
    if os.path.exists(path):
        Path(f"{path}.old").write_bytes(Path(path).read_bytes())
        replace(path, [line for line in lines_of(path) if is_kept(line, step)])


# 3 · Until it's done.


def with_a_list(start):
    steps = [0]
    while True:
        status, step = start()
        steps.append(max(step, steps[-1]))
        if status == 0:
            return len(steps) - 1
        if steps[-1:] * 2 == steps[-3:-1]:
            raise RuntimeError("stuck")


def once(start):
    start()
    return 1


def forever(start):
    number = 1
    while start()[0] != 0:
        number += 1
    return number


def at_most_ten_times(start):
    for number in range(1, 11):
        if start()[0] == 0:
            return number
    raise RuntimeError("no success")


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


def three_attempts(start):
    best = stuck = number = 0
    while stuck < 3:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), 0 if step > best else stuck + 1
    raise RuntimeError("no progress")


def in_all_not_in_a_row(start):
    best = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), stuck + (step <= best)
    raise RuntimeError("no progress")


def compared_with_the_attempt_before(start):
    before = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        before, stuck = step, 0 if step > before else stuck + 1
    raise RuntimeError("no progress")


def equal_is_stuck(start):
    before = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        before, stuck = step, stuck + 1 if step == before else 0
    raise RuntimeError("no progress")


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


def progress_before_success(start):
    best = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        best, stuck = max(best, step), 0 if step > best else stuck + 1
        if status == 0 and not stuck:
            return number
    raise RuntimeError("no progress")


def anything_is_progress_at_first(start):
    best, stuck, number = -1, 0, 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), 0 if step > best else stuck + 1
    raise RuntimeError("no progress")


def silently(start):
    best = stuck = number = 0
    while stuck < 2:
        number += 1
        status, step = start()
        if status == 0:
            return number
        best, stuck = max(best, step), 0 if step > best else stuck + 1
    return number


def status_of_the_last(start):
    with_a_list(start)
    return 0


RIGHT_ABOUT_STOPS = {
    "save_interval": [young, daly],
    "continue_log": [with_a_temporary_file, cut_in_bytes],
    "run_until_done": [with_a_list],
}
WRONG_ABOUT_STOPS = {
    "save_interval": {
        without_the_two: "the two in the formula is missing",
        no_root: "that is the square of the right answer",
        one_machine: "that is right for one machine",
        machines_multiplied: "too long: more machines fail more often",
        machines_outside_the_root: "the number of machines belongs under the root",
        interval_as_text: "the answer is of type str, not a number",
        a_tenth_more: "it should be",
        a_save_more: "it should be",
    },
    "continue_log": {
        keeps_the_half_line: "half a line stays at the end",
        ends_the_half_line: "the steps 1 to 5 (5 lines) should stay",
        first_lines: "for a log with every 10th step",
        without_the_saved_step: "the steps 1 to 5 (5 lines) should stay",
        compared_as_text: "the steps are compared as text",
        in_place: "the log is written in place",
        truncated_in_place: "the log is written in place",
        deleted_first: "for a moment, there is no log",
        written_to_the_end_after_the_rename: "for a moment, the log holds a part",
        emptied_before_the_rename: "for a moment, the log holds a part",
        without_line_ends: "the last line has lost its end",
        only_the_steps: "the lines that stay should not change",
        needs_a_log: "for a log that isn't there yet, your function raises FileNotFoundError",
        leaves_a_backup: "a file is left over: run.log.old",
    },
    "run_until_done": {
        once: "yours stops after 1: there is progress",
        forever: "yours goes on: two in a row have saved nothing",
        at_most_ten_times: "yours stops after 10: there is progress",
        no_patience: "one attempt may save nothing, even the first",
        three_attempts: "yours goes on: two in a row have saved nothing",
        in_all_not_in_a_row: "yours stops after 4: one attempt may save nothing",
        compared_with_the_attempt_before: "40 and 45 are less than 50",
        equal_is_stuck: "40 and 45 are less than 50",
        sigterm_is_always_fine: "143 without progress is no progress",
        progress_before_success: "your function raises RuntimeError: no progress",
        anything_is_progress_at_first: "yours goes on: two in a row have saved nothing",
        silently: "raise a RuntimeError when you give up",
        status_of_the_last: "the answer should be 1; yours is 0",
    },
}
