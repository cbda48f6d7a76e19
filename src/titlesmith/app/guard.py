"""Guard: passes only the requests of the page and its endpoint to Gradio.

Gradio checks files and origins only in apps that ``launch()`` starts, and serves routes that this page does not need:
uploads, files, proxies, component servers. The guard has a list of allowed routes, and checks host, origin, size and
JSON types of a request before Gradio reads it.
"""

import asyncio
import ipaddress
import json
import re
import time
from urllib.parse import urlsplit

import gradio as gr
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1_000_000  # bytes
MAX_TARGET = 2_000  # characters of path and query
BODY_SECONDS = 30  # to send a body
LISTEN_WITHIN = 10  # seconds in which a client that joined the queue must request its result
LOCAL = ("localhost", "127.0.0.1", "::1")
READ = re.compile(
    r"/|/config/?|/gradio_api/info/?|/theme\.css|/gradio_api/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json"
    r"|/(?:static|assets|svelte)/[\w./-]+|/gradio_api/(?:heartbeat/\w+|startup-events|app_id/?|queue/data)"
    r"|/gradio_api/call/\w+/\w+"
)
WRITE = re.compile(r"/gradio_api/(?:(?P<queue>queue/join|run/predict)|call/(?P<v2>v2/)?(?P<name>\w+)|reset|cancel)/?")


class Guard:
    """ASGI middleware around the Gradio app that serves ``blocks``.

    Requests must name ``host``, the address that the server listens to, or this machine, which has other ``names``.
    With 0.0.0.0 or ::, they may name any IP address, which no name server can redirect.
    """

    def __init__(self, app: ASGIApp, blocks: gr.Blocks, host: str, names: tuple[str, ...] = ()):
        self.app, self.blocks = app, blocks
        self.hosts = {*LOCAL, host.lower(), *map(str.lower, names)}
        self.all_interfaces = host in ("0.0.0.0", "::")
        self._joined: dict[str, float] = {}  # when clients joined the queue, until they request their results
        self._endpoints: dict[str, set[str]] = {}  # their parameters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page uses no WebSockets
            return await send({"type": "websocket.close", "code": 1008})
        request = Request(scope, receive)
        try:
            self._check_head(request)
            if request.method in ("GET", "HEAD"):
                self._note_listener(scope)
            else:
                body = await asyncio.wait_for(_read(request), BODY_SECONDS)
                self._check_body(scope["path"], body)
        except (HTTPException, TimeoutError, ClientDisconnect) as error:
            status, why = (error.status_code, error.detail) if isinstance(error, HTTPException) else (408, "too slow")
            return await JSONResponse({"error": why}, status, {"Connection": "close"})(scope, receive, send)
        if request.method == "POST":
            await self._drop_abandoned()
            receive, send = _replay(body, receive), self._note_joined(scope, body, send)
        await self.app(scope, receive, send)

    def _check_head(self, request: Request) -> None:
        """Checks host, origin, method, path and stated length."""
        path, headers = request.scope["path"], request.headers
        hosts, origins, lengths = (headers.getlist(name) for name in ("host", "origin", "content-length"))
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise HTTPException(421, "this server does not have that host name")
        if origins and [urlsplit(origin).netloc.lower() for origin in origins] != [hosts[0].lower()]:
            raise HTTPException(403, "requests from other sites are refused")
        if len(path) + len(request.scope["query_string"]) > MAX_TARGET:
            raise HTTPException(414, "the address is too long")
        if not (READ if request.method in ("GET", "HEAD") else WRITE).fullmatch(path) or ".." in path:
            raise HTTPException(404, "the page does not exist")
        if request.method not in ("GET", "HEAD", "POST"):
            raise HTTPException(405, "only GET and POST are allowed")
        if set(headers.getlist("content-encoding")) - {"identity"}:
            raise HTTPException(415, "compressed requests are refused")
        if len(lengths) > 1 or not all(map(str.isdecimal, lengths)):
            raise HTTPException(400, "Content-Length is not a number")
        if lengths and int(lengths[0][:20]) > MAX_BODY:
            raise HTTPException(413, f"the request has more than {MAX_BODY:,} bytes")

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            return name in self.hosts or (self.all_interfaces and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False

    def _check_body(self, path: str, body: bytes) -> None:
        """Checks that the values of a request are text, numbers, true, false or null, and its keys known."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise HTTPException(400, "the request is not JSON") from None
        if not isinstance(content, dict):
            raise HTTPException(422, "the request is not a JSON object")
        route = WRITE.fullmatch(path)
        values = content.get("data")
        if route["name"]:
            self._endpoints = self._endpoints or _endpoints(self.blocks)
            known = self._endpoints.get(route["name"])
            if known is None:
                raise HTTPException(404, f"the endpoint {route['name'][:40]} does not exist")
            if route["v2"]:
                values = list(content.values())
                if unknown := sorted(content.keys() - known):
                    names = f"{', '.join(unknown)[:200]}; the parameters are {', '.join(sorted(known))}"
                    raise HTTPException(422, f"unknown: {names}")
        elif not route["queue"]:  # it cancels a request, or ends a session
            return
        elif type(content.get("fn_index")) is not int or not isinstance(content.get("session_hash"), str):
            raise HTTPException(422, "the request needs fn_index and session_hash")
        if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
            raise HTTPException(422, "data must be a list of texts and numbers")

    def _note_listener(self, scope: Scope) -> None:
        """Notes that a client requests its results; Gradio frees its place when this connection ends."""
        for client in re.findall(r"session_hash=(\w+)", scope["query_string"].decode("latin-1")):
            self._joined.pop(client, None)
        self._joined.pop(scope["path"].rpartition("/")[2], None)

    def _note_joined(self, scope: Scope, body: bytes, send: Send) -> Send:
        """Notes who joined the queue: a session of the page, or an event of the endpoint, by the id in the answer."""

        async def noting(message: Message) -> None:
            if event := re.search(rb'"event_id"\s*:\s*"(\w+)"', message.get("body", b"")):
                is_page = scope["path"].endswith("join")
                self._joined[json.loads(body)["session_hash"] if is_page else event[1].decode()] = time.monotonic()
            await send(message)

        return noting

    async def _drop_abandoned(self) -> None:
        """Frees the places of clients that joined and never requested their results."""
        now = time.monotonic()
        for client in [name for name, joined in self._joined.items() if now - joined > LISTEN_WITHIN]:
            del self._joined[client]
            await self.blocks._queue.clean_events(session_hash=client)
            await self.blocks._queue.clean_events(event_id=client)


def _endpoints(blocks: gr.Blocks) -> dict[str, set[str]]:
    """The parameters of each endpoint, by its name."""
    named = blocks.get_api_info()["named_endpoints"]
    return {name.lstrip("/"): {p["parameter_name"] for p in info["parameters"]} for name, info in named.items()}


async def _read(request: Request) -> bytes:
    """A request's body, of at most `MAX_BODY` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the request has more than {MAX_BODY:,} bytes")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receives the body once more, then the client's messages."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
