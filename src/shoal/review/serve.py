"""Runs the server of a review until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import webbrowser
from collections.abc import Callable

import uvicorn

from shoal.errors import UserError
from shoal.results.result import Result
from shoal.review.app import create_app
from shoal.review.desk import Desk

HOST = "127.0.0.1"
PORT = 8377
"""Asked for by default; if it is in use, any free one is taken."""


def serve(result: Result, port: int | None, *, browser: bool, say: Callable[[str], object]) -> None:
    """Serve the review of a result until a signal ends it; the tables and the report are written then.

    Args:
        result: finished.
        port: to listen on; None takes ``PORT``, or a free one.
        browser: whether to open the page.
        say: called with the address, and with what was written.

    Raises:
        UserError: the port is in use, another process changes the result, or its folder cannot be written.
    """

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.stopping.set()  # pages hold streams of events open, which would be waited for
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cancelled now is not a fault
            await super().shutdown(sockets)

    with listening(port) as opened, result.folder.alone():
        desk = Desk(result)
        token, chosen = secrets.token_urlsafe(32), opened.getsockname()[1]
        app = create_app(desk, token, chosen)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            limit_concurrency=256,
        )
        address = f"http://{HOST}:{chosen}/?token={token}"
        say(f"review       {address}")
        say("Keep this running while you work; everything is kept as you decide it. Ctrl-C ends it.")
        if browser:
            webbrowser.open(address)
        try:
            with contextlib.suppress(KeyboardInterrupt):  # which is how it ends
                Server(config).run(sockets=[opened])
        finally:
            desk.close()
        for session in desk.sessions:
            say(f"assignments  {session.result.folder.assignments_csv}")


def listening(port: int | None) -> socket.socket:
    """A socket on this machine alone.

    Raises:
        UserError: the port is in use, or may not be used.
    """
    for wanted in [PORT, 0] if port is None else [port]:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, wanted))
            opened.listen()  # who opens the page before the server runs waits for it
        except (OSError, OverflowError) as error:
            opened.close()
            if port is not None:
                reason = getattr(error, "strerror", None) or str(error)
                raise UserError(f"port {port} cannot be used ({reason}): give another --port, or none.") from error
            continue
        return opened
    raise UserError("no port is free on this machine: give one with --port.")
