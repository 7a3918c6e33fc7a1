"""TLS over the years: files are renewed, lists of revoked certificates come and end, and it is told in time; nothing is started again."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.listener import Listener
from service.sections import DicomTls, Pacs, Secured, WebDestination
from service.tls import Renewed, contexts, renewal, renewed_call, renewed_door, tell_of
from service.tls.dates import first_end
from service.tls.renewal import ends_told, is_troubled, notes_of
from tests.certificates import OUT_OF_USE, Authority, Pair
from tests.service.house import House, eventually, join_network_threads
from tests.service.series import flair_series, part10


@dataclass
class Gate:
    """A listener whose TLS files lie in `folder`, as an administrator puts them there."""

    listener: Listener
    folder: Path
    ours: Authority
    theirs: Authority
    pairs: dict[str, Pair]

    def put(self, **files: Path) -> None:
        """Replace files as they should be: written beside, then renamed."""
        for name, path in files.items():
            shutil.copy(path, self.folder / "new")
            (self.folder / "new").replace(self.folder / f"{name}.pem")

    def put_own(self, name: str) -> None:
        self.put(own=self.pairs[name].certificate, key=self.pairs[name].key)

    def shown(self, pair: Pair | None = None) -> str:
        """The certificate of the port, as a device sees it, in DER's hexadecimal digits."""
        pair = pair or self.pairs["device"]
        context = ssl.create_default_context(cafile=str(self.ours.certificate))
        context.load_cert_chain(pair.certificate, pair.key)
        with socket.create_connection(("127.0.0.1", self.listener.tls_port), 5) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                certificate = secured.getpeercert(binary_form=True)
        return certificate.hex()


