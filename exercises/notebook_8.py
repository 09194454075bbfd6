"""The checks of the exercises in notebook 8."""

import math
import numbers
import os
import textwrap
from unittest import mock

from exercises.check import Hint, exercise, require


@exercise
def check_save_interval(call, folder):
    """Ask for one machine, for a hundred, and in a different unit."""
    hours = 24 * 365
    for save_time, mtbf, machines in [(1 / 60, hours, 1), (1 / 60, hours, 100), (2, 900, 4)]:
        what = f"for save_time={save_time:.3g}, mtbf={mtbf} and machines={machines}, "
        answer = call(save_time, mtbf, machines, when=what)
        kind = type(answer).__name__
        real = isinstance(answer, numbers.Real) and not isinstance(answer, bool)
        require(real, f"the answer is of type {kind}, not a number.")
        right = math.sqrt(2 * save_time * mtbf / machines)
        daly = right - save_time
        ratio = save_time / (2 * mtbf / machines)
        daly_in_full = right * (1 + ratio**0.5 / 3 + ratio / 9) - save_time

        def equals(other, answer=answer):
            return math.isclose(answer, other, rel_tol=1e-6)

        if equals(right) or equals(daly) or equals(daly_in_full):
            continue
        require(not equals(right**2), f"{what}that is the square of the right answer.")
        require(not equals(right / math.sqrt(2)), f"{what}the factor 2 in the formula is missing.")
        require(
            machines == 1 or not equals(right * math.sqrt(machines)),
            f"{what}that is right for one machine; with {machines}, one of them fails much sooner.",
        )
        require(
            machines == 1 or not equals(right * machines),
            f"{what}too long: more machines fail more often.",
        )
        require(
            machines == 1 or not equals(right / math.sqrt(machines)),
            f"{what}too short: the number of machines belongs under the root.",
        )
        number = math.isclose(answer * right, mtbf / machines, rel_tol=1e-6)
        require(not number, f"{what}that is the number of saves, not the time between two.")
        raise Hint(f"{what}it should be {right:.4g}, or {daly:.4g} with Daly's refinement.")
    return "a hundred machines save ten times as often as one"


HALF_LINES = ("", "8 0.5", "8", "1", "12")  # what a killed process has written of its last line


@exercise
def check_continue_log(call, folder):
    """Hand it logs that are ahead of the checkpoint, behind it, cut off, empty and missing."""
    path = os.path.join(folder, "run.log")

    def lines(*steps):
        return "".join(f"{step} {1 / (step + 1):.4f}\n" for step in steps)

    def ask(before, step, what):
        with open(path, "w", newline="") as file:
            file.write(before)
        call(path, step, when=f"{what}, ")
        require(os.path.exists(path), f"{what}, the log is gone.")
        with open(path, newline="") as file:
            return file.read()

    for half in HALF_LINES:
        what = "for steps 1 to 7" + f", half a line {half!r}" * bool(half) + ", and 5 saved"
        after = ask(lines(*range(1, 8)) + half, 5, what)
        compare_logs(after, lines(*range(1, 6)), what)
    what = "for 12 steps of which 10 are saved"
    after = ask(lines(*range(1, 13)), 10, what)
    hint = f"{what}, the steps are compared as text: '2' comes after '10' there."
    require(after == lines(*range(1, 11)) or after != lines(1, 10), hint)
    compare_logs(after, lines(*range(1, 11)), what)
    what = "for a log with every 10th step, and 25 saved"
    compare_logs(ask(lines(10, 20, 30, 40), 25, what), lines(10, 20), what)
    what = "for a log that ends in half of line 12, and 12 saved"
    compare_logs(ask(lines(10, 11) + "12 0.0", 12, what), lines(10, 11), what)
    what = "when nothing is saved yet"
    compare_logs(ask(lines(1, 2, 3), 0, what), "", what)
    compare_logs(ask(lines(1, 2), 7, "when the log is behind"), lines(1, 2), "when it is behind")
    what = "for an empty log"
    compare_logs(ask("", 3, what), "", what)
    is_atomic(call, path, lines(*range(1, 2000)), lines(*range(1, 1001)))
    os.unlink(path)
    call(path, 3, when="for a log that isn't there yet, ")
    left = [name for name in os.listdir(folder) if name != "run.log"]
    require(not left, f"a file is left over: {', '.join(left)}.")
    return "the log ends with the saved step, has no half line, and is replaced as a whole"


def compare_logs(after, wanted, what):
    """Raise a hint unless a log is what it should be."""
    if after == wanted:
        return
    if after.startswith(wanted) and "\n" not in after[len(wanted) :]:
        raise Hint(f"{what}, half a line stays at the end: {after[len(wanted) :]!r}.")
    if after + "\n" == wanted:
        raise Hint(f"{what}, the last line has lost its newline: the next one would run into it.")
    steps, right = ([line.split(" ")[0] for line in t.splitlines()] for t in (after, wanted))
    if steps != right:
        raise Hint(f"{what}, the steps {shorten(right)} should stay; yours keeps {shorten(steps)}.")
    raise Hint(f"{what}, the lines that stay should not change.")


