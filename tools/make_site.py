"""Make the course as web pages, to be read without a network and without running anything.

    python -m tools.make_site        writes site/; open site/index.html

A page for each notebook and each solution as they are stored, slides of the first lessons, the
instructor's guide, and an index from the beginning of the README.
"""

import argparse
import posixpath
import re
import shutil
import textwrap
from html import escape
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

from tools.course import ROOT, list_notebooks
from tools.slides import SLIDES, cells_of_slide

SITE = ROOT / "site"
TEMPLATE = Path(__file__).with_name("pages")
INDEX, GUIDE = "README.md", "docs/instructor-guide.md"
CHEAT_SHEET = "docs/cheat-sheet.md"
INDEX_ENDS = "\n## Two commands"  # what follows is for whoever runs the course


def make_site(site=SITE, executed=()):
    """Write all pages into the folder `site`, and return their paths in it, in their order.

    `executed` maps sources such as "notebooks/3-resume-lab.ipynb" to notebooks that are shown in
    the place of those that are stored.
    """
    notebooks = {**read_notebooks(), **dict(executed)}
    index = (ROOT / INDEX).read_text(encoding="utf-8").partition(INDEX_ENDS)[0]
    sources = {
        INDEX: only_markdown(index + all_pages(notebooks)),
        **notebooks,
        **{path: only_markdown((ROOT / path).read_text("utf-8")) for path in (GUIDE, CHEAT_SHEET)},
    }
    pages = []
    for source, notebook in sources.items():
        pages.append(page_of(source))
        html = to_html(notebook, about("page", title_of(notebook), links_of(source, notebooks)))
        write_page(site, source, pages[-1], html, sources)
    for name, slides in SLIDES.items():
        source = f"notebooks/{name}.ipynb"
        pages.append(page_of(slides_of(source)))
        links = [("The notebook of these slides", f"/{source}"), ("Contents", f"/{INDEX}")]
        own = about("slides", f"Slides: {title_of(notebooks[source])}", links)
        html = to_html(nbformat.v4.new_notebook(), own)
        html = html.replace("</main>", f"{sections(notebooks[source], slides)}</main>")
        write_page(site, source, pages[-1], html, sources)
    return pages


def read_notebooks():
    """Return the stored notebooks by their paths in the course, the lessons first."""
    paths = [lesson.path for lesson in list_notebooks(ROOT / "notebooks")]
    return {path.relative_to(ROOT).as_posix(): nbformat.read(path, as_version=4) for path in paths}


def only_markdown(text):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="text")])


def title_of(notebook):
    return re.search(r"^# (.+)", notebook.cells[0].source, re.MULTILINE)[1]


def is_lesson(source):
    return posixpath.dirname(source) == "notebooks"


def slides_of(source):
    """Return under which name the slides of a notebook are linked, or None if it has none."""
    path = PurePosixPath(source)
    return f"slides/{path.name}" if is_lesson(source) and path.stem in SLIDES else None


def page_of(source):
    """Return where the page of a source is in the site."""
    if source == INDEX:
        return "index.html"
    return re.sub(r"^(notebooks|docs)/", "", str(PurePosixPath(source).with_suffix(".html")))


