"""The TLS port: who is let in by certificate, who is not and why, and that nobody's handshake holds up another's."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE

from service.errors import Misconfigured
from service.listener import Listener
from service.presence import Counts
from service.records import State
from service.tls import server
from tests.certificates import Authority, Pair
from tests.service.house import House, eventually, join_network_threads
from tests.service.series import flair_series, part10

ECHO = "1.2.840.10008.1.1"


@dataclass
class Gate:
    """A running listener with a TLS port, the certificates around it, and what it logged and counted."""

    listener: Listener
    house: House
    counts: Counts
    pairs: dict[str, Pair]
    authority: Path
    log: list[logging.LogRecord] = field(default_factory=list)

    def reasons(self) -> list[str]:
        return [record.getMessage().removeprefix("association refused: ") for record in self.log if "refused" in record.getMessage()]


class Keep(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def gate(peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    folder = tmp_path_factory.mktemp("gate")
    ours, theirs = Authority(peer("openssl"), folder, "ours"), Authority(peer("openssl"), folder, "theirs")
    pairs = {name: ours.issue(name) for name in ("service", "bound", "other")}
    pairs |= {"old": ours.issue("old", days=-1), "stranger": theirs.issue("stranger")}
    service = pairs["service"]
    house = House(
        folder / "data",
        calling_ae=[{"title": "BOUND", "certificate_sha256": pairs["bound"].sha256}, {"title": "FREE"}],
        dicom_tls={"port": 0, "certificate_file": service.certificate, "key_file": service.key, "client_ca_file": ours.certificate},
    )
    counts = Counts()
    made = Gate(Listener(house.settings, house.intake, counts), house, counts, pairs, ours.certificate)
    yield made
    made.listener.stop(2.0)
    join_network_threads()
    house.book.close()


@pytest.fixture(autouse=True)
def fresh(gate: Gate) -> Iterator[None]:
    """Log and counts of one test only."""
    gate.log.clear()
    gate.counts.take()
    handler = Keep(gate.log)
    logging.getLogger("service").addHandler(handler)
    yield
    logging.getLogger("service").removeHandler(handler)


def context_of(gate: Gate, name: str | None, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(gate.authority))
    context.maximum_version = highest
    if name is not None:
        context.load_cert_chain(gate.pairs[name].certificate, gate.pairs[name].key)
    return context


def echo(gate: Gate, title: str, certificate: str | None, *, secured: bool = True) -> str:
    """Knock with a title and a certificate; "in" where C-ECHO was answered with success."""
    entity = AE(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context(ECHO, ImplicitVRLittleEndian)
    port = gate.listener.tls_port if secured else gate.listener.port
    tls = (context_of(gate, certificate), "127.0.0.1") if secured else None
    association = entity.associate("127.0.0.1", port, ae_title="LEUKOSCOPE", tls_args=tls)
    if not association.is_established:
        return "rejected" if association.is_rejected else "no association"
    status = association.send_c_echo().Status
    association.release()
    return "in" if status == 0x0000 else f"{status:04X}"


def storescu(program: str, gate: Gate, folder: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program, *options, "-aet", "BOUND", "-aec", "LEUKOSCOPE", "127.0.0.1", gate.listener.tls_port, "+sd", folder]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder = tmp_path / "series"
    folder.mkdir()
    for k, dataset in enumerate(flair_series(14)):
        (folder / f"{k}.dcm").write_bytes(part10(dataset))
    return folder


def test_storescu_with_its_certificate_brings_a_series_to_the_queue(gate: Gate, peer: Callable[[str], str], series: Path) -> None:
    own = gate.pairs["bound"]
    sent = storescu(peer("storescu"), gate, series, "+tls", own.key, own.certificate, "+cf", gate.authority)
    assert sent.returncode == 0, sent.stderr
    assert (gate.house.case.state, gate.house.case.instances) == (State.QUEUED, 14)
    (row, *_) = gate.house.book.headers(gate.house.case.id)
    assert row.source == "BOUND"


def test_storescu_without_a_certificate_or_with_a_strangers_brings_nothing(gate: Gate, peer: Callable[[str], str], series: Path) -> None:
    before = len(gate.house.cases)
    stranger = gate.pairs["stranger"]
    for options in (("+tla", "-ic"), ("+tls", stranger.key, stranger.certificate, "+cf", gate.authority)):
        assert storescu(peer("storescu"), gate, series, *options).returncode != 0
    assert len(gate.house.cases) == before
    assert eventually(lambda: len(gate.reasons()) == 2)
    assert gate.reasons()[1].startswith("certificate not accepted: unable to get local issuer certificate")


@pytest.mark.parametrize(
    ("title", "certificate", "answer"),
    [("BOUND", "bound", "in"), ("FREE", "other", "in"), ("BOUND", "other", "rejected"), ("FREE", "bound", "rejected")],
)
def test_a_title_that_is_bound_and_its_certificate_belong_together(gate: Gate, title: str, certificate: str, answer: str) -> None:
    assert echo(gate, title, certificate) == answer
    if answer == "rejected":
        assert gate.reasons() == ["certificate: not the one that belongs to the calling AE title"]
        assert gate.log[-1].__dict__["certificate_sha256"] == gate.pairs[certificate].sha256
        assert gate.counts.take()["associations", ("certificate",)] == 1


def test_a_bound_title_does_not_come_without_tls_and_a_free_one_may(gate: Gate) -> None:
    assert echo(gate, "BOUND", None, secured=False) == "rejected"
    assert gate.reasons() == ["certificate: not the one that belongs to the calling AE title"]
    assert echo(gate, "FREE", None, secured=False) == "in"


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (None, "TLS: peer did not return a certificate"),
        ("old", "certificate not accepted: certificate has expired"),
        ("stranger", "certificate not accepted: unable to get local issuer certificate"),
    ],
)
def test_a_certificate_that_is_missing_old_or_unknown_gets_no_association(gate: Gate, certificate: str | None, why: str) -> None:
    assert echo(gate, "FREE", certificate) == "no association"
    assert eventually(lambda: gate.reasons() == [why]), gate.reasons()
    assert gate.counts.take()["associations", ("tls",)] == 1
    (refused,) = [record for record in gate.log if "refused" in record.getMessage()]
    assert vars(refused)["certificate_sha256"] == (None if certificate is None else gate.pairs[certificate].sha256)


def test_versions_before_1_2_are_refused(gate: Gate) -> None:
    context = context_of(gate, "bound")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", gate.listener.tls_port), 5) as plain:
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert eventually(lambda: bool(gate.reasons()))


def test_both_versions_are_taken_with_forward_secrecy(gate: Gate) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with socket.create_connection(("127.0.0.1", gate.listener.tls_port), 5) as plain:
            with context_of(gate, "bound", version).wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                assert secured.version() == version.name.replace("_", ".")
                assert secured.cipher()[0].startswith(("ECDHE", "TLS_"))


def test_bytes_without_tls_at_the_tls_port_end_there(gate: Gate) -> None:
    assert echo(gate, "FREE", None, secured=False) == "in"
    with socket.create_connection(("127.0.0.1", gate.listener.tls_port), 5) as plain:
        plain.sendall(b"\x01\x00\x00\x00\x00\xcd" + bytes(205))  # how an A-ASSOCIATE-RQ begins
        plain.settimeout(5)
        with suppress(ConnectionResetError):
            assert plain.recv(1000)[:1] in {b"", b"\x15"}  # nothing, or a TLS alert
    assert eventually(lambda: gate.reasons() == ["TLS: wrong version number"])


def test_handshakes_that_are_never_finished_hold_up_nobody(gate: Gate) -> None:
    idle = [socket.create_connection(("127.0.0.1", gate.listener.tls_port), 5) for _ in range(8)]
    idle[0].sendall(b"\x16\x03\x01")
    assert echo(gate, "BOUND", "bound") == "in"
    assert gate.reasons() == []  # none of them was ended first
    for one in idle:
        one.close()
    assert eventually(lambda: gate.reasons() == ["the connection was closed during the TLS handshake"] * 8, 20)


def test_a_handshake_that_is_never_finished_is_ended(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_LIMIT_S", 0.2)
    with socket.create_connection(("127.0.0.1", gate.listener.tls_port), 20) as idle:
        assert idle.recv(10) == b""
    assert eventually(lambda: gate.reasons() == ["the TLS handshake was not finished in time"])


def test_the_start_is_refused_with_one_line_where_a_file_is_missing(tmp_path: Path, gate: Gate) -> None:
    service = gate.pairs["service"]
    files = {"certificate_file": service.certificate, "key_file": tmp_path / "gone.key", "client_ca_file": gate.authority}
    house = House(tmp_path / "data", dicom_tls={"port": 0, **files})
    with pytest.raises(Misconfigured, match=r"dicom_tls: key_file .*gone.key: No such file"):
        Listener(house.settings, house.intake)
    house.book.close()
