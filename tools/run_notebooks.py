"""Run notebooks from top to bottom, each in a fresh kernel, and show which cell is running.

    python -m tools.run_notebooks NOTEBOOK...              writes them and all pages to build/
    python -m tools.run_notebooks --in-place NOTEBOOK...   stores the outputs in the notebooks

Without names, all lessons run, in two chains at once; with `--in-place`, their solutions run as
well, and one after the other, because the times that some cells measure are stored.

They run in a copy of the course, so that notebooks/saved_data stays as it is. `--in-place` produces
the committed outputs: it sets the reference arithmetic, so that they are the same on most x86-64
machines, and stamps each notebook with hashes of its code, its outputs and the arithmetic.
"""

import argparse
import ast
import base64
import hashlib
import io
import json
import os
import re
import sys
import tokenize
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

from tools.arithmetic import REFERENCE, fingerprint
from tools.course import (
    BUILD,
    ROOT,
    list_chains,
    list_lessons,
    list_notebooks,
    temporary_course,
)
from tools.make_site import make_site

README_PICTURE = ROOT / "docs" / "continued.png"
CHEAT_SHEET = ROOT / "docs" / "cheat-sheet.md"


def run(path, save):
    """Execute the notebook in `path`, hand it to `save`, and return its line of results.

    Exits with the notebook, the cell and the error when a cell fails; nothing is saved then.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for _, cell in cells:
        cell.outputs, cell.execution_count = [], None

    client = NotebookClient(
        notebook,
        timeout=3600,
        coalesce_streams=True,
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],  # a kernel on localhost needs no encryption
        resources={"metadata": {"path": str(path.parent)}},
    )
    with client.setup_kernel():
        for number, (index, cell) in enumerate(cells, start=1):
            first_line = cell.source.partition("\n")[0]
            print(f"{path.stem}  cell {number}/{len(cells)}  {first_line}", flush=True)
            try:
                client.execute_cell(cell, index)
            except (CellControlSignal, DeadKernelError) as error:
                # An error inside a cell has a name and a value, a time-out or a dead kernel not.
                reason = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else str(error)
                sys.exit(f"\n{path.name}: cell {number} failed.\n\n{cell.source}\n\n{reason}")

    # What the kernel tells of itself differs from machine to machine.
    notebook.metadata.language_info = {"name": "python"}
    save(notebook, path)
    results = [cell for _, cell in cells if "result" in cell.metadata.get("tags", [])]
    return f"{path.stem}: {results[-1].outputs[0].text.splitlines()[-1]}" if results else path.stem


def save_in_place(notebook, path):
    """Stamp the notebook and write it back, with the README's picture or the cheat sheet."""
    notebook.metadata["sha256"] = {
        "code": hash_code(notebook),
        "outputs": hash_outputs(notebook),
        "arithmetic": fingerprint(),
    }
    nbformat.write(notebook, path)
    picture = readme_picture(notebook)
    if picture is not None:
        README_PICTURE.parent.mkdir(exist_ok=True)
        README_PICTURE.write_bytes(picture)
    sheet = cheat_sheet(notebook)
    if sheet is not None:
        CHEAT_SHEET.write_text(sheet, encoding="utf-8")


