"""Uploads: files become cases, durable and once; everything that is too much, unsafe or no DICOM has a clear answer."""

from __future__ import annotations

import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import Unavailable
from service.records import State
from tests.service.api.conftest import Host, as_parts, as_zip, make_series


def post_zip(host: Host, data: bytes) -> httpx.Response:
    return host.client.post("/cases", files={"file": ("study.zip", data, "application/zip")})


def nothing_left(host: Host) -> bool:
    return not [path for path in host.stored() if path.is_file()] and not list((host.store.root / "incoming").iterdir())


def test_files_become_a_case_that_is_queued_and_durable(host: Host) -> None:
    answer = host.client.post("/cases", files=as_parts(make_series()))
    assert answer.status_code == 202
    body = answer.json()
    assert [item["state"] for item in body["items"]] == ["queued"]
    assert body["problems"] == []
    assert answer.headers["location"] == f"/cases/{body['items'][0]['id']}"
    assert len(list((host.store.root / "instances").rglob("*.dcm"))) == 20
    assert list((host.store.root / "incoming").iterdir()) == []


def test_the_same_series_again_is_the_same_case_in_any_order_and_form(host: Host) -> None:
    series = make_series()
    case_id = host.send(series)
    assert host.send(series[::-1]) == case_id
    answer = post_zip(host, as_zip({f"a/b/{number}": data for number, data in enumerate(series)}))
    assert (answer.status_code, answer.json()["items"][0]["id"]) == (202, case_id)
    case = host.book.case(case_id)
    assert case is not None
    assert (case.instances, case.revision, case.state) == (20, 1, State.QUEUED)


def test_several_series_in_one_upload_are_several_cases_and_no_location(host: Host) -> None:
    flair, localizer = (
        make_series("1.2.3.1"),
        make_series("1.2.3.2", SeriesDescription="localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )
    answer = host.client.post("/cases", files=as_parts([*flair, *localizer]))
    assert answer.status_code == 202
    assert "location" not in answer.headers
    states = {item["series_uid"]: (item["state"], bool(item["reason"])) for item in answer.json()["items"]}
    assert states == {"1.2.3.1": ("queued", False), "1.2.3.2": ("rejected", True)}


def test_files_that_are_no_dicom_are_named_and_the_rest_is_taken(host: Host) -> None:
    parts = [
        *as_parts(make_series()),
        ("files", ("README.txt", b"hello", "text/plain")),
        ("files", ("DOE^JANE.dcm", b"", "application/dicom")),
    ]
    answer = host.client.post("/cases", files=parts)
    assert answer.status_code == 202
    assert answer.json()["items"][0]["instances"] == 20
    assert [(problem["file"], problem["name"]) for problem in answer.json()["problems"]] == [(21, "README.txt"), (22, "DOE^JANE.dcm")]
    assert "JANE" not in host.log.getvalue()


def test_a_truncated_file_is_named_and_not_kept(host: Host) -> None:
    series = make_series()
    answer = host.client.post("/cases", files=as_parts([series[0][:-100], *series[1:]]))
    assert answer.status_code == 202
    assert [problem["file"] for problem in answer.json()["problems"]] == [1]
    assert answer.json()["items"][0]["instances"] == 19


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        ([("files", ("a", b"no dicom", "x/y"))], 422, "nothing-usable"),
        ([("files", ("a.zip", as_zip({}), "x/y"))], 422, "nothing-usable"),
        ([("files", ("a.zip", as_zip({"a": b"no"})[:-30], "x/y"))], 422, "unsafe-archive"),
        ([("files", ("a.zip", as_zip({"a/../../b": b"no"}), "x/y"))], 422, "unsafe-archive"),
        ([("files", ("a.zip", as_zip({"/etc/passwd": b"no"}), "x/y"))], 422, "unsafe-archive"),
        ([("files", ("a.zip", as_zip({"c:\\x": b"no"}), "x/y"))], 422, "unsafe-archive"),
        ([("files", ("a.zip", as_zip({"a": b"no"}, zipfile.ZIP_LZMA), "x/y"))], 422, "unsafe-archive"),
        ([("files", ("a.zip", as_zip({"b.zip": as_zip({"a": b"no"})}), "x/y"))], 422, "nothing-usable"),
    ],
)
def test_what_is_of_no_use_is_refused_and_nothing_stays(shared_host: Host, content: list[Any], status: int, kind: str) -> None:
    answer = shared_host.client.post("/cases", files=content)
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"urn:leukoscope:problem:{kind}"
    assert nothing_left(shared_host)


def test_limits_on_size_and_number_of_files(make_host: Callable[..., Host]) -> None:
    host = make_host(maximum_upload_bytes=100_000, maximum_upload_files=5)
    answer = host.client.post("/cases", files=as_parts([b"x" * 60_000] * 2))
    assert (answer.status_code, answer.json()["limit_bytes"]) == (413, 100_000)
    answer = host.client.post("/cases", files=as_parts([b"x"] * 6))
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:leukoscope:problem:too-many-files")
    assert post_zip(host, as_zip({str(n): b"x" for n in range(6)})).json()["type"].endswith("too-many-files")

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n'
        for _ in range(40):
            yield bytes(4096)

    answer = host.client.post("/cases", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert nothing_left(host)


def test_a_refused_sender_of_much_still_reads_the_answer(make_host: Callable[..., Host]) -> None:
    host = make_host(maximum_upload_bytes=100_000)
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}):
        answer = host.client.post("/cases", files=as_parts([bytes(30 << 20)]), headers=headers)
        assert answer.status_code in (403, 413)
    assert nothing_left(host)


