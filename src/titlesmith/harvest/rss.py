"""Source ``rss``: what arXiv announces today in some categories (https://info.arxiv.org/help/rss.html).

A feed does not tell when a paper was submitted: a new paper is dated by the announcement, a paper of another category
that is also listed here (cross) by the month in its identifier. The first category counts as the primary one.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import polars as pl
from lxml import etree

from titlesmith.errors import RunError
from titlesmith.harvest import client
from titlesmith.harvest.oai import authors
from titlesmith.harvest.schema import SCHEMA, Faults

SERVICE = "https://rss.arxiv.org/rss"
ARXIV, DUBLIN_CORE = "{http://arxiv.org/schemas/atom}", "{http://purl.org/dc/elements/1.1/}"
PREFIX = re.compile(r"arXiv:\S+\s+Announce Type:\s*[\w-]+\s+Abstract:\s*")


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields today's new papers and cross-lists, as the column ``announced`` says; counts others in ``faults``.

    RequestError: the service refuses the categories. RunError: it fails, or announces nothing today.
    """
    address = f"{settings['service'] or SERVICE}/{'+'.join(settings['categories'])}"
    document, rows = client.Session("rss").get(address), []
    for item in document.iterfind("channel/item"):
        announced, guid = item.findtext(f"{ARXIV}announce_type", "none"), item.findtext("guid", "")
        if announced not in ("new", "cross"):
            faults.add(f"announced as {announced}, no new papers", guid)
            continue
        try:
            rows.append(_row(item, announced))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            faults.add("items without an identifier, a title, an abstract or a date", f"{guid}: {error}")
    if not rows:
        raise RunError(f"{address} announces nothing today; arXiv does on Sunday to Thursday evenings (New York)")
    yield pl.DataFrame(rows, {**SCHEMA, "announced": pl.String})


def _row(item: etree._Element, announced: str) -> dict:
    number = re.fullmatch(r"oai:arXiv\.org:(.+?)(v\d+)?", item.findtext("guid"))[1]
    day = client.check_day(parsedate_to_datetime(item.findtext("pubDate")).date())
    categories = [element.text for element in item.iterfind("category")]
    month = datetime.strptime(re.search(r"(?:^|/)(\d{4})", number)[1], "%y%m").date()
    return {
        "id": number,
        "title": " ".join(item.findtext("title").split()),
        "abstract": PREFIX.sub("", item.findtext("description"), count=1).strip(),
        "authors": authors(item.findtext(f"{DUBLIN_CORE}creator") or ""),
        "categories": categories,
        "primary_category": categories[0] if categories else None,
        "published": day if announced == "new" else month,
        "updated": day if announced == "new" else None,
        "doi": item.findtext(f"{ARXIV}DOI"),
        "journal_ref": item.findtext(f"{ARXIV}journal_reference"),
        "announced": announced,
    }