def hash_code(notebook):
    """Hash what the outputs come from, without comments: the code cells, and what they import."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    files = sorted(files_behind("\n".join(code)))
    digest = hashlib.sha256()
    for source in [*code, *(file.read_text(encoding="utf-8") for file in files)]:
        digest.update(without_comments(source).encode() + b"\0")
    for file in ROOT.glob("helper/*.mplstyle"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def files_behind(source):
    """Return the files in helper/, exercises/ and notebooks/programs/ that some code uses."""
    files, waiting = set(), [source]
    programs = list(ROOT.glob("notebooks/programs/*.py"))
    while waiting:
        source = waiting.pop()
        found = {program for program in programs if uses(source, program)}
        for node in ast.walk(ast.parse(source)):
            package, _, module = (getattr(node, "module", None) or "").partition(".")
            if isinstance(node, ast.ImportFrom) and package in ("helper", "exercises"):
                names = [alias.name for alias in node.names]
                found |= {ROOT / package / f"{name}.py" for name in [module, *names]}
                # `from exercises import check_it`: the file that defines it.
                found |= {
                    file
                    for file in ROOT.glob(f"{package}/*.py")
                    if not module and any(f"def {n}(" in file.read_text("utf-8") for n in names)
                }
        found = {file for file in found if file.is_file()} - files
        files |= found
        waiting += [file.read_text(encoding="utf-8") for file in found]
    return files


def uses(source, program):
    """Return whether some code imports a program of notebooks/programs/ or names its file."""
    imports = rf"^(from|import) (programs\.)?{program.stem}\b"
    return re.search(rf"{imports}|\b{program.name}\b", source, re.M) is not None


def without_comments(source):
    """Return Python source without comments and blank lines: what can change what it does."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def hash_outputs(notebook):
    """Hash the outputs of all code cells, images included."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def readme_picture(notebook):
    """Return the PNG of the cell tagged `readme-picture`, or None."""
    for cell in notebook.cells:
        if "readme-picture" in cell.metadata.get("tags", []):
            (image,) = [o for o in cell.outputs if "image/png" in o.get("data", {})]
            return base64.b64decode(image.data["image/png"])
    return None


def cheat_sheet(notebook):
    """Return the cheat sheet, a page with the table of symptoms of notebook 3, or None."""
    for cell in notebook.cells:
        if cell.id == "table-md":
            table = [line for line in cell.source.splitlines() if line.startswith("|")]
            return (
                "# Saving and loading in PyTorch: symptom, cause, fix\n\n"
                "The table of [notebook 3](../notebooks/3-resume-lab.ipynb#Symptom,-cause,-fix), "
                "where you can try each of them. `make notebooks` writes this page.\n\n"
            ) + "\n".join([*table, ""])
    return None


def run_chain(course, in_place, sources):
    """Run notebooks of a copy of the course, in this order; return each with its line of results.

    Exits as `run` does; after that, a chain in a different process begins no other notebook.
    """
    done, executed, failed = [], {}, course / "failed"
    for source in sources:
        if failed.exists():
            break
        try:
            result = run(course / source, lambda notebook, path: executed.update({path: notebook}))
        except SystemExit:
            failed.touch()
            raise
        notebook = executed[course / source]
        if in_place:
            save_in_place(notebook, ROOT / source)
        done.append((source, notebook, result))
    return done


def main():
    parser = argparse.ArgumentParser(description="Run notebooks from top to bottom.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="without: all")
    parser.add_argument("--in-place", action="store_true", help="store the outputs in them")
    arguments = parser.parse_args()

    os.environ["TQDM_DISABLE"] = "1"  # nobody watches the bars inside the kernel
    os.environ.setdefault("OMP_WAIT_POLICY", REFERENCE["OMP_WAIT_POLICY"])
    if arguments.in_place:
        os.environ.update(REFERENCE)

    lessons = list_notebooks() if arguments.in_place else list_lessons()
    paths = [path.resolve() for path in arguments.notebooks or [each.path for each in lessons]]
    skipped = {each.path: each for each in list_notebooks() if not each.runs_here}
    chains = [[path for path in paths if path not in skipped]]
    if not arguments.notebooks and not arguments.in_place:  # nothing is measured then
        chains = [[each.path for each in chain if each.path in paths] for chain in list_chains()]
    chains = [[path.relative_to(ROOT) for path in chain] for chain in chains]

    with temporary_course(keep_data=True) as course, ProcessPoolExecutor(len(chains)) as pool:
        run_one = partial(run_chain, course, arguments.in_place)
        done = [each for chain in pool.map(run_one, chains) for each in chain]
    done.sort(key=lambda each: paths.index(ROOT / each[0]))
    print("", *(result for _, _, result in done), sep="\n")
    for path in (path for path in paths if path in skipped):
        needed = ".".join(map(str, skipped[path].oldest_torch))
        print(f"{path.stem} is skipped: it needs PyTorch {needed} or newer")
    if not arguments.in_place:
        for source, notebook, _ in done:
            nbformat.write(notebook, BUILD / source.name)
        make_site(BUILD, {source.as_posix(): notebook for source, notebook, _ in done})
        print("\nTo read: build/index.html")


if __name__ == "__main__":
    main()
