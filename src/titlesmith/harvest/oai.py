"""Source ``oai``: arXiv's OAI-PMH interface (https://info.arxiv.org/help/oa/), for whole categories and for updates.

The interface lists records by the day of their last change, in pages, each with a token for the next. A page is stored
with its token, so that an interrupted list goes on with the next page. Tokens expire every day; a list that is met
with such a token goes on from the day of change that it had reached.

Records are asked for as ``arXivRaw``: of the formats it alone tells when the first version was submitted.
"""

import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import polars as pl
from oaipmh_scythe import Scythe
from oaipmh_scythe.exceptions import BadResumptionToken, NoRecordsMatch, OAIPMHException
from oaipmh_scythe.models import Record
from oaipmh_scythe.response import OAIResponse
from requests import HTTPError, Response
from tqdm import tqdm

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import SCHEMA, service
from titlesmith.harvest.faults import Faults

SERVICE = "https://oaipmh.arxiv.org/oai"
OAI = "{http://www.openarchives.org/OAI/2.0/}"
PREFIX = "oai:arXiv.org:"
ATTEMPTS = 4  # at a page that comes without records, and at a list whose tokens expire, without any progress
PAGE = {**SCHEMA, "deleted": pl.Boolean, "changed": pl.String, "fault": pl.String}


def check(settings: dict) -> None:
    """Checks that the categories are arXiv's, and that nothing is asked that OAI-PMH cannot do (RequestError)."""
    service.check_categories(settings["categories"])
    if settings["query"]:
        raise RequestError("harvest.query: OAI-PMH lists whole categories and searches nothing; take source arxiv")