@pytest.fixture(scope="module")
def built(peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    folder = tmp_path_factory.mktemp("renewal")
    ours, theirs = Authority(peer("openssl"), folder, "ours"), Authority(peer("openssl"), folder, "theirs")
    pairs = {name: ours.issue(name) for name in ("first", "second", "device", "lost")} | {"stranger": theirs.issue("stranger")}
    pairs |= {"soon": ours.issue("soon", days=20), "odd": ours.issue("odd", key=OUT_OF_USE)}
    files = {"certificate_file": folder / "own.pem", "key_file": folder / "key.pem", "client_ca_file": folder / "clients.pem"}
    shutil.copy(pairs["first"].certificate, folder / "own.pem")
    shutil.copy(pairs["first"].key, folder / "key.pem")
    shutil.copy(ours.certificate, folder / "clients.pem")
    shutil.copy(ours.list_revoked(pairs["lost"]), folder / "crl.pem")
    house = House(folder / "data", dicom_tls={"port": 0, **files, "crl_file": folder / "crl.pem"})
    made = Gate(Listener(house.settings, house.intake), folder, ours, theirs, pairs)
    yield made
    made.listener.stop(2.0)
    join_network_threads()
    house.book.close()


@pytest.fixture
def gate(built: Gate, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The listener with the files it began with, which looks at them at each connection."""
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.0)
    built.put_own("first")
    built.put(clients=built.ours.certificate, crl=built.ours.list_revoked())
    built.listener.tls.get()
    return built


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("instance") / "0.dcm"
    path.write_bytes(part10(flair_series(1)[0]))
    return path


def storescu(program: str, gate: Gate, name: str, instance: Path) -> bool:
    """Send an instance with DCMTK's program and a device's certificate; whether it was taken."""
    pair = gate.pairs[name]
    secured = ["+tls", pair.key, pair.certificate, "+cf", gate.ours.certificate]
    command = [program, *secured, "-aec", "LEUKOSCOPE", "127.0.0.1", gate.listener.tls_port, instance]
    return subprocess.run([str(part) for part in command], capture_output=True, timeout=60, check=False).returncode == 0


def der(pair: Pair) -> str:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.read_text()).hex()


def lines(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


def test_a_renewed_certificate_is_shown_to_the_next_that_calls(gate: Gate) -> None:
    assert gate.shown() == der(gate.pairs["first"])
    gate.put_own("second")
    assert gate.shown() == der(gate.pairs["second"])
    assert not gate.listener.tls.trouble


def test_files_that_do_not_fit_leave_the_old_ones_and_are_told_once(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service")
    gate.put(own=gate.pairs["second"].certificate)
    assert [gate.shown(), gate.shown()] == [der(gate.pairs["first"])] * 2
    (line,) = lines(caplog, "cannot be used")
    assert line.startswith("new TLS files cannot be used, the old ones stay: dicom_tls: key_file ")
    told = {"tls": tell_of([gate.listener.tls])}
    assert is_troubled(told)
    assert ends_told(told)["dicom_tls.certificate_file"] == first_end(gate.pairs["first"].certificate)
    gate.put(key=gate.pairs["second"].key)
    assert gate.shown() == der(gate.pairs["second"])
    assert not is_troubled({"tls": tell_of([gate.listener.tls])})
    assert len(lines(caplog, "new TLS files are used")) == 1


def test_a_certificate_that_no_device_takes_leaves_the_old_one(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    gate.put_own("odd")
    assert [gate.shown(), gate.shown()] == [der(gate.pairs["first"])] * 2
    (line,) = lines(caplog, "cannot be used")
    assert line.endswith("own.pem: TLS: no shared cipher")
    assert tell_of([gate.listener.tls])["troubled"]
    gate.put_own("second")
    assert gate.shown() == der(gate.pairs["second"])
    assert not tell_of([gate.listener.tls])["troubled"]


@pytest.mark.parametrize("after", ["_demand_readable", "_try_out"])
def test_files_that_are_cut_short_or_gone_between_two_reads_are_read_again(gate: Gate, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    own = gate.folder / "own.pem"
    step = getattr(contexts, after)

    def disturbed(*given: object, **named: object) -> None:
        if after == "_try_out":
            own.write_bytes(own.read_bytes()[:200])
        step(*given, **named)
        own.unlink(missing_ok=True)

    with monkeypatch.context() as patched:
        patched.setattr(contexts, after, disturbed)
        gate.put_own("second")
        told = tell_of([gate.listener.tls])
    assert told["troubled"]
    assert str(own) in gate.listener.tls.trouble
    gate.put_own("second")
    assert gate.shown() == der(gate.pairs["second"])


def test_what_failed_by_a_defect_is_tried_again_at_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.0)
    path = tmp_path / "file"
    path.write_text("1")
    kept = Renewed("here", {}, [path], lambda: 1 // int(path.read_text()), meanwhile="the old one stays")
    path.write_text("00")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            kept.get()


def test_an_authority_that_is_added_lets_its_devices_in(gate: Gate, peer: Callable[[str], str], instance: Path) -> None:
    program = peer("storescu")
    stranger = gate.pairs["stranger"]
    assert not storescu(program, gate, "stranger", instance)
    both, lists = gate.folder / "both", gate.folder / "lists"
    both.write_bytes(gate.ours.certificate.read_bytes() + gate.theirs.certificate.read_bytes())
    lists.write_bytes(gate.ours.list_revoked().read_bytes() + gate.theirs.list_revoked().read_bytes())
    gate.put(clients=both, crl=lists)
    assert storescu(program, gate, "stranger", instance)
    lists.write_bytes(gate.ours.list_revoked().read_bytes() + gate.theirs.list_revoked(stranger).read_bytes())
    gate.put(crl=lists)
    assert not storescu(program, gate, "stranger", instance)


def test_a_device_that_is_revoked_is_not_let_in_and_nobody_is_when_the_list_has_ended(
    gate: Gate, peer: Callable[[str], str], instance: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = peer("storescu")
    assert storescu(program, gate, "device", instance)
    assert not storescu(program, gate, "lost", instance)
    assert eventually(lambda: lines(caplog, "refused") == ["association refused: certificate not accepted: certificate revoked"])
    gate.put(crl=gate.ours.list_revoked(next_update="20260101000000Z"))
    assert not storescu(program, gate, "device", instance)
    assert eventually(lambda: lines(caplog, "CRL") == ["association refused: certificate not accepted: CRL has expired"])
    assert lines(caplog, "ended") == ["dicom_tls.crl_file ended at 2026-01-01 00:00 UTC"]
    gate.put(crl=gate.ours.list_revoked())
    assert storescu(program, gate, "device", instance)


def test_an_authority_without_a_list_vouches_for_nobody(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    gate.put(crl=gate.theirs.list_revoked())
    gate.shown()
    assert eventually(lambda: lines(caplog, "refused") == ["association refused: certificate not accepted: unable to get certificate CRL"])


def test_whom_an_authority_that_is_revoked_vouches_for_is_not_let_in(
    gate: Gate, peer: Callable[[str], str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    below = Authority(peer("openssl"), tmp_path, "below", above=gate.ours)
    issued = below.issue("issued")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(issued.certificate.read_bytes() + below.certificate.read_bytes())
    for listed, refused in (((), []), ((below.pair,), ["association refused: certificate not accepted: certificate revoked"])):
        (tmp_path / "lists").write_bytes(gate.ours.list_revoked(*listed).read_bytes() + below.list_revoked().read_bytes())
        gate.put(crl=tmp_path / "lists")
        with suppress(OSError):
            gate.shown(Pair(chain, issued.key))
        assert eventually(lambda refused=refused: lines(caplog, "certificate not accepted") == refused)


def test_what_ends_soon_is_told_a_day_and_by_name(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    pair = gate.pairs["soon"]
    node = Secured(tls=True, ca_file=gate.ours.certificate, certificate_file=pair.certificate, key_file=pair.key)
    kept = renewed_call("destination pacs", node)
    lists = gate.ours.list_revoked(next_update="20260101000000Z")
    web = WebDestination(name="web", url="https://h", ca_file=gate.ours.certificate, crl_file=lists)
    told = tell_of([kept, renewed_call("destination web", web), gate.listener.tls])
    notes = dict(notes_of(ends_told({"tls": told})))
    assert notes["destination pacs: certificate_file"].endswith("UTC, in 19 days")
    assert notes["destination web: crl_file"] == "destination web: crl_file ended at 2026-01-01 00:00 UTC"
    assert str(gate.folder) not in str(notes)
    kept.get()
    assert len(lines(caplog, "destination pacs: certificate_file ends at")) == 1
    assert not dict(notes_of({"far": datetime.now(UTC) + timedelta(days=40)}))


@pytest.mark.parametrize("called", [WebDestination(name="web", url="https://h"), Pacs(name="web", url="https://h")])
def test_the_files_of_a_web_service_are_looked_at_too(
    gate: Gate, called: WebDestination | Pacs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trusted = tmp_path / "authority.pem"
    called = called.model_copy(update={"ca_file": trusted})
    kept = [renewed_call("web service", called)]
    assert tell_of(kept)["troubled"], "it does not stop the start, and is told all the same"
    shutil.copy(gate.ours.certificate, trusted)
    assert not tell_of(kept)["troubled"]
    trusted.write_text("rubbish")
    assert tell_of(kept)["troubled"]
    begins = f"new TLS files cannot be used, it is not called: web service: ca_file {trusted}: "
    assert lines(caplog, "cannot be used") == [begins + "No such file or directory", begins + "holds no certificate in PEM"]
    unsecured = called.model_copy(update={"url": "http://h"})
    assert not tell_of([renewed_call("web service", unsecured)])["troubled"], "its files are not asked for"


def test_a_node_whose_files_cannot_be_used_does_not_keep_the_others_from_being_called(gate: Gate, tmp_path: Path) -> None:
    kept = renewed_call("destination pacs", Secured(tls=True, ca_file=tmp_path / "gone"))
    assert tell_of([kept]) == {"ends": {}, "troubled": True}


def test_a_link_that_is_turned_to_new_files_is_seen(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes renews a Secret that is mounted."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        shutil.copy(gate.pairs[name].certificate, tmp_path / name / "own.pem")
        shutil.copy(gate.pairs[name].key, tmp_path / name / "own.key")
    (tmp_path / "now").symlink_to("first")
    chosen = DicomTls(
        certificate_file=tmp_path / "now/own.pem", key_file=tmp_path / "now/own.key", client_ca_file=gate.ours.certificate, crl_file=None
    )
    kept: Renewed[ssl.SSLContext] = renewed_door(chosen)
    before = kept.get()
    assert kept.get() is before
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "now")
    assert kept.get() is not before


def test_the_end_of_what_is_in_a_file(gate: Gate, peer: Callable[[str], str], tmp_path: Path) -> None:
    far, near = gate.ours.issue("far", days=20000).certificate, gate.pairs["soon"].certificate  # after 2049 it is a GeneralizedTime
    for path in (far, near, gate.ours.certificate):
        command = [peer("openssl"), "x509", "-in", str(path), "-noout", "-enddate", "-dateopt", "iso_8601"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert said == f"notAfter={first_end(path):%Y-%m-%d %H:%M:%S}Z"
    assert first_end(gate.ours.list_revoked(next_update="20350607080910Z")) == datetime(2035, 6, 7, 8, 9, 10, tzinfo=UTC)
    (tmp_path / "both").write_bytes(far.read_bytes() + near.read_bytes())
    assert first_end(tmp_path / "both") == first_end(near)
    assert first_end(gate.pairs["soon"].key) is None
    with pytest.raises(ValueError, match="cut short"):
        (tmp_path / "cut").write_text("-----BEGIN CERTIFICATE-----\nMIIBpTCCAUug\n-----END CERTIFICATE-----\n")
        first_end(tmp_path / "cut")
