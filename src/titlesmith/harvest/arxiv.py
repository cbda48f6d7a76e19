"""Source ``arxiv``: arXiv's search API (https://info.arxiv.org/help/api/user-manual.html), month by month.

The service does not serve long lists reliably: some pages are empty or repeat earlier ones. So papers are requested in
windows of submission dates, each window is compared with the service's own count, and complete windows are stored: an
interrupted harvest resumes with the next one.
"""

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
from arxiv._feed import _build_result
from lxml import etree
from tqdm import tqdm

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import client, store
from titlesmith.harvest.categories import check_categories
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.schema import SCHEMA

SERVICE = "https://export.arxiv.org/api/query"
ATOM = "{http://www.w3.org/2005/Atom}"
TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
PAGE = 1000  # papers per request; the service allows 2,000, and longer pages are empty more often
CAP = 10_000  # papers per window, which is split above that; the service refuses lists of more than 30,000
MAX_TOTAL = 10**8  # papers; a larger count is a mistake, as arXiv has 3 million
ATTEMPTS = 4  # at a window
FIRST = 10  # papers from which the oldest day is taken, since one of them may have a wrong date
EARLIEST = datetime(1980, 1, 1)  # before the oldest paper: some are older than arXiv
MINUTE = timedelta(minutes=1)
WINDOW = {**SCHEMA, "fault": pl.String}


def check(settings: dict) -> None:
    """Checks that there is something to search for (RequestError)."""
    if not settings["query"] and not settings["categories"]:
        raise RequestError(
            "harvest: source arxiv needs harvest.categories or harvest.query; for all of arXiv use source snapshot"
        )
    check_categories(settings["categories"])


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields papers by categories (any of them), dates of submission and free query, one window at a time.

    Windows are months, halved as long as one holds more than `CAP` papers. If ``max_results`` is set, they are taken
    from the newest backwards until it is reached.

    Parameters
    ----------
    settings
        ``service``, ``query``, ``categories``, ``since``, ``until``, ``max_results``.
    folder
        Where windows are stored, one Parquet file each, named by its first and last minute.
    faults
        Counts entries that are not papers, and papers that the service counted and that are in no window.

    Raises
    ------
    RequestError
        The service refuses the query.
    RunError
        The service fails, or a window keeps differing from the service's own count. The next start resumes there.
    """
    search = Windows(settings, folder, faults)
    first = datetime.fromisoformat(settings["since"]) if settings["since"] else EARLIEST
    last = datetime.fromisoformat(settings["until"] or client.today().isoformat()) + timedelta(days=1) - MINUTE
    oldest, total = search.oldest(first, last)
    store.keep_first_day(folder, search.session.day)
    if oldest is None:
        return
    # a day more than the service's own, whose time zone may be another; our clock may be years ahead
    last = min(last, datetime.combine(search.session.day, datetime.min.time()) + timedelta(days=2) - MINUTE)
    months = list(_months(max(first, oldest), last))
    wanted, seen = settings["max_results"] or total, 0
    with tqdm(total=min(wanted, total), desc="arXiv", unit=" papers") as bar:
        for start, end in reversed(months) if settings["max_results"] else months:
            for window in search.window(start, end):
                seen += window.height
                bar.update(min(window.height, bar.total - bar.n))
                yield faults.sift_records(window).select(*SCHEMA)
            if settings["max_results"] and seen >= wanted:
                return
    if seen < total:
        faults.add("counted by arXiv and in no month", f"arXiv counts {total:,}, its months {seen:,}", total - seen)


class Windows:
    """A search, from which windows of submission dates are taken.

    Parameters
    ----------
    settings
        As for `papers`.
    folder
        Where complete windows are stored.
    faults
        Counts answers without a count.
    """

    def __init__(self, settings: dict, folder: Path, faults: Faults):
        self.folder, self.faults = folder, faults
        self.newest_first = bool(settings["max_results"])
        self.terms = [f"({settings['query']})"] if settings["query"] else []
        if settings["categories"]:
            self.terms.append("(" + " OR ".join(f"cat:{name}" for name in settings["categories"]) + ")")
        self.address = settings["service"]
        self.session = new_session()

    def oldest(self, start: datetime, end: datetime) -> tuple[datetime | None, int]:
        """The first minute of the oldest paper's month, and the number of papers between two minutes.

        None where there is no paper. A number of 0 where the service's is not one.
        """
        empty = 0
        for attempt in _attempts():
            rows, total, _ = self._request(start, end, FIRST)
            if rows and (total is not None or attempt == ATTEMPTS - 1):
                days = [row["published"] for row in rows if not row["fault"]]
                days = [day for day in days if start.date() <= day <= end.date()]
                return (datetime.combine(min(days).replace(day=1), start.time().min) if days else start), total or 0
            empty += not rows and not total  # the service answers so by mistake, too: it must say it twice
            if empty == 2:
                return None, 0
        raise RunError(f"arXiv counts {total:,} papers and sends none, {ATTEMPTS} times; try again later")

    def window(self, start: datetime, end: datetime) -> Iterator[pl.DataFrame]:
        """The papers submitted between two minutes, as stored or from the service, halved where there are many."""
        path = self.folder / f"{start:%Y%m%d%H%M}-{end:%Y%m%d%H%M}.parquet"
        if path.exists():
            yield pl.read_parquet(path)
            return
        rows = self._complete(start, end)
        if rows is None:
            middle = start + (end - start) // MINUTE // 2 * MINUTE
            halves = [(start, middle), (middle + MINUTE, end)]
            for half in reversed(halves) if self.newest_first else halves:
                yield from self.window(*half)
            return
        store.write_parquet(path, rows)
        yield rows

    def _complete(self, start: datetime, end: datetime) -> pl.DataFrame | None:
        """The papers of a window, compared with the service's count; None where they are more than `CAP`."""
        empty, window = 0, f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
        for attempt in _attempts():
            rows, total, sent = self._request(start, end)
            if total is not None and total > CAP and end > start:
                return None
            different = {row["id"] for row in rows}
            empty += not rows and not total
            uncounted = total is None and attempt == ATTEMPTS - 1
            if uncounted:
                self.faults.add("windows without a count by arXiv", window)
            if 0 < len(different) == sent == total or empty == 2 or (uncounted and len(different) == sent):
                return pl.DataFrame(rows, WINDOW)
        raise RunError(
            f"arXiv counts {total if total is None else format(total, ',')} papers from {window} and sends "
            f"{len(different):,} different ones in {sent:,}, {ATTEMPTS} times; {client.RESUMES}, with this window"
        )

    def _request(self, start: datetime, end: datetime, limit: int = 0) -> tuple[list[dict], int | None, int]:
        """Papers of a window, oldest first; only the first ``limit``, or the first page where they exceed `CAP`.

        Returns
        -------
        rows
            Each id once.
        total
            The service's count; None where it is not a count.
        sent
            How many entries came.
        """
        query = " AND ".join([*self.terms, f"submittedDate:[{start:%Y%m%d%H%M} TO {end:%Y%m%d%H%M}]"])
        rows, sent, size = {}, 0, limit or PAGE
        while True:
            known = len(rows)
            page, total = search(self.session, self.address, {"search_query": query}, sent, size)
            for row in page:
                if row["published"] and not start.date() <= row["published"] <= end.date():
                    row["fault"] = f"published {row['published']}, which is outside {start.date()} to {end.date()}"
                rows[row["id"] or f"without id {len(rows)}"] = row
            sent += len(page)
            many = total is not None and (sent >= total or (total > CAP and end > start))
            # a page without a new paper is the end, too: the next one may be like it for ever
            if limit or many or len(rows) == known or (total is None and len(page) < size):
                return list(rows.values()), total, sent


