"""HTTP client for arXiv's services: polite, patient with faults, and bounded in time and size."""

import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from lxml import etree
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError, RequestException, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from titlesmith import __version__
from titlesmith.errors import RunError, shorten
from titlesmith.runs import root

ARXIV = ("arxiv.org",)  # hosts that require the delay below (https://info.arxiv.org/help/api/tou.html)
DELAY = 3.0  # seconds between requests of all processes of this project together
TIMEOUT = (10, 90)  # seconds until a connection is made, and between two pieces of an answer
DEADLINE = float(os.environ.get("TITLESMITH_HTTP_SECONDS", 300))  # for one attempt: redirects, headers and body
MAX_BYTES = int(os.environ.get("TITLESMITH_HTTP_BYTES", 64 << 20))  # of a decompressed body; arXiv's have 5 MB
PIECE_BYTES = 1 << 16  # of a body read at once
ATTEMPTS = 7  # per request
PAGE_ATTEMPTS = 4  # at answers that are complete documents, but not the expected papers
CONNECT_ATTEMPTS = 2  # while no server has answered yet: the network is probably absent
BACKOFF, MAX_BACKOFF = 2.0, 60.0  # seconds before the second attempt, doubled before each further one
MAX_RETRY_AFTER = 900.0  # seconds; the harvest stops if a service requests a longer pause
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
RESUMES = "what was harvested is kept, and the next start resumes there"


class _RetryableError(Exception):
    """A failure that another attempt may cure, after ``seconds`` if the service states them."""

    def __init__(self, reason: str, seconds: float | None = None, unreachable: bool = False):
        super().__init__(reason)
        self.seconds, self.unreachable = seconds, unreachable


class _BoundedAdapter(HTTPAdapter):
    """Reads each body, also that of a redirect: at most `MAX_BYTES` (decompressed) within `DEADLINE`."""

    def send(self, request: requests.PreparedRequest, **arguments: object) -> requests.Response:
        end = time.monotonic() + DEADLINE
        response = super().send(request, **arguments | {"stream": True})
        if (encoding := response.headers.get("Content-Encoding", "")) not in ("", "identity", "gzip", "deflate"):
            response.close()  # others, or several, can make gigabytes of one piece
            raise RunError(f"{request.url}: the answer's encoding {shorten(encoding)} was not requested")
        body = bytearray()
        # read1 returns what has arrived, so that a server which sends single bytes does not block the loop
        while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
            body += piece
            if len(body) > MAX_BYTES:
                response.close()
                raise RunError(
                    f"{request.url}: the answer is larger than {MAX_BYTES:,} bytes (decompressed). Set the "
                    "environment variable TITLESMITH_HTTP_BYTES to a larger number to accept it"
                )
            if time.monotonic() > end:
                response.close()
                raise _timeout()
        response.raw.release_conn()
        response._content, response._content_consumed = bytes(body), True
        return response


