"""Notebook 7: the five reports of its first exercise are the audit's, of the five scripts."""

import ast
import json
import re
import sys

import nbformat
import pytest

from audit.experiment import audit
from audit.report import format_report
from audit.runs import Options
from exercises.notebook_7 import CAUSES
from helper.table import Table
from tests.support.forked import Forked
from tools.course import ROOT

SOLUTIONS = ROOT / "notebooks" / "solutions"
CELLS = {c.id: c.source for c in nbformat.read(SOLUTIONS / "7-the-audit.ipynb", 4).cells}


@pytest.fixture
def five_faults(monkeypatch):
    monkeypatch.syspath_prepend(str(SOLUTIONS))
    import five_faults

    return five_faults


def audited(folder, script):
    path = folder / "script.py"
    path.write_text(script)
    return audit(Options(script=path, stops=[20]), start_process=Forked)


@pytest.mark.slow
@pytest.mark.parametrize("letter", CAUSES)
def test_a_report_of_the_exercise_is_that_of_the_audit(five_faults, tmp_path, letter):
    pattern = rf"Report {letter}:\n\n```text\n(.*?)\n```"
    (shown,) = re.findall(pattern, CELLS["exercise-1-md"], re.S)
    table, _, first_difference, *_ = format_report(
        audited(tmp_path, five_faults.faulty_script(letter))
    ).split("\n\n")
    assert shown == f"{table}\n\n{first_difference}"


@pytest.mark.slow
def test_without_a_fault_the_script_continues_exactly(five_faults, tmp_path):
    assert audited(tmp_path, five_faults.SCRIPT)["status"] == 0


def test_the_causes_in_the_exercise_are_those_of_the_scripts(five_faults):
    causes = dict(re.findall(r"^(\d)\. (.+)$", CELLS["exercise-1-md"], re.M))
    assert len(causes) == 8
    for letter, (number, _) in CAUSES.items():
        assert causes[str(number)] == five_faults.FAULTS[letter][0]


def test_the_committed_table_is_that_of_the_measurements():
    notebook = nbformat.read(ROOT / "notebooks" / "7-the-audit.ipynb", 4)
    cells = {cell.id: cell for cell in notebook.cells}
    *lines, table = ast.parse(cells["others"].source).body
    namespace = {"json": json, "Path": lambda path: ROOT / "notebooks" / path, "Table": Table}
    exec(compile(ast.Module(lines, []), "others", "exec"), namespace)
    shown = eval(compile(ast.Expression(table.value), "others", "eval"), namespace)
    assert cells["others"].outputs[0].data["text/plain"] == repr(shown)


def test_the_scripts_can_be_printed(five_faults, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["five_faults.py", "A"])
    source = (SOLUTIONS / "five_faults.py").read_text()
    exec(compile(source, "five_faults.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == five_faults.faulty_script("A")
