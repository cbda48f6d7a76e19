"""What all of arXiv's services have in common: polite HTTP that puts up with faults, and the names of categories."""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import requests
from filelock import FileLock
from lxml import etree
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError, ConnectTimeout, ProxyError, RequestException, SSLError, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util import Retry

from titlesmith.errors import RequestError, RunError, shorten
from titlesmith.harvest.store import writing
from titlesmith.hints import nearest
from titlesmith.runs import replacing, root, write_json

ARXIV = ("arxiv.org",)  # hosts that ask for the pace below (https://info.arxiv.org/help/api/tou.html)
DELAY = 3.0  # seconds between requests, those of all processes of this project together
TIMEOUT = (10, 90)  # seconds until a connection is made, and between two pieces of an answer
DEADLINE = float(os.environ.get("TITLESMITH_HTTP_SECONDS", 300))  # for one attempt: redirects, headers and body
MAX_BYTES = int(os.environ.get("TITLESMITH_HTTP_BYTES", 64 << 20))  # of a body, decompressed; arXiv's have 5 MB
PIECE = 1 << 16  # bytes of a body read at once
ATTEMPTS = 7  # at one request
CONNECT_ATTEMPTS = 2  # where no server has answered yet: the network is probably absent
BACKOFF, LONGEST = 2.0, 60.0  # seconds before the second attempt, doubled before each other, up to the longest
PATIENCE = 900.0  # the longest wait, in seconds, that a service may ask for; where it asks for more the harvest ends
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may change
LATER = "what was harvested is kept, and the next start goes on from there"

PHYSICS = ["astro-ph", "cond-mat", "gr-qc", "hep-ex", "hep-lat", "hep-ph", "hep-th", "math-ph", "nlin", "nucl-ex"]
PHYSICS += ["nucl-th", "physics", "quant-ph"]
ARCHIVES = [*PHYSICS, "cs", "econ", "eess", "math", "q-bio", "q-fin", "stat"]
UNDIVIDED = set(PHYSICS) - {"nlin", "physics"}  # archives that are, or once were, categories themselves


class UnusableError(Exception):
    """An answer that another attempt may change for the better; after ``seconds``, where the service names them."""

    def __init__(self, why: str, seconds: float | None = None):
        super().__init__(why)
        self.seconds = seconds


class UnreachableError(UnusableError):
    """No connection could be made: no network, no such host, or nothing that listens there."""


class TooLargeError(RunError):
    """An answer is larger than `MAX_BYTES`."""