def search(
    session: client.Session, address: str, query: dict[str, str], start: int = 0, size: int = 10
) -> tuple[list[dict], int | None]:
    """A page of the papers that the service finds, oldest first, and its count of all.

    Parameters
    ----------
    query
        ``search_query`` or ``id_list``, as the service's manual describes them.
    start, size
        The number of the first paper, from 0, and the maximum number of papers.

    Returns
    -------
    rows
        The columns of `WINDOW`.
    total
        None where the service's count is not one.

    Raises
    ------
    RequestError
        The service refuses the query.
    """
    order = {"sortBy": "submittedDate", "sortOrder": "ascending"}
    response = session.get(address or SERVICE, params=query | order | {"start": start, "max_results": size})
    entries = session.document.findall(f"{ATOM}entry")
    if not response.ok or (entries and "/api/errors" in entries[0].findtext(f"{ATOM}id", "")):
        reason = entries[0].findtext(f"{ATOM}summary", "") if entries else "it does not say why"
        raise RequestError(f"arXiv refuses {query}: HTTP {response.status_code}, {reason.strip()}")
    count = session.document.findtext(TOTAL, "").strip()
    total = int(count) if re.fullmatch(r"[0-9]{1,9}", count) else MAX_TOTAL
    return [_row(entry) for entry in entries], total if total < MAX_TOTAL else None


def new_session() -> client.Session:
    """A session for `search`."""
    return client.Session(f"{ATOM}feed")


def _row(entry: etree._Element) -> dict:
    """An entry as a row of a window; its identifier without the version."""
    number = re.sub(r"v\d+$", "", entry.findtext(f"{ATOM}id", "").strip().partition("/abs/")[2]) or None
    row = dict.fromkeys(WINDOW) | {"id": number}
    try:
        paper = _build_result(entry)  # arxiv's Client would lose the complete page by one wrong date
        days = [client.check_day(moment.date()) for moment in (paper.published, paper.updated)]
    except AttributeError:
        return row | {"fault": "no id or no date"}
    except (ValueError, OverflowError) as error:
        return row | {"fault": f"date: {error}"}
    if not number or not paper.title.strip():
        return row | {"fault": "no title" if number else "no id"}
    return row | {
        "title": paper.title.strip(),
        "abstract": paper.summary.strip(),
        "authors": [author.name for author in paper.authors],
        "categories": paper.categories,
        "primary_category": paper.primary_category or None,
        "published": days[0],
        "updated": days[1],
        "doi": paper.doi,
        "journal_ref": paper.journal_ref,
        "comments": paper.comment,
    }


def _months(first: datetime, last: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The first and last minutes of each month from ``first`` to ``last``."""
    while first <= last:
        following = (first.replace(day=1) + timedelta(days=31)).replace(day=1, hour=0, minute=0)
        yield first, min(following - MINUTE, last)
        first = following


def _attempts() -> Iterator[int]:
    for attempt in range(ATTEMPTS):
        time.sleep(attempt * client.BACKOFF)
        yield attempt
