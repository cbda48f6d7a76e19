"""Source ``oai``: arXiv's OAI-PMH interface (https://info.arxiv.org/help/oa/), for complete categories and for updates.

The interface lists records by the day of their last change, in pages, each with a token for the next page. Pages are
stored with their tokens, so that an interrupted list resumes. Tokens expire every day: then the list is requested again
from the first day of change of its last page. Of the formats, only ``arXivRaw`` has the day of the first version.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import polars as pl
from lxml import etree
from tqdm import tqdm

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import client, store
from titlesmith.harvest.categories import oai_set
from titlesmith.harvest.schema import SCHEMA, Faults

SERVICE = "https://oaipmh.arxiv.org/oai"
OAI = "{http://www.openarchives.org/OAI/2.0/}"
PAGE = {**SCHEMA, "deleted": pl.Boolean, "changed": pl.String, "fault": pl.String}
MAX_RESTARTS = 20


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields the papers of ``categories`` (default: all of arXiv) page by page, some twice (errors: `client`)."""
    # What was submitted since a day was changed since then, too
    for page in pages(settings["service"], folder, settings["categories"], settings["since"]):
        yield faults.sift_records(page).filter(~pl.col("deleted")).select(*SCHEMA)


def pages(address: str, folder: Path, categories: list[str], since: str) -> Iterator[pl.DataFrame]:
    """Yields all records of categories (default: all) that changed since a day (YYYY-MM-DD), page by page.

    ``folder`` stores the pages and the day of the first request. Pages have the columns of `SCHEMA`, ``deleted``,
    ``changed`` (the day of the last change, if it is possible) and ``fault``, why a record is not a paper.
    """
    request = partial(_request, client.Session(f"{OAI}OAI-PMH"), address or SERVICE, folder)
    with tqdm(desc="OAI-PMH", unit=" records") as bar:
        for name in map(oai_set, categories) if categories else [""]:
            for page in _list(request, folder, name, since):
                bar.update(page.height)
                yield page


def _list(request: Callable, folder: Path, name: str, since: str) -> Iterator[pl.DataFrame]:
    start = {"metadataPrefix": "arXivRaw"} | ({"set": name} if name else {})
    stem, number, restarts = name.replace(":", "-") or "all", 0, 0
    day, token = since, None  # the day that the list has reached, and the token for its next page
    while token != "":
        path = folder / f"{number:06d}.{stem}.parquet"
        if not path.exists():
            query = {"resumptionToken": token} if token else start | ({"from": day} if day else {})
            page, answer = request(query)
            # Without a page, request the list again from the day that it had reached
            if page is None:
                if answer == "noRecordsMatch" and not number:
                    return
                restarts += 1
                if restarts > MAX_RESTARTS:
                    raise RunError(f"OAI-PMH refuses its tokens, at last with {answer}; {client.RESUMES}")
                token = None
                continue
            if answer and answer == token:
                raise RunError(f"OAI-PMH repeats the page of token {token:.80}; {client.RESUMES}")
            store.write_parquet(path, page.lazy(), metadata={"token": answer})
        page, token = pl.read_parquet(path), pl.read_parquet_metadata(path)["token"]
        day, number = page["changed"].min() or day, number + 1
        yield page


def _request(session: client.Session, address: str, folder: Path, query: dict) -> tuple[pl.DataFrame | None, str]:
    """A page and the token for the next one, empty on the last page; or None and why to request the list again."""
    for attempt in client.attempts():
        document = session.get(address, {"verb": "ListRecords"} | query)
        store.first_day(folder, session.day)
        if records := document.findall(f"{OAI}ListRecords/{OAI}record"):
            token = document.findtext(f"{OAI}ListRecords/{OAI}resumptionToken") or ""
            return pl.DataFrame(list(map(_row, records)), PAGE), token.strip()
        error = document.find(f"{OAI}error")
        code = None if error is None else error.get("code")
        if code == "noRecordsMatch" and not attempt:
            continue  # the service says by mistake, too, that there are none
        if code in ("badResumptionToken", "noRecordsMatch"):
            return None, code
        if code:
            raise RequestError(f"{address} refuses {query}: {code}: {error.text}")
    raise RunError(f"{address} sends a page without records, {client.PAGE_ATTEMPTS} times; {client.RESUMES}")


def _row(record: etree._Element) -> dict:
    """A record as a row of a page."""
    header, raw = f"{OAI}header", f"{OAI}metadata/{{*}}arXivRaw"
    row = {
        "id": record.findtext(f"{header}/{OAI}identifier", "").strip().removeprefix("oai:arXiv.org:") or None,
        "deleted": record.find(f"{header}[@status='deleted']") is not None,
    }
    with suppress(ValueError):  # a wrong day is none
        day = date.fromisoformat(record.findtext(f"{header}/{OAI}datestamp", "").strip()[:10])
        row["changed"] = f"{client.check_day(day)}"
    if not row["id"]:
        return row | {"fault": "no identifier"}
    if row["deleted"]:
        return row
    texts = {etree.QName(element).localname: (element.text or "").strip() for element in record.iterfind(f"{raw}/*")}
    fields = {name.replace("-", "_"): text for name, text in texts.items() if text}
    optional = ("doi", "journal_ref", "comments", "submitter", "license", "report_no")
    try:
        days = sorted(parsedate_to_datetime(element.text).date() for element in record.iterfind(f"{raw}//{{*}}date"))
        return row | {
            "title": " ".join(fields["title"].split()),
            "abstract": fields["abstract"],
            "authors": authors(fields["authors"]),
            "categories": fields["categories"].split(),
            "primary_category": fields["categories"].split()[0],
            "published": days[0],
            "updated": client.check_day(days[-1]),
            "versions": days,
            **{name: fields.get(name) for name in optional},
        }
    except KeyError as error:
        return row | {"fault": f"no {error}"}
    except (IndexError, TypeError, ValueError, OverflowError) as error:
        return row | {"fault": f"date: {error}"}


def authors(text: str) -> list[str]:
    """The names in a line of authors, without their affiliations (in parentheses)."""
    while text != (text := re.sub(r"\([^()]*\)", "", text)):
        pass
    return [name for part in re.split(r",|\band\b", " ".join(text.split())) if (name := part.strip())]
