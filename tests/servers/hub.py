"""A local server that speaks the Hugging Face hub's protocol: file metadata, ranges, listings, and faults."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves repositories, folders ``<folder>/<owner>/<name>``.

    Attributes
    ----------
    faults
        By file name: ``cut`` (every answer stops at 60% of the file, or at once), ``cut once``, ``wrong byte``,
        ``missing``.
    gated
        Whether every repository asks for terms to be accepted.
    requests
        Method, path, Range header and status of every answer.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.faults, self.gated = folder, {}, False
        self.requests: list[tuple[str, str, str, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def ranges(self, name: str) -> list[str]:
        """The Range header of each GET of a file."""
        return [asked for method, path, asked, _ in self.requests if method == "GET" and path.endswith(f"/{name}")]


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Prints nothing."""

    def _send(self, status: int, body: bytes = b"", cut: int | None = None, **headers: str) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range", ""), status))
        self.send_response(status)
        pinned = re.search(r"/(?:resolve|revision|tree)/([0-9a-f]{40})\b", self.path)
        commit = pinned[1] if pinned else COMMIT
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": commit, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.close_connection = True

    def do_HEAD(self) -> None:
        """Metadata of a file."""
        self.do_GET()

    def do_GET(self) -> None:
        """A file, or the listing of a repository."""
        path = self.path.partition("?")[0]
        if listing := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([\w.-]+).*)?", path):
            return self._listing(*listing.groups())
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path)
        file = found and self.server.folder / found[1] / found[3]
        if not found or not (self.server.folder / found[1]).is_dir():
            return self._send(404, **{"X_Error_Code": "RepoNotFound", "X_Error_Message": "no such repository"})
        if self.server.gated:
            return self._send(403, **{"X_Error_Code": "GatedRepo", "X_Error_Message": "accept the terms"})
        fault = self.server.faults.get(file.name)
        if not file.is_file() or fault == "missing":
            return self._send(404, **{"X_Error_Code": "EntryNotFound"})
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if fault == "wrong byte":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        limit = len(body) * 6 // 10
        headers = {"ETag": etag, "X_Linked_Etag": etag, "X_Linked_Size": str(len(body)), "Accept_Ranges": "bytes"}
        if "Range" in self.headers:
            headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        cut = max(0, limit - start) if fault in ("cut", "cut once") else None
        if fault == "cut once" and self.command == "GET":
            del self.server.faults[file.name]
        return self._send(206 if "Range" in self.headers else 200, body[start:], cut, **headers)

    def _listing(self, repository: str, kind: str | None, revision: str | None) -> None:
        folder = self.server.folder / repository
        if not folder.is_dir():
            return self._send(404, **{"X_Error_Code": "RepoNotFound"})
        files = [f for f in sorted(folder.iterdir()) if f.is_file()]
        if kind == "tree":
            rows = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
            return self._send(200, json.dumps(rows).encode(), **{"Content_Type": "application/json"})
        info = {
            "id": repository,
            "sha": revision if re.fullmatch("[0-9a-f]{40}", revision or "") else COMMIT,
            "siblings": [{"rfilename": f.name} for f in files],
            "tags": [],
        }
        return self._send(200, json.dumps(info).encode(), **{"Content_Type": "application/json"})


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A running server of a folder of repositories."""
    server = Hub(folder)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