class _BoundedAdapter(HTTPAdapter):
    """Reads all bodies, those of redirects included: at most `MAX_BYTES` (decompressed) within `DEADLINE`."""

    def send(self, request: requests.PreparedRequest, **arguments: object) -> requests.Response:
        end = time.monotonic() + DEADLINE
        response = super().send(request, **arguments | {"stream": True})
        pieces, size = [], 0
        # read1 returns what has arrived, so that a server that sends a byte at a time does not keep the loop waiting
        while piece := response.raw.read1(PIECE, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                response.close()
                raise TooLargeError(
                    f"{request.url}: the answer is larger than {MAX_BYTES:,} bytes (decompressed). Set the "
                    "environment variable TITLESMITH_HTTP_BYTES to a larger number to accept it"
                )
            if time.monotonic() > end:
                response.close()
                raise Timeout(_late())
        response.raw.release_conn()
        response._content, response._content_consumed = b"".join(pieces), True
        return response


class Session(requests.Session):
    """A session that asks politely and repeats what fails.

    Every attempt has a deadline and a maximum size, and waits for its turn (one request every `DELAY` seconds where
    the service is arXiv's). It is repeated, with exponential backoff and jitter or when the service's Retry-After says,
    where the connection breaks, the status is one of `AGAIN`, or the answer is not a complete document of the kind.

    Parameters
    ----------
    kind
        Qualified name of the root element of a whole answer, such as ``{http://www.w3.org/2005/Atom}feed``.

    Attributes
    ----------
    answer
        Root element of the last answer.
    day
        The earlier of the days (UTC) that our clock and the service's gave with the last answer; none before it.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.answer: etree._Element | None = None
        self.day: date | None = None
        self.connected = False
        for scheme in ("http://", "https://"):
            self.mount(scheme, _BoundedAdapter())
        self.headers["User-Agent"] = "titlesmith (https://github.com/titlesmith/titlesmith)"

    def request(self, method: str, url: str, **arguments: object) -> requests.Response:
        """The answer to a request: 200, or another status with a document that says why.

        Raises
        ------
        RunError
            No attempt brought a usable answer, or the service asks for more patience than `PATIENCE`.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(UnusableError),
            stop=self._is_last,
            wait=_wait,
            before_sleep=_tell,
            reraise=True,
        )
        try:
            return attempts(self._attempt, method, url, **arguments | {"timeout": TIMEOUT})
        except UnreachableError as error:
            raise RunError(f"no network? {url} cannot be reached: {error}; {LATER}") from None
        except UnusableError as error:
            raise RunError(f"{url} gave no usable answer in {ATTEMPTS} attempts: {error}; {LATER}") from None
        except RequestException as error:
            raise RunError(f"{url} cannot be asked: {error}") from None

    def _attempt(self, method: str, url: str, **arguments: object) -> requests.Response:
        try:
            with turn(url):
                response = _within_deadline(lambda: super(Session, self).request(method, url, **arguments))
        except (ConnectionError, Timeout, HTTPError) as error:
            reason = getattr(error.args[0] if error.args else None, "reason", None)
            if isinstance(error, ConnectTimeout | ProxyError | SSLError) or isinstance(reason, NewConnectionError):
                raise UnreachableError(_cause(error)) from None
            raise UnusableError(f"no answer, {_cause(error)}") from None
        self.connected = True
        if response.status_code in AGAIN:
            raise UnusableError(f"HTTP {response.status_code} {response.reason}", _asked(response))
        self.answer = whole(response.content, self.kind)
        if self.answer is None:
            told = f"HTTP {response.status_code} with {response.content[:60]!r}... instead of a whole document"
            raise UnusableError(told) if response.ok else RunError(f"{url}: {told}")
        self.day = min(today(), _day(response.headers.get("Date", "")))
        return response

    def _is_last(self, state: RetryCallState) -> bool:
        """Whether to give up: soon where nothing was ever reached, patiently where a service has answered before."""
        absent = isinstance(state.outcome.exception(), UnreachableError) and not self.connected
        return state.attempt_number >= (min(CONNECT_ATTEMPTS, ATTEMPTS) if absent else ATTEMPTS)


def _within_deadline(request: Callable[[], requests.Response]) -> requests.Response:
    """The answer to a request, or Timeout after `DEADLINE`.

    It is made in a thread, since only that bounds all of it: name resolution, TLS, and headers that come byte by byte.
    """
    answer: Future[requests.Response] = Future()

    def work() -> None:
        try:
            answer.set_result(request())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(timeout=DEADLINE)
    except TimeoutError:
        raise Timeout(_late()) from None


def _late() -> str:
    return f"the answer is not complete after {DEADLINE:g} s"


def today() -> date:
    """The day by our own clock (UTC), which may be wrong."""
    return datetime.now(UTC).date()


def possible(day: date) -> date:
    """The day, unless it is in the future (ValueError); a day of tolerance is for time zones and slow clocks."""
    if day > today() + timedelta(days=1):
        raise ValueError(f"{day} is in the future")
    return day


def _day(header: str) -> date:
    """The day in an HTTP date; by our own clock where it is none."""
    try:
        return parsedate_to_datetime(header).astimezone(UTC).date()
    except (TypeError, ValueError, OverflowError):
        return today()


def whole(content: bytes, kind: str) -> etree._Element | None:
    """The root element of an XML document where it is one of a kind and ends with it, else None.

    A character that XML does not allow is dropped, as some abstracts have one; a document that was cut is none.
    """
    with suppress(etree.XMLSyntaxError):
        document = etree.fromstring(content, etree.XMLParser(recover=True, resolve_entities=False, huge_tree=True))
        end = rb"</(\w+:)?%b\s*>\s*$" % etree.QName(kind).localname.encode()
        if document is not None and document.tag == kind and re.search(end, content[-200:]):
            return document
    return None


