"""Who is let in, how many, how large, and for how long: over real associations and raw connections."""

from __future__ import annotations

import socket
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from service.headers import read_file
from tests.service.house import MR, VERIFICATION, House, associate, eventually, join_network_threads, listening, store_bytes
from tests.service.series import flair_series, part10


def test_only_listed_senders_are_let_in(tmp_path: Path) -> None:
    listed = [
        {"title": "PACS", "address": "127.0.0.0/8"},
        {"title": "FAR", "address": "192.0.2.1"},
        {"title": "STRICT", "unwanted": "refuse"},
    ]
    house = House(tmp_path, calling_ae=listed)
    with listening(house) as listener:
        for title in ("NOBODY", "FAR"):
            association = associate(listener, VERIFICATION, calling=title)
            assert association.is_rejected
            answer = association.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 3)
        association = associate(listener, VERIFICATION, calling="PACS")
        assert association.is_established
        association.release()
        association = associate(listener, MR, (CTImageStorage, ExplicitVRLittleEndian), calling="STRICT")
        assert [context.abstract_syntax for context in association.accepted_contexts] == [MRImageStorage]
        association.release()
    house.book.close()


def test_private_classes_beside_the_images_are_recorded_and_discarded(tmp_path: Path) -> None:
    csa_non_image = "1.3.12.2.1107.5.9.1"
    house = House(tmp_path, calling_ae=[{"title": "PACS"}, {"title": "STRICT", "unwanted": "refuse"}])
    (private,) = flair_series(1, SOPClassUID=csa_non_image)
    del private.PixelData
    with listening(house) as listener:
        association = associate(listener, MR, (csa_non_image, ExplicitVRLittleEndian), calling="PACS")
        encoded = part10(private)
        _, start = read_file(BytesIO(encoded))
        assert store_bytes(association, encoded[start:], csa_non_image, private.SOPInstanceUID) == 0x0000
        association.release()
        association = associate(listener, MR, (csa_non_image, ExplicitVRLittleEndian), calling="STRICT")
        assert [context.abstract_syntax for context in association.accepted_contexts] == [MRImageStorage]
        association.release()
    assert [case.instances for case in house.cases] == [1]
    assert not list(house.store.every_instance())
    house.book.close()


def test_no_more_associations_than_allowed(tmp_path: Path) -> None:
    house = House(tmp_path, maximum_associations=2)
    with listening(house) as listener:
        first, second = associate(listener, VERIFICATION), associate(listener, VERIFICATION)
        third = associate(listener, VERIFICATION)
        assert third.is_rejected
        assert (third.acceptor.primitive.result, third.acceptor.primitive.result_source) == (2, 3)
        first.release()
        second.release()
    house.book.close()


def test_port_probes_take_no_places(tmp_path: Path) -> None:
    house = House(tmp_path, maximum_associations=2)
    with listening(house) as listener:
        for _ in range(6):
            socket.create_connection(("127.0.0.1", listener.port), timeout=5).close()
        assert eventually(lambda: len(listener._entity.active_associations) == 0)
        association = associate(listener, VERIFICATION)
        assert association.is_established
        association.release()
    house.book.close()


@pytest.mark.parametrize("half", [b"", b"\x01\x00\x00", b"\x01\x00\x00\x00\x01\x00" + bytes(40)])
def test_a_peer_that_stops_in_the_middle_loses_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bytes) -> None:
    monkeypatch.setattr("service.listener.NETWORK_TIMEOUT_S", 0.3)
    monkeypatch.setattr("service.listener.ACSE_TIMEOUT_S", 0.6)
    house = House(tmp_path)
    with listening(house) as listener, socket.create_connection(("127.0.0.1", listener.port), timeout=5) as connection:
        connection.sendall(half)
        assert eventually(lambda: len(listener._entity.active_associations) == 1)
        assert eventually(lambda: len(listener._entity.active_associations) == 0)
    house.book.close()


def test_too_large_an_instance_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.listener.HEADER_BYTES", 0)
    house = House(tmp_path, maximum_series_bytes=4096)
    with listening(house) as listener:
        association = associate(listener, MR, steady=False)
        assert not association.send_c_store(flair_series(1)[0])
        assert not house.cases
        join_network_threads()
    house.book.close()
