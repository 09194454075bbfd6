"""Notebook 8: signals at every moment of a real process, the outer loops, what it keeps.

Not tried, here or anywhere: a real Slurm or Kubernetes, a cloud's notice, a GPU, Windows.
"""

import itertools
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from helper.reproducibility import compute_sha256
from tests.support.started import run_forked
from tools.course import ROOT

PATH = ROOT / "notebooks" / "8-when-the-machine-goes-away.ipynb"
PROGRAMS = ROOT / "notebooks" / "programs"
SBATCH = ROOT / "docs" / "train.sbatch"
CELLS = {cell.id: cell.source for cell in nbformat.read(PATH, as_version=4).cells}


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAMS))
    import recipe

    return recipe


# Signals. The run of own_run.py, with an evaluation after each epoch that has workers too. It sends
# itself a signal at a moment of our choice: no sleeping, no timers.
PROGRAM = """
import multiprocessing.process
import os
import signal
import sys

import own_run
import recipe
import torch

moment, name, target, workers, method = sys.argv[1:]
options = {"num_workers": int(workers)}
if int(workers):
    options["multiprocessing_context"] = method


def send():
    send_to = os.killpg if target == "group" else os.kill
    send_to(os.getpid(), signal.Signals[name])


def send_at(wanted):
    "Send the signal when a moment comes for the first time in this process."
    global moment
    if moment == wanted:
        moment = "over"
        send()


def sends_at(wanted, function):
    def sending(*arguments, **how):
        send_at(wanted)
        return function(*arguments, **how)

    return sending


def in_a_rename(function=os.replace):
    def rename(old, new):
        send_at("rename of the old file" if str(new).endswith(".1") else "other")
        send_at("rename of the new file" if str(old) == "run.pt.tmp" else "other")
        return function(old, new)

    return rename


def started(function=multiprocessing.process.BaseProcess.start):
    def start(self):
        function(self)
        send_at("start of the workers")

    return start


if __name__ == "__main__":
    os.fsync, os.replace = sends_at("flush", os.fsync), in_a_rename()
    multiprocessing.process.BaseProcess.start = started()
    torch.use_deterministic_algorithms(True)
    recipe.save = own_run.save_and_note
    batches = recipe.Batches(own_run.Waves(), 16, 5)
    run = own_run.new_run(48, 5)
    run.model.register_forward_pre_hook(lambda *_: send_at("first batch"))

    def evaluate(*_):
        if (run.scheduler.last_epoch + 1) % 16 == 0:
            run.model.eval()
            with torch.no_grad():
                tests = recipe.Batches(own_run.Waves(), 100, 6)
                for _, (waves, _) in recipe.fetch(tests, range(3), **options):
                    send_at("evaluation")
                    run.model(waves)
            run.model.train()

    run.optimizer.register_step_post_hook(evaluate)
    recipe.train("run.pt", run, batches, 3, "cpu", 5, **options)
"""
# The moments, and the step that each process has saved when it ends, the moments in this order.
MOMENTS = {
    "first batch": 1,
    "flush": 5,
    "rename of the old file": 10,
    "rename of the new file": 15,
    "evaluation": 16,
    "start of the workers": 17,
}
NEVER = ("never", "SIGTERM", "process")


def start(folder, moment, name, target, workers=0, method="fork"):
    """Start the program in a folder; return its status and the step at which it began."""
    (folder / "signaled.py").write_text(PROGRAM)
    arguments = [moment, name, target, str(workers), method]
    if method == "fork":
        status = run_forked("signaled.py", arguments, folder, folder / "output", [PROGRAMS])
    else:
        with open(folder / "output", "w") as output:  # workers would hold a pipe open
            status = subprocess.run(
                [sys.executable, "signaled.py", *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(PROGRAMS)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).returncode
    printed = (folder / "output").read_text()
    begun = re.search(r"beginning at step (\d+)", printed)
    assert begun, printed
    return status, int(begun[1]), printed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint of the run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder, *NEVER)[:2] == (0, 0)
    return folder / "run.pt"


