"""Asks one part of a container how it is: `probe.py api`, `listener` or `book`. Exit code 0 when well, 1 with a line when not.

api : GET /health/live is answered.
listener : an association request is answered, whatever the answer. The calling AE title is HEALTHCHECK; allow it from 127.0.0.1 and it is
    accepted and released, otherwise each probe leaves a line "association refused" in the log.
book : the case book is at this version's revision; waits for it, at most `--wait` seconds. For what starts before the migration is done.

A worker has no door to knock on. One that ends is started again by the orchestrator, its own child is watched by itself (time limit),
and whether cases are taken is told by the part `workers` of /health/ready and by the metric leukoscope_queue_oldest_seconds.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import sys
import time
import urllib.request

CALLING_AE = "HEALTHCHECK"
VERIFICATION = b"1.2.840.10008.1.1"
IMPLICIT_LITTLE_ENDIAN = b"1.2.840.10008.1.2"
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, RELEASE_RQ = 0x01, 0x02, 0x03, 0x05


class Unwell(Exception):
    """The part does not answer as it should; the message says how."""


def ask_api(port: int, timeout_s: float) -> None:
    """Raise Unwell or OSError unless the API is alive."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=timeout_s) as answer:
        if answer.status != 200:
            raise Unwell(f"/health/live: {answer.status}")


def ask_listener(port: int, called_ae: str, timeout_s: float) -> None:
    """Raise Unwell or OSError unless the listener answers an A-ASSOCIATE-RQ (PS3.8 9.3)."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(associate_request(called_ae))
        kind = _read_pdu(connection)
        if kind == ASSOCIATE_AC:
            connection.sendall(struct.pack(">BBI4x", RELEASE_RQ, 0, 4))
            _read_pdu(connection)
        elif kind != ASSOCIATE_RJ:
            raise Unwell(f"the answer to an association request is a PDU of type {kind:#04x}")


def associate_request(called_ae: str) -> bytes:
    """Encode an A-ASSOCIATE-RQ that proposes Verification (PS3.8 9.3.2)."""
    syntaxes = _item(0x30, VERIFICATION) + _item(0x40, IMPLICIT_LITTLE_ENDIAN)
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"2.25.264893416718291652817734018201574120413")
    items = _item(0x10, APPLICATION_CONTEXT) + _item(0x20, b"\x01\x00\x00\x00" + syntaxes) + _item(0x50, user)
    titles = called_ae.encode("ascii").ljust(16) + CALLING_AE.encode("ascii").ljust(16)
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + items
    return struct.pack(">BBI", ASSOCIATE_RQ, 0, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _read_pdu(connection: socket.socket) -> int:
    """Read one PDU and give its type."""
    kind, _, length = struct.unpack(">BBI", _read(connection, 6))
    _read(connection, length)
    return int(kind)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = connection.recv(size - len(data))
        if not block:
            raise Unwell("the listener closed the connection without an answer")
        data += block
    return data


def wait_for_book(limit_s: float) -> None:
    """Return when the case book is at this version's revision. Raises Unwell with the last reason."""
    from service.errors import Misconfigured, Unavailable
    from service.records import BookOutdated, open_book
    from service.settings import load_settings

    try:
        settings = load_settings()
    except Misconfigured as error:
        raise Unwell(str(error)) from None
    deadline = time.monotonic() + limit_s
    while True:
        try:
            open_book(settings).close()
        except (BookOutdated, Unavailable) as error:
            if time.monotonic() > deadline:
                raise Unwell(str(error)) from None
            time.sleep(1.0)
        else:
            return


def main() -> int:
    """Run the probe that the command line names."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("part", choices=("api", "listener", "book"))
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long to wait for the case book")
    parser.add_argument("--timeout", type=float, default=4.0, metavar="SECONDS", help="how long the API or the listener may take")
    chosen = parser.parse_args()
    try:
        if chosen.part == "api":
            ask_api(int(os.environ.get("LEUKOSCOPE_HTTP_PORT") or 8000), chosen.timeout)
        elif chosen.part == "listener":
            title = os.environ.get("LEUKOSCOPE_AE_TITLE") or "LEUKOSCOPE"
            ask_listener(int(os.environ.get("LEUKOSCOPE_DICOM_PORT") or 11112), title, chosen.timeout)
        else:
            wait_for_book(chosen.wait)
    except (Unwell, OSError) as error:
        sys.stderr.write(f"{chosen.part}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
