"""Source ``arxiv``: arXiv's search API (https://info.arxiv.org/help/api/user-manual.html).

Pages of long lists are sometimes empty or repeat earlier ones. So papers are requested in windows of submission dates.
Each is compared with the service's own count and stored: an interrupted harvest resumes with the next one.
"""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
from arxiv._feed import _build_result
from lxml import etree
from tqdm import tqdm

from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import client, store
from titlesmith.harvest.categories import search_term
from titlesmith.harvest.schema import SCHEMA, Faults

SERVICE = "https://export.arxiv.org/api/query"
ATOM = "{http://www.w3.org/2005/Atom}"
FEED = f"{ATOM}feed"
TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
PAGE = 1000  # papers per request; the service allows 2,000, and longer pages are empty more often
CAP = 5000  # papers per window, which is halved above that; the service refuses lists of more than 30,000
EARLIEST = datetime(1980, 1, 1)  # before the oldest paper: some are older than arXiv
MINUTE = timedelta(minutes=1)
WINDOW = {**SCHEMA, "fault": pl.String}


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields papers by ``query``, ``categories`` (any), ``since`` and ``until``, one window of dates at a time.

    The windows come in order, from the newest backwards if ``max_results`` is set, until it is reached. RequestError:
    the service refuses the query. RunError: it fails, or a window keeps differing from its count.
    """
    terms = [f"({settings['query']})"] if settings["query"] else []
    if settings["categories"]:
        terms.append("(" + " OR ".join(map(search_term, settings["categories"])) + ")")
    session, wanted, seen = client.Session(FEED), settings["max_results"], 0

    def request(first: datetime, last: datetime, start: int = 0, size: int = 1) -> tuple[list[dict], int]:
        dates = f"submittedDate:[{first:%Y%m%d%H%M} TO {last:%Y%m%d%H%M}]"
        return search(settings["service"], {"search_query": " AND ".join([*terms, dates])}, start, size, session)

    # An interrupted harvest resumes with the windows of its first day
    until = settings["until"] or store.first_day(folder) or f"{client.today()}"
    first = datetime.fromisoformat(settings["since"]) if settings["since"] else EARLIEST
    windows = [(first, datetime.fromisoformat(until) + timedelta(days=1) - MINUTE)]  # the last one is next
    _, total = request(*windows[0])
    store.first_day(folder, session.day)
    with tqdm(total=min(wanted or total, total), desc="arXiv", unit=" papers") as bar:
        while windows and not 0 < wanted <= seen:
            first, last = windows.pop()
            path = folder / f"{first:%Y%m%d%H%M}-{last:%Y%m%d%H%M}.parquet"
            if not path.exists():
                papers = _complete(request, first, last)
                if papers is None:
                    middle = first + (last - first) // MINUTE // 2 * MINUTE
                    halves = [(first, middle), (middle + MINUTE, last)]
                    windows += halves if wanted else reversed(halves)
                    continue
                store.write_parquet(path, papers.lazy())
            window = pl.read_parquet(path)
            seen += window.height
            bar.update(window.height)
            yield faults.sift_records(window).select(*SCHEMA)
    if seen < min(wanted or total, total):
        faults.add("counted by arXiv and in no window", f"arXiv counts {total:,}, its windows {seen:,}", total - seen)


def _complete(request: Callable, first: datetime, last: datetime) -> pl.DataFrame | None:
    """The papers of a window, compared with the service's count; None if there are more than `CAP`."""
    for attempt in client.attempts():
        rows, sent, total = {}, 0, 1
        while sent < total:
            page, total = request(first, last, sent, PAGE)
            if total > CAP and last > first:
                return None
            sent, known = sent + len(page), len(rows)
            rows |= {row["id"]: row for row in page}
            if len(rows) == known:  # the next page may be like this one for ever
                break
        if len(rows) == sent == total and (rows or attempt):  # the service says by mistake, too, that there are none
            return pl.DataFrame(list(rows.values()), WINDOW)
    raise RunError(
        f"arXiv counts {total:,} papers from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} and sends {len(rows):,} "
        f"different ones in {sent:,}, {client.PAGE_ATTEMPTS} times; {client.RESUMES}"
    )


def search(
    address: str, query: dict[str, str], start: int = 0, size: int = 10, session: client.Session | None = None
) -> tuple[list[dict], int]:
    """A page of the papers that match a query, oldest first, with the columns of `WINDOW`, and the count of all.

    ``query`` has a ``search_query`` or an ``id_list``, as the service's manual describes them; ``start`` is the number
    of the first paper, from 0. RequestError: the service refuses the query. RunError: it states no count.
    """
    parameters = query | {"sortBy": "submittedDate", "sortOrder": "ascending", "start": start, "max_results": size}
    document = (session or client.Session(FEED)).get(address or SERVICE, parameters)
    entries = document.findall(f"{ATOM}entry")
    if entries and "/api/errors" in entries[0].findtext(f"{ATOM}id", ""):
        raise RequestError(f"arXiv refuses {query}: {entries[0].findtext(f'{ATOM}summary', '').strip()}")
    try:
        return [_row(entry) for entry in entries], int(document.findtext(TOTAL, ""))
    except ValueError as error:
        raise RunError(f"arXiv does not state how many papers match {query}: {error}; {client.RESUMES}") from None


def _row(entry: etree._Element) -> dict:
    """An entry as a row of a window; its identifier without the version."""
    number = re.sub(r"v\d+$", "", entry.findtext(f"{ATOM}id", "").strip().partition("/abs/")[2]) or None
    row = dict.fromkeys(WINDOW) | {"id": number}
    try:
        paper = _build_result(entry)  # arxiv's Client would lose the complete page by one wrong date
        published, updated = (client.check_day(moment.date()) for moment in (paper.published, paper.updated))
    except (AttributeError, ValueError, OverflowError) as error:
        return row | {"fault": f"no id, or a wrong date: {error}"}
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
        "fault": None if number and paper.title.strip() else "no id or no title",
    }
