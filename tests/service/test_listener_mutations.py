"""A recorded association with some of its bytes changed: no crash, no lost place, and nothing kept that cannot be read."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt

from service.headers import read_file
from service.listener import Listener
from tests.service.house import House, associate, listening
from tests.service.series import flair_series

MUTATIONS = 60
HEADS = 1500  # where PDU heads, items, the command and the data set's header are


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
    """Change, cut, repeat or insert a few bytes near the heads."""
    found = bytearray(stream)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(min(HEADS, len(found)))
        kind = chance.randrange(4)
        if kind == 0:
            found[at] = chance.randrange(256)
        elif kind == 1:
            del found[at : at + chance.randint(1, 40)]
        elif kind == 2:
            found[at:at] = found[at : at + chance.randint(1, 40)]
        else:
            found[at:at] = chance.randbytes(chance.randint(1, 8))
    return bytes(found)


def replay(listener: Listener, pdus: list[bytes]) -> None:
    """Ask for the association, send the rest when it is answered, take what comes, and go."""
    with socket.create_connection(("127.0.0.1", listener.port), timeout=0.5) as connection, suppress(OSError):
        connection.sendall(pdus[0])
        with suppress(TimeoutError):
            connection.recv(65536)
        connection.sendall(b"".join(pdus[1:]))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


# where a peer breaks the protocol, pynetdicom's thread for the connection may end by an exception: that ends the association only
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_changed_bytes_do_no_harm(tmp_path: Path) -> None:
    house = House(tmp_path, maximum_associations=200)
    with listening(house) as listener:
        pdus = record(listener)
        chance = random.Random(7)
        changed = []
        for _ in range(MUTATIONS):
            which = chance.randrange(len(pdus) - 1)
            changed.append([*pdus[:which], mutate(pdus[which], chance), *pdus[which + 1 :]])
        senders = [
            threading.Thread(target=lambda part=part: [replay(listener, one) for one in part]) for part in (changed[::2], changed[1::2])
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        deadline = time.monotonic() + 10
        while listener._entity.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not listener._entity.active_associations
        assert not listener._lines
        association = associate(listener, (MRImageStorage, ExplicitVRLittleEndian))
        assert association.send_c_store(flair_series(1)[0]).Status == 0x0000
        association.release()
        kept = list(house.store.every_instance())
        indexed = {row.path for case in house.cases for row in house.book.headers(case.id)}
        assert indexed <= {house.store.relative(path) for path in kept}
        for path in kept:
            with path.open("rb") as file:
                read_file(file)
    house.book.close()