def survives(recipe, folder, whole, workers, method, signals):
    """Stop a run by signals, each at a moment of a process of its own, and compare its end."""
    done = 0
    for moment, (name, target) in signals:
        if moment == "start of the workers" and not workers:
            continue
        status, begun, printed = start(folder, moment, name, target, workers, method)
        assert status == 128 + signal.Signals[name], (moment, printed)
        assert begun == done
        done = recipe.read(folder / "run.pt")["step"]
        assert done == MOMENTS[moment], moment
        assert (folder / "run.pt.step").read_text() == f"{done}\n"
    assert start(folder, *NEVER, workers, method)[:2] == (0, done)
    assert compute_sha256(recipe.read(folder / "run.pt")) == compute_sha256(recipe.read(whole))


KINDS = list(itertools.product(["SIGTERM", "SIGINT"], ["process", "group"]))


STARTS = [(0, "fork"), (2, "fork"), (2, "spawn"), (2, "forkserver")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "method"),
    [*STARTS[:2], *(pytest.param(*each, marks=pytest.mark.kills) for each in STARTS[2:])],
)
def test_a_signal_at_any_moment_loses_nothing(recipe, tmp_path, whole, workers, method):
    signals = itertools.islice(itertools.cycle(KINDS), STARTS.index((workers, method)), None)
    moments = MOMENTS if method == "fork" else ["evaluation", "start of the workers"]
    survives(recipe, tmp_path, whole, workers, method, zip(moments, signals, strict=False))


@pytest.mark.kills
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize(("workers", "method"), STARTS)
def test_every_signal_at_every_moment(recipe, tmp_path, whole, workers, method, kind):
    signals = zip(MOMENTS, itertools.repeat(kind), strict=False)
    survives(recipe, tmp_path, whole, workers, method, signals)


# Process 1 of a container.

LISTENER = shlex.join(
    [
        sys.executable,
        "-c",
        "import signal, sys; received = []\n"
        "signal.signal(15, lambda number, frame: received.append(number))\n"
        "print('ready', flush=True); sys.stdin.readline(); print(received)",
    ]
)
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


