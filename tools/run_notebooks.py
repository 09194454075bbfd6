"""Run notebooks from top to bottom, each in a fresh kernel, and show which cell is running.

    python tools/run_notebooks.py NOTEBOOK...              writes .ipynb and .html to build/
    python tools/run_notebooks.py --in-place NOTEBOOK...   stores the outputs in the notebooks

`--in-place` produces the committed outputs: it pins the arithmetic, so that they are the same on
every x86-64 machine, and stamps each notebook with a hash of its code and one of its outputs.
"""

import argparse
import base64
import hashlib
import json
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
README_PICTURE = ROOT / "docs" / "continued.png"

# Sums are rounded in another order with another number of threads or wider registers, and that can
# turn a printed digit. With two threads, AVX2 and MKL's portable code path it can't.
PINNED_ARITHMETIC = {
    "OMP_NUM_THREADS": "2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
}


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


def save_to_build(notebook, path):
    """Write the executed notebook and its HTML page to build/."""
    BUILD.mkdir(exist_ok=True)
    nbformat.write(notebook, BUILD / path.name)
    html, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    (BUILD / f"{path.stem}.html").write_text(html, encoding="utf-8")


def save_in_place(notebook, path):
    """Stamp the notebook and write it back; write the README's picture if it is in there."""
    notebook.metadata["sha256"] = {"code": hash_code(notebook), "outputs": hash_outputs(notebook)}
    nbformat.write(notebook, path)
    picture = readme_picture(notebook)
    if picture is not None:
        README_PICTURE.parent.mkdir(exist_ok=True)
        README_PICTURE.write_bytes(picture)


def hash_code(notebook):
    """Hash what the outputs come from: the code cells and the files in helper/."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(cell.source.encode() + b"\0")
    for file in sorted([*(ROOT / "helper").glob("*.py"), *(ROOT / "helper").glob("*.mplstyle")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def hash_outputs(notebook):
    """Hash the outputs of all code cells, images included."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def readme_picture(notebook):
    """Return the PNG of the cell tagged `readme-picture`, or None."""
    for cell in notebook.cells:
        if "readme-picture" in cell.metadata.get("tags", []):
            return base64.b64decode(cell.outputs[0].data["image/png"])
    return None


def main():
    parser = argparse.ArgumentParser(description="Run notebooks from top to bottom.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--in-place", action="store_true", help="store the outputs in them")
    arguments = parser.parse_args()

    os.environ["TQDM_DISABLE"] = "1"  # nobody watches the bars inside the kernel
    if arguments.in_place:
        os.environ.update(PINNED_ARITHMETIC)
    save = save_in_place if arguments.in_place else save_to_build

    results = [run(path, save) for path in arguments.notebooks]
    print("", *results, sep="\n")
    if not arguments.in_place:
        print("\nTo read: build/*.html")


if __name__ == "__main__":
    main()
