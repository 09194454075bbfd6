"""The audit's options, what it refuses, what it cleans up, and unusual training loops."""

import json
import os
import signal
from pathlib import Path

import pytest

from audit.__main__ import main, parse_arguments
from audit.experiment import audit, run_all
from audit.report import format_report
from audit.runs import Options, name_of_link
from tests.support.forked import Forked
from tools.course import ROOT

# A correct run of 12 steps that saves after every third; the tests change a line or two.
SCRIPT = """
import os
import sys
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
done = 0
if os.path.exists("checkpoint.pt"):
    checkpoint = torch.load("checkpoint.pt", weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    done = checkpoint["done"]


def save(step, path="checkpoint.pt"):
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": step}
    torch.save(state, "checkpoint.tmp")
    os.replace("checkpoint.tmp", path)


for step in range(done, 12):
    torch.manual_seed(step)
    x = torch.randn(8, 6)
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 3 == 2:
        save(step + 1)
"""


def write(folder, *changes, source=SCRIPT):
    """Write the script with some lines changed, and return its path."""
    for right, wrong in changes:
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    path = folder / "script.py"
    path.write_text(source)
    return path


def audited(path, **options):
    """Return the results of an audit whose runs are forked."""
    return audit(Options(path, **{"stops": [7], **options}), start_process=Forked)


def refused(path, **options):
    """Return why a script could not be audited."""
    results = audited(path, **options)
    assert results["status"] == 2, format_report(results)
    assert results["reason"] in format_report(results)
    return results["reason"]


def assert_exact(results):
    assert results["status"] == 0, format_report(results)


def faults_of(results):
    """Return the faults at the first stop."""
    assert results["status"] == 1, format_report(results)
    return results["stops"][0]["faults"]


# ---- The stops ----


@pytest.mark.slow
def test_the_stops_that_are_chosen(tmp_path):
    results = audited(write(tmp_path), stops=None)
    assert_exact(results)
    starts = {start["name"]: start for stop in results["stops"] for start in stop["starts"]}
    places = {n: (s["killed_after"], s["restored_to"], s["lost"]) for n, s in starts.items()}
    assert places == {
        "before the first save": (1, 0, 1),
        "inside an epoch": (8, 6, 2),
        "right after a save": (7, 6, 1),
        "one step before the end": (11, 9, 2),
        "two kills: kill 1": (8, 6, 2),
        "two kills: kill 2": (10, 9, 1),
    }


@pytest.mark.slow
def test_what_can_not_be_chosen_is_said(tmp_path):
    path = write(tmp_path, ("    if step % 3 == 2:\n        save(step + 1)\n", ""))
    experiments = run_all(Options(path, stops=None), start_process=Forked)
    assert experiments.left_out[0].startswith("right after a save, and two kills: no save was seen")
    results = audited(write(tmp_path), stops=[7, 12])
    assert "Not tried: after step 12: the run takes 12 steps." in format_report(results)
    assert "after step 40" in refused(write(tmp_path), stops=[40])


@pytest.mark.slow
def test_a_fault_that_shows_at_the_second_kill_only(tmp_path):
    path = write(tmp_path, ("        save(step + 1)", "        save(step + 1 - done)"))
    results = audited(path, stops=None)
    outcomes = {stop["stop"]: stop["outcome"] for stop in results["stops"]}
    assert outcomes.pop("two kills") == "different"
    assert set(outcomes.values()) == {"exact"}


@pytest.mark.slow
def test_a_script_that_starts_over(tmp_path):
    path = write(tmp_path, ('if os.path.exists("checkpoint.pt")', "if False"))
    assert faults_of(audited(path)) == ["started over"]
    assert "Nothing was continued" in refused(path, stops=[2])  # nothing was saved yet


def test_a_script_that_fails_when_it_is_started_again(tmp_path):
    path = write(tmp_path, ('checkpoint["done"]', 'checkpoint["steps"]'))
    results = audited(path)
    assert faults_of(results) == ["failed"]
    assert "failed when it was started again: KeyError: 'steps'" in format_report(results)


