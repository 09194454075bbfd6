"""What is installed, which arithmetic is compared, and that a student's files stay as they are."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import nbformat
import pytest
import torch
import yaml
from nbval.plugin import get_sanitize_patterns
from packaging.requirements import Requirement

from tools import reset
from tools.arithmetic import fingerprint, is_reference
from tools.course import ROOT
from tools.run_notebooks import run

CONDA_NAMES = {"torch": "pytorch"}


def read_requirements(name):
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {r.name: r.specifier for r in map(Requirement, filter(None, lines))}


def test_conda_has_the_same_packages_with_the_same_ranges():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    conda = {r.name: r.specifier for r in map(Requirement, environment["dependencies"])}
    assert str(conda.pop("python")) == ">=3.11"
    pip = read_requirements("requirements.txt")
    assert conda == {CONDA_NAMES.get(name, name): specifier for name, specifier in pip.items()}


def test_uv_has_the_same_packages_with_the_same_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert ranges == read_requirements("requirements.txt")
    assert project["requires-python"] == ">=3.11"


def test_there_is_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version


def test_the_oldest_releases_are_the_lower_ends_of_the_ranges():
    ranges = read_requirements("requirements.txt")
    for name, specifier in read_requirements("requirements-oldest.txt").items():
        (lowest,) = [part.version for part in ranges.pop(name) if part.operator == ">="]
        assert re.fullmatch(rf"=={re.escape(lowest)}(\.0)*", str(specifier))
    assert not ranges


def test_the_lock_pins_a_release_in_each_range():
    lock = read_requirements("requirements-lock.txt")
    for name, specifier in read_requirements("requirements.txt").items():
        (pin,) = lock[name]
        assert pin.operator == "=="
        assert pin.version in specifier
    assert all(str(specifier).startswith("==") for specifier in lock.values())


def test_the_container_is_set_up_by_a_target_that_is_there():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert set(container) == {
        "name",
        "image",
        "postCreateCommand",
        "containerEnv",
        "customizations",
    }
    command, target = container["postCreateCommand"].split()
    assert command == "make"
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
    assert container["image"].startswith("python:3.11-")


@pytest.mark.slow
def test_the_cell_for_colab_reaches_the_course(tmp_path):
    text = (ROOT / "docs" / "colab.md").read_text(encoding="utf-8")
    (cell,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert "ADDRESS" in cell
    first = nbformat.read(ROOT / "notebooks" / "1-lenet5-train-and-save.ipynb", as_version=4)
    sources = {cell.id: cell.source for cell in first.cells}
    path = tmp_path / "1.ipynb"
    cells = [cell.replace("ADDRESS", shlex.quote(str(ROOT))), sources["path"]]
    cells = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    run(path, lambda notebook, path: None)
    assert (tmp_path / "save-load-continue" / "helper" / "train.py").is_file()


# What a cell printed when it was committed, what it prints now, and whether the two are held for
# equal by the reference, and by a different arithmetic.
CELLS = [
    ("loss 0.25, ✓", "loss 0.25, ✓", True, True),
    ("loss 0.25, ✓", "loss  1e-3, ✓", False, True),
    ("loss 0.25, ✓", "loss 0.25, ✗", False, False),
    ("most frequent mistakes: 4 taken for 9 (3).", "most frequent mistakes: none.", False, True),
    ("4 taken for 9 (3)", "no mistakes", False, False),
]
SAVE = """
import os

os.makedirs("saved_data", exist_ok=True)
open("saved_data/model.pt", "w").write("from the notebook")
"""


def test_every_digit_is_compared_by_the_reference():
    rules = (ROOT / "tests" / "nbval_sanitize.cfg").read_text()
    for committed, printed, equal, _ in CELLS:
        for pattern, replacement in get_sanitize_patterns(rules):
            committed, printed = (re.sub(pattern, replacement, s) for s in (committed, printed))
        assert (committed == printed) == equal


@pytest.mark.slow
def test_what_is_the_reference(tmp_path):
    paths = [tmp_path / "1.ipynb", tmp_path / "2.ipynb"]
    for stamps, expected in [([fingerprint()] * 2, True), ([fingerprint(), "a different"], False)]:
        for path, stamp in zip(paths, stamps, strict=True):
            notebook = nbformat.v4.new_notebook(metadata={"sha256": {"arithmetic": stamp}})
            nbformat.write(notebook, path)
        assert is_reference(paths) == expected


@pytest.mark.slow
def test_digits_are_masked_elsewhere_and_the_files_of_a_student_stay(tmp_path):
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns(".*", "build", "saved_data", "__pycache__")
    shutil.copytree(ROOT, project, ignore=ignored)
    saved = project / "notebooks" / "saved_data" / "model.pt"
    saved.parent.mkdir()
    saved.write_text("a student's")
    for path in project.glob("notebooks/**/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["sha256"] = {"arithmetic": "a different one"}
        nbformat.write(notebook, path)
    notebook = nbformat.v4.new_notebook()
    for number, (committed, printed, *_) in enumerate(CELLS, start=1):
        cell = nbformat.v4.new_code_cell(f"{SAVE}print({printed!r})", execution_count=number)
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=committed + "\n")]
        notebook.cells.append(cell)
    nbformat.write(notebook, project / "notebooks" / "small.ipynb")

    command = [sys.executable, "-m", "pytest", "notebooks/small.ipynb"]
    output = subprocess.run(command, cwd=project, capture_output=True, text=True).stdout
    failed = {int(number) for number in re.findall(r"FAILED \S+::Cell (\d+)", output)}
    assert failed == {number for number, (*_, equal) in enumerate(CELLS) if not equal}
    assert "Notebooks: digits are masked: this is not the reference arithmetic" in output
    assert saved.read_text() == "a student's"
    assert not list((project / "build").iterdir())


@pytest.mark.slow
def test_the_fingerprint_is_repeatable():
    threads = torch.get_num_threads()
    prints = []
    try:
        for number in (threads, 1, 1, threads):
            torch.set_num_threads(number)
            prints.append(fingerprint())
    finally:
        torch.set_num_threads(threads)
    assert prints == prints[::-1]


def test_reset_says_what_it_deletes(tmp_path, monkeypatch, capsys):
    names = ["notebooks/saved_data/model.pt", "build/1.html", "data/mnist-5k.npy"]
    saved, built, cached = (tmp_path / name for name in names)
    for path in (saved, built, cached):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2_000_000))
    monkeypatch.setattr(reset, "ROOT", tmp_path)
    monkeypatch.setattr(reset, "FOLDERS", [saved.parent, built.parent])
    reset.main()
    assert "Deleting notebooks/saved_data/model.pt (2.0 MB)" in capsys.readouterr().out
    assert [path.exists() for path in (saved, built, cached)] == [False, False, True]
    reset.main()
    assert "Nothing to delete in notebooks/saved_data" in capsys.readouterr().out


def test_make_deletes_nothing_but_in_reset():
    commands = re.findall(r"rm -\S+ \S+|tools\.reset", (ROOT / "Makefile").read_text())
    assert commands == ["tools.reset", "rm -f .venv/installed-with-*"]


def test_make_help_lists_every_command():
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    listed = re.findall(r"^make (\S+) +\S", printed, re.M)
    (phony,) = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)
    assert sorted(listed) == sorted(phony.split())
