"""Results to a destination over TLS: DCMTK's receiver demands our certificate, and we look at its."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from service.calling import Peer
from service.errors import Unavailable
from service.sections import Secured
from service.tls import call_context
from tests.certificates import Authority, Pair
from tests.service.series import flair_series, part10
from worker.send import read_outgoing, send


@pytest.fixture(scope="module")
def ours(peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(peer("openssl"), tmp_path_factory.mktemp("certificates"), "ours")


@contextmanager
def receiver(program: str, port: int, folder: Path, pair: Pair, authority: Path) -> Iterator[Path]:
    """DCMTK's storescp, which takes certificates of the authority only."""
    folder.mkdir()
    command = [program, "+tls", pair.key, pair.certificate, "+cf", authority, "-od", folder, str(port)]
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield folder
    finally:
        process.terminate()
        process.wait(10)


def deliver(port: int, tmp_path: Path, **secured: object) -> None:
    (dataset,) = flair_series(1)
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    (tmp_path / "one.dcm").write_bytes(part10(dataset))
    node = Secured.model_validate({"tls": True} | secured)
    peer = Peer("STORESCP", "127.0.0.1", port, tls=call_context("destination pacs", node))
    (answer,) = send(peer, read_outgoing([tmp_path / "one.dcm"]))
    assert answer.status == 0x0000


def test_a_result_reaches_a_node_that_demands_our_certificate_and_only_then(
    ours: Authority, peer: Callable[[str], str], free_port: Callable[[], int], tmp_path: Path
) -> None:
    theirs, own, stranger = ours.issue("pacs"), ours.issue("own"), Authority(peer("openssl"), tmp_path, "strangers")
    port = free_port()
    shown = {"certificate_file": own.certificate, "key_file": own.key}
    with receiver(peer("storescp"), port, tmp_path / "in", theirs, ours.certificate) as arrived:
        deliver(port, tmp_path, ca_file=ours.certificate, **shown)
        assert len(list(arrived.iterdir())) == 1
        with pytest.raises(Unavailable, match="certificate not accepted: self-signed certificate in certificate chain"):
            deliver(port, tmp_path, ca_file=stranger.certificate, **shown)
        with pytest.raises(Unavailable, match="the connection was ended; a peer that does not take our certificate"):
            deliver(port, tmp_path, ca_file=ours.certificate)
        assert len(list(arrived.iterdir())) == 1


def test_a_node_whose_certificate_was_revoked_gets_nothing(
    ours: Authority, peer: Callable[[str], str], free_port: Callable[[], int], tmp_path: Path
) -> None:
    theirs, own, port = ours.issue("pacs2"), ours.issue("own3"), free_port()
    shown = {"ca_file": ours.certificate, "certificate_file": own.certificate, "key_file": own.key}
    with receiver(peer("storescp"), port, tmp_path / "in", theirs, ours.certificate) as arrived:
        deliver(port, tmp_path, **shown, crl_file=ours.list_revoked())
        assert len(list(arrived.iterdir())) == 1
        with pytest.raises(Unavailable, match="certificate not accepted: certificate revoked"):
            deliver(port, tmp_path, **shown, crl_file=ours.list_revoked(theirs))
        with pytest.raises(Unavailable, match="certificate not accepted: CRL has expired"):
            deliver(port, tmp_path, **shown, crl_file=ours.list_revoked(next_update="20260101000000Z"))
        assert len(list(arrived.iterdir())) == 1


def test_a_node_whose_certificate_names_another_host_gets_nothing(
    ours: Authority, peer: Callable[[str], str], free_port: Callable[[], int], tmp_path: Path
) -> None:
    elsewhere, own, port = ours.issue("elsewhere", hosts="DNS:pacs.example"), ours.issue("own2"), free_port()
    with receiver(peer("storescp"), port, tmp_path / "in", elsewhere, ours.certificate) as arrived:
        with pytest.raises(Unavailable, match="certificate not accepted: IP address mismatch"):
            deliver(port, tmp_path, ca_file=ours.certificate, certificate_file=own.certificate, key_file=own.key)
        assert not list(arrived.iterdir())
