"""The notebooks of the course in their order, and a copy of it to run them in.

The copy keeps what a student has saved as it is.
"""

import contextlib
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
FOLDERS = ("helper", "audit", "exercises", "notebooks", "docs")  # not what they save and download

OLDEST_TORCH = (2, 6)
NEWER_TORCH = {9: (2, 7), 10: (2, 7)}  # by number; the first cell of these notebooks checks it
# 2, 3, 9 and 10 use what 1 saves, 5 uses what 4 saves; the others are where there is time left.
FIRST_CHAIN = (1, 2, 3, 7, 9, 10)


class Lesson(NamedTuple):
    """A notebook in a file NUMBER-TITLE.ipynb: a lesson, or the solutions to one."""

    number: int
    path: Path
    oldest_torch: tuple[int, int]

    @property
    def runs_here(self) -> bool:
        """Whether the installed PyTorch is new enough."""
        installed = tuple(map(int, version("torch").split(".")[:2]))
        return installed >= self.oldest_torch


def list_lessons(folder: Path = NOTEBOOKS) -> list[Lesson]:
    """Return the lessons in a folder in the order of their numbers, 2 before 10.

    Notebooks without a number, such as Untitled.ipynb, aren't listed.
    """
    lessons = []
    for path in folder.glob("*.ipynb"):
        if match := re.match(r"\d+(?=-)", path.name):
            number = int(match[0])
            lessons.append(Lesson(number, path, NEWER_TORCH.get(number, OLDEST_TORCH)))
    return sorted(lessons)  # by number first


def list_notebooks(folder: Path = NOTEBOOKS) -> list[Lesson]:
    """Return the lessons, and after them their solutions."""
    return [*list_lessons(folder), *list_lessons(folder / "solutions")]


def list_chains(folder: Path = NOTEBOOKS) -> list[list[Lesson]]:
    """Return the notebooks that run here in two chains.

    Each uses what those before it in its chain have saved; the chains may run at once.
    """
    here = [lesson for lesson in list_notebooks(folder) if lesson.runs_here]
    first = [lesson for lesson in here if lesson.number in FIRST_CHAIN]
    return [first, [lesson for lesson in here if lesson not in first]]


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