def test_a_script_that_has_nothing_left_to_do(tmp_path):
    path = write(tmp_path, ('    done = checkpoint["done"]', "    done = 12"))
    assert faults_of(audited(path)) == ["no steps"]


def test_steps_that_are_too_many(tmp_path):
    path = write(tmp_path, ("range(done, 12)", "range(done, 12 + (done > 0))"))
    results = audited(path)
    assert faults_of(results) == ["steps"]
    assert "1 more step than was left" in format_report(results)


def test_batches_seen_twice_and_never(tmp_path):
    path = write(tmp_path, ("    torch.manual_seed(step)", "    torch.manual_seed(step - done)"))
    results = audited(path)
    assert faults_of(results) == ["batch"]
    assert "6 batches seen twice, 6 never" in format_report(results)
    (start,) = results["stops"][0]["starts"]
    assert start["optimizers"][0]["pieces"]["batch"]["origin"] == 0


# ---- The options ----


@pytest.mark.slow
def test_again(tmp_path):
    path = write(tmp_path, ('os.path.exists("checkpoint.pt")', '"--resume" in sys.argv'))
    assert faults_of(audited(path)) == ["started over"]
    assert_exact(audited(path, again=["--resume"]))


@pytest.mark.slow
def test_seed(tmp_path):
    path = write(tmp_path, ("torch.manual_seed(0)\n", ""))
    assert "Two whole runs differ, first at step 0: weights (0.weight" in refused(path)
    assert_exact(audited(path, seed=5))


def test_two_whole_runs_that_differ(tmp_path):
    path = write(tmp_path, ("torch.randn(8, 6)", "torch.randn(8, 6) + (step == 4) * os.getpid()"))
    reason = refused(path)
    assert "first at step 4: batch (call 0: input.0)" in reason
    assert "--seed N" in reason
    assert "use_deterministic_algorithms" in reason


@pytest.mark.slow
def test_max_steps(tmp_path):
    path = write(tmp_path, ("range(done, 12)", "range(done, 10**6)"))
    results = audited(path, max_steps=14, stops=[4, 10])
    assert_exact(results)
    assert results["steps"] == 14
    load = '    optimizer.load_state_dict(checkpoint["optimizer"])\n'
    path = write(tmp_path, ("range(done, 12)", "range(done, 10**6)"), (load, ""))
    assert faults_of(audited(path, max_steps=14)) == ["optimizer state"]


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 5])
def test_every(tmp_path, every):
    results = audited(write(tmp_path), every=every, stops=[4, 7])
    assert_exact(results)
    pieces = results["stops"][1]["starts"][0]["optimizers"][0]["pieces"]
    assert {finding["status"] for finding in pieces.values()} == {"same"}
    load = '    optimizer.load_state_dict(checkpoint["optimizer"])\n'
    assert faults_of(audited(write(tmp_path, (load, "")), every=every)) == ["optimizer state"]


def test_every_leaves_out_hashes(tmp_path):
    experiments = run_all(Options(write(tmp_path), every=5, stops=[7]), start_process=Forked)
    hashed = [row["step"] for row in experiments.whole.steps if row["hashed"]]
    assert hashed == [0, 3, 5, 6, 9, 10]  # 3, 6 and 9 follow a save
    assert [row["hashed"] for row in experiments.stops[0][1][1].steps] == [
        step in hashed for step in range(6, 12)
    ]


HANDLER = """
import signal

def stop(*_):
    save(done_now)
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
done_now = done
for step in range(done, 12):
"""


@pytest.mark.slow
def test_a_signal_that_the_script_handles(tmp_path):
    path = write(
        tmp_path,
        ("for step in range(done, 12):\n", HANDLER),
        ("    optimizer.step()", "    done_now = step + 1\n    optimizer.step()"),
        ("    if step % 3 == 2:\n        save(step + 1)\n", ""),
    )
    results = audited(path, signal=signal.SIGTERM)
    assert_exact(results)
    assert results["stops"][0]["starts"][0]["restored_to"] == 7
    assert "Nothing was continued" in refused(path)  # it saves only when it is asked to stop
    path = write(
        tmp_path, ("    done = checkpoint[", "    0, checkpoint["), source=path.read_text()
    )
    assert "batch" in faults_of(audited(path, signal=signal.SIGTERM))