def all_pages(notebooks):
    """Return the part of the index that leads to all pages, in Markdown."""
    lines = ["", "## All pages", "", "| notebook | slides | solutions | file |", "|-|-|-|-|"]
    for source in filter(is_lesson, notebooks):
        title, solution = title_of(notebooks[source]), f"notebooks/solutions/{Path(source).name}"
        number = title.partition(" ")[0]
        cells = [
            f"[{title}]({source})",
            f"[slides of {number}]({slides_of(source)})" if slides_of(source) else "none",
            f"[solutions to {number}]({solution})" if solution in notebooks else "none",
            f"[download {number}]({source})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    print_it = f"To print, on one page: [the cheat sheet]({CHEAT_SHEET})."
    teach_it = f"To teach it: [the instructor's guide]({GUIDE})."
    return "\n".join([*lines, "", f"{print_it} {teach_it}"])


def links_of(source, notebooks):
    """Return the links on top of a page: pairs of a text and a source, seen from the root."""
    links = [("The instructor's guide", GUIDE) if source == INDEX else ("Contents", INDEX)]
    lessons = list(filter(is_lesson, notebooks))
    if source in lessons:
        position = lessons.index(source)
        if position > 0:
            links.append(("Previous", lessons[position - 1]))
        if position + 1 < len(lessons):
            links.append(("Next", lessons[position + 1]))
        if slides_of(source):
            links.append(("Slides", slides_of(source)))
    if source in notebooks:
        links.append(("Download this notebook", source))
    return [(text, f"/{target}") for text, target in links]


def about(kind, title, links):
    """Return what the template needs to make a whole page; `kind` is "page" or "slides"."""
    names = ["page", "slides"] if kind == "slides" else ["page"]
    style, script = (
        "\n".join((TEMPLATE / f"{name}.{ending}").read_text(encoding="utf-8") for name in names)
        for ending in ("css", "js")
    )
    return {"kind": kind, "title": title, "links": links, "style": style, "script": script}


def to_html(notebook, page=None):
    """Return a notebook as HTML: a whole page, or without `page` only what stands in it."""
    exporter = HTMLExporter(
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
    )
    return exporter.from_notebook_node(notebook, {"page": page})[0]


def sections(notebook, slides):
    """Return the slides of a notebook, a section each."""
    found = []
    for number, items in enumerate(slides, start=1):
        heading, cells = cells_of_slide(notebook, items)
        heading = re.sub("`(.+?)`", r"<code>\1</code>", escape(heading))
        inside = re.sub(r'\bid="cell-id=[^"]*"', "", to_html(nbformat.v4.new_notebook(cells=cells)))
        level = "h1" if number == 1 else "h2"
        printed = "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))
        lines = sum(len(textwrap.wrap(line, 90)) for line in printed.splitlines())
        found.append(
            f'<section class="slide" style="--lines: {lines}">'  # a picture leaves room for them
            f"<{level}>{heading}</{level}>{inside}</section>"
        )
    return "\n".join(found)


def write_page(site, source, page, html, sources):
    """Finish a page for readers without a network, without eyes or without a mouse; write it."""
    soup = BeautifulSoup(html, "html.parser")
    for mark in soup.select("a.anchor-link"):
        mark.decompose()  # a link to each heading beside it says nothing
    for cell in soup.find_all("th"):
        cell["scope"] = "row" if cell.find_parent("tr").find("td") else "col"
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    for link in soup.select("a[href]"):
        link["href"] = lead(link, source, page, sources, site)
    for image in soup.select("img[src]"):
        if not image["src"].startswith("data:"):
            image["src"] = take_along(resolve(image["src"], source), page, sources, site)
    if not page.startswith("slides/"):
        list_sections(soup)
    path = Path(site) / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(soup), encoding="utf-8")


def lead(link, source, page, sources, site):
    """Return where a link of a source has to lead in the site, relative to `page`."""
    path, hash_sign, fragment = link["href"].partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link["href"]
    target = resolve(path, source)
    is_page = target in sources or target.startswith("slides/")
    if is_page and not link.text.lower().startswith("download"):
        if link.text.endswith(posixpath.basename(target)):
            link.string = title_of(sources[target])  # a page, no file any more
        return seen_from(page, page_of(target)) + hash_sign + fragment
    if target in sources or (ROOT / target).is_file():
        return take_along(target, page, sources, site)
    if (ROOT / target).is_dir():
        return seen_from(page, page_of(INDEX)) + "#All-pages"
    return link["href"]  # leads nowhere: a test finds it


def resolve(link, source):
    """Return the path in the course that a link of a source means."""
    path = posixpath.join("/", posixpath.dirname(source), unquote(link))
    return posixpath.normpath(path).lstrip("/")


def seen_from(page, target):
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def take_along(target, page, sources, site):
    """Copy a file of the course into the site, and return its path relative to `page`."""
    path = Path(site) / target
    path.parent.mkdir(parents=True, exist_ok=True)
    if target in sources:
        nbformat.write(sources[target], path)  # with the outputs that the page shows
    else:
        shutil.copyfile(ROOT / target, path)
    return seen_from(page, target)


def list_sections(soup):
    """Put a list of the sections under the title of a long page."""
    headings = soup.select("main h2[id]")
    if len(headings) < 4:
        return
    items = "".join(f'<li><a href="#{h["id"]}">{h.decode_contents()}</a></li>' for h in headings)
    contents = f'<nav class="contents" aria-label="On this page"><ul>{items}</ul></nav>'
    soup.h1.insert_after(BeautifulSoup(contents, "html.parser"))


def main():
    if SITE.exists():
        shutil.rmtree(SITE)  # a page whose notebook is gone must not stay
    pages = [(SITE / page).relative_to(ROOT) for page in make_site()]
    print(*pages, "", "To read: site/index.html", sep="\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