def shorten(steps):
    return f"{steps[0]} to {steps[-1]} ({len(steps)} lines)" if steps else "none"


def is_atomic(call, path, before, wanted):
    """Raise a hint unless the log at a path is whole before and after every change."""
    with open(path, "w", newline="") as file:
        file.write(before)
    moments, elsewhere = [], []

    def look(real):
        def looking(*arguments, **how):
            moments.append(read_or_none(path))
            names = [os.path.realpath(n) for n in arguments if isinstance(n, (str, os.PathLike))]
            if os.path.realpath(path) in names:
                folders = {os.path.dirname(name) for name in names}
                elsewhere.extend(folders - {os.path.dirname(os.path.realpath(path))})
            done = real(*arguments, **how)
            moments.append(read_or_none(path))
            return done

        return looking

    inode = os.stat(path).st_ino
    with (
        mock.patch("os.replace", look(os.replace)),
        mock.patch("os.rename", look(os.rename)),
        mock.patch("os.unlink", look(os.unlink)),
        mock.patch("os.remove", look(os.remove)),
    ):
        call(path, 1000, when="for 1,999 steps of which 1,000 are saved, ")
    compare_logs(read_or_none(path) or "", wanted, "for 1,999 steps of which 1,000 are saved")
    for text in moments:
        require(text is not None, "for a moment, there is no log: a kill would lose all of it.")
        require(
            text in (before, wanted), "for a moment, the log holds only part of what should stay."
        )
    hint = (
        "the log is written in place: a kill in between would lose lines. Write a new file first."
    )
    require(os.stat(path).st_ino != inode, hint)
    beside = "the new log is written in a different folder, maybe on a different disk."
    require(not elsewhere, beside)


def read_or_none(path):
    try:
        with open(path, newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


ONCE_MORE = "yours starts it once more."


@exercise
def check_run_until_done(call, folder):
    """Start runs that succeed at once, later or never, and some that get nowhere."""

    def ask(*outcomes):
        waiting, started = iter(outcomes), []

        def start():
            outcome = next(waiting, None)
            require(outcome is not None, ONCE_MORE)
            started.append(outcome)
            return outcome

        try:
            with mock.patch("time.sleep"):  # so that nobody waits
                return call(start), len(started)
        except Hint as hint:
            if not len(started):
                raise
            return str(hint), len(started)
        except SystemExit:
            return "your function raises SystemExit", len(started)

    def raised(answer):
        return isinstance(answer, str) and answer.startswith("your function raises")

    def finishes(why, *outcomes):
        answer, started = ask(*outcomes)
        seen = f"for {textwrap.shorten(str(list(outcomes)), 60)}, "
        require(ONCE_MORE not in str(answer), f"{seen}yours starts another run after status 0.")
        require(started == len(outcomes), f"{seen}yours stops after {started}: {why}.")
        require(not raised(answer), f"{seen}{answer}.")
        count = isinstance(answer, numbers.Integral) and not isinstance(answer, bool)
        require(count, f"{seen}return how often the run was started.")
        require(answer == started, f"{seen}the answer should be {started}; yours is {answer}.")

    def gives_up(why, *outcomes):
        answer, started = ask(*outcomes)
        seen = f"for {textwrap.shorten(str(list(outcomes)), 60)}, "
        require(ONCE_MORE not in str(answer), f"{seen}yours keeps starting it: {why}.")
        require(started == len(outcomes), f"{seen}yours gives up after {started}.")
        require(
            raised(answer) and "RuntimeError" in answer,
            f"{seen}raise a RuntimeError when you give up.",
        )

    finishes("status 0 ends it", (0, 93))
    finishes("there is progress", (1, 20), (137, 41), (0, 93))
    finishes("one attempt may save nothing, even the first", (137, 0), (0, 93))
    finishes("one attempt may save nothing", (1, 30), (-9, 30), (143, 60), (1, 60), (0, 93))
    finishes("status 0 ends it, with or without progress", (1, 93), (-9, 93), (0, 93))
    finishes("there is progress", *[(1, 5 * n) for n in range(1, 40)], (0, 200))
    gives_up("two in a row have saved nothing", (1, 0), (1, 0))
    gives_up("two in a row have saved nothing new", (1, 30), (1, 50), (1, 50), (137, 50))
    gives_up("143 without progress is no progress", (143, 30), (143, 30), (143, 30))
    gives_up("40 and 45 are less than 50, so not progress", (1, 50), (1, 40), (1, 45))
    return "a run is started until it's finished, and given up after two attempts without progress"