class Session(requests.Session):
    """Sends requests and repeats those that fail, with exponential backoff or after the service's Retry-After.

    ``root_tag`` is the qualified name of the root element of a complete answer. After an answer, ``document`` is its
    root element, and ``day`` the earlier of our own day (UTC) and the service's.
    """

    def __init__(self, root_tag: str):
        super().__init__()
        self.root_tag, self.has_connected = root_tag, False
        self.document: etree._Element | None = None
        self.day: date | None = None
        self.adapters = {"http": _BoundedAdapter()}  # for all addresses that begin so
        self.headers["Accept-Encoding"] = "gzip, deflate"
        self.headers["User-Agent"] = f"titlesmith/{__version__}"

    def request(self, method: str, url: str, **arguments: object) -> requests.Response:
        """The answer to a request: 200, or another status with a document that states the reason (RunError: none)."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(method, url, **arguments | {"timeout": TIMEOUT})
            except _RetryableError as error:
                absent = error.unreachable and not self.has_connected
                if attempt == (min(ATTEMPTS, CONNECT_ATTEMPTS) if absent else ATTEMPTS):
                    problem = "cannot be reached (no network?)" if error.unreachable else "sent no usable answer"
                    raise RunError(f"{url} {problem} in {attempt} attempts: {error}; {RESUMES}") from None
                backoff = min(BACKOFF * 2 ** (attempt - 1), MAX_BACKOFF) + random.uniform(0, BACKOFF)
                seconds = backoff if error.seconds is None else error.seconds
                if seconds > DELAY:
                    tqdm.write(f"{urlsplit(url).hostname}: {error}; next attempt in {seconds:.0f} s", sys.stderr)
                time.sleep(seconds)
            except RequestException as error:
                raise RunError(f"{url} cannot be requested: {error}") from None
        raise AssertionError

    def _attempt(self, method: str, url: str, **arguments: object) -> requests.Response:
        try:
            with turn(url):
                response = _within_deadline(super().request, method, url, **arguments)
        except (ConnectionError, Timeout, HTTPError) as error:
            raise _RetryableError(f"no answer, {_cause(error)}", None, isinstance(error, ConnectionError)) from None
        self.has_connected = True
        if response.status_code in RETRY_STATUS:
            raise _RetryableError(f"HTTP {response.status_code} {response.reason}", _retry_after(response))
        self.document = _complete_document(response.content, self.root_tag)
        if self.document is None:
            problem = f"HTTP {response.status_code} with {response.content[:60]!r}..., not a complete document"
            raise _RetryableError(problem) if response.ok else RunError(f"{url}: {problem}")
        self.day = today()
        with suppress(TypeError, ValueError, OverflowError):  # a service without a valid date
            self.day = min(self.day, parsedate_to_datetime(response.headers.get("Date")).astimezone(UTC).date())
        return response


def attempts(count: int = PAGE_ATTEMPTS) -> Iterator[int]:
    """Yields the numbers of attempts from 0, with increasing pauses."""
    for attempt in range(count):
        time.sleep(attempt * BACKOFF)
        yield attempt


def _within_deadline(
    function: Callable[..., requests.Response], *arguments: str, **options: object
) -> requests.Response:
    """Calls a function in a thread, since only that bounds everything: name resolution, TLS, headers byte by byte."""
    answer: Future[requests.Response] = Future()

    def work() -> None:
        try:
            answer.set_result(function(*arguments, **options))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    with suppress(TimeoutError):
        return answer.result(timeout=DEADLINE)
    raise _timeout()


def _timeout() -> Timeout:
    return Timeout(f"the answer is not complete after {DEADLINE:g} s")


def today() -> date:
    """The day by our own clock (UTC), which may be wrong."""
    return datetime.now(UTC).date()


def check_day(day: date) -> date:
    """The day, unless it is in the future (ValueError); one day of tolerance covers time zones and slow clocks."""
    if day > today() + timedelta(days=1):
        raise ValueError(f"{day} is in the future")
    return day


def _complete_document(content: bytes, root_tag: str) -> etree._Element | None:
    """The root element of an XML document that has this tag and is not cut off, else None.

    Characters that XML does not allow, as in some abstracts, are dropped.
    """
    with suppress(etree.XMLSyntaxError):
        document = etree.fromstring(content, etree.XMLParser(recover=True, resolve_entities=False, huge_tree=True))
        end = rb"</(\w+:)?%b\s*>\s*$" % etree.QName(root_tag).localname.encode()
        if document is not None and document.tag == root_tag and re.search(end, content[-200:]):
            return document
    return None


@contextmanager
def turn(url: str) -> Iterator[None]:
    """Waits until arXiv may be requested again, and keeps other processes of this project waiting meanwhile."""
    if not f".{urlsplit(url).hostname}".endswith(tuple(f".{host}" for host in ARXIV)):
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


def _retry_after(response: requests.Response) -> float | None:
    """The seconds of Retry-After, in either of its forms; None if it is absent or invalid."""
    header = response.headers.get("Retry-After", "")
    try:
        seconds = Retry().parse_retry_after(header)
    except (HTTPError, ValueError, OverflowError):
        return None
    if seconds > MAX_RETRY_AFTER:
        pause = f"requests a pause (HTTP {response.status_code}, Retry-After: {header}): start again after it"
        raise RunError(f"{urlsplit(response.url).hostname} {pause}; {RESUMES}")
    return seconds


def _cause(error: BaseException) -> str:
    """The innermost cause of a network error, in one line."""
    inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
    return _cause(inner) if inner else f"{type(error).__name__}: {str(error).rpartition(': ')[2]}"
