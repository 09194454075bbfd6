"""`make site`: pages that lead somewhere, load nothing, and tell what their pictures show."""

import re
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup

from tools.course import ROOT
from tools.make_site import TEMPLATE, make_site, page_of, read_notebooks, to_html, write_page
from tools.slides import SLIDES, cells_of_slide

PLACEHOLDER = "No description has been provided"
PIXEL = "iVBORw0KGgo="  # what it shows does not matter


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """All pages, parsed, by their paths."""
    site = tmp_path_factory.mktemp("site")
    make_site(site)
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
    }


def faults(page):
    """Return what makes a page hard to use for some of its readers, a line each."""
    found = []
    if page.html.get("lang") != "en":
        found.append("no language")
    if len(page.select("h1")) != 1 or len(page.select("main")) != 1:
        found.append("not exactly one h1 and one main")
    for image in page.select("img"):
        if not image.get("alt") or PLACEHOLDER in image["alt"]:
            found.append("an image without alternative text")
    found += ["a heading of a table without scope" for th in page.select("th:not([scope])")]
    loads = page.select("script[src], link, iframe, [src^=http], [src^='//']")
    found += [f"loads something: {element}" for element in loads]
    if "@import" in str(page) or re.search(r"url\(", str(page.style)):
        found.append("a style sheet loads something")
    return found


@pytest.mark.slow
def test_there_is_a_page_for_everything_and_none_has_a_fault(pages):
    names = {path.name for path in pages}
    assert {page_of(source).rpartition("/")[2] for source in read_notebooks()} <= names
    assert {"index.html", "instructor-guide.html", "cheat-sheet.html"} <= names
    assert {path.stem for path in pages if path.parent.name == "slides"} == set(SLIDES)
    assert {path.name: faults(page) for path, page in pages.items() if faults(page)} == {}


@pytest.mark.slow
def test_every_link_leads_somewhere_and_none_to_a_file_unless_it_says_so(pages):
    dead = []
    for path, page in pages.items():
        for link in page.select("a[href]"):
            target, _, fragment = link["href"].partition("#")
            if re.match(r"https?:|mailto:", target):
                continue
            there = (path.parent / unquote(target)).resolve() if target else path
            named = {fragment, unquote(fragment)}  # a browser takes either
            if not there.is_file() or (fragment and not pages[there].find(id=list(named))):
                dead.append((path.name, link["href"]))
            elif there.suffix == ".ipynb" and "download" not in link.text.lower():
                dead.append((path.name, link.text))
    assert dead == []


@pytest.mark.slow
def test_the_index_leads_to_every_page(pages):
    index, top = next(
        (path.parent, page) for path, page in pages.items() if path.name == "index.html"
    )
    reached = {(index / link["href"].partition("#")[0]).resolve() for link in top.select("a[href]")}
    assert set(pages) - {index / "index.html"} <= reached


def page_with(tmp_path, *cells):
    page = {"kind": "page", "title": "T", "links": [], "style": "", "script": ""}
    heading = nbformat.v4.new_markdown_cell("# T")
    notebook = nbformat.v4.new_notebook(cells=[heading, *cells])
    source = "notebooks/t.ipynb"
    write_page(tmp_path, source, "t.html", to_html(notebook, page), {source: notebook})
    return BeautifulSoup((tmp_path / "t.html").read_text(encoding="utf-8"), "html.parser")


