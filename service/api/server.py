"""The HTTP server around the app: its socket is bound before anything starts, so that port 0 has a number, and it stops in good order."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Final

import uvicorn
from fastapi import FastAPI

from service.api.connection import PatientProtocol
from service.errors import Misconfigured
from service.settings import Settings

LOG = logging.getLogger("service.http")
STOP_WITHIN_S: Final = 20


class ApiServer:
    """
    A running HTTP server in a thread of its own.

    Attributes
    ----------
    host, port
        Where it listens; `port` is the real one where the settings say 0.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._app = app
        self._socket = bind(settings.http_host, settings.http_port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._server = uvicorn.Server(_configuration(app))
        self._thread = threading.Thread(target=self._serve, name="http")
        self._started = threading.Event()

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def alive(self) -> bool:
        """Tell whether it still serves."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Serve; returns when requests are answered (they queue in the socket before)."""
        self._socket.listen(2048)
        self._thread.start()
        LOG.info("api started", extra={"host": self.host, "port": self.port})

    def stop(self) -> None:
        """Take no more connections, let long polls go, finish the other requests (at most `STOP_WITHIN_S`), end."""
        self._app.state.waiters.stop_soon()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()
        LOG.info("api stopped", extra={"host": self.host, "port": self.port})

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))


def start_api(app: FastAPI, settings: Settings) -> ApiServer:
    """
    Bind, start and give the server; call its `stop`.

    Raises
    ------
    Misconfigured
        The address is taken, or not one of this machine.
    """
    server = ApiServer(app, settings)
    server.start()
    return server


def bind(host: str, port: int) -> socket.socket:
    """Bind the listening socket. Raises Misconfigured with one clear line."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise Misconfigured(f"http://{host}:{port}: {error.strerror or error}") from None
    return listener


def _configuration(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        log_config=None,  # configure_logging has set up the one formatter
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=STOP_WITHIN_S,
        h11_max_incomplete_event_size=64 * 1024,
        backlog=2048,
    )