@pytest.mark.slow
def test_a_signal_that_the_script_ignores(tmp_path):
    ignore = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nimport torch\n"
    reason = refused(write(tmp_path, ("import torch\n", ignore)), signal=signal.SIGTERM)
    assert "ignored the signal and trained to its end" in reason
    assert_exact(audited(write(tmp_path), signal=signal.SIGINT))


def test_links(tmp_path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "scale").write_text("2.0")
    scale = ("torch.randn(8, 6)", "torch.randn(8, 6) * float(open('../inputs/scale').read())")
    path = write(tmp_path, scale)
    link = f"{tmp_path / 'inputs'}=../inputs"
    assert "FileNotFoundError" in refused(path)
    assert_exact(audited(path, links=[link]))
    path = write(tmp_path, scale, ("def save", "open('../inputs/new', 'w')\n\n\ndef save"))
    assert str(tmp_path / "inputs" / "new") in refused(path, links=[link])
    assert [p.name for p in (tmp_path / "inputs").iterdir()] == ["scale"]


@pytest.mark.slow
def test_the_timeout(tmp_path):
    path = write(tmp_path, ("for step in", "import time\ntime.sleep(600)\nfor step in"))
    assert "more than 0.5 s" in refused(path, timeout=0.5)
    path = write(
        tmp_path, ("    done = check", "    import time; time.sleep(600)\n    done = check")
    )
    assert "started again" in refused(path, timeout=3)


def test_the_scripts_own_modules_come_first(tmp_path, monkeypatch):
    for name in ("audit", "ledger", "guard", "record", "helper"):
        (tmp_path / f"{name}.py").write_text(f"NAME = 'my {name}'\n")
    check = """
import audit, guard, helper, ledger, record
assert [m.NAME for m in (audit, guard, helper, ledger, record)] == [
    "my audit", "my guard", "my helper", "my ledger", "my record"]
assert sys.path[0] == os.path.dirname(os.path.abspath(__file__)), sys.path
assert __name__ == "__main__" and sys.modules["__main__"].model is model
assert os.listdir(".") in ([], ["checkpoint.pt"])

for step in"""
    assert_exact(audited(write(tmp_path, ("\nfor step in", check))))


def test_a_relative_path_of_modules(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scales.py").write_text("SCALE = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "mine")
    path = write(
        tmp_path, ("import torch\n", "import torch\nassert os.environ['PYTHONPATH'][0] == '/'\n")
    )
    assert_exact(audited(path))


# ---- The arguments ----


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["missing.py"],
        ["--stops", "a", __file__],
        ["--stops", "3,0", __file__],
        ["--every", "0", __file__],
        ["--max-steps", "-1", __file__],
        ["--seed", "x", __file__],
        ["--timeout", "0", __file__],
        ["--signal", "HUP", __file__],
        ["--again", "'", __file__],
        ["--link", "missing", __file__],
        ["--link", f"{__file__}=../../../x", __file__],
        ["--link", __file__, "--link", __file__, __file__],
        ["--json", "missing/file.json", __file__],
        ["--unknown", __file__],
    ],
)
def test_wrong_arguments_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        parse_arguments(arguments)
    assert error.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("python -m audit: ")
    assert output.err.count("\n") == 1


def test_arguments(tmp_path):
    options, json_file = parse_arguments(
        ["--again", "--resume 'a b'", "--stops", "3,7", "--signal", "TERM", "--json"]
        + [f"{tmp_path}/r.json", __file__, "--epochs", "3", "--stops", "x"]
    )
    assert options.script == Path(__file__)
    assert options.arguments == ["--epochs", "3", "--stops", "x"]
    assert (options.again, options.stops) == (["--resume", "a b"], [3, 7])
    assert options.signal == signal.SIGTERM
    assert json_file == tmp_path / "r.json"


