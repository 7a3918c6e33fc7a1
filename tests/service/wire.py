"""A peer in raw bytes: says any PDU in any piece and order, and reads what comes back (PS3.8 9.3, PS3.7 9.3.1)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import encode

from service.listener import Listener
from tests.service.house import House, eventually, join_network_threads, listening
from tests.soak.files import assert_kept
from tests.soak.pdus import values

REQUESTED, ACCEPTED, REJECTED, DATA, RELEASING, RELEASED, ABORTED = range(1, 8)  # kinds of PDU
CONTEXT_ID = 1
FRAGMENT = 2048
LIMIT_S = 20.0


def pdu(kind: int, body: bytes = bytes(4)) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _negotiation(kind: int, context: bytes) -> bytes:
    titles = b"LEUKOSCOPE".ljust(16) + b"SCANNER".ljust(16)
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"2.25.1")
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + context + _item(0x50, user)
    return pdu(kind, struct.pack(">HH", 1, 0) + titles + bytes(32) + items)


_CLASS, _SYNTAX = _item(0x30, MRImageStorage.encode()), _item(0x40, ExplicitVRLittleEndian.encode())
REQUEST = _negotiation(REQUESTED, _item(0x20, bytes((CONTEXT_ID, 0, 0, 0)) + _CLASS + _SYNTAX))
ACCEPTANCE = _negotiation(ACCEPTED, _item(0x21, bytes((CONTEXT_ID, 0, 0, 0)) + _SYNTAX))
RELEASE, RELEASE_RESPONSE, ABORT = pdu(RELEASING), pdu(RELEASED), pdu(ABORTED)


def data(fragment: bytes, *, command: bool = False, last: bool = True) -> bytes:
    """One P-DATA-TF of one presentation data value (PS3.8 E.2)."""
    return pdu(DATA, struct.pack(">IBB", len(fragment) + 2, CONTEXT_ID, command | last << 1) + fragment)


def command(**elements: Any) -> bytes:
    """A command set as a P-DATA-TF (PS3.7 6.3.1)."""
    found = Dataset()
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    encoded = encode(found, True, True)
    assert encoded is not None
    return data(struct.pack("<HHII", 0, 0, 4, len(encoded)) + encoded, command=True)


def encoded(dataset: Dataset) -> bytes:
    """The data set as it goes over the wire."""
    found = encode(dataset, False, True)
    assert found is not None
    return found


def store(dataset: Dataset) -> list[bytes]:
    """The PDUs of one C-STORE: the command, then the data set in fragments."""
    whole = encoded(dataset)
    cuts = range(0, len(whole), FRAGMENT)
    named = {"AffectedSOPClassUID": dataset.SOPClassUID, "AffectedSOPInstanceUID": dataset.SOPInstanceUID}
    head = command(CommandField=0x0001, MessageID=1, Priority=0, CommandDataSetType=1, **named)
    return [head, *(data(whole[at : at + FRAGMENT], last=at == cuts[-1]) for at in cuts)]


def stored(dataset: Dataset) -> bytes:
    """The answer to `store`: success."""
    named = {"AffectedSOPClassUID": dataset.SOPClassUID, "AffectedSOPInstanceUID": dataset.SOPInstanceUID}
    return command(CommandField=0x8001, MessageIDBeingRespondedTo=1, CommandDataSetType=0x0101, Status=0x0000, **named)


@dataclass(frozen=True)
class Heard:
    """One PDU that came; its kind is 0 where the connection ended instead."""

    kind: int
    body: bytes = b""

    @property
    def status(self) -> int:
        """The status of a C-STORE response."""
        (response,) = [fragment for control, fragment in values(pdu(self.kind, self.body)) if control & 1]
        answer = read_dataset(BytesIO(response), True, True)
        assert answer.CommandField == 0x8001
        return int(answer.Status)


@contextmanager
def rejecting(result: int, source: int, reason: int) -> Iterator[int]:
    """A node that rejects one association (PS3.8 9.3.4); gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reject() -> None:
            connection, _ = server.accept()
            with connection:
                peer = Wire(connection)
                assert peer.hear().kind == REQUESTED
                peer.say(pdu(REJECTED, bytes((0, result, source, reason))))
                for _ in peer.rest():
                    pass

        node = threading.Thread(target=reject)
        node.start()
        yield int(server.getsockname()[1])
        node.join(LIMIT_S)
    join_network_threads()


class Wire:
    """One connection, from either end."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(LIMIT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, *pdus: bytes) -> None:
        self.socket.sendall(b"".join(pdus))

    def drip(self, said: bytes, size: int, pause_s: float) -> None:
        """Say it in pieces; a peer that hangs up meanwhile is no error."""
        with suppress(OSError):
            for at in range(0, len(said), size):
                self.socket.sendall(said[at : at + size])
                time.sleep(pause_s)

    def hear(self) -> Heard:
        head = self._read(6)
        if len(head) < 6:
            return Heard(0)
        return Heard(head[0], self._read(int.from_bytes(head[2:], "big")))

    def _read(self, size: int) -> bytes:
        found = b""
        with suppress(ConnectionError):
            while len(found) < size and (block := self.socket.recv(size - len(found))):
                found += block
        return found

    def store(self, dataset: Dataset) -> int:
        """C-STORE one instance, and give the status."""
        self.say(*store(dataset))
        return self.hear().status

    def rest(self) -> list[Heard]:
        """All that still comes until the connection ends; TimeoutError where it never does."""
        return list(iter(self.hear, Heard(0)))


@contextmanager
def connected(listener: Listener, *, associated: bool = True) -> Iterator[Wire]:
    """A connection to the listener, with an association or without one."""
    with socket.create_connection(("127.0.0.1", listener.port), timeout=LIMIT_S) as connection:
        wire = Wire(connection)
        if associated:
            wire.say(REQUEST)
            assert wire.hear().kind == ACCEPTED
        yield wire


@contextmanager
def clean_house(folder: Path, **settings: Any) -> Iterator[tuple[House, Listener]]:
    """A listener in a house; when the block ends, no association, thread or socket may be left of what was done."""
    threads, sockets = network_threads(), _sockets()
    house = House(folder, minimum_free_mb=0, **settings)
    with listening(house) as listener:
        yield house, listener
        assert eventually(lambda: not listener._entity.active_associations and not listener._lines, LIMIT_S)
        assert eventually(lambda: len(_sockets() - sockets) == 1), "only the one that listens"
    join_network_threads()
    house.book.close()
    assert network_threads() <= threads
    assert _sockets() <= sockets


def network_threads() -> set[threading.Thread]:
    """Pynetdicom's, which end with their association."""
    return {thread for thread in threading.enumerate() if type(thread).__module__.startswith("pynetdicom")}


def _sockets() -> set[int]:
    return {one.fd for one in psutil.Process().net_connections("tcp")}


def assert_stored(house: House, datasets: Iterable[Dataset]) -> None:
    """Each is on disk byte for byte, and the index knows it."""
    for dataset in datasets:
        assert_kept(house, dataset.SOPInstanceUID, encoded(dataset))


def assert_not_stored(house: House, dataset: Dataset) -> None:
    """Nothing of it is on disk, half or whole."""
    uid = str(dataset.SOPInstanceUID).encode()
    assert not [path for path in house.store.root.rglob("*.dcm") if uid in path.read_bytes()]
    assert not list((house.store.root / "incoming").iterdir())
