"""A local HTTP server that answers as a service does, and fails as services do, at the requests that a test names."""

import gzip
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

BOMB = gzip.compress(bytes(100 << 20), 1)
HTML = b"<!DOCTYPE html><html><head><title>arXiv.org</title></head><body>Down for maintenance</body></html>"


@dataclass
class Paper:
    """A paper as all services know it."""

    number: str
    submitted: datetime
    categories: str = "eess.AS cs.SD"
    title: str = ""
    versions: int = 1
    stamp: str = ""
    deleted: bool = False
    abstract: str = "We study sound & <math>.\n  It is loud."
    shown: str | None = None  # the day of change, or of submission, that the service states; None for the real one
    authors: list[str] = field(default_factory=lambda: ["Ada Byron", "Émile Borel"])

    def __post_init__(self):
        self.title = self.title or f"Paper {self.number} on\n  sound & <noise>"
        self.stamp = self.stamp or f"{self.submitted:%Y-%m-%d}"

    @property
    def dates(self) -> list[datetime]:
        """When each version was submitted."""
        return [self.submitted + timedelta(days=30 * number) for number in range(self.versions)]


def spread(count: int, first: str = "2024-01-01", days: int = 90) -> list[Paper]:
    """Papers submitted evenly over some days, the first at the first minute and the last at the last."""
    start = datetime.fromisoformat(first)
    step = (timedelta(days=days) - timedelta(minutes=1)) / max(count - 1, 1)
    return [Paper(f"{start + n * step:%y%m}.{n:05d}", start + n * step) for n in range(count)]


class Handler(BaseHTTPRequestHandler):
    """Answers with what its server says, or with a fault."""

    def do_GET(self):
        server: Service = self.server
        url = urlsplit(self.path)
        with server.lock:
            number = len(server.asked)
            server.asked.append(dict(parse_qsl(url.query)) | {"path": url.path})
            fault = server.faults.get(number, server.always)
            body = server.answer(server.asked[-1], fault)
        getattr(self, fault or "complete", self.complete)(body)

    def complete(self, body: bytes, status: int = 200, content: bytes | None = None, **headers: str):
        content = body if content is None else content
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if content is HTML else "text/xml; charset=utf-8")
        self.send_header("Content-Length", str(len(body if content is HTML else content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def failing(self, body: bytes):
        self.complete(body, 500, b"Internal Server Error")

    def seconds(self, body: bytes, status: int = 503):
        """Requests a pause of a second, and refuses until it has passed."""
        self.busy(body, status, "1")

    def date(self, body: bytes):
        self.busy(body, 429, format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True))

    def busy(self, body: bytes, status: int, after: str):
        server: Service = self.server
        server.closed_until = time.monotonic() + 0.9
        self.complete(body, status, b"Rate exceeded.", Retry_After=after)

    def forever(self, body: bytes):
        self.complete(body, 503, b"", Retry_After="86400")

    def hang(self, body: bytes):
        self.server.ended.wait(5)
        self.close_connection = True

    def reset(self, body: bytes):
        """Half of an answer, then a reset of the connection."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def cut(self, body: bytes):
        """XML that ends within a document, with the length of what there is."""
        self.complete(body[: 2 * len(body) // 3])

    def html(self, body: bytes):
        self.complete(HTML)

    def moved(self, body: bytes):
        self.complete(body, 301, b"", Location=f"/moved{self.path}")

    def bomb(self, body: bytes):
        """A hundred megabytes, compressed into a hundred kilobytes."""
        self.complete(body, content=BOMB, Content_Encoding="gzip")

    def endless(self, body: bytes):
        """A chunked body without an end, as fast as it is read."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not self.server.ended.is_set():
            self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def drip(self, body: bytes):
        """A body that comes byte by byte."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for byte in body:
            if self.server.ended.wait(0.05):
                break
            self.wfile.write(bytes([byte]))
        self.close_connection = True

    def finish(self):
        with suppress(OSError):  # the test's own reset
            super().finish()

    def log_message(self, *arguments):
        pass


class Service(ThreadingHTTPServer):
    """A service on 127.0.0.1, in a thread, as a context manager.

    Parameters
    ----------
    papers
        What it knows; tests may change them meanwhile.
    faults
        Which fault to answer with, by the number of the request, from 0: a method of `Handler`, or one that `answer`
        knows.
    always
        The fault for all other requests.
    port
        Where to listen; any free one by default.
    """

    daemon_threads = True

    def __init__(self, papers: list[Paper], faults: dict[int, str] | None = None, always: str = "", port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.papers, self.faults, self.always = papers, faults or {}, always
        self.asked: list[dict] = []
        self.closed_until, self.early = 0.0, 0
        self.lock, self.ended = threading.Lock(), threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/service"

    def answer(self, query: dict, fault: str) -> bytes:
        """The document that answers a query; subclasses say which."""
        raise NotImplementedError

    def process_request(self, request, client_address):
        self.early += time.monotonic() < self.closed_until
        super().process_request(request, client_address)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *problem):
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass
