"""A recorded association with some of its bytes changed, replayed over real sockets, and whether what was answered is true."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO

from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt

from service.listener import Listener
from tests.service.house import House, associate
from tests.service.series import flair_series
from tests.soak.files import assert_kept

SEED = 20260712
HEADS = 1500  # where PDU heads, items, the command and the data set's header are
PAUSE_S = 0.3  # an answer comes in a few milliseconds; to what cannot be answered none comes
SENDERS = 8


def record(listener: Listener) -> list[bytes]:
    """The bytes a sender sends for one association with one C-STORE, PDU by PDU."""
    sent: list[bytes] = []
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", listener.port, evt_handlers=[(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))])
    association.send_c_store(flair_series(1)[0])
    association.release()
    return sent


def mutate(stream: bytes, chance: random.Random) -> bytes:
    """Change, cut, repeat or insert a few bytes near the heads, or give a length another value."""
    found = bytearray(stream)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(min(HEADS, len(found)))
        kind = chance.randrange(6)
        if kind == 0:
            found[at] = chance.randrange(256)
        elif kind == 1 and len(found) > 60:
            del found[at : at + chance.randint(1, 40)]
        elif kind == 2:
            found[at:at] = found[at : at + chance.randint(1, 40)]
        elif kind == 3:
            found[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 4:
            found[at] ^= 1 << chance.randrange(8)
        else:
            found[2:6] = struct.pack(">I", chance.choice((0, 1, 4, len(found), len(found) + 7, 0x7FFFFFFF, 0xFFFFFFFF)))
    return bytes(found)


def mutated(pdus: Sequence[bytes], count: int, seed: int = SEED) -> Iterator[list[bytes]]:
    """`count` associations of which one PDU is changed, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        which = chance.randrange(len(pdus))
        yield [*pdus[:which], mutate(pdus[which], chance), *pdus[which + 1 :]]


def replay(port: int, pdus: Sequence[bytes]) -> bytes | None:
    """Say the recorded PDUs as their sender did, each time with a pause for the answer; None where the peer never ends it."""
    request, *objects, release = pdus
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, suppress(OSError):
        for said in (request, b"".join(objects), release):
            connection.sendall(said)
            connection.settimeout(PAUSE_S)
            with suppress(TimeoutError):
                answer += connection.recv(65536)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(20)
        try:
            while block := connection.recv(65536):
                answer += block
        except TimeoutError:
            return None
    return bytes(answer)


def values(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """The presentation data values of a stream of PDUs: control header and fragment (PS3.8 9.3.5, E.2)."""
    at = 0
    while at + 6 <= len(stream):
        kind, length = stream[at], int.from_bytes(stream[at + 2 : at + 6], "big")
        body, at = stream[at + 6 : at + 6 + length], at + 6 + length
        place = 0
        while kind == 0x04 and place + 6 <= len(body):
            size = int.from_bytes(body[place : place + 4], "big")
            yield body[place + 5], body[place + 6 : place + 4 + size]
            place += 4 + max(size, 2)


def stored(answer: bytes) -> list[str]:
    """The SOP Instance UIDs of every C-STORE that was answered with success."""
    found = []
    for control, fragment in values(answer):
        if control & 1:
            command = read_dataset(BytesIO(fragment), True, True)
            if command.CommandField == 0x8001 and command.Status == 0x0000:
                found.append(str(command.AffectedSOPInstanceUID))
    return found


def data_sets(sent: bytes) -> list[bytes]:
    """The data sets of a stream, fragments joined."""
    found, part = [], b""
    for control, fragment in values(sent):
        if not control & 1:
            part += fragment
            if control & 2:
                found.append(part)
                part = b""
    return found


def exchange(house: House, listener: Listener, pdus: Sequence[bytes]) -> str:
    """
    Replay one changed association.

    Raises
    ------
    AssertionError
        A success for what is not on disk byte for byte and indexed, or no end within many times the time it takes.
    """
    answer = replay(listener.port, pdus)
    assert answer is not None, "the association never ended"
    done = stored(answer)
    if not done:
        return "answered" if answer else "closed"
    kept = data_sets(b"".join(pdus[1:]))
    assert len(kept) >= len(done), "a success for what is no data set"
    for uid, encoded in zip(done, kept, strict=False):
        assert_kept(house, uid, encoded)
    return "stored"


def run(house: House, listener: Listener, count: int, seed: int = SEED, on_each: Callable[[], None] = lambda: None) -> Counter[str]:
    """Replay `count` changed associations over a few connections at a time; what goes wrong is counted under its own name."""
    sequence = enumerate(mutated(record(listener), count, seed))
    guard, outcomes = threading.Lock(), Counter[str]()

    def work() -> None:
        while True:
            with guard:
                number, pdus = next(sequence, (-1, []))
            if number < 0:
                return
            try:
                outcome = exchange(house, listener, pdus)
            except Exception as error:
                outcome = f"WRONG {number}: {type(error).__name__}: {error}"
            with guard:
                outcomes[outcome] += 1
                on_each()

    threads = [threading.Thread(target=work, name=f"sender {number}") for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def assert_well(listener: Listener) -> None:
    """Nothing is left open, C-ECHO is answered, and an instance is stored."""
    deadline = time.monotonic() + 30
    while listener._entity.active_associations and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listener._entity.active_associations
    assert not listener._lines
    association = associate(listener, ("1.2.840.10008.1.1", ExplicitVRLittleEndian), (MRImageStorage, ExplicitVRLittleEndian))
    assert association.send_c_echo().Status == 0x0000
    assert association.send_c_store(flair_series(1)[0]).Status == 0x0000
    association.release()
