"""How pytest runs here: with the reference arithmetic, and notebooks in a copy of the course."""

import contextlib

import pytest

from tools.arithmetic import is_reference, use_reference
from tools.course import ROOT, runs_here, temporary_course

use_reference()  # before anything imports PyTorch

NOTEBOOKS = ROOT / "notebooks"
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
    for number, (path, (_, *cell)) in enumerate(zip(paths, named, strict=True)):
        if path.is_relative_to(NOTEBOOKS):
            config.args[number] = "".join([str(course / path.relative_to(ROOT)), *cell])

    rules = (ROOT / "tests" / "nbval_sanitize.cfg").read_text()
    if is_reference(sorted(NOTEBOOKS.glob("**/[!.]*.ipynb"))):
        config.stash[COMPARISON] = "every digit is compared: this is the reference arithmetic"
    else:
        rules += (ROOT / "tests" / "nbval_mask_digits.cfg").read_text()
        config.stash[COMPARISON] = "digits are masked: this is not the reference arithmetic"
    (course / "nbval_sanitize.cfg").write_text(rules)
    config.option.nbval_sanitize_with = str(course / "nbval_sanitize.cfg")


def pytest_ignore_collect(collection_path):
    """Never collect a student's notebooks, only their copies, and only those that run here."""
    too_new = collection_path.suffix == ".ipynb" and not runs_here(collection_path)
    return True if collection_path == NOTEBOOKS or too_new else None


def pytest_collection_modifyitems(items):
    """A notebook is slow to run."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")


def pytest_report_header(config):
    return f"notebooks: {config.stash.get(COMPARISON, 'not run')}"


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"Notebooks: {config.stash.get(COMPARISON, 'not run')}")
    terminalreporter.write_line(
        "Not tried here: the notebooks' claims with other settings and all of MNIST (`make claims`)"
    )