def papers(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Papers of categories (of all arXiv where there are none), a page at a time; those of two categories come twice.

    Parameters
    ----------
    settings
        ``service``, ``categories``, and ``since``: what was submitted since then was changed since then, too.
    folder
        Where pages are stored with their tokens, a Parquet file each.
    faults
        Takes records that are no papers.

    Raises
    ------
    RequestError
        The service refuses the request.
    RunError
        The service fails. The next start goes on with the page that failed.
    """
    service.first_day(folder)
    for page in Lists(settings["service"], folder).pages(settings["categories"], settings["since"]):
        yield sound(page, faults).filter(~pl.col("deleted")).select(*SCHEMA)


def sound(page: pl.DataFrame, faults: Faults) -> pl.DataFrame:
    """The records of a page that are papers, or were before they were deleted; the others are counted."""
    for number, fault in page.filter(pl.col("fault").is_not_null()).select("id", "fault").iter_rows():
        faults.add("records that lack a field or have a wrong date", f"{number}: {fault}")
    return page.filter(pl.col("fault").is_null())


class Lists:
    """Lists of records, read page by page and stored.

    Parameters
    ----------
    address
        Of the service; empty for arXiv's.
    folder
        Where pages are stored.
    """

    def __init__(self, address: str, folder: Path):
        self.client, self.folder = _Client(address or SERVICE), folder

    def pages(self, categories: list[str], since: str) -> Iterator[pl.DataFrame]:
        """All records of categories that changed on or after a day, stored pages first.

        Parameters
        ----------
        categories
            Empty for all of arXiv.
        since
            YYYY-MM-DD, or empty for no limit.

        Yields
        ------
        polars.DataFrame
            A page: the columns of `SCHEMA`, ``deleted``, ``changed`` (the day of the last change), and ``fault``,
            why a record is no paper. Of such and of deleted records there is only the id.
        """
        with tqdm(desc="OAI-PMH", unit=" records") as bar:
            for name in map(spec, categories) if categories else [""]:
                for page in self._list(name, since):
                    bar.update(page.height)
                    yield page

    def _list(self, name: str, since: str) -> Iterator[pl.DataFrame]:
        start = {"metadataPrefix": "arXivRaw"} | ({"set": name} if name else {})
        stem, query = name.replace(":", "-") or "all", start | ({"from": since} if since else {})
        reached, ordered, lost = since, True, 0
        for path in sorted(self.folder.glob(f"*.{stem}.parquet")):
            page = pl.read_parquet(path)
            reached, ordered = _progress(page, reached, ordered)
            query = {"resumptionToken": pl.read_parquet_metadata(path)["token"]}
            yield page
        while query.get("resumptionToken") != "":
            try:
                page, token = self._page(query)
            except NoRecordsMatch:
                if "resumptionToken" not in query:
                    return
                page = None
            except BadResumptionToken:
                page = None
            if page is None:  # an expired token: on from the day reached where the list is in that order, else anew
                if (lost := lost + 1) == ATTEMPTS:
                    raise RunError(f"{self.client.endpoint} gives tokens that it refuses at once; {service.LATER}")
                again = reached if ordered else since
                query = start | ({"from": again} if again else {})
                continue
            stored = len(list(self.folder.glob("*.parquet")))  # the names keep all lists' pages in order
            service.store(self.folder / f"{stored:06d}.{stem}.parquet", page, token=token)
            before, (reached, ordered) = reached, _progress(page, reached, ordered)
            if "resumptionToken" in query or reached > before:
                lost = 0
            query = {"resumptionToken": token}
            yield page

    def _page(self, query: dict) -> tuple[pl.DataFrame, str]:
        """One page, and the token for the next: empty on the last."""
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * service.BACKOFF)
            answer = self.client.ask(query)
            document, sent = answer.xml, len(re.findall(rb"<(?:\w+:)?header\b", answer.http_response.content))
            records = document.findall(f"{OAI}ListRecords/{OAI}record")
            if len(records) == sent > 0:  # markup that is not closed hides what follows it
                token = document.findtext(f"{OAI}ListRecords/{OAI}resumptionToken") or ""
                return pl.DataFrame([_row(Record(element)) for element in records], PAGE), token.strip()
        raise RunError(
            f"{self.client.endpoint} gives a page of {sent} records of which {len(records)} can be read, {ATTEMPTS} "
            f"times; {service.LATER}"
        )


class _Client(Scythe):
    """The library's client, whose requests go through our session: it waits, repeats and follows redirects."""

    def __init__(self, endpoint: str):
        super().__init__(endpoint)
        self.session = service.Session(f"{OAI}OAI-PMH")

    def _request_with_retry(self, query: dict) -> Response:
        return self.session.get(self.endpoint, params=query)

    def ask(self, query: dict) -> OAIResponse:
        """An answer to ListRecords.

        Raises
        ------
        NoRecordsMatch, BadResumptionToken
            The service says so.
        RequestError
            It refuses the request in any other way.
        """
        try:
            return self.harvest({"verb": "ListRecords"} | query)
        except (NoRecordsMatch, BadResumptionToken):
            raise
        except (OAIPMHException, HTTPError) as error:
            raise RequestError(f"{self.endpoint} refuses {query}: {type(error).__name__}: {error}") from None


def _row(record: Record) -> dict:
    """A record as a row of a page."""
    row = dict.fromkeys(PAGE) | {"deleted": record.deleted, "changed": record.header.datestamp}
    row["id"] = (record.header.identifier or "").removeprefix(PREFIX)
    if record.deleted:
        return row
    fields = {name: text.strip() for name, (text, *_) in record.metadata.items() if text and text.strip()}
    try:
        days = sorted(parsedate_to_datetime(text).date() for text in record.metadata["date"])
        return row | {
            "title": " ".join(fields["title"].split()),
            "abstract": fields["abstract"],
            "authors": authors(fields["authors"]),
            "categories": fields["categories"].split(),
            "primary_category": fields["categories"].split()[0],
            "published": days[0],
            "updated": days[-1],
            "doi": fields.get("doi"),
            "journal_ref": fields.get("journal-ref"),
            "comments": fields.get("comments"),
        }
    except (KeyError, TypeError, ValueError) as error:
        return row | {"fault": f"{type(error).__name__} {error}"}


def spec(category: str) -> str:
    """The set of a category: ``eess:eess:AS``, ``physics:hep-th``, ``physics:astro-ph:GA``."""
    archive = category.partition(".")[0]
    return f"{'physics' if archive in service.PHYSICS else archive}:{category.replace('.', ':')}"


def authors(text: str) -> list[str]:
    """The names in a line of authors, their affiliations (in parentheses) left out."""
    while text != (text := re.sub(r"\([^()]*\)", "", text)):
        pass
    return [name for part in re.split(r",|\band\b", " ".join(text.split())) if (name := part.strip())]


def _progress(page: pl.DataFrame, reached: str, ordered: bool) -> tuple[str, bool]:
    """The latest day of change up to this page, and whether the days came in order so far."""
    days = page["changed"].drop_nulls().str.head(10)
    if days.is_empty():
        return reached, ordered
    return max(reached, days.max()), ordered and days.is_sorted() and days[0] >= reached
