"""What is installed, which arithmetic is compared, and that a student's files stay as they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tools import reset
from tools.course import ROOT, copy_course

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


FINGERPRINT = """
from tools.arithmetic import fingerprint, use_reference
use_reference()
print(fingerprint())
"""


@pytest.mark.slow
def test_the_fingerprint_is_repeatable_and_tells_one_thread_from_two():
    prints = []
    for threads in (None, "2", "1", "1"):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        if threads:
            environment["OMP_NUM_THREADS"] = threads
        command = [sys.executable, "-c", FINGERPRINT]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        prints.append(done.stdout)
    unset, two, one, again = prints
    assert unset == two != one == again


def run_pytest(course, *arguments, **environment):
    """Run pytest on the notebook below, in a copy of the project, and return what it prints."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def project(tmp_path):
    """A copy of the project with one small notebook, stamped with the reference arithmetic."""
    import nbformat

    from tools.arithmetic import REFERENCE

    copy_course(tmp_path)
    for name in ("tests", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("conftest.py", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    # The files are the copy's own: what is imported from tools/ looks at its own place.
    (tmp_path / "tools").unlink()
    (tmp_path / "tools").mkdir()
    for path in (ROOT / "tools").glob("*.py"):
        (tmp_path / "tools" / path.name).write_bytes(path.read_bytes())

    environment = {**os.environ, **REFERENCE}
    command = [sys.executable, "-c", FINGERPRINT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    for path in (tmp_path / "notebooks").glob("**/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["sha256"]["arithmetic"] = done.stdout.decode().strip()
        nbformat.write(notebook, path)
    return tmp_path


SMALL = """
import os
os.makedirs("saved_data", exist_ok=True)
open("saved_data/model.pt", "w").write("from the notebook")
print("4 taken for {}: 3 times")
print("loss {}, ✓")
"""
