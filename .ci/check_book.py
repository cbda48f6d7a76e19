"""Checks the built book: every run has its pages, no page shows an error, and every internal link has a target."""

import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lxml import html

from titlesmith.book.report import load_reports
from titlesmith.runs import STAGES, notebook, root

ADDRESSES = ("href", "src", "data", "srcset", "poster")


def missing(book: Path, runs: list[str]) -> list[str]:
    """Pages that do not exist."""
    wanted = [book / "index.html", book / "book" / "index.html", book / "search.html"]
    for run in runs:
        chapter = book / "book" / "runs" / run
        wanted += [chapter / "index.html", *(chapter / f"{notebook(stage).stem}.html" for stage in STAGES)]
    return [f"missing: {page}" for page in wanted if not page.is_file()]


def errors(book: Path) -> list[str]:
    """Pages that show a traceback or standard error."""
    matches = ((page, re.search(r"class=\"output (traceback|stderr)", page.read_text("utf-8"))) for page in pages(book))
    return [f"error output in {page}: {match[0]}" for page, match in matches if match]


def dangling(book: Path) -> list[str]:
    """Links to files or anchors of the book that do not exist."""
    problems = []
    for page in pages(book):
        for link in _read(page)[0]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                problems.append(f"{page}: the file of the link {link} does not exist")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target)[1]:
                problems.append(f"{page}: the anchor of the link {link} does not exist")
    return problems


def pages(book: Path) -> list[Path]:
    """Every page that readers open."""
    return [page for page in sorted(book.rglob("*.html")) if "_static" not in page.relative_to(book).parts]


@cache
def _read(page: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The addresses on a page, and its anchors."""
    tree = html.document_fromstring(page.read_bytes())
    links = {element.get(name) for name in ADDRESSES for element in tree.iter() if isinstance(element.tag, str)}
    return frozenset(filter(None, links)), frozenset([*tree.xpath("//@id"), *tree.xpath("//a/@name"), "", "top"])


def main() -> int:
    """Prints the problems; the exit status is 1 if there are any."""
    book, runs = root() / "_build" / "html", [report.name for report in load_reports()[0]]
    problems = ([] if runs else ["the book shows no run, because no run is complete"]) + missing(book, runs)
    problems += errors(book) + dangling(book)
    print(
        "\n".join(problems) or f"the book is complete: {len(pages(book))} pages, {len(runs)} run(s), no dangling link"
    )
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
