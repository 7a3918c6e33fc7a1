"""Results go to DICOM web services in one request a case, with an outcome of each instance's own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
import time
import tracemalloc
import zipfile

import pytest

from service.records import DeliveryState
from service.sections import Destination, WebDestination
from tests.certificates import Authority
from tests.provider import CLASSES, provider
from tests.sending import part10, sending, states
from tests.webservice import webservice
from worker import stow
from worker.send import read_archive

KINDS = ("segmentation", "structured-report")


def web(service, name="web", **more):
    return WebDestination(name=name, url=service.url, outputs=tuple(CLASSES), **more)


def errors(book, case_id):
    return {one.output: one.last_error for one in book.deliveries(case_id)}


def test_one_request_brings_all_a_case_has_byte_for_byte(tmp_path):
    with webservice() as service, sending(tmp_path, web(service), kinds=tuple(CLASSES)) as made:
        made.sender.deliver(made.case_id)
        made.sender.deliver(made.case_id)
        assert states(made.book, made.case_id) == dict.fromkeys(CLASSES, "sent")
        ((path, headers),) = service.requests
        assert (path, headers["Accept"]) == ("/dicom-web/studies", "application/dicom+json")
        assert "Transfer-Encoding" not in headers
        kept = {one.sop_instance_uid: one.sha256 for one in made.book.deliveries(made.case_id)}
        assert {uid: hashlib.sha256(data).hexdigest() for uid, data in service.got.items()} == kept
        assert next(iter(service.got)) == "2.25.1", "the segmentation first"


def test_each_instance_has_its_own_outcome(tmp_path):
    with webservice() as service, sending(tmp_path, web(service), kinds=("report.dcm", *KINDS)) as made:
        service.refused["2.25.11"], service.warned["2.25.12"] = 0xC122, 0xB007
        made.sender.deliver(made.case_id)
        assert states(made.book, made.case_id) == {"report.dcm": "sent", "segmentation": "pending", "structured-report": "sent"}
        assert errors(made.book, made.case_id) == {
            "report.dcm": None,
            "segmentation": "status 0xC122",
            "structured-report": "status 0xB007",
        }
        service.refused.clear()
        with made.book._writing() as connection:
            connection.exec_driver_sql("UPDATE deliveries SET next_attempt_at = created_at WHERE state = 'pending'")
        made.sender.deliver(made.case_id)
        assert states(made.book, made.case_id)["segmentation"] == "sent"
        assert list(service.got) == ["2.25.12", "2.25.1", "2.25.11"]


@pytest.mark.parametrize(
    ("answer", "body", "said"),
    [
        (401, None, "HTTP 401: credentials are wanted"),
        (403, None, "HTTP 403: credentials are wanted"),
        (302, None, "HTTP 302: it sends elsewhere, which is not followed"),
        (413, b"no", "HTTP 413"),
        (503, b"no", "HTTP 503"),
        (200, b"", "HTTP 200 without an answer"),
        (409, b"", "HTTP 409 without an answer"),
        (200, b"<html>welcome</html>", "HTTP 200 with an answer that is no Store Instances Response in JSON"),
        (200, b'{"00081199": {"Value": [7]}}', "HTTP 200 with an answer that is no Store Instances Response in JSON"),
        (200, b"[" * 100_000, "HTTP 200 with an answer that is no Store Instances Response in JSON"),
        (200, b"{}", "no status: not named in the answer"),
        (200, b'{"00081199": {"Value": [{"00081155": {"Value": ["2.25.999"]}}]}}', "no status: not named in the answer"),
        (202, b'{"00081198": {"Value": [{"00081155": {"Value": ["UID"]}}]}}', "status 0x0110"),
    ],
)
def test_what_is_no_success_is_a_failure_and_says_why(house, answer, body, said):
    service, made = house
    case_id = made.another()
    uid = made.book.deliveries(case_id)[0].sop_instance_uid
    service.answer, service.body = answer, body and body.replace(b"UID", uid.encode())
    made.sender.deliver(case_id)
    assert states(made.book, case_id) == {"segmentation": "pending"}
    assert errors(made.book, case_id)["segmentation"].endswith(said)
    assert service.got == {}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """One service and one case book, for what only needs a case of its own."""
    folder = tmp_path_factory.mktemp("stow")
    with webservice() as service, sending(folder, web(service)) as made:
        yield service, made


def test_a_service_that_is_away_breaks_off_or_says_nothing_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(stow, "ANSWER_S", 0.3)
    with webservice() as service, sending(tmp_path, web(service)) as made:
        service.cut_off = True
        made.sender.deliver(made.case_id)
        assert "the request broke off" in errors(made.book, made.case_id)["segmentation"]
        service.cut_off, service.hold = False, threading.Event()
        silent = made.another()
        made.sender.deliver(silent)
        service.hold.set()
        assert errors(made.book, silent)["segmentation"].endswith("no answer within 0.3 s")
        service.server.shutdown()
        service.server.server_close()
        away = made.another()
        made.sender.deliver(away)
        assert "no connection" in errors(made.book, away)["segmentation"]
        assert {one.state for case_id in (made.case_id, silent, away) for one in made.book.deliveries(case_id)} == {DeliveryState.PENDING}


def test_an_address_or_a_token_that_cannot_be_used_is_an_outcome(house, tmp_path):
    service, _ = house
    files = []
    with pytest.raises(stow.Unavailable, match="Invalid port"):
        stow.store(web(service).model_copy(update={"url": "https://h:abc/x"}), files, print)
    with pytest.raises(stow.Unavailable, match="broke off"):
        stow.store(web(service).model_copy(update={"url": "https://pacs..example/x"}), files, print)
    (tmp_path / "token").write_text("sécret", encoding="utf-8")
    with pytest.raises(stow.Unavailable, match="token: not text"):
        stow.store(web(service, token_file=tmp_path / "token"), files, print)


def test_a_slow_service_holds_up_no_other_destination(tmp_path):
    with webservice() as slow, provider() as quick:
        node = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=quick.port)
        slow.hold = threading.Event()
        with sending(tmp_path, web(slow), node) as made:
            sending_ = threading.Thread(target=made.sender.deliver, args=(made.case_id,))
            sending_.start()
            deadline = time.monotonic() + 15
            while not quick.got:
                assert time.monotonic() < deadline, "the slow service blocked the other"
                time.sleep(0.02)
            assert slow.got == {}
            slow.hold.set()
            sending_.join()
            assert {one.state for one in made.book.deliveries(made.case_id)} == {DeliveryState.SENT}
        assert (list(slow.got), quick.got) == (["2.25.1"], ["2.25.1"])


def test_credentials_are_read_from_their_files_each_time(tmp_path):
    token, password = tmp_path / "token", tmp_path / "password"
    token.write_text("secret\n")
    password.write_text("pass\n")
    with webservice() as service:
        by_user = web(service, "user", user="leukoscope", password_file=password)
        with sending(tmp_path / "data", web(service, "token", token_file=token), by_user) as made:
            made.sender.deliver(made.case_id)
            assert {headers["Authorization"] for _, headers in service.requests} == {"Bearer secret", "Basic bGV1a29zY29wZTpwYXNz"}
            token.unlink()
            service.answer = 401
            other = made.another()
            made.sender.deliver(other)
            said = {one.destination: one.last_error for one in made.book.deliveries(other)}
    assert said["token"].endswith(f"{token}: No such file or directory")
    assert said["user"].endswith("HTTP 401: the credentials are refused")


def test_a_certificate_is_trusted_only_where_the_settings_say_so(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made_by = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    more = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made_by, *more], check=True, capture_output=True)
    with webservice(certificate=(certificate, key)) as service:
        trusting = web(service, "trusting", ca_file=certificate)
        with sending(tmp_path / "data", web(service), trusting) as made:
            made.sender.deliver(made.case_id)
            found = {one.destination: one for one in made.book.deliveries(made.case_id)}
    assert found["trusting"].state is DeliveryState.SENT
    assert "certificate verify failed" in found["web"].last_error


def test_a_service_whose_certificate_was_revoked_gets_nothing(tmp_path, peer):
    authority = Authority(peer("openssl"), tmp_path)
    pair = authority.issue("web")
    before = shutil.copy(authority.list_revoked(), tmp_path / "before")
    after = authority.list_revoked(pair)
    with webservice(certificate=(pair.certificate, pair.key)) as service:
        trusting = [web(service, name, ca_file=authority.certificate, crl_file=crl) for name, crl in (("before", before), ("after", after))]
        with sending(tmp_path / "data", *trusting) as made:
            made.sender.deliver(made.case_id)
            found = {one.destination: one for one in made.book.deliveries(made.case_id)}
    assert found["before"].state is DeliveryState.SENT
    assert "certificate revoked" in found["after"].last_error


def test_a_large_series_is_never_in_memory(tmp_path):
    path = tmp_path / "series.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(4):
            archive.writestr(f"{number}.dcm", part10(f"2.25.{number}", PixelData=bytes(8 << 20), BitsAllocated=8))
    answers = []
    with webservice() as service:
        service.cut_off = True
        files = read_archive(path)
        tracemalloc.start()
        try:
            with pytest.raises(stow.Unavailable):
                stow.store(web(service), files, answers.append)
            blocks = list(map(len, stow._body(files, "b")))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert sum(blocks) > 32 << 20
    assert peak < 12 << 20
