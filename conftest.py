"""How pytest runs here: with the reference arithmetic, and notebooks in a copy of the course.

The copies have more cells: some break what a ✓ checks, others are careless. So every ✓ is seen to
fail in the one execution of its notebook.
"""

import contextlib

import pytest

from tests.support.breaks import BREAKS
from tests.support.careless import CARELESS
from tests.support.ticks import add_cells
from tools.arithmetic import is_reference, use_reference
from tools.course import NOTEBOOKS, ROOT, list_lessons, list_notebooks, temporary_course

use_reference()  # before anything imports PyTorch

COMPARISON = pytest.StashKey[str]()


def pytest_configure(config):
    """Let notebooks run in a copy: what they save must not replace what a student has saved."""
    named = [argument.partition("::") for argument in config.args]
    paths = [(config.invocation_params.dir / path).resolve() for path, *_ in named]
    if not any(path.is_relative_to(NOTEBOOKS) for path in paths):
        return

    cleanup = contextlib.ExitStack()
    config.add_cleanup(cleanup.close)
    course = cleanup.enter_context(temporary_course(keep_data=False))
    arguments = []
    for argument, path, (_, *cell) in zip(config.args, paths, named, strict=True):
        if path.is_relative_to(NOTEBOOKS):
            for each in by_name(path):
                copy = course / each.relative_to(ROOT)
                name = each.relative_to(NOTEBOOKS).with_suffix("").as_posix()
                add_cells(copy, BREAKS.get(name, ()), CARELESS.get(name, ()))
                arguments.append("".join([str(copy), *cell]))
        else:
            arguments.append(argument)
    config.args[:] = arguments

    rules = (ROOT / "tests" / "nbval_sanitize.cfg").read_text()
    if is_reference([lesson.path for lesson in list_notebooks()]):
        config.stash[COMPARISON] = "every digit is compared: this is the reference arithmetic"
    else:
        rules += (ROOT / "tests" / "nbval_mask_digits.cfg").read_text()
        config.stash[COMPARISON] = "digits are masked: this is not the reference arithmetic"
    (course / "nbval_sanitize.cfg").write_text(rules)
    config.option.nbval_sanitize_with = str(course / "nbval_sanitize.cfg")


def by_name(path):
    """Return the notebooks in a folder that run here, in their order; a file is its only one.

    pytest itself would run a folder's 10 before its 2.
    """
    if not path.is_dir():
        return [path]
    lessons = list_notebooks() if path == NOTEBOOKS else list_lessons(path)
    return [lesson.path for lesson in lessons if lesson.runs_here]


def pytest_ignore_collect(collection_path):
    """Never collect a student's notebooks, only their copies."""
    return True if collection_path == NOTEBOOKS else None


def pytest_collection_modifyitems(items):
    """A notebook is slow to run."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")


def pytest_report_header(config):
    return f"notebooks: {config.stash.get(COMPARISON, 'not run')}"


def pytest_terminal_summary(terminalreporter, config):
    if COMPARISON in config.stash:
        terminalreporter.write_line(f"Notebooks: {config.stash[COMPARISON]}")
    terminalreporter.write_line(
        "Not tried here: the notebooks' claims with other settings and all of MNIST (`make claims`)"
    )
