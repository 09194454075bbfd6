"""`make check` and `make demo`: what a lecturer does the evening before."""

import os
import re
import socket

import nbformat
import pytest

from tools import check, demo
from tools.course import ROOT


def test_a_machine_that_is_ready(capsys, monkeypatch):
    """Nothing here may depend on this machine, so the limits are its own."""
    monkeypatch.setattr(check, "DISK_GB", 0)
    monkeypatch.setattr(check, "MEMORY_GB", 0)
    monkeypatch.setattr(check, "STEP_MS", float("inf"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(check, "PORT", free.getsockname()[1])  # nobody listens there
        assert check.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines] == ["[ok]  "] * len(check.CHECKS) + ["Ready."]


def test_every_limit_that_is_not_met_is_told_with_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(check, "DISK_GB", 10**9)
    monkeypatch.setattr(check, "MEMORY_GB", 10**9)
    monkeypatch.setattr(check, "STEP_MS", -1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(check, "PORT", taken.getsockname()[1])
        assert check.main() == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [number for number, line in enumerate(lines) if line.startswith("[fail]")]
    assert len(failed) == 4
    assert all(lines[number + 1].startswith("       What to do: ") for number in failed)
    assert lines[-1] == f"Not ready: 4 of {len(check.CHECKS)} checks failed."


def test_wrong_packages_missing_data_and_a_folder_of_someone_else(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("pytest>=1\nnumpy<1  # too new\nnot-there>=1\n")
    (tmp_path / "data").write_text("a file, where a folder should be")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    ok, _, todo = check.check_versions()
    assert not ok
    assert "numpy<1" in todo
    assert "not-there>=1 (here: not installed)" in todo
    assert "pytest" not in todo
    assert check.check_data()[0]  # without a cache, the digits take a few seconds more
    ok, _, todo = check.check_writing()  # there is no folder notebooks/
    assert not ok
    assert str(tmp_path) in todo


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course") / "demo"
    folder.mkdir()
    (folder / "from-the-last-lecture.txt").write_text("old")
    before = files_of_the_student()
    demo.make_demo(folder)
    assert files_of_the_student() == before
    return folder


def files_of_the_student():
    folders = [ROOT / "notebooks", ROOT / "work"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_the_demo_begins_without_outputs_and_with_what_notebook_1_saves(demo_folder):
    live = {path.name for path in demo_folder.glob("*.ipynb")} & demo.LIVE
    assert live == demo.LIVE
    for path in demo_folder.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert any(cell.get("outputs") for cell in cells) == (path.name not in demo.LIVE)
    saved = {path.name for path in (demo_folder / "saved_data").iterdir()}
    assert saved == {"model.pt", "optimizer.pt", "scheduler.pt", "plain.pt", "checkpoint.pt"}
    assert not (demo_folder / "from-the-last-lecture.txt").exists()


@pytest.mark.slow
def test_notebook_2_of_the_demo_finds_its_files(demo_folder, monkeypatch, capsys):
    """Beside notebooks/, as in the course."""
    (demo_folder.parent / "helper").mkdir(exist_ok=True)
    cells = nbformat.read(demo_folder / "2-lenet5-load-and-continue.ipynb", as_version=4).cells
    source = {cell.id: cell.source for cell in cells}
    monkeypatch.chdir(demo_folder)
    exec(source["path"].partition("sys.path.insert")[0], {})
    exec(source["files"], {"os": os})
    assert "files from notebook 1 are there" in capsys.readouterr().out


def test_the_release_that_is_cited_has_a_note():
    release = re.search(r"^version: (.+)", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)[1]
    notes = re.findall(r"^## (.+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert [note for note in notes if note != "Next"][0] == release
