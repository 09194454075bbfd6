"""docs/audit.json: its rows are those of the scripts, and they say what the audit says."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from audit.__main__ import parse_arguments
from audit.experiment import audit
from audit.report import format_report
from audit.runs import Options
from audit.scripts.shared import make_parser
from tests.support.forked import Forked
from tools.audit_frameworks import (
    PYTHON,
    TOOLS,
    describe_stop,
    list_rows,
    measure,
    with_texts,
)

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "audit" / "scripts"
CONTENT = json.loads((ROOT / "docs" / "audit.json").read_text())
ROWS = list_rows()
OF_COURSE = [row for row in ROWS if row.tool.script == "course_run.py"]


def options_of(row, monkeypatch):
    """Return the options in a row's command."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(row.command)
    assert words[:3] == [PYTHON, "-m", "audit"]
    options, json_file = parse_arguments(words[3:])
    assert json_file is None
    return options


@pytest.mark.slow
@pytest.mark.parametrize("row", OF_COURSE, ids=lambda row: row.name)
def test_this_course_continues_exactly(row, monkeypatch):
    results = audit(options_of(row, monkeypatch), start_process=Forked)
    assert results["status"] == 0, format_report(results)
    assert [stop["starts"][0]["restored_to"] for stop in results["stops"]] == [10, 16]


def test_every_row_is_in_the_file():
    assert [row["command"] for row in CONTENT["rows"]] == [row.command for row in ROWS]
    for row, found in zip(ROWS, CONTENT["rows"], strict=True):
        expected = (row.tool.name, row.augmentation, row.workers)
        assert (found["tool"], found["augmentation"], found["workers"]) == expected
        assert found["configuration"] == row.configuration.description
    for tool in TOOLS:
        for configuration in tool.configurations:
            rows = [r for r in ROWS if r.tool is tool and r.configuration is configuration]
            found = {(row.augmentation, row.workers) for row in rows}
            assert found == {(False, 0), (False, 2), (True, 0), (True, 2)}


def test_every_script_is_audited():
    names = {path.name for path in SCRIPTS.glob("*_run.py")}
    assert names == {tool.script for tool in TOOLS}


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_commands_fit_the_scripts(tool, monkeypatch):
    """The scripts are read, not imported: nobody needs what they import."""
    source = (SCRIPTS / tool.script).read_text()
    tree = ast.parse(source)
    compile(tree, tool.script, "exec")
    assigned = {n.targets[0].id: n.value for n in tree.body if assigns_a_name(n)}
    configurations = ast.literal_eval(assigned["CONFIGURATIONS"])
    assert configurations == tuple(c.name for c in tool.configurations)
    docstring = ast.get_docstring(tree)
    for row in [row for row in ROWS if row.tool is tool]:
        options = options_of(row, monkeypatch)
        assert options.script == SCRIPTS / tool.script
        given = make_parser(configurations).parse_args(options.arguments)
        assert given.configuration == row.configuration.name
        assert (given.augment, given.workers) == (row.augmentation, row.workers)
        assert len(configurations) == 1 or f"{given.configuration}:" in docstring


def assigns_a_name(node):
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


def test_versions_are_those_of_the_requirements():
    lines = (ROOT / "requirements-audit.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    packages = {tool.name: tool.package for tool in TOOLS if tool.package}
    assert set(packages.values()) == set(pinned)
    for row in CONTENT["rows"]:
        if row["tool"] in packages:
            assert row["version"] == pinned[packages[row["tool"]]], "run `make audit` again"


def test_rows_say_why_they_differ_and_what_to_add():
    for row, found in zip(ROWS, CONTENT["rows"], strict=True):
        assert found == with_texts(row, found), f"run tools/audit_frameworks.py: {row.name}"
        differs = [stop for stop in found["stops"] if stop["differs"]]
        assert found["status"] == int(bool(differs)), row.name
        assert bool(found["why"]) == bool(found["add"]) == bool(differs), row.name
        if differs:
            assert re.fullmatch(r"[A-Z].*[^.]\.", found["why"]), found["why"]
            assert re.fullmatch(r"[A-Z].*[^.]\.", found["add"]), found["add"]


def test_the_last_configuration_of_each_tool_is_exact():
    """That is what the column `add` promises."""
    for row, found in zip(ROWS, CONTENT["rows"], strict=True):
        if row.configuration is row.tool.configurations[-1]:
            assert found["status"] == 0, row.name


def test_a_stop_says_what_the_audit_says(tmp_path):
    source = (ROOT / "tests" / "support" / "audited" / "per_epoch.py").read_text()
    line = '    optimizer.load_state_dict(checkpoint["optimizer"])\n'
    assert source.count(line) == 1
    (tmp_path / "script.py").write_text(source.replace(line, ""))
    results = audit(Options(tmp_path / "script.py", stops=[17]), start_process=Forked)
    described = describe_stop(results["stops"][0])
    tensors = described["first_difference"].pop("tensors")
    assert tensors[:2] == ["0.weight: step", "0.weight: exp_avg"]
    assert described == {
        "stop": "after step 17",
        "killed_after": 17,
        "restored_to": 12,
        "differs": ["optimizer state", "learning rate"],
        "first_difference": {"step": 12, "piece": "optimizer state"},
        "seen_twice": 0,
        "never_seen": 0,
    }


def test_the_program_replaces_what_it_measures_and_keeps_the_rest(tmp_path, monkeypatch, capsys):
    found = {"status": 0, "stops": []}
    monkeypatch.setattr("tools.audit_frameworks.audit", lambda row, python: found)
    path = tmp_path / "audit.json"
    measure(OF_COURSE[2:], path, sys.executable)
    found = {"status": 2, "stops": [], "reason": "It can't be audited."}
    measure(OF_COURSE[:3], path, sys.executable)
    rows = json.loads(path.read_text())["rows"]
    assert [row["command"] for row in rows] == [row.command for row in OF_COURSE]
    assert [row["status"] for row in rows] == [2, 2, 2, 0]
    assert [row["why"] for row in rows] == [*3 * ["It can't be audited."], ""]
    assert capsys.readouterr().out.count("\n") == 5


@pytest.mark.kills  # as `make audit` does
def test_the_program_audits_a_row(tmp_path):
    row = OF_COURSE[0]
    path = tmp_path / "audit.json"
    before = (ROOT / "docs" / "audit.json").read_bytes()
    program = [sys.executable, str(ROOT / "tools" / "audit_frameworks.py")]
    chosen = ["--only", row.name, "--python", sys.executable, "--to", str(path)]
    done = subprocess.run([*program, *chosen], check=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert row.name in done.stdout
    content = json.loads(path.read_text())
    assert {"date", "python", "torch", "rows"} == set(content)
    (found,) = content["rows"]
    (stored,) = [r for r in CONTENT["rows"] if r["command"] == row.command]
    assert found == stored
    assert (ROOT / "docs" / "audit.json").read_bytes() == before
