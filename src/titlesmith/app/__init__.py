"""The web page of a run's model: ``titlesmith app RUN``."""

import errno
import socket
from importlib.util import find_spec

from titlesmith.errors import RequestError
from titlesmith.runs import Run

PORT = 7860
EVERYWHERE = ("0.0.0.0", "::")
GRACE = 3  # seconds in which what is being answered may end


def serve(run: Run, host: str = "127.0.0.1", port: int = PORT) -> None:
    """Serves the page until the process is interrupted.

    Parameters
    ----------
    run
        Its model writes.
    host
        The address of this machine that is listened to.
    port
        Likewise; 0 for any that is free.

    Raises
    ------
    RequestError
        Gradio is not installed, or the address cannot be used. Nothing was loaded.
    RunError
        The run has no model.
    """
    if not find_spec("gradio"):
        raise RequestError("the page needs Gradio: pip install 'titlesmith[app]'")
    run.require("finetune")
    with listen(host, port) as listening:
        print(f"loading the model of {run.name}; the first text takes longest", flush=True)
        import uvicorn

        from titlesmith.app.page import mounted, page
        from titlesmith.app.service import Service

        name = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        names = (socket.gethostname(), socket.getfqdn()) if host in EVERYWHERE else ()
        address = f"http://{name}:{listening.getsockname()[1]}"
        service = Service(run)
        service.warm_up()
        server = uvicorn.Server(
            uvicorn.Config(
                mounted(page(service, address), host, names), log_level="warning", timeout_graceful_shutdown=GRACE
            )
        )
        if host in EVERYWHERE:
            print("whoever reaches this machine can use the page; it asks for no password")
        print(f"open {address} in a browser; Ctrl-C ends the page", flush=True)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            print("\nthe page has ended")


def listen(host: str, port: int) -> socket.socket:
    """Takes an address of this machine (RequestError where it cannot be had)."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RequestError(
                f"port {port} of {host} is taken, perhaps by another titlesmith app: end that, or choose another port "
                f"with --port {port + 1 if port < 65535 else PORT}"
            ) from None
        raise RequestError(
            f"{host}, port {port} cannot be listened to ({error.strerror or error}): --host takes an address of this "
            "machine, 0.0.0.0 for all of them, and --port a number from 1024 to 65535"
        ) from None
