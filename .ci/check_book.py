"""Checks the built book: every run has its pages, no page shows an error, and every link within it leads somewhere."""

import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lxml import html

from titlesmith.book.report import reports
from titlesmith.runs import STAGES, notebook, root

ADDRESSES = ("href", "src", "data", "srcset", "poster")


def missing(book: Path, runs: list[str]) -> list[str]:
    """Pages that are not there."""
    wanted = [book / "index.html", book / "book" / "index.html", book / "search.html"]
    for run in runs:
        chapter = book / "book" / "runs" / run
        wanted += [chapter / "index.html", *(chapter / f"{notebook(stage).stem}.html" for stage in STAGES)]
    return [f"missing: {page}" for page in wanted if not page.is_file()]


def errors(book: Path) -> list[str]:
    """Pages that show a traceback or what went to standard error."""
    found = ((page, re.search(r"class=\"output (traceback|stderr)", page.read_text("utf-8"))) for page in pages(book))
    return [f"error output in {page}: {match[0]}" for page, match in found if match]


def dangling(book: Path) -> list[str]:
    """Links to files or anchors of the book that do not exist."""
    found = []
    for page in pages(book):
        links, _ = _read(page)
        for link in links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{page}: {link} leads to no file")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target)[1]:
                found.append(f"{page}: {link} leads to no such place")
    return found


def pages(book: Path) -> list[Path]:
    """Every page that readers open."""
    return [page for page in sorted(book.rglob("*.html")) if "_static" not in page.relative_to(book).parts]


@cache
def _read(page: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The addresses on a page, and the places on it that a link can lead to."""
    tree = html.document_fromstring(page.read_bytes())
    links = {element.get(name) for name in ADDRESSES for element in tree.iter() if isinstance(element.tag, str)}
    return frozenset(filter(None, links)), frozenset([*tree.xpath("//@id"), *tree.xpath("//a/@name"), "", "top"])


def main() -> int:
    """Prints what is wrong."""
    book, runs = root() / "_build" / "html", [report.name for report in reports()[0]]
    problems = ([] if runs else ["no run is complete, so the book shows none"]) + missing(book, runs)
    problems += errors(book) + dangling(book)
    print(
        "\n".join(problems)
        or f"the book is whole: {len(pages(book))} pages of {len(runs)} run(s), every link leads somewhere"
    )
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
