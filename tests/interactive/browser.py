"""The pages and the slides in a real browser: `make test-browser`.

They are read by axe-core, which knows the rules of WCAG 2.1 AA, at several sizes, without a network
and by keyboard. Not collected by `make test`: these tests need a browser.
"""

import shutil
from pathlib import Path

import pytest

from tools.make_site import make_site
from tools.slides import SLIDES

NEEDS = """
`make test-browser` needs Playwright, axe-core and Chromium:

    .venv/bin/python -m pip install -r requirements-browser.txt
    .venv/bin/playwright install chromium      (or, on Debian: sudo apt install chromium)
"""
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
LECTURE_HALL = {"width": 1280, "height": 720}
# A whole laptop, one that is zoomed in to 200%, and the narrowest that WCAG asks for.
SIZES = [(1280, 720), (640, 360), (320, 640)]


@pytest.fixture(scope="session")
def browser():
    """Chromium: Debian's if it is there, otherwise the one that Playwright has installed."""
    try:
        import axe_playwright_python  # noqa: F401
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.exit(NEEDS, returncode=1)
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        try:
            chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            pytest.exit(f"{NEEDS}\n{error.message}", returncode=1)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    make_site(folder)
    return folder


@pytest.fixture(scope="session")
def pages(site):
    return sorted(site.rglob("*.html"))


@pytest.fixture
def open_page(browser):
    """Return a function that opens a file at a size, without a network."""
    contexts = []

    def open_at(path, width=1280, height=720):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        local = ("file:", "data:")
        page.on("request", lambda r: r.url.startswith(local) or page.problems.append(r.url))
        page.on("requestfailed", lambda request: page.problems.append(request.url))
        page.goto(Path(path).as_uri())
        return page

    yield open_at
    for context in contexts:
        context.close()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_axe_finds_no_violation(pages, open_page, size):
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for path in pages:
        page = open_page(path, *size)
        page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
        for violation in Axe().run(page, options=RULES).response["violations"]:
            where = [node["target"] for node in violation["nodes"]][:3]
            found.append((path.name, violation["id"], len(violation["nodes"]), where))
        page.context.close()
    assert found == []


def test_nothing_is_loaded_from_a_network_and_nothing_fails(pages, open_page):
    for path in pages:
        page = open_page(path)
        assert page.problems == [], path.name
        page.context.close()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_no_page_scrolls_sideways(pages, open_page, size):
    for path in pages:
        page = open_page(path, *size)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0], path.name
        page.context.close()


def test_the_keyboard_reaches_the_content_and_every_scrolled_box(pages, open_page):
    for path in pages:
        page = open_page(path, 640, 360)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.wait_for_url("**#main")
        unreachable = page.evaluate(
            """[...document.querySelectorAll("pre, .scroll")]
            .filter((box) => box.scrollWidth > box.clientWidth && box.tabIndex != 0).length"""
        )
        assert unreachable == 0, path.name
        page.context.close()


@pytest.mark.parametrize("name", SLIDES)
def test_no_slide_overflows_and_its_type_is_large(site, open_page, name):
    page = open_page(site / "slides" / f"{name}.html", **LECTURE_HALL)
    slides = page.evaluate(
        """[...document.querySelectorAll(".slide")].map((slide) => {
            const box = slide.getBoundingClientRect();
            const inside = [...slide.querySelectorAll("*")].map((e) => e.getBoundingClientRect());
            const texts = [...slide.querySelectorAll("*")].filter((element) =>
                [...element.childNodes].some((n) => n.nodeType == 3 && n.data.trim()));
            return {
                height: box.height,
                overflow: inside.filter((i) => i.bottom > box.bottom || i.right > box.right).length,
                scrolled: [...slide.querySelectorAll("pre")]
                    .filter((pre) => pre.scrollWidth > pre.clientWidth).length,
                type: Math.min(...texts.filter((t) => !t.closest(".report"))
                    .map((t) => parseFloat(getComputedStyle(t).fontSize))),
                table: Math.min(20, ...texts.filter((t) => t.closest(".report"))
                    .map((t) => parseFloat(getComputedStyle(t).fontSize))),
                pictures: Math.min(1000, ...[...slide.querySelectorAll("img")].map((i) => i.width)),
            };
        })"""
    )
    assert len(slides) == len(SLIDES[name]) + 1  # and the way out
    for number, slide in enumerate(slides, start=1):
        assert slide["height"] == LECTURE_HALL["height"], number
        assert (slide["overflow"], slide["scrolled"]) == (0, 0), number
        assert slide["type"] >= 20, number
        assert slide["table"] >= 16, number  # an audit's table, in one piece
        assert slide["pictures"] >= 400, number


@pytest.mark.parametrize("name", SLIDES)
def test_the_keys_of_a_clicker_go_through_the_slides(site, open_page, name):
    page = open_page(site / "slides" / f"{name}.html", **LECTURE_HALL)
    number = len(SLIDES[name])
    for key in ["PageDown", "ArrowRight", " ", *["ArrowDown"] * number]:
        page.keyboard.press(key)
    height = page.evaluate("document.documentElement.scrollHeight")
    assert page.evaluate("scrollY") == height - 720 == number * 720
    page.keyboard.press("PageUp")
    assert page.evaluate("scrollY") == (number - 1) * 720
