"""`make student`: notebooks without outputs, in a folder of their own."""

import re
import subprocess
import sys

import nbformat
import pytest

from tools import student
from tools.course import ROOT, list_lessons


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "WORK", tmp_path / "work")
    return tmp_path / "work"


def test_every_notebook_is_there_without_outputs(work):
    student.main()
    notebooks = {lesson.path.name for lesson in list_lessons()}
    assert {path.name for path in work.glob("*.ipynb")} == notebooks
    for path in work.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None


def test_links_lead_somewhere_from_there(work):
    student.main()
    for path in work.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        for cell in (cell for cell in cells if cell.cell_type == "markdown"):
            for link in re.findall(r"\]\((?!https?:)([^)#]+)", cell.source):
                # work/ stands beside notebooks/, so what leaves it begins in the root.
                target = ROOT / link[3:] if link.startswith("../") else work / link
                assert target.exists(), f"{path.name}: {link}"


def test_what_a_student_has_written_stays(work, capsys):
    student.main()
    mine = work / "1-lenet5-train-and-save.ipynb"
    mine.write_text("my answers")
    capsys.readouterr()
    student.main()
    assert mine.read_text() == "my answers"
    assert f"work/{mine.name} already exists and was left as it is" in capsys.readouterr().out


@pytest.mark.slow
def test_a_program_starts_from_a_student_s_copy(course, work):
    """As notebook 3 starts it, with the folder of the notebook as working directory."""
    student.main()
    assert work.parent == course.parent  # next to helper/
    program = [sys.executable, "programs/dying_save.py", "save_checkpoint", "saved.pt"]
    done = subprocess.run(program, cwd=work, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert not (work / "saved.pt").exists()
    assert len(list(work.glob("saved.pt.*.tmp"))) == 1  # it died while it wrote this
