"""The files of TLS: what is wrong with them is one line at the start."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.calling.web import open_web
from service.errors import Misconfigured, Unavailable
from service.sections import DicomTls, Pacs, Secured
from service.settings import Settings
from service.tls import call_context, demand_files, door_context, nodes_among, secure_call, web_context
from tests.certificates import OUT_OF_USE, Authority


@pytest.fixture(scope="module")
def authority(peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(peer("openssl"), tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each kind of file by one name, certificates .pem and keys .key."""
    folder = tmp_path_factory.mktemp("files")
    for name, options in {
        "good": {},
        "other": {},
        "old": {"days": -1},
        "client": {"usage": "clientAuth"},
        "server": {"usage": "serverAuth"},
        "odd": {"key": OUT_OF_USE},
    }.items():
        pair = authority.issue(name, **options)
        shutil.copy(pair.certificate, folder / f"{name}.pem")
        shutil.copy(pair.key, folder / f"{name}.key")
    shutil.copy(authority.certificate, folder / "ca.pem")
    (folder / "rubbish.pem").write_text("not a certificate")
    return folder


def door(files: Path, certificate: str = "good.pem", key: str = "good.key", authorities: str = "ca.pem") -> DicomTls:
    return DicomTls(certificate_file=files / certificate, key_file=files / key, client_ca_file=files / authorities)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"certificate": "gone.pem"}, "dicom_tls: certificate_file .*gone.pem: No such file or directory"),
        ({"key": "gone.key"}, "dicom_tls: key_file .*gone.key: No such file or directory"),
        ({"authorities": "gone.pem"}, "dicom_tls.client_ca_file .*gone.pem: No such file or directory"),
        ({"authorities": "."}, "dicom_tls.client_ca_file .*: Is a directory"),
        ({"key": "other.key"}, "dicom_tls: key_file .*other.key is not the key of certificate_file .*good.pem"),
        ({"certificate": "rubbish.pem"}, "rubbish.pem and key_file .*: not a certificate and a key in PEM"),
        ({"authorities": "rubbish.pem"}, "rubbish.pem: holds no certificate in PEM"),
        ({"certificate": "old.pem", "key": "old.key"}, "dicom_tls: certificate_file .*old.pem: certificate has expired"),
        ({"certificate": "client.pem", "key": "client.key"}, "client.pem: unsuitable certificate purpose"),
        ({"certificate": "odd.pem", "key": "odd.key"}, "dicom_tls: certificate_file .*odd.pem: TLS: no shared cipher"),
    ],
)
def test_what_is_wrong_with_the_files_of_the_door_is_one_line(files: Path, changed: dict[str, str], line: str) -> None:
    with pytest.raises(Misconfigured, match=line) as told:
        door_context(door(files, **changed))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gone.pem", "crl_file .*gone.pem: No such file or directory"),
        ("rubbish.pem", "crl_file .*rubbish.pem: holds no revocation list in PEM"),
        ("other.pem", "crl_file .*other.pem: holds a certificate, which would be trusted"),
    ],
)
def test_a_revocation_list_that_is_none_is_one_line_in_either_direction(files: Path, name: str, line: str) -> None:
    with pytest.raises(Misconfigured, match=rf"^dicom_tls\.{line}"):
        door_context(door(files).model_copy(update={"crl_file": files / name}))
    node = Pacs(name="a", ae_title="A", host="h", port=104, tls=True, ca_file=files / "ca.pem", crl_file=files / name, url="https://h")
    with pytest.raises(Misconfigured, match=f"^source a: {line}"):
        demand_files(nodes_among("source", [node]))
    for read in (lambda: secure_call("source a", node), lambda: web_context(node)):
        with pytest.raises(Unavailable, match=line):
            read()


def test_certificates_of_the_right_kind_are_taken(files: Path) -> None:
    door_context(door(files))
    door_context(door(files, "server.pem", "server.key"))
    node = Secured(tls=True, ca_file=files / "ca.pem", certificate_file=files / "client.pem", key_file=files / "client.key")
    assert call_context("destination pacs", node) is not None
    assert call_context("destination pacs", Secured()) is None


def test_a_destination_with_a_certificate_that_ran_out_starts_nothing(files: Path) -> None:
    node = Secured(tls=True, ca_file=files / "ca.pem", certificate_file=files / "old.pem", key_file=files / "old.key")
    with pytest.raises(Misconfigured, match=r"destination pacs: certificate_file .*old.pem: certificate has expired"):
        demand_files([("destination pacs", node)])


@pytest.mark.parametrize("kind", ["destinations", "sources"])
def test_the_files_of_a_web_service_count_however_its_scheme_is_written(files: Path, kind: str) -> None:
    given = {"name": "web", "url": "HTTPS://pacs.example/dicom-web", "ca_file": files / "gone.pem"}
    (service,) = getattr(Settings.model_validate({kind: [given]}), kind)
    assert service.url == "https://pacs.example/dicom-web"
    with pytest.raises(Unavailable, match=r"ca_file .*gone.pem: No such file or directory"):
        open_web(service.url, service, 1.0)


PRINT = "AB:" * 31 + "AB"
TLS = {"certificate_file": "a", "key_file": "b", "client_ca_file": "c"}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"dicom_tls": {"certificate_file": "a"}}, "Field required"),
        ({"dicom_tls": TLS | {"host": "10.0.0.5"}}, "dicom_tls.host 10.0.0.5 is open to the network"),
        ({"calling_ae": [{"title": "A", "certificate_sha256": PRINT}]}, "calling_ae A: certificate_sha256 needs .dicom_tls."),
        (
            {"dicom_tls": TLS, "calling_ae": [{"title": "A", "certificate_sha256": PRINT}, {"title": "A", "address": "10.0.0.5"}]},
            "calling_ae A: bound to a certificate in one entry and not in another",
        ),
        ({"dicom_tls": TLS, "calling_ae": [{"title": "A", "certificate_sha256": "ab"}]}, "String should match"),
        ({"destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 104, "tls": True}]}, "tls needs ca_file"),
        ({"sources": [{"name": "p", "url": "https://h", "crl_file": "c"}]}, "crl_file needs ca_file"),
        ({"sources": [{"name": "p", "url": "https://h", "user": "u"}]}, "give user and password_file together"),
        (
            {"destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 104, "key_file": "k", "certificate_file": "c"}]},
            "need tls = true",
        ),
        (
            {"destinations": [{"name": "p", "ae_title": "P", "host": "h", "port": 104, "tls": True, "ca_file": "c", "key_file": "k"}]},
            "go together",
        ),
    ],
)
def test_settings_that_would_leave_a_door_open_or_shut_for_good_are_refused(values: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Settings.model_validate(values)


@pytest.mark.parametrize("written", [PRINT, PRINT.replace(":", ""), f"sha256 Fingerprint={PRINT}", f"SHA256 Fingerprint={PRINT}\n"])
def test_a_fingerprint_may_be_written_as_openssl_does(written: str) -> None:
    settings = Settings.model_validate({"dicom_tls": TLS, "calling_ae": [{"title": "A", "certificate_sha256": written}]})
    assert re.fullmatch("(ab){32}", str(settings.calling_ae[0].certificate_sha256))
