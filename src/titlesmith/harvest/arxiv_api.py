"""Source ``arxiv``: arXiv's search API (https://info.arxiv.org/help/api/user-manual.html), month by month.

The service serves no long lists reliably, and its pages are now and then empty or repeat each other. So papers are
asked for in windows of submission dates, each window is compared with the number of papers that the service itself
counts, and a whole window is stored: an interrupted harvest goes on with the next one.
"""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import arxiv
import polars as pl
from tqdm import tqdm

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import SCHEMA, service
from titlesmith.harvest.faults import Faults

SERVICE = "https://export.arxiv.org/api/query"
ATOM = "{http://www.w3.org/2005/Atom}"
TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
PAGE = 1000  # papers a request; the service allows 2,000, and longer pages come back empty more often
CAP = 10_000  # papers a window, which is split above that; the service refuses lists of more than 30,000
ATTEMPTS = 4  # at a window
EARLIEST = datetime(1980, 1, 1)  # before the oldest paper: some are older than arXiv
MINUTE = timedelta(minutes=1)


def check(settings: dict) -> None:
    """Checks that there is something to search for (RequestError)."""
    if not settings["query"] and not settings["categories"]:
        raise RequestError(
            "harvest: source arxiv needs harvest.categories or harvest.query; for all of arXiv take a snapshot"
        )
    service.check_categories(settings["categories"])


