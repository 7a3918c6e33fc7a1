"""One DICOM connection and its patience: pynetdicom takes a PDU of any length, and waits for ever for one that drips."""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import suppress
from typing import Any, Final

LARGEST_PDU: Final = 262144  # twice what is agreed: some senders do not count the heads
_PIECE_BYTES: Final = 65536


class PatientReader:
    """Reads for pynetdicom in place of its own `AssociationSocket.recv`, in the same thread.

    Parameters
    ----------
    association : pynetdicom's, of a connection that was just opened
    request_within_s : from the opening of the connection to the end of its association request
    pdu_within_s : for the head of a later PDU, for its body, and for the peer to take a piece of an answer

    References
    ----------
    PS3.8 9.1.5 (ARTIM), D.1 (maximum length)
    """

    def __init__(self, association: Any, request_within_s: float, pdu_within_s: float) -> None:
        self._association = association
        self._connection = association.dul.socket.socket
        self._request_by = time.monotonic() + request_within_s
        self._pdu_within_s = pdu_within_s
        self._connection.settimeout(pdu_within_s)
        association.dul.socket.recv = self._read

    def _read(self, size: int) -> bytearray:
        """Give `size` bytes, or fewer where the peer ends. OSError, after which pynetdicom closes: too large, or too slow."""
        if size > LARGEST_PDU:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        asked = self._association.requestor.primitive is not None
        deadline = time.monotonic() + self._pdu_within_s if asked else self._request_by
        found = bytearray()
        try:
            while len(found) < size:
                self._connection.settimeout(max(0.001, deadline - time.monotonic()))
                block = self._connection.recv(min(size - len(found), _PIECE_BYTES))
                if not block:
                    break
                found += block
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        finally:
            self._connection.settimeout(self._pdu_within_s)
        return found


def acknowledge_at_once(association: Any) -> None:
    """A sender that leaves Nagle's algorithm on holds its data set back until the command is acknowledged: 40 ms an instance.

    The kernel forgets the option by itself, so it is set again with every PDU (tcp(7), TCP_QUICKACK).
    """
    connection = association.dul.socket.socket
    if connection is not None and hasattr(socket, "TCP_QUICKACK"):
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