def figure(metadata):
    cell = nbformat.v4.new_code_cell("show()", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": PIXEL}, metadata=metadata)]
    return cell


@pytest.mark.parametrize("metadata", [{}, {"image/png": {"alt": f"{PLACEHOLDER} for this image"}}])
def test_an_image_without_alternative_text_is_found(tmp_path, metadata):
    assert faults(page_with(tmp_path, figure(metadata))) == ["an image without alternative text"]


def test_a_figure_tells_what_it_shows_and_its_curves_can_be_read(tmp_path):
    curves = [{"header": ["Epoch", "Loss < 1"], "rows": [["1", "0.5"], ["2", "0.25"]]}]
    alt = 'Loss "from" 0.5 to 0.25.'
    page = page_with(tmp_path, figure({"image/png": {"alt": alt}, "curves": curves}))
    assert faults(page) == []
    assert page.img["alt"] == alt
    assert [cell.text for cell in page.select("details th")] == ["Epoch", "Loss < 1"]
    assert [cell.text for cell in page.select("details td")] == ["1", "0.5", "2", "0.25"]


def test_links_between_notebooks_lead_to_pages(tmp_path):
    text = "[t.ipynb](t.ipynb) [here](t.ipynb#A-part) [download it](t.ipynb) [x](https://x.org/t.ipynb)"
    page = page_with(tmp_path, nbformat.v4.new_markdown_cell(text))
    links = [(link.text, link["href"]) for link in page.select("main a")]
    assert links == [
        ("T", "t.html"),
        ("here", "t.html#A-part"),
        ("download it", "notebooks/t.ipynb"),
        ("x", "https://x.org/t.ipynb"),
    ]
    assert (tmp_path / "notebooks" / "t.ipynb").is_file()


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(colour, background="ffffff"):
    light, dark = sorted(map(luminance, (colour, background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_colours_of_the_curves_can_be_told_from_the_paper():
    style = (ROOT / "helper" / "projector.mplstyle").read_text()
    colours = re.findall(r'"([0-9A-F]{6})"', re.search("prop_cycle.*", style)[0])
    assert len(colours) >= 4
    assert {colour: contrast(colour) for colour in colours if contrast(colour) < 3} == {}


def test_every_colour_of_text_can_be_read_on_code():
    style = (TEMPLATE / "page.css").read_text(encoding="utf-8")
    colours = set(re.findall(r"\bcolor: #([0-9a-f]{6})", style))
    assert len(colours) >= 6
    assert {c: contrast(c, "f5f5f2") for c in colours if contrast(c, "f5f5f2") < 4.5} == {}


@pytest.mark.parametrize("name", SLIDES)
def test_slides_show_cells_that_are_there_and_at_most_twelve_lines_of_code(name):
    notebook = read_notebooks()[f"notebooks/{name}.ipynb"]
    for items in SLIDES[name]:
        _, cells = cells_of_slide(notebook, items)
        code = [
            cell.source
            for cell in cells
            if cell.cell_type == "code" and "transient" not in cell.metadata
        ]
        assert sum(source.count("\n") + 1 for source in code) <= 12, items
        for item, cell in zip(items, cells, strict=True):
            assert cell.outputs if item.endswith(" output") else cell.source, item


def test_a_slide_shows_the_part_that_is_asked_for():
    markdown = nbformat.v4.new_markdown_cell("## One\n\nFirst.\n\nSecond.\n\n## Two", id="text")
    code = nbformat.v4.new_code_cell("def f():\n    return 1", id="code")
    code.outputs = [nbformat.v4.new_output("stream", text="1\n  2\n  3\n")]
    notebook = nbformat.v4.new_notebook(cells=[markdown, code])
    heading, cells = cells_of_slide(notebook, ["text 2-3", "code 2", "code code", "code output"])
    assert heading == "Two"
    assert [cell.source for cell in cells[:3]] == ["First.\n\nSecond.", "return 1", code.source]
    assert [len(cell.get("outputs", [])) for cell in cells] == [0, 0, 0, 1]
    _, (lines,) = cells_of_slide(notebook, ["code output 2-3"])
    assert lines.outputs[0].text == "2\n3"
    with pytest.raises(KeyError):
        cells_of_slide(notebook, ["gone"])
    with pytest.raises(ValueError, match="no part output 7"):
        cells_of_slide(notebook, ["code output 7"])
    with pytest.raises(ValueError, match="no part 7"):
        cells_of_slide(notebook, ["code 7"])


def test_the_minutes_of_the_guide_add_up():
    guide = (ROOT / "docs" / "instructor-guide.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## [^\n]* of (\d+) minutes[^\n]*\n(.*?)(?=^## )", guide, re.M | re.S)
    assert [minutes for minutes, _ in sections] == ["50", "75", "90", "60", "45", "45", "75"]
    for minutes, text in sections:
        rows = re.findall(r"^\| (\d+)–(\d+) \|", text, re.M)
        begins, ends = zip(*rows, strict=True)
        assert (begins[0], ends[-1]) == ("0", minutes)
        assert begins[1:] == ends[:-1]