def papers(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Papers by categories (any of them), dates of submission and free query, a window at a time.

    Windows are whole months, halved as long as one holds more than `CAP` papers. Where ``max_results`` is set, they
    are taken from the newest backwards until it is reached.

    Parameters
    ----------
    settings
        ``service``, ``query``, ``categories``, ``since``, ``until``, ``max_results``.
    folder
        Where windows are stored, a Parquet file each, named by its first and last minute.
    faults
        Takes papers that the service counted and that are in no window.

    Raises
    ------
    RequestError
        The service refuses the query.
    RunError
        The service fails, or keeps giving a window that differs from its own count. The next start goes on there.
    """
    service.first_day(folder)
    search = Windows(settings, folder)
    first = datetime.fromisoformat(settings["since"]) if settings["since"] else EARLIEST
    last = datetime.fromisoformat(settings["until"] or datetime.now(UTC).date().isoformat())
    last += timedelta(days=1) - MINUTE
    oldest, total = search.oldest(first, last)
    if not total:
        return
    months = list(_months(max(first, oldest), last))
    wanted, seen = settings["max_results"] or total, 0
    with tqdm(total=min(wanted, total), desc="arXiv", unit=" papers") as bar:
        for start, end in reversed(months) if settings["max_results"] else months:
            for found in search.window(start, end):
                seen += found.height
                bar.update(min(found.height, bar.total - bar.n))
                yield found
            if settings["max_results"] and seen >= wanted:
                return
    if seen < total:
        faults.add(
            "counted by arXiv and found in no month", f"arXiv counts {total:,}, its months {seen:,}", total - seen
        )


class Windows:
    """A search, from which windows of submission dates are taken.

    Parameters
    ----------
    settings
        As for `papers`.
    folder
        Where whole windows are stored.
    """

    def __init__(self, settings: dict, folder: Path):
        self.folder = folder
        self.newest_first = bool(settings["max_results"])
        self.terms = [f"({settings['query']})"] if settings["query"] else []
        if settings["categories"]:
            self.terms.append("(" + " OR ".join(f"cat:{name}" for name in settings["categories"]) + ")")
        self.client = client(settings["service"])
        self.session: service.Session = self.client._session

    def oldest(self, start: datetime, end: datetime) -> tuple[datetime, int]:
        """When the oldest paper between two minutes was submitted, and how many there are."""
        none = 0
        for _ in _attempts():
            found, total = self._ask(start, end, limit=1)
            if found:
                return found[0].published.replace(tzinfo=None, day=1, hour=0, minute=0, second=0), total
            none += not total  # the service answers so by mistake, too: it must say it twice
            if none == 2:
                return end, 0
        raise RunError(f"arXiv counts {total:,} papers and gives none, {ATTEMPTS} times; try again later")

    def window(self, start: datetime, end: datetime) -> Iterator[pl.DataFrame]:
        """The papers submitted between two minutes, as stored or from the service, halved where there are many."""
        path = self.folder / f"{start:%Y%m%d%H%M}-{end:%Y%m%d%H%M}.parquet"
        if path.exists():
            yield pl.read_parquet(path)
            return
        found = self._whole(start, end)
        if found is None:
            middle = start + (end - start) // MINUTE // 2 * MINUTE
            halves = [(start, middle), (middle + MINUTE, end)]
            for half in reversed(halves) if self.newest_first else halves:
                yield from self.window(*half)
            return
        service.store(path, found)
        yield found

    def _whole(self, start: datetime, end: datetime) -> pl.DataFrame | None:
        """The papers of a window, compared with the service's count; None where they are more than `CAP`."""
        none = 0
        for _ in _attempts():
            found, total = self._ask(start, end)
            if total > CAP and end > start:
                return None
            rows = {row["id"]: row for row in map(_row, found)}
            none += not found and not total
            if len(rows) == len(found) == total > 0 or none == 2:
                return pl.DataFrame(list(rows.values()), SCHEMA)
        raise RunError(
            f"arXiv counts {total:,} papers from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} and gives "
            f"{len(rows):,} different ones in {len(found):,}, {ATTEMPTS} times; {service.LATER}, with this window"
        )

    def _ask(self, start: datetime, end: datetime, limit: int | None = None) -> tuple[list[arxiv.Result], int]:
        """Papers of a window, oldest first, with the service's own count; only the first where they exceed `CAP`."""
        query = " AND ".join([*self.terms, f"submittedDate:[{start:%Y%m%d%H%M} TO {end:%Y%m%d%H%M}]"])
        order = {"sort_by": arxiv.SortCriterion.SubmittedDate, "sort_order": arxiv.SortOrder.Ascending}
        self.client.page_size = limit or PAGE
        found, total = [], 0
        try:
            for result in self.client.results(arxiv.Search(query, max_results=limit, **order)):
                found.append(result)
                if (total := self._total()) > CAP and end > start:
                    break
            return found, total or self._total()
        except arxiv.UnexpectedEmptyPageError:
            return found, total
        except arxiv.HTTPError as error:
            raise RequestError(f"arXiv refuses {query!r}: HTTP {error.status}, {self._summary()}") from None

    def _total(self) -> int:
        if "/api/errors" in self.session.answer.findtext(f"{ATOM}entry/{ATOM}id", ""):
            raise RequestError(f"arXiv refuses the query: {self._summary()}")
        return int(self.session.answer.findtext(TOTAL) or 0)

    def _summary(self) -> str:
        return self.session.answer.findtext(f"{ATOM}entry/{ATOM}summary") or "it does not say why"


def client(address: str = "") -> arxiv.Client:
    """A client of the service, or of another one at this address, that paces, repeats and checks its requests."""
    made = arxiv.Client(PAGE, delay_seconds=0, num_retries=0)
    made.query_url_format = f"{address or SERVICE}?{{}}"
    made._session = service.Session(f"{ATOM}feed")
    return made


def _row(result: arxiv.Result) -> dict:
    """A paper as a row; its identifier without the version."""
    return {
        "id": re.sub(r"v\d+$", "", result.entry_id.partition("/abs/")[2]),
        "title": result.title.strip(),
        "abstract": result.summary.strip(),
        "authors": [author.name for author in result.authors],
        "categories": result.categories,
        "primary_category": result.primary_category,
        "published": result.published.date(),
        "updated": result.updated.date(),
        "doi": result.doi,
        "journal_ref": result.journal_ref,
        "comments": result.comment,
    }


def _months(first: datetime, last: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The first and last minutes of each month from ``first`` to ``last``."""
    while first <= last:
        following = (first.replace(day=1) + timedelta(days=31)).replace(day=1, hour=0, minute=0)
        yield first, min(following - MINUTE, last)
        first = following


def _attempts() -> Iterator[int]:
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * service.BACKOFF)
        yield attempt
