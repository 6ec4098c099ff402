"""Run a web application on one address of this machine."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from bula.errors import UserError

# Seconds for answers in progress after Ctrl-C.
SHUTDOWN_SECONDS = 2


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raise UserError if the address is taken or belongs to another machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        what = f"the server cannot listen there ({error})"
        raise UserError(f"{host}:{port}", what, "choose another --host or --port") from error


def address(listening: socket.socket) -> str:
    """Return the http address of a listening socket."""
    host, port, *_ = listening.getsockname()
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def run_app(app: Any, listening: socket.socket) -> None:
    """Serve an ASGI application until Ctrl-C, which raises KeyboardInterrupt."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listening])
