"""The pair as users run it when a kernel dies; and what they are told when something fails."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from tools.course import ROOT, change_settings
from tools.run_notebooks import run_chain

FIRST, SECOND = "1-lenet5-train-and-save.ipynb", "2-lenet5-load-and-continue.ipynb"

KILL = """
import os

def kill(*_, steps=iter(range({steps}))):
    if next(steps) == {steps} - 1:
        os.kill(os.getpid(), 9)

optimizer.register_step_post_hook(kill)
"""


def cells_of(path):
    """Return the cells of a notebook, without figures, the plain loop and exercises."""
    cells = nbformat.read(path, as_version=4).cells
    skipped = r"(?m)^show\(|_plain\(|NotImplementedError|exercises import check_|^check_"
    return [c for c in cells if c.cell_type != "code" or not re.search(skipped, c.source)]


def run_cells(course, cells):
    """Run cells in a kernel of their own, in the notebooks' folder; return what they print."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(course)}})
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                client.execute_cell(cell, number)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_after_a_dead_kernel_the_instructions_work_to_the_letter(course, monkeypatch):
    """Killed twice: in the epoch after the one that is continued, and in the one continued then."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    change_settings(course / FIRST, NUM_EPOCHS=1)
    change_settings(course / SECOND, NUM_EPOCHS=3)
    run_cells(course, cells_of(course / FIRST))

    def run_until_killed(steps):
        kill = nbformat.v4.new_code_cell(KILL.format(steps=steps))
        index = cells.index(by_id["continue"])
        with pytest.raises(DeadKernelError):
            run_cells(course, [*cells[:index], kill, *cells[index:]])

    cells = cells_of(course / SECOND)
    by_id = {cell.id: cell for cell in cells}
    run_until_killed(20)

    instructions = re.search(r"\*\*If the kernel dies.*", by_id["stop-after-md"].source)[0]
    setting, value = re.search(
        r"set `(\w+)` in the cell with `load_checkpoint` to `(.*?)`, and run all cells",
        instructions,
    ).groups()
    (cell,) = [c for c in cells if c.cell_type == "code" and "= load_checkpoint(" in c.source]
    cell.source, changed = re.subn(
        rf'(?m)^{setting} = "[^"]*"', f"{setting} = {value}", cell.source
    )
    assert changed == 1
    run_until_killed(5)
    output = run_cells(course, cells)
    assert "Loaded after 2 epochs and 16 of 31 batches; the run's seed is" in output
    assert output.count("✓") == 3
    assert output.count("✗") == 1  # the lecture's way
    assert "equal to the last bit after epoch 3" in output


def test_a_failing_cell_is_named_with_its_error_and_no_other_notebook_begins(tmp_path, capsys):
    sources = ("a = 1", "b = a / 0", "c = 3")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "broken.ipynb")
    with pytest.raises(SystemExit) as error:
        run_chain(tmp_path, False, [Path("broken.ipynb")])
    assert "broken.ipynb: cell 2 failed" in str(error.value)
    assert "ZeroDivisionError: division by zero" in str(error.value)
    assert "cell 3/3" not in capsys.readouterr().out
    assert run_chain(tmp_path, False, [Path("broken.ipynb")]) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sys.version_info = (3, 9, 18)", "needs Python 3.11 or newer, but"),
        ("sys.modules['ensurepip'] = None", "has no venv module"),
    ],
)
def test_a_python_that_will_not_do_is_told_in_one_line(setting, message):
    check = (ROOT / "tools" / "check_python.py").read_text()
    program = f"import sys; {setting}\n{check}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_this_python_will_do():
    subprocess.run([sys.executable, ROOT / "tools" / "check_python.py"], check=True)
