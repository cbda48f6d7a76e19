"""Guard: passes only the requests of the page and its endpoint to Gradio.

Gradio checks files and origins only in apps that ``launch()`` starts, and serves routes that this page does not need:
uploads, files, proxies, component servers.
"""

import ipaddress
import json
import re
from urllib.parse import urlsplit

import gradio as gr
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1_000_000  # bytes
READ = re.compile(
    r"/|/config/?|/gradio_api/info/?|/theme\.css|/gradio_api/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json"
    r"|/(?:static|assets|svelte)/[\w./-]+|/gradio_api/(?:heartbeat/\w+|startup-events|app_id/?|queue/data)"
    r"|/gradio_api/call/\w+/\w+"
)


class Guard:
    """ASGI middleware around the Gradio app that serves ``blocks``: checks host, origin, route, and values of requests.

    Requests must name ``host``, the address that the server listens to. If it listens to all addresses, ``names`` are
    those of this machine, and requests may name any IP address, which no name server can redirect.
    """

    def __init__(self, app: ASGIApp, blocks: gr.Blocks, host: str, names: tuple[str, ...] = ()):
        self.app = app
        self.hosts = {"localhost", "127.0.0.1", "::1", host.lower(), *map(str.lower, names)}
        self.all_interfaces = bool(names)
        ((endpoint, described),) = blocks.get_api_info()["named_endpoints"].items()
        self.parameters = {parameter["parameter_name"] for parameter in described["parameters"]}
        self.write = re.compile(rf"/gradio_api/(queue/join|run/predict|call(/v2)?{endpoint}|reset|cancel)/?")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":  # start and end of the server; Gradio has no WebSockets
            return await self.app(scope, receive, send)
        request, messages = Request(scope, receive), []

        async def replay() -> Message:
            """Receives the body once more, then the client's messages."""
            return messages.pop() if messages else await receive()

        try:
            self._check_head(request)
            if request.method not in ("GET", "HEAD"):
                body = await request.body()
                self._check_body(scope["path"], body)
                messages.append({"type": "http.request", "body": body, "more_body": False})
        except HTTPException as error:
            return await JSONResponse({"error": error.detail}, error.status_code)(scope, receive, send)
        except ClientDisconnect:
            return
        await self.app(scope, replay, send)

    def _check_head(self, request: Request) -> None:
        """Checks host, origin and route."""
        path, hosts, origins = request.scope["path"], request.headers.getlist("host"), request.headers.getlist("origin")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise HTTPException(421, "this server does not have that host name")
        if any(origin.partition("://")[2].lower() != hosts[0].lower() for origin in origins):
            raise HTTPException(403, "requests from other sites are refused")
        routes = READ if request.method in ("GET", "HEAD") else self.write
        if not routes.fullmatch(path) or ".." in path:
            raise HTTPException(404, "the page does not exist")

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            return name in self.hosts or (self.all_interfaces and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False

    def _check_body(self, path: str, body: bytes) -> None:
        """Checks that the values of a request are text, numbers, true, false or null, and its parameters known."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise HTTPException(400, "the request is not JSON") from None
        if not isinstance(content, dict):
            raise HTTPException(422, "the request is not a JSON object")
        values = content.get("data", [])
        if "/call/v2/" in path:
            values = list(content.values())
            if unknown := ", ".join(sorted(content.keys() - self.parameters)):
                raise HTTPException(422, f"unknown: {unknown[:200]}; known: {', '.join(sorted(self.parameters))}")
        if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
            raise HTTPException(422, "data must be a list of texts and numbers")