def test_a_sender_that_drips_is_cut_off(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.receiving.SILENCE_S", 0.3)
    monkeypatch.setattr("service.api.access.DRAIN_S", 0.1)
    head = b"POST /cases HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000\r\n\r\n--b\r\n"
    with socket.create_connection((host.server.host, host.server.port), timeout=10) as peer:
        peer.sendall(head)
        assert b" 408 " in peer.recv(1000)
    with socket.create_connection((host.server.host, host.server.port), timeout=10) as peer:
        peer.sendall(head)
        for _ in range(6):
            threading.Event().wait(0.1)
            peer.sendall(b"x")
        assert b" 408 " in peer.recv(1000)
    assert nothing_left(host)


def test_more_files_than_starlette_would_take(host: Host) -> None:
    answer = host.client.post("/cases", files=as_parts([b"x"] * 1500))
    assert answer.status_code == 422
    assert len(answer.json()["problems"]) == 100


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b'{"study_uid": "1.2"}', 422),
        ("application/dicom+json", b'{"study_uid": "1.2"}', 415),
        ("application/dicom", b"x", 415),
        ("", b"x", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=" + "b" * 500, b"x", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"nonsense", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nno end", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: y\r\n" * 5000 + b"\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 99999, 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 422),
        ("multipart/form-data; boundary=\xff\x00".encode("latin-1").decode("latin-1"), b"x", 400),
    ],
)
def test_bodies_that_are_no_upload(shared_host: Host, kind: str, body: bytes, status: int) -> None:
    headers = {b"content-type": kind.encode("latin-1").replace(b"\0", b"\x01")} if kind else {}
    try:
        answer = shared_host.client.post("/cases", content=body, headers=headers)
    except httpx.LocalProtocolError:
        pytest.skip("not even h11 sends this")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 415:
        assert (
            answer.json()["detail"]
            == "Send multipart/form-data with DICOM files or one zip, or application/json that names a series to fetch."
        )
    assert nothing_left(shared_host)


def test_a_sender_that_leaves_half_way_leaves_nothing(host: Host) -> None:
    with socket.create_connection((host.server.host, host.server.port)) as peer:
        head = "POST /cases HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 500000\r\n\r\n"
        peer.sendall(head.encode() + b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + bytes(100_000))
        deadline = threading.Event()
        while not list((host.store.root / "incoming").iterdir()):
            deadline.wait(0.01)
    for _ in range(300):
        if nothing_left(host):
            break
        deadline.wait(0.01)
    assert nothing_left(host)
    assert host.client.get("/health/live").status_code == 200


def test_a_full_disk_is_told_before_the_body_is_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.store, "free_bytes", lambda: 1000)
    answer = host.client.post("/cases", files=as_parts(make_series()))
    assert (answer.status_code, answer.json()["type"]) == (507, "urn:leukoscope:problem:insufficient-storage")
    assert nothing_left(host)


def test_a_disk_that_fills_up_on_the_way_is_507(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if "w" in mode and "incoming" in self.parts:
            raise OSError(28, "No space left on device")
        return real(self, mode, *args, **more)

    monkeypatch.setattr(Path, "open", full)
    assert host.client.post("/cases", files=as_parts(make_series())).status_code == 507
    assert nothing_left(host)


def test_a_database_that_is_away_is_503_and_the_same_call_succeeds_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def away(*_: object, **__: object) -> None:
            raise Unavailable("the database: gone")

        patch.setattr(host.intake, "receive", away)
        answer = host.client.post("/cases", files=as_parts(make_series()))
        assert answer.status_code == 503
        assert answer.headers["retry-after"].isdigit()
        assert answer.json()["type"] == "urn:leukoscope:problem:unavailable"
    host.send(make_series())


def test_too_many_uploads_at_once_are_asked_to_come_back(host: Host) -> None:
    head = b"POST /cases HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000\r\n\r\n--b\r\n"
    peers = [socket.create_connection((host.server.host, host.server.port)) for _ in range(8)]
    for peer in peers:
        peer.sendall(head)
    pause = threading.Event()
    while len(list((host.store.root / "incoming").iterdir())) < 8:
        pause.wait(0.01)
    answer = host.client.post("/cases", files=as_parts(make_series()))
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:leukoscope:problem:too-many-uploads")
    for peer in peers:
        peer.close()
    while list((host.store.root / "incoming").iterdir()):
        pause.wait(0.01)
    host.send(make_series())


def test_uploads_side_by_side(host: Host) -> None:
    def send(number: int) -> None:
        files = as_parts(make_series(f"1.2.9.{number // 2}", size=16))  # two senders for each series
        codes.append(httpx.post(f"{host.server.url}/cases", files=files, timeout=30, trust_env=False).status_code)

    codes: list[int] = []
    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [202] * 6
    page = host.book.find_cases()
    assert sorted((case.series_uid, case.instances, case.revision) for case in page.items) == [(f"1.2.9.{n}", 20, 1) for n in range(3)]
