"""The web page of a run's model: ``titlesmith app RUN``, until the process is interrupted."""

import socket
from importlib.util import find_spec

from titlesmith.errors import RequestError
from titlesmith.generate.source import Source
from titlesmith.hints import install_command


def serve(source: Source, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serves the page until Ctrl-C; ``port`` 0 is any free one.

    Requests must name ``host`` as their host; for 0.0.0.0 or ::, an IP address or a name of this machine. If Gradio is
    not installed, or the address cannot be used, it is a RequestError before the model is loaded.
    """
    if not find_spec("gradio"):
        raise RequestError(f"the page needs Gradio: {install_command('app')}")
    with listen(host, port) as listening:
        print(f"loading {source.name}", flush=True)
        import uvicorn

        from titlesmith.app.page import build_page, mount
        from titlesmith.app.service import Service

        service = Service(source)
        service.warm_up()
        names = (socket.gethostname(), socket.getfqdn()) if host in ("0.0.0.0", "::") else ()
        shown = names[0] if names else f"[{host}]" if ":" in host else host
        app = mount(build_page(service), host, names)
        # Requests that are being answered have some seconds after Ctrl-C
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
        if names:
            print("everybody who reaches this machine can use the page: it has no password")
            print(f"it answers to this machine's IP addresses and to {' and '.join(dict.fromkeys(names))}")
        print(f"open http://{shown}:{listening.getsockname()[1]} in a browser; Ctrl-C ends the page", flush=True)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            print("\nthe page has ended")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens to an address of this machine (RequestError if that is not possible)."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = f"cannot listen to {host}, port {port} ({error.strerror or error})"
        raise RequestError(f"{why}: set another --port, or a --host that is an address of this machine") from None