@pytest.fixture
def namespace():
    """The command that makes a process number 1, as in a container."""
    try:
        subprocess.run([*NAMESPACE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not tried here: a PID namespace ({error})")
    return NAMESPACE


@pytest.mark.parametrize(
    ("command", "received"),
    [(f"{LISTENER}; true", "[]"), (f"exec {LISTENER}", "[15]")],
    ids=["a shell", "exec"],
)
def test_process_1_gets_the_signal_and_a_shell_ignores_it(namespace, command, received):
    pipe = subprocess.PIPE
    command = [*namespace, "sh", "-c", command]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as unshare:
        assert unshare.stdout.readline() == "ready\n"
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text()
        os.kill(int(children), signal.SIGTERM)  # number 1 inside
        assert unshare.communicate("\n")[0] == f"{received}\n"
        assert unshare.returncode == 0  # the shell wasn't ended either


# The outer loops: in the notebook, and for Slurm with stand-ins for srun and scontrol.

# The status and the largest step saved so far of each attempt, and how many of them are made.
FINISHED = [(0, 48)]
HISTORIES = [
    (FINISHED, 1),
    ([(137, 0), *FINISHED], 2),
    ([(1, 0), (1, 0)], 2),
    ([(143, 20), (1, 20), (139, 25), (137, 25), *FINISHED], 5),
    ([(143, 20), (143, 20), (1, 20)], 3),
    ([(137, 48), (137, 48), *FINISHED], 3),
    *[([(status, 5), (status, 10), (status, 15), *FINISHED], 4) for status in (1, 134, 137)],
    *[([(status, 5), (status, 10), (status, 15), *FINISHED], 4) for status in (139, 143)],
    *[([(status, 0), (status, 0)], 2) for status in (134, 137, 139, 143)],
    *[([(status, 5), (status, 5), (status, 5)], 3) for status in (1, 134, 137, 139)],
]


@pytest.mark.parametrize(("history", "attempts"), HISTORIES, ids=str)
def test_the_loop_of_the_notebook_goes_on_while_there_is_progress(tmp_path, history, attempts):
    names = {"Path": Path}
    exec(CELLS["loop"], names)
    path, made = tmp_path / "run.pt", []

    def attempt():
        status, step = history[len(made)]
        made.append(status)
        if step:
            path.with_name("run.pt.step").write_text(f"{step}\n")
        return status

    end = names["run_again"](path, attempt)
    assert len(made) == attempts == len(history)
    assert end == ("finished" if made[-1] == 0 else "given up")


FAKE_SRUN = """#!/bin/bash
echo srun "$@" >>calls
read -r status step < <(sed -n "$(grep -c ^srun calls)p" history)
[ "$step" -eq 0 ] || echo "$step" >run.pt.step
exit "$status"
"""
FAKE_SCONTROL = '#!/bin/sh\necho scontrol "$@" >>calls\n'


def submit(folder, job):
    """Run the job script once; return its status and whether it asked to be requeued."""
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": job}
    done = subprocess.run(
        ["bash", SBATCH], cwd=folder, env=environment, capture_output=True, text=True
    )
    last = (folder / "calls").read_text().splitlines()[-1]
    return done.returncode, last == f"scontrol requeue {job}", done.stderr


@pytest.fixture
def slurm(tmp_path):
    """A folder with stand-ins for srun, which plays a history, and scontrol."""
    for name, program in [("srun", FAKE_SRUN), ("scontrol", FAKE_SCONTROL)]:
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def play(folder, history):
    (folder / "history").write_text("".join(f"{status} {step}\n" for status, step in history))


@pytest.mark.parametrize(("history", "attempts"), HISTORIES, ids=str)
def test_the_job_for_slurm_comes_back_while_there_is_progress(slurm, history, attempts):
    play(slurm, history)
    for number, (expected, _) in enumerate(history, start=1):
        status, comes_back, said = submit(slurm, "17")
        assert status == expected
        assert comes_back == (number < attempts)
        assert ("Given up" in said) == (number == attempts and status != 0)
    calls = (slurm / "calls").read_text().splitlines()
    assert [call for call in calls if call.startswith("srun")] == [
        "srun python train.py run.pt"
    ] * attempts


def test_a_job_that_is_submitted_again_has_two_attempts_again(slurm):
    play(slurm, [(1, 0)] * 5)
    assert [submit(slurm, job)[1] for job in ("17", "17", "18", "18")] == [True, False, True, False]


def test_an_attempt_that_slurm_itself_ended_counts(slurm):
    """A node failure ends the script before it can decide; Slurm starts it again."""
    play(slurm, [(1, 20), (1, 20), (1, 20)])
    (slurm / "run.pt.attempts-17").write_text("0\n")  # it began with nothing, and saved 20
    (slurm / "run.pt.step").write_text("20\n")
    assert submit(slurm, "17")[1]  # no progress, but the one before had some
    assert not submit(slurm, "17")[1]


def test_the_job_names_its_log_and_asks_for_a_signal():
    text = SBATCH.read_text()
    options = dict(re.findall(r"^#SBATCH --(\S+?)(?:=(\S+))?$", text, re.M))
    assert options["output"] == "own-run-%j.log"
    assert options["open-mode"] == "append"
    assert options["signal"] == "TERM@120"
    assert "requeue" in options
    table = CELLS["places-md"] + CELLS["loop-lesson"]
    assert all(f"`--{name}" in table for name in ("signal=TERM@120", "requeue"))


# What the program notes next to its checkpoint.


def test_the_note_follows_the_save_and_never_falls_back(recipe, tmp_path, monkeypatch):
    import own_run

    saved, path, note = [], tmp_path / "run.pt", tmp_path / "run.pt.step"

    def save(path, run, step):
        saved.append((step, note.read_text() if note.exists() else None))
        if step == 30:
            raise OSError("no space")

    for step in (5, 10, 6, 11):
        own_run.save_and_note(path, None, step, save)
    with pytest.raises(OSError, match="no space"):
        own_run.save_and_note(path, None, 30, save)
    assert saved == [(5, None), (10, "5\n"), (6, "10\n"), (11, "10\n"), (30, "11\n")]
    assert note.read_text() == "11\n"
    assert [each.name for each in tmp_path.iterdir()] == ["run.pt.step"]


# The files that the notebook keeps, and its log.


@pytest.fixture
def kept(recipe, tmp_path, monkeypatch):
    """The names of the notebook's cells about files and logs, in an empty folder."""
    import own_run

    monkeypatch.chdir(tmp_path)
    names = {"recipe": recipe, "own_run": own_run, "os": os, "Path": Path}
    names |= {"RANDOM_SEED": 5, "NUM_EPOCHS": 3, "num_steps": 48}
    names["batches"] = recipe.Batches(own_run.Waves(), 16, 5)
    for cell in ("keep", "files", "log", "log-train"):
        exec(CELLS[cell], names)
    names["run"] = own_run.new_run(48)
    names["run"].best = names["Best"]()
    return names


def epochs(kept, accuracies):
    for epoch, accuracy in enumerate(accuracies, start=1):
        kept["keep"]("run.pt", kept["run"], epoch, accuracy)


@pytest.mark.parametrize("accuracies", [*itertools.permutations([70, 80, 90, 95])])
def test_the_last_two_and_the_best_are_kept(kept, accuracies):
    epochs(kept, accuracies)
    best = accuracies.index(95) + 1
    assert kept["files"]("run.pt") == {"run.pt": 4, "run.pt.1": 3, "run.pt.best": best}


def test_a_file_that_can_really_not_grow_leaves_the_others(kept):
    """As the notebook's full disk, but with an operating system that refuses to write."""
    epochs(kept, [70, 90, 80])
    before = kept["files"]("run.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            kept["keep"]("run.pt", kept["run"], 4, 95)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    half = Path("run.pt.best.tmp")
    assert half.stat().st_size <= 3000
    half.unlink()
    assert kept["files"]("run.pt") == before
    kept["run"].best.load_state_dict(kept["recipe"].read("run.pt")["best"])  # as a restart does
    kept["keep"]("run.pt", kept["run"], 4, 95)
    assert kept["files"]("run.pt") == {"run.pt": 4, "run.pt.1": 3, "run.pt.best": 4}


@pytest.mark.parametrize("ends", [1, 2, 3, 4])
def test_a_kill_between_two_saves_keeps_the_best(kept, monkeypatch, ends):
    """Each rename of an epoch that is the best, in turn, is the last thing that happens."""
    epochs(kept, [70, 90, 80])

    class Killed(BaseException):
        pass

    replace, done = os.replace, []

    def rename(*names):
        replace(*names)
        done.append(names)
        if len(done) == ends:
            raise Killed

    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(Killed):
        kept["keep"]("run.pt", kept["run"], 4, 95)
    monkeypatch.setattr(os, "replace", replace)
    again = kept["own_run"].new_run(48)
    again.best = kept["Best"]()
    done = kept["recipe"].load("run.pt", again)
    assert done in (3, 4)
    if done == 3:
        kept["keep"]("run.pt", again, 4, 95)
    assert again.best.accuracy == 95
    assert kept["recipe"].read("run.pt.best")["step"] == 4


@pytest.mark.parametrize("step", [1, 2, 5, 6, 10, 11, 47, 48])
def test_a_log_continues_wherever_the_run_dies(kept, step):
    kept["train_with_log"]("whole.pt", kept["Log"]("whole.log"))
    whole = Path("whole.log").read_text()
    assert [line.split()[0] for line in whole.splitlines()] == [str(n) for n in range(1, 49)]
    with pytest.raises(InterruptedError):
        kept["train_with_log"]("run.pt", kept["Log"]("run.log"), die_at=step)
    assert Path("run.log").read_text() != whole
    kept["train_with_log"]("run.pt", kept["Log"]("run.log"))
    assert Path("run.log").read_text() == whole


# How often to save.


def test_the_share_lost_with_a_background_save_is_right(capsys):
    """A failure loses what was trained since the last save that is complete was begun."""
    exec(f"{CELLS['print-table']}\n{CELLS['machines-background']}", {})
    row = capsys.readouterr().out.splitlines()[-1]
    printed = float(re.search(r"(\S+)%$", row)[1])
    failure, blocked, writing = 365 * 24 * 60 / 10_000, 2 / 60, 1
    interval = (2 * blocked * failure) ** 0.5
    assert f" {interval:.1f} min" in row
    failures = np.random.default_rng(5).exponential(failure, size=200_000)
    complete = np.floor((failures - writing) / (interval + blocked)).clip(0)
    simulated = 100 * (1 - interval * complete.sum() / failures.sum())
    assert printed == pytest.approx(simulated, rel=0.05)


def test_the_refinement_is_better_when_a_save_is_not_short():
    """The third question under "Try it"."""
    names = {"np": np, "RANDOM_SEED": 123}
    exec(CELLS["simulate"].replace("FAILURE = 200", "FAILURE = 10"), names)
    young = names["lost"](names["young"]) - names["losses"].min()
    daly = names["lost"](names["young"] - 1) - names["losses"].min()
    assert 0.25 < young < 0.35
    assert daly < young / 2