@contextmanager
def turn(url: str) -> Iterator[None]:
    """Waits until arXiv may be asked again, and keeps other processes of this project from asking meanwhile."""
    if not f".{urlsplit(url).hostname}".endswith(tuple(f".{host}" for host in ARXIV)):
        yield
        return
    asked = root() / "runs" / ".arxiv.asked"
    asked.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(asked.with_name(".arxiv.lock")):
        if asked.exists():
            time.sleep(min(max(0, asked.stat().st_mtime + DELAY - time.time()), DELAY))
        try:
            yield
        finally:
            asked.touch()


def _asked(response: requests.Response) -> float | None:
    """How many seconds a service asks to wait, in either form of Retry-After; None where it does not say."""
    try:
        seconds = Retry().parse_retry_after(after := response.headers.get("Retry-After", ""))
    except (HTTPError, ValueError, OverflowError):
        return None
    if seconds > PATIENCE:
        host = urlsplit(response.url).hostname
        raise RunError(
            f"{host} asks for a pause (HTTP {response.status_code}, Retry-After: {after}): start again then; {LATER}"
        )
    return seconds


def _cause(error: BaseException) -> str:
    """The innermost cause of an error of the network, in a line."""
    inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
    return _cause(inner) if inner else f"{type(error).__name__}: {str(error).rpartition(': ')[2]}"


def _wait(state: RetryCallState) -> float:
    seconds = state.outcome.exception().seconds
    return (
        wait_exponential_jitter(multiplier=BACKOFF, max=LONGEST, jitter=BACKOFF)(state) if seconds is None else seconds
    )


def _tell(state: RetryCallState) -> None:
    """Says why nothing happens, where that lasts longer than people wait without a word."""
    if (seconds := state.next_action.sleep) > DELAY:
        host = urlsplit(state.args[1]).hostname
        tqdm.write(f"{host}: {state.outcome.exception()}; asking again in {seconds:.0f} s", sys.stderr)


def check_categories(categories: list[str]) -> None:
    """Checks that names of categories are arXiv's (RequestError, with the nearest names)."""
    for category in categories:
        if _is_category(category):
            continue
        if category in ARCHIVES:
            raise RequestError(
                f"harvest.categories: {category!r} is an archive of several categories: name those wanted"
            )
        meant = [_nearest_category(word) for word in re.split(r"[\s,;]+", category[:200].strip())]
        hint = f". Did you mean {','.join(meant)}?" if all(map(_is_category, meant)) else ""
        raise RequestError(
            f"harvest.categories: {shorten(category)} is not a category of arXiv, such as cs.CL or hep-th{hint}"
        )


def _is_category(name: str) -> bool:
    archive, dot, part = name.partition(".")
    if not dot:
        return name in UNDIVIDED
    of_words = archive in ("cond-mat", "physics")  # whose classes are words, such as physics.acc-ph
    return archive in ARCHIVES and bool(re.fullmatch(r"[a-z]+(-[a-z]+)?" if of_words else r"[A-Z]{2}", part))


def _nearest_category(name: str) -> str:
    archive, _, part = re.sub(r"[/:_]", ".", name).partition(".")
    known = nearest(archive, ARCHIVES, 0.6) or archive
    return ".".join(filter(None, (known, part.lower() if known in ("cond-mat", "physics") else part.upper())))


def store(path: Path, rows: pl.DataFrame, **metadata: str) -> None:
    """Writes a Parquet file, whole or not at all (RunError: no space)."""
    with replacing(path) as temporary, writing(path):
        rows.write_parquet(temporary, metadata=metadata)


def keep_first_day(folder: Path, day: date) -> None:
    """Keeps in ``folder`` the day on which a harvest began to ask, unless it is there: an update goes on from there."""
    path = folder / "state.json"
    if not path.exists():
        write_json(path, {"asked": day.isoformat()})
