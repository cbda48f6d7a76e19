"""Source ``oai``: arXiv's OAI-PMH interface (https://info.arxiv.org/help/oa/), for complete categories and for updates.

The interface lists records by the day of their last change, in pages, each with a token for the next page. A page is
stored with its token, so that an interrupted list resumes with the next page. Tokens expire every day; a list whose
token has expired is requested again from the first day of change of its last page.

Records are requested as ``arXivRaw``: only this format has the day on which the first version was submitted.
"""

import re
from collections.abc import Iterator
from datetime import date
from email.utils import parsedate_to_datetime
from pathlib import Path

import polars as pl
from lxml import etree
from tqdm import tqdm

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import client, store
from titlesmith.harvest.categories import oai_set
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.schema import SCHEMA

SERVICE = "https://oaipmh.arxiv.org/oai"
OAI = "{http://www.openarchives.org/OAI/2.0/}"
PREFIX = "oai:arXiv.org:"
PAGE = {**SCHEMA, "deleted": pl.Boolean, "changed": pl.String, "fault": pl.String}
RESTART = ("badResumptionToken", "noRecordsMatch")  # errors after which a list is requested again
MAX_REPEATS = 20  # pages without a new record: a day of arXiv's changes has fewer


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields the papers of ``categories`` (default: all of arXiv) page by page; some papers come twice.

    ``since`` limits the days of change: what was submitted since then was changed since then, too. ``folder`` has a
    Parquet file for each page. RequestError: the service refuses the request. RunError: it fails; the next start
    resumes with the page that failed.
    """
    for page in Lists(settings["service"], folder).pages(settings["categories"], settings["since"]):
        yield faults.sift_records(page).filter(~pl.col("deleted")).select(*SCHEMA)
    if first := min(folder.glob("*.parquet"), default=None):
        store.keep_first_day(folder, date.fromisoformat(pl.read_parquet_metadata(first)["day"]))


class Lists:
    """Lists of records of the service at ``address`` (default: arXiv's), read page by page and stored in ``folder``."""

    def __init__(self, address: str, folder: Path):
        self.address, self.folder = address or SERVICE, folder
        self.session = client.Session(f"{OAI}OAI-PMH")

    def today(self) -> date:
        """The day (UTC), by our own clock or by the service's: the earlier one."""
        self._request({"verb": "Identify"})
        return self.session.day

    def pages(self, categories: list[str], since: str) -> Iterator[pl.DataFrame]:
        """Yields all records of categories (default: all) that changed since a day (YYYY-MM-DD), stored pages first.

        Pages have the columns of `SCHEMA`, ``deleted``, ``changed`` (the day of the last change; null if the service
        states none, or one in the future), and ``fault``, why a record is not a paper. Such records and deleted ones
        have only an id.
        """
        with tqdm(desc="OAI-PMH", unit=" records") as bar:
            for name in map(oai_set, categories) if categories else [""]:
                for page in self._list(name, since):
                    bar.update(page.height)
                    yield page

    def _list(self, name: str, since: str) -> Iterator[pl.DataFrame]:
        start = {"metadataPrefix": "arXivRaw"} | ({"set": name} if name else {})
        stem, query = name.replace(":", "-") or "all", start | ({"from": since} if since else {})
        seen: set[int] = set()  # hashes of records and their days of change
        day, repeats = since, 0  # from which the list can be requested again; pages since the last new record

        def is_new(page: pl.DataFrame) -> bool:
            known = len(seen)
            seen.update(page.select("id", "changed").hash_rows())
            return len(seen) > known

        # Yield the stored pages, and resume with the token of the last one
        for path in sorted(self.folder.glob(f"*.{stem}.parquet")):
            page = pl.read_parquet(path)
            day = page["changed"].min() or day if is_new(page) else day
            query = {"resumptionToken": pl.read_parquet_metadata(path)["token"]}
            yield page
        while query.get("resumptionToken") != "":
            page, token = self._page(query)
            if page is None and token == "noRecordsMatch" and not seen:
                return
            repeats += 1
            if repeats > MAX_REPEATS:
                raise self._failure(f"makes no progress: it repeats pages or refuses its tokens, at last {token!r:.80}")
            # Without a page, request the list again from the day that it had reached
            if page is None:
                query = start | ({"from": day} if day else {})
                continue
            # Store it; the names keep the pages of all lists in order
            path = self.folder / f"{len(list(self.folder.glob('*.parquet'))):06d}.{stem}.parquet"
            store.write_parquet(path, page, token=token, day=f"{self.session.day}")
            if is_new(page):
                day, repeats = page["changed"].min() or day, 0
            query = {"resumptionToken": token}
            yield page

    def _page(self, query: dict) -> tuple[pl.DataFrame | None, str]:
        """A page and the token for the next one, empty on the last page; or None and one of `RESTART`."""
        empty = 0
        for _ in client.attempts():
            content, error = self._request({"verb": "ListRecords"} | query)
            empty += error == "noRecordsMatch"
            if error == "badResumptionToken" or empty == 2:  # the service says by mistake, too, that there are none
                return None, error
            document, sent = self.session.document, len(re.findall(rb"<(?:\w+:)?header\b", content))
            records = document.findall(f"{OAI}ListRecords/{OAI}record")
            if records and len(records) >= sent:  # markup that is not closed hides what follows it
                token = document.findtext(f"{OAI}ListRecords/{OAI}resumptionToken") or ""
                rows = [_row(record, self.session.day) for record in records]
                return pl.DataFrame(rows, PAGE), token.strip()
        raise self._failure(f"sends a page of {sent} records of which {len(records)} can be read")

    def _failure(self, what: str) -> RunError:
        return RunError(f"{self.address} {what}, after {client.PAGE_ATTEMPTS} attempts; {client.RESUMES}")

    def _request(self, query: dict) -> tuple[bytes, str]:
        """The content of an answer, and its error if that is one of `RESTART`, else empty (RequestError)."""
        response = self.session.get(self.address, params=query)
        error = self.session.document.find(f"{OAI}error")
        code = "" if error is None else error.get("code", "unknown error")
        if code not in ("", *RESTART) or not (code or response.ok):
            reason = f"{code}: {error.text}" if code else f"HTTP {response.status_code}"
            raise RequestError(f"{self.address} refuses {query}: {reason}")
        return response.content, code


def _row(record: etree._Element, today: date) -> dict:
    """A record as a row of a page."""
    header, raw = record.find(f"{OAI}header"), record.find(f"{OAI}metadata/{{*}}arXivRaw")
    number = ("" if header is None else header.findtext(f"{OAI}identifier") or "").strip().removeprefix(PREFIX)
    changed = None if header is None else _parse_day(header.findtext(f"{OAI}datestamp"))
    row = dict.fromkeys(PAGE) | {"id": number, "deleted": header is not None and header.get("status") == "deleted"}
    row["changed"] = f"{changed}" if changed and changed <= today else None
    if not number:
        return row | {"id": None, "fault": "no identifier"}
    if row["deleted"]:
        return row
    if raw is None:
        return row | {"fault": "no metadata of the format arXivRaw"}
    fields = {etree.QName(element).localname: (element.text or "").strip() for element in raw.iterchildren("{*}*")}
    missing = [name for name in ("title", "abstract", "authors", "categories") if not fields.get(name)]
    if missing:
        return row | {"fault": f"no {missing[0]}"}
    try:
        days = sorted(parsedate_to_datetime(element.text).date() for element in raw.iterfind(".//{*}date"))
        return row | {
            "title": " ".join(fields["title"].split()),
            "abstract": fields["abstract"],
            "authors": authors(fields["authors"]),
            "categories": fields["categories"].split(),
            "primary_category": fields["categories"].split()[0],
            "published": days[0],
            "updated": client.check_day(days[-1]),
            "doi": fields.get("doi") or None,
            "journal_ref": fields.get("journal-ref") or None,
            "comments": fields.get("comments") or None,
            "submitter": fields.get("submitter") or None,
            "license": fields.get("license") or None,
            "report_no": fields.get("report-no") or None,
            "versions": days,
        }
    except (IndexError, TypeError, ValueError, OverflowError) as error:
        return row | {"fault": f"date: {error}"}


def _parse_day(text: str | None) -> date | None:
    """The day that a text of OAI-PMH begins with, such as 2024-05-31T12:00:00Z; None if there is none."""
    try:
        return date.fromisoformat((text or "").strip()[:10])
    except ValueError:
        return None


def authors(text: str) -> list[str]:
    """The names in a line of authors, without their affiliations (in parentheses)."""
    while text != (text := re.sub(r"\([^()]*\)", "", text)):
        pass
    return [name for part in re.split(r",|\band\b", " ".join(text.split())) if (name := part.strip())]