def test_a_missing_argument_of_the_script_is_named(tmp_path):
    parse = "import argparse\np = argparse.ArgumentParser()\n"
    path = write(
        tmp_path, source=f"{parse}p.add_argument('--config', required=True)\np.parse_args()"
    )
    reason = refused(path)
    assert "--config" in reason
    assert "Write its arguments after its name" in reason
    assert "--link" not in reason


@pytest.mark.parametrize(
    ("arguments", "again", "rest"),
    [
        (["--again", "--resume", __file__, "--again", "x"], ["--resume"], ["--again", "x"]),
        (["--again=--resume", __file__], ["--resume"], []),
        (["--link", "tests/conftest.py", "--again", "-r", __file__, "-v"], ["-r"], ["-v"]),
    ],
)
def test_again_takes_what_looks_like_an_option(arguments, again, rest, monkeypatch):
    monkeypatch.chdir(ROOT)
    options, _ = parse_arguments(arguments)
    assert (options.again, options.arguments) == (again, rest)


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("data", "data"),
        ("configs/tiny.yaml", "configs/tiny.yaml"),
        ("./configs/../data/", "data"),
        ("../data/mnist", "mnist"),
        ("/data/mnist", "mnist"),
        ("configs/tiny.yaml=tiny.yaml", "tiny.yaml"),
    ],
)
def test_the_name_of_an_input(link, name):
    assert name_of_link(link) == name


def test_the_results_as_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("audit.runs.start_python", Forked)
    file = tmp_path / "results.json"
    assert main(["--stops", "7", "--json", str(file), str(write(tmp_path))]) == 0
    results = json.loads(file.read_text())
    assert (results["status"], results["steps"]) == (0, 12)
    output = capsys.readouterr()
    assert output.out == format_report(results) + "\n"
    assert "run 4 of 4" in output.err


# ---- What it refuses ----


