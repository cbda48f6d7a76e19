"""Source ``arxiv``: arXiv's search API (https://info.arxiv.org/help/api/user-manual.html), in windows of dates.

The service does not serve long lists reliably: some pages are empty or repeat earlier ones. So papers are requested in
windows of submission dates, each window is compared with the service's own count, and complete windows are stored: an
interrupted harvest resumes with the next one.
"""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
from arxiv._feed import _build_result
from lxml import etree
from tqdm import tqdm

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import client, store
from titlesmith.harvest.categories import search_term
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.schema import SCHEMA

SERVICE = "https://export.arxiv.org/api/query"
ATOM = "{http://www.w3.org/2005/Atom}"
TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
PAGE = 1000  # papers per request; the service allows 2,000, and longer pages are empty more often
CAP = 5000  # papers per window, which is halved above that; the service refuses lists of more than 30,000
EARLIEST = datetime(1980, 1, 1)  # before the oldest paper: some are older than arXiv
ALL_MINUTES = 1 << 26  # from EARLIEST until 2107, a power of two so that halves have the same bounds in each harvest
MINUTE = timedelta(minutes=1)
WINDOW = {**SCHEMA, "fault": pl.String}


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields papers by ``query``, ``categories`` (any), ``since`` and ``until``, one window of dates at a time.

    The windows come in order, from the newest backwards if ``max_results`` is set, until it is reached. ``folder`` has
    a Parquet file for each complete one, named by its first and last minute. RequestError: the service refuses the
    query. RunError: it fails, or a window keeps differing from its own count; the next start resumes there.
    """
    search = Windows(settings, folder)
    total, wanted, seen = search.count(), settings["max_results"], 0
    store.keep_first_day(folder, search.session.day)
    if total is None:
        return
    with tqdm(total=min(wanted or total, total), desc="arXiv", unit=" papers") as bar:
        for window in search.windows(EARLIEST, ALL_MINUTES):
            seen += window.height
            bar.update(min(window.height, bar.total - bar.n))
            yield faults.sift_records(window).select(*SCHEMA)
            if 0 < wanted <= seen:
                return
    if seen < total:
        faults.add("counted by arXiv and in no window", f"arXiv counts {total:,}, its windows {seen:,}", total - seen)


class Windows:
    """The windows of dates of a search, with the settings and the folder of `read`."""

    def __init__(self, settings: dict, folder: Path):
        self.address, self.folder, self.session = settings["service"], folder, new_session()
        self.newest_first = bool(settings["max_results"])
        self.terms = [f"({settings['query']})"] if settings["query"] else []
        if settings["categories"]:
            self.terms.append("(" + " OR ".join(map(search_term, settings["categories"])) + ")")
        self.first = datetime.fromisoformat(settings["since"]) if settings["since"] else EARLIEST
        last = datetime.fromisoformat(settings["until"] or client.today().isoformat())
        self.last = last + timedelta(days=1) - MINUTE

    def count(self) -> int | None:
        """The number of papers by the service's count; None if there are none."""
        for _ in client.attempts(2):  # the service answers so by mistake, too: it must say it twice
            rows, total, _ = self._request(self.first, self.last, 1)
            if rows or total:
                return total
        return None

    def windows(self, start: datetime, minutes: int) -> Iterator[pl.DataFrame]:
        """Yields the papers submitted within some minutes, stored or from the service, in windows of at most `CAP`."""
        first, last = max(start, self.first), min(start + (minutes - 1) * MINUTE, self.last)
        if first > last:
            return
        name = f"{first:%Y%m%d%H%M}-{last:%Y%m%d%H%M}"
        path = self.folder / f"{name}.parquet"
        if path.exists():
            yield pl.read_parquet(path)
            return
        # A window that holds a stored one was halved
        bounds, stored = name.split("-"), [file.stem.split("-") for file in self.folder.glob("*.parquet")]
        halved = any(bounds[0] <= begin and end <= bounds[1] for begin, end in stored)
        papers = None if halved else self._complete(first, last)
        if papers is None:
            halves = [start, start + minutes // 2 * MINUTE]
            for half in reversed(halves) if self.newest_first else halves:
                yield from self.windows(half, minutes // 2)
            return
        store.write_parquet(path, papers)
        yield papers

    def _complete(self, start: datetime, end: datetime) -> pl.DataFrame | None:
        """The papers of a window, compared with the service's count; None if there are more than `CAP`."""
        empty = 0
        for _ in client.attempts():
            rows, total, sent = self._request(start, end)
            if total > CAP and end > start:
                return None
            empty += not rows and not total
            if 0 < len(rows) == sent == total or empty == 2:
                return pl.DataFrame(rows, WINDOW)
        raise RunError(
            f"arXiv counts {total:,} papers from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} and sends "
            f"{len(rows):,} different ones in {sent:,}, {client.PAGE_ATTEMPTS} times; {client.RESUMES}"
        )

    def _request(self, start: datetime, end: datetime, limit: int = 0) -> tuple[list[dict], int, int]:
        """Papers of a window, each id once; the service's count; and the number of entries that it sent.

        The papers are the oldest ``limit``, or the first page if the count exceeds `CAP`.
        """
        query = " AND ".join([*self.terms, f"submittedDate:[{start:%Y%m%d%H%M} TO {end:%Y%m%d%H%M}]"])
        rows, sent = {}, 0
        while True:
            known = len(rows)
            page, total = search(self.session, self.address, {"search_query": query}, sent, limit or PAGE)
            for row in page:
                if row["published"] and not start.date() <= row["published"] <= end.date():
                    row["fault"] = f"published {row['published']}, which is outside {start.date()} to {end.date()}"
                rows[row["id"] or f"without id {len(rows)}"] = row
            sent += len(page)
            # a page without a new paper is the end, too: the next one may be like it for ever
            if limit or sent >= total or len(rows) == known or (total > CAP and end > start):
                return list(rows.values()), total, sent


def search(
    session: client.Session, address: str, query: dict[str, str], start: int = 0, size: int = 10
) -> tuple[list[dict], int]:
    """A page of the papers that match a query, oldest first, with the columns of `WINDOW`, and the count of all.

    ``query`` has a ``search_query`` or an ``id_list``, as the service's manual describes them; ``start`` is the number
    of the first paper, from 0. RequestError: the service refuses the query.
    """
    order = {"sortBy": "submittedDate", "sortOrder": "ascending"}
    response = session.get(address or SERVICE, params=query | order | {"start": start, "max_results": size})
    entries = session.document.findall(f"{ATOM}entry")
    if not response.ok or (entries and "/api/errors" in entries[0].findtext(f"{ATOM}id", "")):
        reason = entries[0].findtext(f"{ATOM}summary", "") if entries else "it does not say why"
        raise RequestError(f"arXiv refuses {query}: HTTP {response.status_code}, {reason.strip()}")
    count = session.document.findtext(TOTAL, "").strip()
    return [_row(entry) for entry in entries], int(count) if re.fullmatch(r"[0-9]{1,8}", count) else 0


def new_session() -> client.Session:
    """A session for `search`."""
    return client.Session(f"{ATOM}feed")


def _row(entry: etree._Element) -> dict:
    """An entry as a row of a window; its identifier without the version."""
    number = re.sub(r"v\d+$", "", entry.findtext(f"{ATOM}id", "").strip().partition("/abs/")[2]) or None
    row = dict.fromkeys(WINDOW) | {"id": number}
    try:
        paper = _build_result(entry)  # arxiv's Client would lose the complete page by one wrong date
        published, updated = (client.check_day(moment.date()) for moment in (paper.published, paper.updated))
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
        "published": published,
        "updated": updated,
        "doi": paper.doi,
        "journal_ref": paper.journal_ref,
        "comments": paper.comment,
    }
