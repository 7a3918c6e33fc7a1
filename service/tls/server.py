"""The TLS port of the listener: each handshake in a thread of its own, so that one that is never finished holds up nobody."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final

from pynetdicom import AE
from pynetdicom.transport import ThreadedAssociationServer

from service.tls.contexts import reason_of, refused_fingerprint_of

LOG = logging.getLogger(__name__)
HANDSHAKE_LIMIT_S: Final = 10.0
HANDSHAKES_AT_ONCE: Final = 100


class TlsServer(ThreadedAssociationServer):
    """An association server whose connections are TLS before an association can be asked for.

    pynetdicom's own makes the handshake in the thread that accepts everybody's connections.
    """

    daemon_threads = True

    def __init__(self, *arguments: Any, secure: Callable[[], ssl.SSLContext], on_failure: Callable[[], None], **named: Any) -> None:
        self._secure = secure
        self._on_failure = on_failure
        self._handshakes = threading.BoundedSemaphore(HANDSHAKES_AT_ONCE)
        super().__init__(*arguments, **named)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make the handshake, then go on as without TLS."""
        if not self._handshakes.acquire(blocking=False):
            self._note(client_address, f"{HANDSHAKES_AT_ONCE} TLS handshakes are under way")
            self.shutdown_request(request)
            return
        try:
            connection = self._shake(request, client_address)
        finally:
            self._handshakes.release()
        if connection is not None:
            super().process_request_thread(connection, client_address)

    def _shake(self, request: socket.socket, client_address: Any) -> ssl.SSLSocket | None:
        try:
            request.settimeout(HANDSHAKE_LIMIT_S)  # of the whole handshake, not of each of its messages
            request = self._secure().wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            request.do_handshake()
        except OSError as error:
            self._note(client_address, reason_of(error), refused_fingerprint_of(request))
            self.shutdown_request(request)
            return None
        return request

    def _note(self, client_address: Any, why: str, certificate_sha256: str | None = None) -> None:
        fields = {"peer": str(client_address[0]), "certificate_sha256": certificate_sha256}
        LOG.warning("association refused: %s", why, extra=fields)
        self._on_failure()


def start_tls_server(
    entity: AE, address: tuple[str, int], secure: Callable[[], ssl.SSLContext], on_failure: Callable[[], None], **named: Any
) -> ThreadedAssociationServer:
    """Begin to listen as `AE.start_server` does; the entity's shutdown ends it too. Raises OSError where the port is taken.

    `secure` gives the context of each connection: files may have been renewed.
    """
    server = entity.make_server(address, server_class=TlsServer, secure=secure, on_failure=on_failure, **named)
    threading.Thread(target=server.serve_forever, name="AcceptorServer-TLS", daemon=True).start()
    entity._servers.append(server)  # noqa: SLF001  # where start_server keeps its own
    return server
