"""What comes in over HTTP has an end: dripping headers and bodies, silent connections, too many of them, clients that do not read."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service import listener
from service.api import archive, connection, desk, receiving
from service.multipart import Limits
from service.settings import Settings
from tests.service.api.conftest import OUTPUTS, Host, make_series


@contextlib.contextmanager
def connected(host: Host) -> Iterator[socket.socket]:
    with socket.create_connection((host.server.host, host.server.port), timeout=20) as line:
        yield line


def drip(line: socket.socket, text: bytes, every_s: float = 0.05) -> float:
    """Send byte by byte until the other side has had enough, and give the seconds that took."""
    began = time.monotonic()
    for byte in text:
        try:
            line.sendall(bytes([byte]))
        except OSError:
            break
        line.settimeout(every_s)
        with contextlib.suppress(TimeoutError):
            if line.recv(1, socket.MSG_PEEK) is not None:
                break
    line.settimeout(20)
    return time.monotonic() - began


def answer(line: socket.socket) -> bytes:
    text = b""
    with contextlib.suppress(ConnectionError):
        while block := line.recv(4096):
            text += block
    return text


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.connection.HEADER_WITHIN_S", 0.4)


ENDLESS = b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 1000


def test_a_dripping_header_is_cut_off(hasty: None, host: Host) -> None:
    with connected(host) as line:
        assert drip(line, ENDLESS) < 15
        assert answer(line).startswith(b"HTTP/1.1 408 ")
    assert host.client.get("/health/live").status_code == 200
    assert '"status": 408' in host.log.getvalue()


def test_a_second_request_of_a_connection_may_not_drip_either(hasty: None, host: Host) -> None:
    with connected(host) as line:
        line.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 200 ")
        drip(line, ENDLESS)
        assert b"HTTP/1.1 408 " in answer(line)


def test_a_silent_connection_is_closed(hasty: None, host: Host) -> None:
    with connected(host) as line:
        assert answer(line).startswith(b"HTTP/1.1 408 ")


def test_the_body_of_a_request_that_was_answered_may_not_drip(hasty: None, host: Host) -> None:
    with connected(host) as line:
        line.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nxx")
        assert line.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert drip(line, b"x" * 1000) < 15
        answer(line)


def test_an_upload_and_a_long_poll_are_no_dripping_headers(hasty: None, host: Host) -> None:
    series = make_series()
    case_id = host.send(series)
    assert host.client.get(f"/cases/{case_id}", params={"wait": 1.2}).status_code == 200
    boundary = "b"
    body = b"".join(b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' + data + b"\r\n" for data in series)
    parts = [body[: len(body) // 2], body[len(body) // 2 :], b"--b--\r\n"]

    def slowly() -> Iterator[bytes]:
        for part in parts:
            time.sleep(0.4)
            yield part

    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert host.client.post("/cases", content=slowly(), headers=headers).status_code == 202


def test_too_many_connections_are_turned_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.connection.MOST_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(host))
        with connected(host) as one_more:
            assert answer(one_more).startswith(b"HTTP/1.1 503 ")
    deadline = time.monotonic() + 10
    while httpx.get(host.server.url + "/health/live", trust_env=False).status_code != 200:
        assert time.monotonic() < deadline


def test_a_client_that_does_not_read_loses_its_connection(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.connection.READ_WITHIN_S", 0.4)
    case_id = host.send(make_series())
    monkeypatch.setitem(OUTPUTS, "segmentation.nii.gz", ("application/gzip", bytes(32 << 20)))
    host.finish(case_id)
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(20)
        line.connect((host.server.host, host.server.port))
        line.sendall(f"GET /cases/{case_id}/segmentation.nii.gz HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        deadline = time.monotonic() + 15
        while "does not read" not in host.log.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with contextlib.suppress(ConnectionError):
            assert len(answer(line)) < 32 << 20


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /" + b"a" * 90_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 90_000 + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(12000)) + b"\r\n", b"400"),
        (b"GET /cases?patient_id=" + b"a" * 300 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"422"),
        (b"GET /cases?limit=501 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"422"),
        (b"GET /cases/" + b"a" * 65 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"422"),
    ],
)
def test_long_headers_addresses_and_queries_are_refused(shared_host: Host, request_text: bytes, status: bytes) -> None:
    with connected(shared_host) as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(request_text)
        assert answer(line).startswith(b"HTTP/1.1 " + status)


def test_a_part_with_endless_headers_is_refused(make_host: Callable[..., Host]) -> None:
    host = make_host()
    for headers in (b"x: " + b"a" * 10_000 + b"\r\n", b"".join(b"x-%d: y\r\n" % n for n in range(50))):
        body = b"--b\r\nContent-Disposition: form-data; name=f\r\n" + headers + b"\r\ndata\r\n--b--\r\n"
        got = host.client.post("/cases", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert got.status_code == 400
        assert got.headers["content-type"] == "application/problem+json"
    assert list((host.store.root / "incoming").iterdir()) == []


def test_the_table_of_limits_is_the_programs() -> None:
    statement = (Path(__file__).resolve().parents[3] / "deploy" / "conformance.md").read_text(encoding="utf-8")
    lines = statement.split("### 7.2 Limits", 1)[1].splitlines()
    table = {cells[0]: cells[1] for line in lines if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 3}
    settings, limits = Settings(), Limits.from_settings(Settings())
    assert table["PDU"] == f"{listener.MAXIMUM_PDU} bytes"
    assert table["associations at the same time"].startswith(f"{settings.maximum_associations} ")
    assert table["association request, release"] == f"{listener.ACSE_TIMEOUT_S:g} s"
    assert table["association without traffic, half a PDU"] == f"{listener.NETWORK_TIMEOUT_S:g} s"
    assert f"{settings.maximum_series_bytes >> 20} MiB" in table["instance over DICOM"]
    assert table["instance over DICOM"].endswith(f"{listener.HEADER_BYTES >> 20} MiB")
    assert table["free space on the disk"].startswith(f"{settings.minimum_free_mb} MiB")
    assert table["HTTP connections"] == str(connection.MOST_CONNECTIONS)
    assert table["HTTP request line and header"] == f"64 KiB, within {connection.HEADER_WITHIN_S:g} s"
    assert table["HTTP client that does not read"] == f"{connection.READ_WITHIN_S:g} s for 64 KiB"
    assert table["uploads at the same time"] == str(desk.UPLOADS_AT_ONCE)
    assert table["upload that stops or drips"] == f"{receiving.SILENCE_S:g} s of silence, {receiving.SLOWEST_BYTES_PER_S} bytes/s"
    assert f"{limits.files:,} files" in table["upload"]
    assert f"directory {archive.DIRECTORY_BYTES >> 20} MiB" in table["zip"]
    assert f"{limits.ratio:g} times its size above {limits.ratio_from_bytes >> 20} MiB" in table["zip"]
