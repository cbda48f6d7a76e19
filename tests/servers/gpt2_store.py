"""A local server of model files, as OpenAI's storage speaks: HEAD, ranges, ETag, and faults where a test asks."""

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

PAGE = b"<html><body>BlobNotFound</body></html>"


class Store(ThreadingHTTPServer):
    """Serves the files below ``folder``.

    Attributes
    ----------
    faults
        Fault by name of a file: ``missing`` (404 with a page), ``page`` (a page with status 200), ``cut`` (the first
        answer breaks off at 60%), ``dead`` (every answer breaks off at 60% of the file, or at once), ``wrong byte``
        (in the middle), ``huge`` (its length is said to be 10 PB), ``slow`` (the second half comes after a minute).
    ranges, tags, md5
        Whether the server knows ranges, says ETags and MD5s.
    requests
        Method, name, range and status of every answer.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.faults, self.requests = folder, {}, []
        self.stopped = Event()
        self.ranges, self.tags, self.md5 = True, True, False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def gets(self, name: str) -> list[tuple[str, int]]:
        """Range and status of each GET of a file."""
        return [(asked, status) for method, path, asked, status in self.requests if (method, path) == ("GET", name)]


class Answer(BaseHTTPRequestHandler):
    """One answer."""

    server: Store

    def do_HEAD(self):
        """The headers alone."""
        self.do_GET()

    def do_GET(self):
        """A file, or a part of it."""
        store, path = self.server, self.server.folder / self.path.lstrip("/")
        fault = store.faults.get(path.name)
        if fault == "missing" or not path.is_file():
            return self._send(404, PAGE, {"Content-Type": "text/html"})
        if fault == "page":
            return self._send(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        content = path.read_bytes()
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        headers = {"Content-Type": "application/octet-stream"}
        headers |= {"ETag": tag} if store.tags else {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
        if store.md5:
            headers["Content-MD5"] = base64.b64encode(hashlib.md5(content).digest()).decode()
        if fault == "wrong byte":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        status, start = 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and store.ranges and self.headers.get("If-Range") in (None, tag, headers.get("Last-Modified")):
            status, start = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        stop = len(content)
        if self.command == "GET" and fault in ("cut", "dead"):
            stop = max(start, len(content) * 6 // 10)
            if fault == "cut":
                del store.faults[path.name]
        length = 10**16 if fault == "huge" else len(content) - start
        return self._send(status, content[start:stop], headers, length)

    def _send(self, status: int, body: bytes, headers: dict, length: int | None = None):
        range_ = self.headers.get("Range", "")
        self.server.requests.append((self.command, Path(self.path).name, range_, status))
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body) if length is None else length)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            half = len(body) // 2 if self.server.faults.get(Path(self.path).name) == "slow" else len(body)
            self.wfile.write(body[:half])
            self.server.stopped.wait(0 if half == len(body) else 60)
            self.wfile.write(body[half:])
        self.close_connection = True

    def log_message(self, *args):
        """Nothing on standard error."""


@contextmanager
def serving(folder: Path) -> Iterator[Store]:
    """A store that runs until the block ends."""
    store = Store(folder)
    thread = Thread(target=store.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        store.stopped.set()
        store.shutdown()
        store.server_close()
        thread.join()
