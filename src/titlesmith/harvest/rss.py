"""Source ``rss``: what arXiv announces today in some categories (https://info.arxiv.org/help/rss.html).

A feed tells neither when a paper was submitted nor its primary category: a new paper is dated by the announcement, a
paper of another category that is also listed here (cross) by the month in its identifier, and the first of its
categories counts as its primary one.
"""

import re
from collections.abc import Iterator
from datetime import date
from email.utils import parsedate_to_datetime
from pathlib import Path

import polars as pl
from lxml import etree

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import client, store
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.oai import authors
from titlesmith.harvest.schema import SCHEMA

SERVICE = "https://rss.arxiv.org/rss"
ARXIV, DUBLIN_CORE = "{http://arxiv.org/schemas/atom}", "{http://purl.org/dc/elements/1.1/}"
KEPT = ("new", "cross")
PREFIX = re.compile(r"arXiv:\S+\s+Announce Type:\s*[\w-]+\s+Abstract:\s*")


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields today's new papers and cross-lists, from one request; the column ``announced`` says which a paper is.

    Replacements of earlier papers and items that are not papers are counted in ``faults``. RequestError: the service
    refuses the categories. RunError: it fails, or announces nothing today.
    """
    session = client.Session("rss")
    address = f"{settings['service'] or SERVICE}/{'+'.join(settings['categories'])}"
    response = session.get(address)
    if not response.ok:
        reason = session.document.findtext("channel/description")
        raise RequestError(f"{address} is refused: HTTP {response.status_code}, {reason}")
    store.keep_first_day(folder, session.day)
    rows = []
    for item in session.document.iterfind("channel/item"):
        announced, guid = item.findtext(f"{ARXIV}announce_type", "none"), item.findtext("guid", "")
        if announced not in KEPT:
            faults.add(f"announced as {announced}, no new papers", guid)
            continue
        try:
            rows.append(_row(item, announced))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            faults.add("items without an identifier, a title, an abstract or a date", f"{guid}: {error}")
    if not rows:
        day = session.document.findtext("channel/pubDate") or "today"
        raise RunError(
            f"{address} announces no new paper ({day}); arXiv announces papers on Sunday to Thursday evenings (US "
            "Eastern time): harvest again on another day, or use source arxiv or oai"
        )
    yield pl.DataFrame(rows, {**SCHEMA, "announced": pl.String})


def _row(item: etree._Element, announced: str) -> dict:
    number = re.fullmatch(r"oai:arXiv\.org:(.+?)(v\d+)?", item.findtext("guid"))[1]
    day = client.check_day(parsedate_to_datetime(item.findtext("pubDate")).date())
    categories = [element.text for element in item.iterfind("category")]
    year, month = map(int, re.search(r"(?:^|/)(\d\d)(\d\d)", number).groups())
    return dict.fromkeys(SCHEMA) | {
        "id": number,
        "title": " ".join(item.findtext("title").split()),
        "abstract": PREFIX.sub("", item.findtext("description"), count=1).strip(),
        "authors": authors(item.findtext(f"{DUBLIN_CORE}creator") or ""),
        "categories": categories,
        "primary_category": categories[0] if categories else None,
        "published": day if announced == "new" else date(year + (1900 if year > 90 else 2000), month, 1),
        "updated": day if announced == "new" else None,
        "doi": item.findtext(f"{ARXIV}DOI"),
        "journal_ref": item.findtext(f"{ARXIV}journal_reference"),
        "announced": announced,
    }
