"""HTTP client for arXiv's services: polite, patient with faults, and bounded in time and size."""

import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from lxml import etree
from requests.exceptions import RequestException, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from titlesmith import __version__
from titlesmith.errors import RequestError, RunError
from titlesmith.runs import root

ARXIV = "arxiv.org"  # whose hosts require the delay below (https://info.arxiv.org/help/api/tou.html)
DELAY = 3.0  # seconds between requests of all processes of this project together
TIMEOUT = (10, 90)  # seconds until a connection is made, and between two pieces of an answer
DEADLINE = float(os.environ.get("TITLESMITH_HTTP_SECONDS", 300))  # for one body
MAX_BYTES = int(os.environ.get("TITLESMITH_HTTP_BYTES", 64 << 20))  # of a decompressed body; arXiv's have 5 MB
ATTEMPTS = 7  # per request
PAGE_ATTEMPTS = 4  # at answers that are complete documents, but not the expected papers
CONNECT_ATTEMPTS = 2  # while no server has answered yet: the network is probably absent
BACKOFF, MAX_BACKOFF = 2.0, 60.0  # seconds before the second attempt, doubled before each further one
MAX_RETRY_AFTER = 900.0  # seconds; the harvest stops if a service requests a longer pause
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
RESUMES = "what was harvested is kept, and the next start resumes there"


class Session:
    """Requests documents whose root element has the qualified name ``root_tag``; repeats requests that fail.

    ``day`` is that of the last answer (UTC), by our own clock or by the service's: the earlier one.
    """

    def __init__(self, root_tag: str):
        self.root_tag, self.has_connected = root_tag, False
        self.day: date | None = None
        self.session = requests.Session()
        self.session.headers.update({"Accept-Encoding": "gzip, deflate", "User-Agent": f"titlesmith/{__version__}"})

    def get(self, url: str, params: dict | None = None) -> etree._Element:
        """The answer's root element (RequestError: the service refuses; RunError: it sends no complete document)."""
        for attempt in range(1, ATTEMPTS + 1):
            seconds = min(BACKOFF * 2 ** (attempt - 1), MAX_BACKOFF) + random.uniform(0, BACKOFF)
            try:
                with turn(url), self.session.get(url, params=params, stream=True, timeout=TIMEOUT) as response:
                    self.has_connected = True
                    seconds = Retry().get_retry_after(response.raw) or seconds
                    return self._read(response)
            except (RequestException, HTTPError) as error:
                problem = str(error)
            if seconds > MAX_RETRY_AFTER:
                raise RunError(f"{url} requests a pause of {seconds:.0f} s or more ({problem}); {RESUMES}")
            if attempt == ATTEMPTS or (attempt >= CONNECT_ATTEMPTS and not self.has_connected):
                break
            if seconds > DELAY:
                tqdm.write(f"{urlsplit(url).hostname}: {problem}; next attempt in {seconds:.0f} s", sys.stderr)
            time.sleep(seconds)
        reached = "sent no usable answer" if self.has_connected else "cannot be reached (no network?)"
        raise RunError(f"{url} {reached} in {attempt} attempts: {problem}; {RESUMES}")

    def _read(self, response: requests.Response) -> etree._Element:
        """The root element (RequestException: another attempt may help; RequestError, RunError: none will)."""
        status = f"HTTP {response.status_code} {response.reason}"
        if response.status_code in RETRY_STATUS:
            raise RequestException(status)
        content, document = _read_body(response), None
        # Drops characters that XML does not allow, as in some abstracts
        parser = etree.XMLParser(recover=True, resolve_entities=False, huge_tree=True)
        with suppress(etree.XMLSyntaxError):
            document = etree.fromstring(content, parser)
        if not response.ok:
            reason = content[:60] if document is None else " ".join("".join(document.itertext()).split())[:300]
            raise RequestError(f"{response.url} is refused: {status}, {reason}")
        # Markup that is not closed hides what follows it
        is_closed = all(error.type_name != "ERR_TAG_NAME_MISMATCH" for error in parser.error_log)
        is_complete = content.rstrip().endswith(etree.QName(self.root_tag).localname.encode() + b">")
        if document is None or document.tag != self.root_tag or not is_closed or not is_complete:
            raise RequestException(f"{status} with {content[:60]!r}..., not a complete document")
        self.day = today()
        with suppress(TypeError, ValueError, OverflowError):  # a service without a valid date
            self.day = min(self.day, parsedate_to_datetime(response.headers.get("Date")).astimezone(UTC).date())
        return document


def attempts() -> Iterator[int]:
    """Yields the numbers of `PAGE_ATTEMPTS` attempts from 0, with increasing pauses."""
    for attempt in range(PAGE_ATTEMPTS):
        time.sleep(attempt * BACKOFF)
        yield attempt


def today() -> date:
    """The day by our own clock (UTC), which may be wrong."""
    return datetime.now(UTC).date()


def check_day(day: date) -> date:
    """The day, unless it is in the future (ValueError); one day of tolerance covers time zones and slow clocks."""
    if day > today() + timedelta(days=1):
        raise ValueError(f"{day} is in the future")
    return day


@contextmanager
def turn(url: str) -> Iterator[None]:
    """Waits until arXiv may be requested again, and keeps other processes of this project waiting meanwhile."""
    if not (urlsplit(url).hostname or "").endswith(ARXIV):
        yield
        return
    last = root() / "runs" / ".arxiv.last"
    last.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(last.with_name(".arxiv.lock")):
        if last.exists():
            time.sleep(min(max(0, last.stat().st_mtime + DELAY - time.time()), DELAY))
        try:
            yield
        finally:
            last.touch()


def _read_body(response: requests.Response) -> bytes:
    """The body: at most `MAX_BYTES`, decompressed (RunError), within `DEADLINE` (Timeout)."""
    body, end = bytearray(), time.monotonic() + DEADLINE
    # read1 returns what has arrived, so that a server which sends single bytes does not block the loop
    while piece := response.raw.read1(1 << 16, decode_content=True):
        body += piece
        if len(body) > MAX_BYTES:
            raise RunError(f"{response.url} sends more than {MAX_BYTES:,} bytes: raise TITLESMITH_HTTP_BYTES")
        if time.monotonic() > end:
            raise Timeout(f"the answer is not complete after {DEADLINE:g} s")
    return bytes(body)
