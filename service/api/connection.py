"""One HTTP connection and its patience: uvicorn waits for ever for a request that drips, and for a client that does not read."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LOG = logging.getLogger("service.http")

HEADER_WITHIN_S: Final = 20.0
"""From the first byte of a request, or the opening of the connection, to the end of its header."""
READ_WITHIN_S: Final = 60.0
"""For a client to take 64 KiB of an answer."""
MOST_CONNECTIONS: Final = 500
"""Each is a file descriptor of the process that also takes DICOM; the thousand it usually has must not run out."""

_PIECE_BYTES: Final = 8192
_TOO_LATE: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_MANY: Final = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 10\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with an end to its patience. RFC 9110 15.5.9."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._header_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many who do."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            LOG.warning("too many HTTP connections", extra={"peer": self._peer, "status": 503})
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._wait_for_header()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock runs from the first byte of a request on, however many follow."""
        if self.transport.is_closing():
            return
        if self._header_timer is None and self._waits:
            self._wait_for_header()
        # Piece by piece as long as it is a header: the parser limits only what is still incomplete after each.
        while self._waits and len(data) > _PIECE_BYTES and not self.transport.is_closing():
            super().data_received(data[:_PIECE_BYTES])
            data = data[_PIECE_BYTES:]
        if not self.transport.is_closing():
            super().data_received(data)
        if not self._waits:
            self._forget_header()

    def on_response_complete(self) -> None:
        """Go on to the next request; the rest of a body nobody wanted must come soon too."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._header_timer is None:
            self._wait_for_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clocks."""
        self._forget_header()
        self._forget_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        self._reader_timer = self._reader_timer or self.loop.call_later(READ_WITHIN_S, self._give_reader_up)

    def resume_writing(self) -> None:
        """The client took its share."""
        super().resume_writing()
        self._forget_reader()

    @property
    def _waits(self) -> bool:
        """Tell whether a header, or the rest of a request that was answered already, is still to come."""
        answered = self.cycle is None or self.cycle.response_complete
        return self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and answered)

    @property
    def _peer(self) -> str | None:
        return self.client[0] if self.client else None

    def _wait_for_header(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_WITHIN_S, self._give_sender_up)

    def _give_sender_up(self) -> None:
        self._header_timer = None
        if self.transport.is_closing() or not self._waits:
            return
        LOG.info("a request did not come to its end", extra={"peer": self._peer, "status": 408})
        if self.conn.our_state is h11.IDLE:
            self.transport.write(_TOO_LATE)
        self.transport.close()

    def _give_reader_up(self) -> None:
        self._reader_timer = None
        LOG.info("a client does not read its answer", extra={"peer": self._peer})
        self.transport.abort()

    def _forget_header(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _forget_reader(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
