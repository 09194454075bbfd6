"""A copy of the course to run notebooks in, so that what a student has saved stays as it is."""

import contextlib
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
FOLDERS = ("helper", "exercises", "notebooks")  # what runs; what it saves and downloads stays out


def copy_course(destination):
    """Copy what the notebooks need to the folder `destination`; it gets an empty data/."""
    ignored = shutil.ignore_patterns("saved_data", "work", "__pycache__", ".ipynb_checkpoints")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, Path(destination) / name, ignore=ignored)
    (Path(destination) / "data").mkdir()


def change_settings(path, **settings):
    """Change settings in the cell of a notebook that is tagged `parameters`.

    Raises a ValueError for a setting that the notebook doesn't have.
    """
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in settings.items():
        cell.source, changed = re.subn(f"(?m)^{name} = .*", f"{name} = {value!r}", cell.source)
        if changed != 1:
            raise ValueError(f"{path.name} has no setting {name}.")
    nbformat.write(notebook, path)


def runs_here(path):
    """Tell whether this PyTorch runs a notebook: 7 and 8 need 2.7, as their first cell says."""
    release = tuple(map(int, version("torch").split(".")[:2]))
    return release >= (2, 7) or Path(path).name[:2] not in ("7-", "8-")


@contextlib.contextmanager
def temporary_course(keep_data):
    """Yield the folder of a copy that is deleted afterwards.

    With `keep_data`, its data/ is the one of the course, so that nothing is downloaded twice.
    """
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="course-", dir=BUILD) as folder:
        course = Path(folder)
        copy_course(course)
        if keep_data:
            (course / "data").rmdir()
            (course / "data").symlink_to(ROOT / "data", target_is_directory=True)
        yield course
