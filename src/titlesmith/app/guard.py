"""Guard: lets only the requests of the page and its API reach Gradio.

Gradio checks files and origins only for apps that ``launch()`` starts, and offers routes that this page does not need
(uploads, files, proxies, component servers). So every request passes a list of allowed routes, and its host, origin,
body size and JSON types are checked before Gradio reads it.
"""

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import gradio as gr

MAX_BODY = 1_000_000  # bytes
MAX_TARGET = 2_000  # characters of a path with its query
LISTEN_WITHIN = 10  # seconds in which a client that joined the queue must ask for its result
LOCAL = ("localhost", "127.0.0.1", "::1")
READ = re.compile(
    r"/|/config/?|/gradio_api/info/?|/theme\.css|/gradio_api/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json"
    r"|/(?:static|assets|svelte)/[\w./-]+|/gradio_api/(?:heartbeat/\w+|startup-events|app_id/?|queue/data)"
    r"|/gradio_api/call/\w+/\w+"
)
WRITE = re.compile(r"/gradio_api/(?:queue/join|run/predict|call/\w+|call/v2/\w+|reset|cancel)/?")
Message = dict
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


class Guard:
    """ASGI middleware around a Gradio app.

    Parameters
    ----------
    app
        The application that serves ``blocks``.
    blocks
        The page.
    host
        The address that the server listens to; requests must name it, this machine, or an IP address.
    names
        Other host names of this machine.
    """

    def __init__(self, app: Callable, blocks: gr.Blocks, host: str, names: tuple[str, ...] = ()):
        self.app, self.blocks = app, blocks
        self.hosts = {*LOCAL, host.lower(), *map(str.lower, names)}
        self.everywhere = host in ("0.0.0.0", "::")
        self._joined: dict[str, float] = {}  # when clients joined that have not asked for their results yet
        self._parameters: dict[str, set[str]] | None = None

    async def __call__(self, scope: dict, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a WebSocket: the page uses none
            return await send({"type": "websocket.close", "code": 1008})
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if problem := self._problem(scope, headers):
            return await _refuse(send, *problem)
        if scope["method"] in ("GET", "HEAD"):
            self._listens(scope)
            return await self.app(scope, receive, send)
        # The body is read whole before Gradio sees it, so that its size and types are known
        status, body = await _read(receive)
        if status:
            return await _refuse(send, status, "the request is larger than this page takes")
        if problem := self._body_problem(scope["path"], body):
            return await _refuse(send, *problem)
        await self._drop_abandoned()
        await self.app(scope, _replay(body, receive), self._remember(scope, body, send))

    def _problem(self, scope: dict, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        """What is wrong with a request's host, origin, method or path."""
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 421, "this server does not have that host name"
        if origins and [urlsplit(origin).netloc.lower() for origin in origins] != [hosts[0].lower()]:
            return 403, "requests from other sites are not answered"
        path, method = scope["path"], scope["method"]
        if len(path) + len(scope["query_string"]) > MAX_TARGET:
            return 414, "the address is too long"
        if not (READ if method in ("GET", "HEAD") else WRITE).fullmatch(path) or ".." in path:
            return 404, "there is no such page"
        if method not in ("GET", "HEAD", "POST"):
            return 405, "only GET and POST are answered"
        if method == "POST" and set(headers.get("content-encoding", [])) - {"identity"}:
            return 415, "compressed requests are not read"
        length = headers.get("content-length", ["0"])
        if len(length) != 1 or not length[0].isdecimal():
            return 400, "Content-Length is not a number"
        return (413, "the request is larger than this page takes") if int(length[0][:20]) > MAX_BODY else None

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:  # an IP address cannot be rebound by a name server
            return self.everywhere and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _body_problem(self, path: str, body: bytes) -> tuple[int, str] | None:
        """What is wrong with a request's JSON: the page sends text, numbers, true, false and null only."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return 400, "the request is not JSON"
        if not isinstance(content, dict):
            return 422, "the request is not a JSON object"
        if found := re.match(r"/gradio_api/call/(?:v2/)?(\w+)", path):
            known = self._known().get(found[1])
            if known is None:
                return 404, f"there is no endpoint {found[1][:40]}"
            if "/v2/" in path:
                if unknown := sorted(content.keys() - known):
                    return 422, f"unknown: {', '.join(unknown)[:200]}; the parameters are {', '.join(sorted(known))}"
                values = list(content.values())
            else:
                values = content.get("data")
        elif path.rstrip("/").endswith(("/join", "/predict")):
            values = content.get("data")
            if not isinstance(content.get("fn_index"), int) or not isinstance(content.get("session_hash"), str):
                return 422, "the request needs fn_index and session_hash"
        else:
            return None
        if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
            return 422, "data needs a list of texts and numbers"
        return None

    def _known(self) -> dict[str, set[str]]:
        """The parameters of each endpoint of the API."""
        if self._parameters is None:
            named = self.blocks.get_api_info()["named_endpoints"]
            self._parameters = {
                name.lstrip("/"): {p["parameter_name"] for p in endpoint["parameters"]}
                for name, endpoint in named.items()
            }
        return self._parameters

    def _listens(self, scope: dict) -> None:
        """Notes that a client asks for its results; Gradio frees its place when this connection ends."""
        for client in re.findall(r"session_hash=(\w+)", scope["query_string"].decode("latin-1")):
            self._joined.pop(client, None)
        self._joined.pop(scope["path"].rpartition("/")[2], None)

    def _remember(self, scope: dict, body: bytes, send: Send) -> Send:
        """Notes who joined the queue: a session of the page, or an event of the API, whose id is in the answer."""

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.body" and b"event_id" in message.get("body", b""):
                api = re.search(rb'"event_id"\s*:\s*"(\w+)"', message["body"])
                client = json.loads(body).get("session_hash") if scope["path"].endswith("join") else api and api[1]
                client = client.decode() if isinstance(client, bytes) else client
                if client:
                    self._joined[client] = time.monotonic()
            await send(message)

        return remember

    async def _drop_abandoned(self) -> None:
        """Frees the places of clients that joined and never asked for their results."""
        now = time.monotonic()
        for client in [name for name, joined in self._joined.items() if now - joined > LISTEN_WITHIN]:
            del self._joined[client]
            await self.blocks._queue.clean_events(session_hash=client)
            await self.blocks._queue.clean_events(event_id=client)


async def _read(receive: Receive) -> tuple[int, bytes]:
    """A request's body, and the status to refuse it with: 413 for one larger than `MAX_BODY`, 408 for a slow one."""
    parts, size = [], 0
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        try:
            message = await asyncio.wait_for(receive(), deadline - asyncio.get_running_loop().time())
        except TimeoutError:
            return 408, b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return 413, b""
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return 0, b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
