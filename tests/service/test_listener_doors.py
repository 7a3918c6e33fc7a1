"""Who is let in at the DICOM door, and when nobody is: titles, addresses, a full disk, a title that is not ours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, SegmentationStorage
from pynetdicom import AE
from pynetdicom.association import Association

from service.listener import Listener, room
from service.listener.callers import UNKNOWN, Caller, find_rule
from service.presence import Counts
from service.sections import CallingAE
from tests.service.house import House, join_network_threads
from tests.service.series import flair_series

VERIFICATION = ("1.2.840.10008.1.1", ImplicitVRLittleEndian)
MR = (MRImageStorage, ExplicitVRLittleEndian)
REFUSED = (1, 1, 3)
CONGESTED = (2, 3, 1)


@contextmanager
def door(house: House) -> Iterator[tuple[Listener, Counts]]:
    counts = Counts()
    listener = Listener(house.settings, house.intake, counts)
    try:
        yield listener, counts
    finally:
        listener.stop(2.0)
        join_network_threads()
        house.book.close()


def knock(
    listener: Listener,
    calling: str = "SCANNER",
    *,
    source: str = "127.0.0.1",
    host: str = "127.0.0.1",
    called: str = "LEUKOSCOPE",
    **what: object,
) -> Association:
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    for sop_class_uid, transfer_syntax_uid in what.get("classes", (VERIFICATION,)):
        entity.add_requested_context(sop_class_uid, transfer_syntax_uid)
    return entity.associate(host, listener.port, ae_title=called, bind_address=(source, 0))


def answer_to(listener: Listener, *arguments: str, **more: str) -> tuple[int, int, int] | str:
    association = knock(listener, *arguments, **more)
    if association.is_established:
        status = association.send_c_echo().Status
        association.release()
        return "in" if status == 0x0000 else f"{status:04X}"
    answer = association.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def test_senders_are_let_in_by_title_and_by_the_address_they_come_from(tmp_path: Path) -> None:
    listed = [
        {"title": "NEAR", "address": "127.0.0.2"},
        {"title": "HALF", "address": "127.0.0.0/31"},
        {"title": "TWICE", "address": "127.0.0.7"},
        {"title": "TWICE", "address": "127.0.0.8"},
        {"title": "Mixed Case"},
    ]
    with door(House(tmp_path, calling_ae=listed)) as (listener, counts):
        tries = [
            ("NEAR", "127.0.0.2", "in"),
            ("NEAR", "127.0.0.1", REFUSED),
            ("HALF", "127.0.0.1", "in"),
            ("HALF", "127.0.0.2", REFUSED),
            ("TWICE", "127.0.0.7", "in"),
            ("TWICE", "127.0.0.8", "in"),
            ("TWICE", "127.0.0.9", REFUSED),
            ("  Mixed Case", "127.0.0.1", "in"),  # PS3.5 6.2: leading and trailing spaces of an AE are not significant
            ("MIXED CASE", "127.0.0.1", REFUSED),
            ("Mixed  Case", "127.0.0.1", REFUSED),
            ("MixedCase", "127.0.0.1", REFUSED),
        ]
        for title, source, expected in tries:
            assert answer_to(listener, title, source=source) == expected, (title, source)
        counted = counts.take()
    assert counted["associations", ("accepted",)] == 5
    assert counted["associations", ("calling_ae",)] == 6


def test_an_ipv4_sender_on_a_socket_for_both_kinds_is_known_by_its_ipv4_address(tmp_path: Path) -> None:
    listed = [{"title": "FOUR", "address": "127.0.0.2/32"}, {"title": "SIX", "address": "::1"}]
    with door(House(tmp_path, calling_ae=listed, dicom_host="::")) as (listener, _):
        assert answer_to(listener, "FOUR", source="127.0.0.2") == "in"
        assert answer_to(listener, "FOUR", source="127.0.0.1") == REFUSED
        assert answer_to(listener, "SIX", source="127.0.0.1") == REFUSED
        assert answer_to(listener, "SIX", source="::1", host="::1") == "in"


@pytest.mark.parametrize(
    ("address", "peer", "near"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.7/8", "10.9.9.9", True),  # host bits are no mistake
        ("10.0.0.0/8", "11.0.0.1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("0.0.0.0/0", "2001:db8::1", False),
    ],
)
def test_addresses_are_compared_as_networks(tmp_path: Path, address: str, peer: str, near: bool) -> None:
    house = House(tmp_path, calling_ae=[{"title": "A", "address": address}])
    found = find_rule(house.settings.calling_ae, Caller("A", peer))
    house.book.close()
    assert (found != UNKNOWN) is near
    assert CallingAE(title="A", address=address).address == address


def test_a_node_whose_corrections_are_wanted_may_send_segmentations_where_else_only_mr_is_taken(tmp_path: Path) -> None:
    listed = [{"title": title, "unwanted": "refuse"} for title in ("PACS", "READING")]
    segmentation = (SegmentationStorage, ExplicitVRLittleEndian)
    with door(House(tmp_path, calling_ae=listed, corrections={"calling_ae": ["READING"]})) as (listener, _):
        for title, classes in (("PACS", {MRImageStorage}), ("READING", {MRImageStorage, SegmentationStorage})):
            association = knock(listener, title, classes=(MR, segmentation))
            assert {context.abstract_syntax for context in association.accepted_contexts} == classes
            association.release()


def test_a_title_that_is_not_ours_is_answered_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "service")
    with door(House(tmp_path)) as (listener, _):
        assert answer_to(listener, called="ANY-SCP") == "in"
        assert answer_to(listener) == "in"
    told = [line for line in caplog.records if "not ours" in line.message]
    assert [(line.called_ae, line.calling_ae) for line in told] == [("ANY-SCP", "SCANNER")]


def test_a_full_disk_refuses_new_associations_and_echoes_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "service")
    monkeypatch.setattr(room, "REMEMBERED_S", 0.0)
    house = House(tmp_path)
    with door(house) as (listener, counts):
        sending = knock(listener, classes=(MR,))
        series = flair_series(3)
        assert sending.send_c_store(series[0]).Status == 0x0000
        house.store._minimum_free = 1 << 60
        assert answer_to(listener) == CONGESTED
        assert answer_to(listener) == CONGESTED
        assert sending.send_c_store(series[1]).Status == 0xA700, "an association that is open is told by status"
        assert "disk nearly full" in str(listener.describe()["refuses"])
        house.store._minimum_free = 0
        assert answer_to(listener) == "in"
        assert listener.describe()["refuses"] is None
        assert sending.send_c_store(series[1]).Status == 0x0000
        sending.release()
        counted = counts.take()
    assert counted["associations", ("disk_full",)] == 2
    assert counted["c_store_responses", ("0xA700",)] == 1
    assert counted["c_store_responses", ("0x0000",)] == 2
    lines = [line.message.split(":")[0] for line in caplog.records if "new associations" in line.message]
    assert lines == ["new associations are refused", "new associations are taken again"]


def test_the_disk_is_looked_at_once_a_second_however_many_ask(tmp_path: Path) -> None:
    looks: list[float] = []
    now = [100.0]
    asked = room.Room(lambda: looks.append(now[0]), clock=lambda: now[0])
    for _ in range(50):
        assert asked.why_not() is None
        now[0] += 0.1
    assert len(looks) == 5


def test_too_many_are_counted_and_open_ones_are_told(tmp_path: Path) -> None:
    with door(House(tmp_path, maximum_associations=1)) as (listener, counts):
        first = knock(listener)
        assert listener.describe()["associations"] == 1
        assert answer_to(listener) == (2, 3, 2)
        first.release()
        deadline = time.monotonic() + 10
        while listener.describe()["associations"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        counted = counts.take()
    assert counted["associations", ("too_many",)] == 1
    assert counted["associations", ("accepted",)] == 1


@pytest.mark.parametrize(
    ("command", "settings", "line"),
    [
        ("serve", {"DICOM_HOST": "0.0.0.0"}, "dicom_host 0.0.0.0 is open to the network: list the senders under [[calling_ae]]"),
        ("listen", {"DICOM_HOST": "::"}, "dicom_host :: is open to the network"),
        ("api", {"HTTP_HOST": "0.0.0.0"}, "http_host 0.0.0.0 is open to the network: add API tokens under [[tokens]]"),
    ],
)
def test_the_command_refuses_to_open_a_door_without_a_lock(tmp_path: Path, command: str, settings: dict[str, str], line: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE_")}
    environ = clean | {"LEUKOSCOPE_DATA_DIR": str(tmp_path / "data"), "LEUKOSCOPE_DICOM_PORT": "0", "LEUKOSCOPE_HTTP_PORT": "0"}
    environ |= {f"LEUKOSCOPE_{name}": value for name, value in settings.items()}
    done = subprocess.run([sys.executable, "-m", "service", command], env=environ, capture_output=True, text=True, timeout=90)
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "data").exists()
