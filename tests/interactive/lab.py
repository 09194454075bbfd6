"""JupyterLab itself, driven by Chromium: the notebooks as a lecturer and a student run them.

Part of `make test-browser`, not of `make test`.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from tests.interactive.browser import browser  # noqa: F401

FIRST, SECOND = "1-lenet5-train-and-save.ipynb", "2-lenet5-load-and-continue.ipynb"
SETTINGS = {
    # Render all cells, not only those in view, so that their prompts can be read.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
ALL_ARE_DONE = """() => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
    return prompts.length > 5 && prompts.every((prompt) => /\\[\\d+\\]/.test(prompt.innerText));
}"""
MINUTES = 60_000


@pytest.fixture(scope="module")
def course_folder(tmp_path_factory, data_dir):
    """A copy of the course in which both notebooks run, one after the other."""
    from tools.course import copy_course

    folder = tmp_path_factory.mktemp("course")
    copy_course(folder)
    shutil.copytree(data_dir, folder / "data", dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def lab(course_folder, tmp_path_factory):
    """The address of a JupyterLab in the copy, with settings of its own."""
    settings = tmp_path_factory.mktemp("settings")
    for name, values in SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(settings / "runtime"),
    }
    with subprocess.Popen(
        command, cwd=course_folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        address = None
        for line in server.stderr:
            if found := re.search(r"(http://127\.0\.0\.1:\d+)/lab\?token=(\w+)", line):
                address = found.groups()
                break
        try:
            assert address, "JupyterLab did not start."
            yield address
        finally:
            server.terminate()
            server.stderr.read()


@pytest.fixture
def open_notebook(lab, browser):  # noqa: F811
    """Return a function that opens a notebook in JupyterLab."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})

    def open_it(name):
        page = context.new_page()
        page.set_default_timeout(3 * MINUTES)
        address, token = lab
        page.goto(f"{address}/lab/tree/notebooks/{name}?reset&token={token}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        return page

    yield open_it
    context.close()


def choose(page, *entries):
    """Choose an entry of JupyterLab's menus, as with the mouse."""
    menu, *rest = entries
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{menu}$")).click()
    for entry in rest:
        label = page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{entry}$"))
        label.first.click()


def run_all(page):
    """Run all cells from the menu, with nothing of earlier runs left."""
    choose(page, "Edit", "Clear Outputs of All Cells")
    page.wait_for_function(f"() => !({ALL_ARE_DONE})()")
    choose(page, "Run", "Run All Cells")


def saved(page, path):
    """Save the notebook, and return it as it is on the disk."""
    assert page.locator(".jp-Dialog").all_inner_texts() == []
    with page.expect_response(lambda answer: answer.request.method == "PUT"):
        choose(page, "File", "Save Notebook")
    return nbformat.read(path, as_version=4)


def outputs(notebook, name):
    """Return what a stream of all cells holds."""
    return "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == name
    )


def test_notebook_1_from_the_menu_to_its_end(open_notebook, course_folder):
    page = open_notebook(FIRST)
    run_all(page)
    page.wait_for_function(ALL_ARE_DONE, timeout=5 * MINUTES)
    notebook = saved(page, course_folder / "notebooks" / FIRST)
    assert page.locator(".jp-Dialog").all_inner_texts() == []
    assert outputs(notebook, "stderr") == ""
    assert "Saved after epoch 2" in outputs(notebook, "stdout")
    assert (course_folder / "notebooks" / "saved_data" / "checkpoint.pt").is_file()


def test_notebook_2_stopped_inside_an_epoch_and_continued(open_notebook, course_folder):
    page = open_notebook(SECOND)
    run_all(page)
    cell = page.locator(".jp-CodeCell", has_text="history = go_on()").first
    inside = re.compile(r"Stopped after \d+ epochs and \d+ of \d+ batches")
    for _ in range(5):  # the press may come between two epochs
        cell.locator(".jp-OutputArea-output", has_text=re.compile(r"\d+%\|")).first.wait_for()
        page.get_by_role("button", name="Interrupt the kernel").first.click()
        cell.locator(".jp-OutputArea-output", has_text="KeyboardInterrupt").first.wait_for()
        stopped = inside.search(cell.inner_text())
        cell.locator(".cm-content").click()
        if stopped:
            break
        page.keyboard.press("Control+Enter")
    assert stopped, "The stop button was never in time."
    choose(page, "Run", "Run Selected Cell and All Below")
    page.wait_for_function(ALL_ARE_DONE, timeout=5 * MINUTES)
    notebook = saved(page, course_folder / "notebooks" / SECOND)
    assert page.locator(".jp-Dialog").all_inner_texts() == []
    assert outputs(notebook, "stderr") == ""
    printed = outputs(notebook, "stdout")
    assert "✓ model, optimizer and scheduler are equal to the last bit" in printed
    assert "✗" not in printed