WRITES = {
    "open": "open(there, 'w')",
    "to append": "open(there, 'a')",
    "os.open": "os.open(there, os.O_CREAT | os.O_WRONLY)",
    "a Path": "__import__('pathlib').Path(there).write_text('x')",
    "torch.save": "torch.save(model.state_dict(), there)",
    "torch.save of a Path": "torch.save(model.state_dict(), __import__('pathlib').Path(there))",
    "torch.jit.save": "torch.jit.script(model).save(there)",
    "os.replace": "open('x', 'w').close(); os.replace('x', there)",
    "os.link": "open('x', 'w').close(); os.link('x', there)",
    "os.remove": "os.remove(mine)",
    "os.replace of a file there": "os.replace(mine, 'x')",
    "os.mkdir": "os.makedirs(there)",
    "os.truncate": "os.truncate(mine, 0)",
    "os.chmod": "os.chmod(mine, 0o600)",
    "shutil.copy": "import shutil; open('x', 'w').close(); shutil.copy('x', there)",
    "shutil.move": "import shutil; open('x', 'w').close(); shutil.move('x', there)",
    "shutil.rmtree": "import shutil; shutil.rmtree(os.path.dirname(mine))",
    "NumPy": "import numpy; numpy.save(there, numpy.zeros(2))",
    "NumPy's archive": "import numpy; numpy.savez(there + '.npz', x=numpy.zeros(2))",
    "a memory map": "import numpy; numpy.memmap(mine, dtype='uint8', mode='r+')",
    "safetensors": "from safetensors.torch import save_file; save_file(model.state_dict(), there)",
    "SQLite": "import sqlite3; sqlite3.connect(there)",
    "a link out": "os.symlink(os.path.dirname(mine), 'out'); open('out/new', 'w')",
    "a thread": "import threading; t = threading.Thread(target=open, args=(there, 'w'));"
    " t.start(); t.join()",
    "a forked child": "os.fork() or open(there, 'w'); import time; os.wait()",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_elsewhere_is_refused(name, tmp_path):
    """Also where the script catches every exception; the folder is a temporary one."""
    if name == "safetensors":
        pytest.importorskip("safetensors")
    mine = tmp_path / "results" / "mine"
    mine.parent.mkdir()
    mine.write_text("precious")
    code = f"mine = __file__[:-9] + 'results/mine'\nthere = __file__[:-9] + 'new'\n{WRITES[name]}\n"
    wrapped = "try:\n" + "".join(f"    {line}\n" for line in code.splitlines())
    path = write(tmp_path, ("\ndef save", wrapped + "except BaseException:\n    pass\n\ndef save"))
    before = state_of(tmp_path)
    assert str(tmp_path) in refused(path)
    assert state_of(tmp_path) == before


def state_of(folder):
    """Return names, bytes, modes and times of all files in a folder."""
    paths = sorted(folder.rglob("*"))
    return [
        (path, path.stat().st_mode, path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in paths
    ]


def test_what_may_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "HF_HOME", str(tmp_path / "cache")
    )  # below the script: the more special wins
    (tmp_path / "data").mkdir()
    code = """
import tempfile
for name in (f"{tempfile.mkdtemp()}/x", os.environ["HF_HOME"] + "/x", os.devnull, "x/y"):
    os.makedirs(os.path.dirname(name), exist_ok=True)
    open(name, "w").close()
os.makedirs(__file__[:-9] + "data", exist_ok=True)  # is there

for step in"""
    assert_exact(audited(write(tmp_path, ("\nfor step in", code))))


def test_a_script_that_fails_by_itself(tmp_path):
    reason = refused(write(tmp_path, ("range(done, 12)", "range(done, missing)")))
    assert "NameError: name 'missing' is not defined" in reason
    assert "--link" in reason
    reason = refused(write(tmp_path, ("range(done, 12)", "range(done, sys.exit('no data'))")))
    assert "no data (status 1)" in reason


OWN_OPTIMIZER = """
import torch
weight = torch.zeros(3, requires_grad=True)
for _ in range(5):
    (weight - 1).square().sum().backward()
    weight.data -= 0.1 * weight.grad
"""
CHILDREN = """
import torch
import torch.multiprocessing as multiprocessing

def train(*_):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

if __name__ == "__main__":
    multiprocessing.start_processes(train, nprocs=2, start_method="{method}")
"""


def test_a_script_without_steps(tmp_path, monkeypatch):
    assert "no step with an optimizer of torch.optim" in refused(
        write(tmp_path, source=OWN_OPTIMIZER)
    )
    source = CHILDREN.format(method="fork")
    assert "its steps in child processes" in refused(write(tmp_path, source=source))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "WORLD_SIZE" in refused(write(tmp_path))


@pytest.mark.slow
def test_a_script_that_steps_in_spawned_children(tmp_path):
    source = CHILDREN.format(method="spawn")
    assert "child processes" in refused(write(tmp_path, source=source))


# ---- What it cleans up ----

CHILDREN_LEFT = """
import subprocess
for session in (False, True):
    child = subprocess.Popen(["sleep", "1000"], start_new_session=session)
    open({file!r}, "a").write(f"{{child.pid}}\\n")

for step in"""


@pytest.mark.slow
@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="the environments of processes are in /proc"
)
def test_children_are_ended(tmp_path):
    """Those in the process group, and those in a session of their own."""
    file = Path("/dev/shm") / f"children-{os.getpid()}"
    try:
        code = CHILDREN_LEFT.format(file=str(file))
        assert_exact(audit(Options(write(tmp_path, ("\nfor step in", code)), stops=[7])))
        children = [int(line) for line in file.read_text().split()]
        assert len(children) == 8
        assert not [child for child in children if is_running(child)]
    finally:
        file.unlink(missing_ok=True)


def is_running(process):
    """Return whether a process is there and not just waiting to be collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert_exact(audited(write(tmp_path)))
    assert list((tmp_path / "tmp").iterdir()) == []
