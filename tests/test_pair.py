"""The pair as users run it: a kernel for each notebook, one after the other, in a fresh folder."""

import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from helper.checkpoint import describe_checkpoint
from tools.course import ROOT, change_settings
from tools.run_notebooks import run

FIRST, SECOND = "1-lenet5-train-and-save.ipynb", "2-lenet5-load-and-continue.ipynb"
FOURTH, FIFTH = "4-alexnet-train-and-save.ipynb", "5-alexnet-load-and-continue.ipynb"


def printed(notebook):
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


@pytest.mark.slow
def test_the_pair_continues_exactly_with_other_settings_too(course):
    executed = []
    for name, num_epochs in ((FIRST, 1), (SECOND, 3)):
        change_settings(course / name, RANDOM_SEED=7, BATCH_SIZE=250, NUM_EPOCHS=num_epochs)
        result = run(course / name, lambda notebook, _: executed.append(notebook))

    assert result.endswith(
        "✓ the checkpoint: model, optimizer and scheduler are equal to the last bit after epoch 3"
    )
    first, second = map(printed, executed)
    assert second.count("✗") == 1  # the lecture's way
    assert second.count("✓") == 4
    assert "Epoch: 001/001" in first
    continued = second.split("what the file holds\n")[1]
    assert re.findall(r"Epoch: (\d+/\d+) \| Train", continued)[:2] == ["002/003", "003/003"]
    (accuracy,) = re.findall(r"Saved after epoch 1: .* test accuracy (.*)", first)
    assert f"Test accuracy: {accuracy}" in second
    end = describe_checkpoint(course / "saved_data" / "continued.pt")
    assert "3 epochs done with seed 7" in repr(end)


STOP = """
import signal

def stop(*_, batches=iter(range({batch} + 1))):
    if next(batches) == {batch}:
        hook.remove()
        signal.raise_signal(signal.SIGINT)

hook = optimizer.register_step_pre_hook(stop)
"""


@pytest.mark.slow
def test_stop_in_mid_epoch_and_run_the_cell_again(course, monkeypatch):
    """The stop button of JupyterLab sends SIGINT to the kernel; so does this, batch by batch."""
    change_settings(course / FIRST, NUM_EPOCHS=1)
    change_settings(course / SECOND, NUM_EPOCHS=5)
    run(course / FIRST, lambda *_: None)

    monkeypatch.setenv("TQDM_DISABLE", "1")
    notebook = nbformat.read(course / SECOND, as_version=4)
    (index,) = [i for i, cell in enumerate(notebook.cells) if cell.id == "continue"]
    stops = [nbformat.v4.new_code_cell(STOP.format(batch=batch)) for batch in (0, 17, 30)]
    notebook.cells[index:index] = stops
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(course)}})
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells[:index]):
            client.execute_cell(cell, number)
        for number, cell in enumerate(stops, start=index):
            client.execute_cell(cell, number)
            with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
                client.execute_cell(notebook.cells[index + 3], index + 3)
            assert "Run this cell again to continue." in printed(notebook)
        for number, cell in enumerate(notebook.cells[index + 3 :], start=index + 3):
            client.execute_cell(cell, number)
    assert printed(notebook).count("✗") == 1  # the lecture's way
    assert "model, optimizer and scheduler are equal to the last bit after epoch 5" in printed(
        notebook
    )


KILL = """
import os

def kill(*_, steps=iter(range({steps}))):
    if next(steps) == {steps} - 1:
        os.kill(os.getpid(), 9)

optimizer.register_step_post_hook(kill)
"""


def run_cells(course, cells):
    """Run cells in a kernel of their own in the folder of the notebooks."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(course)}})
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                client.execute_cell(cell, number)
    return printed(notebook)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "begins"), [(5, "1 epoch and 16 of 31 batches"), (20, "2 epochs")]
)
def test_after_a_dead_kernel_the_instructions_work_to_the_letter(
    course, monkeypatch, steps, begins
):
    """Killed in the first epoch that is continued, and in the one after it."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    change_settings(course / FIRST, NUM_EPOCHS=1)
    change_settings(course / SECOND, NUM_EPOCHS=3)
    run(course / FIRST, lambda *_: None)
    cells = nbformat.read(course / SECOND, as_version=4).cells
    by_id = {cell.id: cell for cell in cells}

    kill = nbformat.v4.new_code_cell(KILL.format(steps=steps))
    index = cells.index(by_id["continue"])
    with pytest.raises(DeadKernelError):
        run_cells(course, [*cells[:index], kill, *cells[index:]])

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
    for _ in range(2):  # and once more, from what is there then
        output = run_cells(course, cells)
        assert f"Loaded after {begins}; the run's seed is" in output
        assert output.count("✓") == 4
        assert output.count("✗") == 1  # the lecture's way
        assert "equal to the last bit after epoch 3" in output
        begins = "3 epochs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("notebook", "number", "needed", "missing"),
    [
        (SECOND, 1, ["model.pt", "optimizer.pt", "scheduler.pt", "checkpoint.pt"], "model.pt"),
        (SECOND, 1, ["model.pt", "optimizer.pt", "scheduler.pt", "checkpoint.pt"], "checkpoint.pt"),
        (FIFTH, 4, ["alexnet.pt", "alexnet-model.pt"], "alexnet.pt"),
    ],
)
def test_the_second_notebook_of_a_pair_without_the_first_says_what_to_do(
    course, notebook, number, needed, missing
):
    (course / "saved_data").mkdir()
    for name in set(needed) - {missing}:
        (course / "saved_data" / name).touch()
    with pytest.raises(SystemExit) as error:
        run(course / notebook, lambda *_: None)
    message = str(error.value)
    assert message.splitlines()[-1].startswith(
        f"FileNotFoundError: There is no saved_data/{missing} yet: run notebook {number} first"
    )
    assert {1: FIRST, 4: FOURTH}[number] in message


def test_a_failing_cell_is_named_with_its_error(tmp_path, capsys):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(source) for source in ("a = 1", "b = a / 0", "c = 3")
    ]
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    with pytest.raises(SystemExit) as error:
        run(tmp_path / "broken.ipynb", lambda *_: None)
    assert "broken.ipynb: cell 2 failed" in str(error.value)
    assert "ZeroDivisionError: division by zero" in str(error.value)
    assert "cell 3/3" not in capsys.readouterr().out


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
