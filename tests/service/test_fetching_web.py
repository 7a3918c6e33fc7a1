"""Fetching by WADO-RS from a server that answers as a test needs: to the end, not to the end, or something else."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from service.errors import Unavailable
from service.fetching import Fetcher
from service.fetching.web import find_by_web
from service.multipart import Intray
from service.records import State
from service.store import INCOMING
from tests.pacs import pacs
from tests.service.fetched import COUNT, ask, fetch, fetcher_of, held, soon
from tests.service.house import House
from tests.service.series import flair_series, part10

__all__ = ["soon"]  # an autouse fixture, here too
BOUNDARY = b"--cut"


def multipart(files: Sequence[bytes], end: bytes = b"--cut--\r\n") -> bytes:
    return b"".join(BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files) + end


class Web:
    """Answers every request with one status and one body; `asked` has paths and Authorization headers."""

    def __init__(self) -> None:
        self.status, self.body, self.lost = 200, b"", 0
        self.kind = 'multipart/related; type="application/dicom"; boundary=cut'
        self.asked: list[tuple[str, str | None, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization"), self.headers.get("Accept")))
                self.send_response(outer.status)
                self.send_header("Content-Type", outer.kind)
                self.send_header("Content-Length", str(len(outer.body) + outer.lost))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.settings: dict[str, Any] = {"name": "pacs", "url": f"http://127.0.0.1:{self.server.server_port}/dicom-web/"}


@contextmanager
def web() -> Iterator[Web]:
    one = Web()
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()


def test_a_series_comes_with_the_token_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    series = flair_series(COUNT)
    with web() as server, fetcher_of(tmp_path, server.settings | {"token_file": str(tmp_path / "token")}) as (house, fetcher):
        server.body = multipart([part10(dataset) for dataset in series])
        ask(house, series)
        fetch(fetcher)
        address = f"/dicom-web/studies/{series[0].StudyInstanceUID}/series/{series[0].SeriesInstanceUID}"
        assert server.asked == [(address, "Bearer secret", 'multipart/related; type="application/dicom"; transfer-syntax=*')]
        assert (house.case.state, house.case.instances) == (State.QUEUED, COUNT)
        assert not list((house.store.root / INCOMING).iterdir())


def test_a_user_is_shown_with_the_password_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pass\n")
    series = flair_series(1)
    shown = {"user": "leukoscope", "password_file": str(tmp_path / "password")}
    with web() as server, fetcher_of(tmp_path, server.settings | shown) as (house, fetcher):
        server.status = 401
        assert told(house, fetcher, series) == "WADO-RS: HTTP 401: look at password_file of the source"
        assert [credentials for _, credentials, _ in server.asked] == ["Basic bGV1a29zY29wZTpwYXNz"]


@pytest.mark.parametrize(
    ("status", "tries", "why"),
    [
        (404, 1, "it has no such series."),
        (204, 1, "it has no such series."),
        (401, 1, "WADO-RS: HTTP 401: look at token_file of the source."),
        (302, 1, "WADO-RS: HTTP 302."),
        (503, 3, "WADO-RS: HTTP 503."),
    ],
)
def test_an_answer_without_a_series_says_what_it_is(tmp_path: Path, status: int, tries: int, why: str) -> None:
    with web() as server, fetcher_of(tmp_path, server.settings) as (house, fetcher):
        server.status = status
        ask(house, flair_series(1))
        fetch(fetcher)
        assert held(house).startswith(f"not fetched from pacs: {why}")
        assert len(server.asked) == tries


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lost": 1000}, "WADO-RS: the connection was lost in the middle"),
        ({"end": b""}, "WADO-RS: The multipart body ends before its last boundary."),
        ({"kind": "application/json"}, "WADO-RS: its answer is not multipart"),
        ({"kind": f"multipart/related; boundary={'x' * 300}"}, "WADO-RS: The boundary is too long."),
        ({"status": 206}, f"WADO-RS: it gave only a part, {COUNT} instances"),
    ],
)
def test_a_part_of_a_series_is_never_taken_for_the_whole(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    series = flair_series(COUNT)
    with web() as server, fetcher_of(tmp_path, server.settings) as (house, fetcher):
        server.body = multipart([part10(dataset) for dataset in series], change.pop("end", b"--cut--\r\n"))
        for name, value in change.items():
            setattr(server, name, value)
        ask(house, series)
        fetch(fetcher)
        assert held(house).startswith(f"not fetched from pacs: {why}")
        assert len(server.asked) == 3
        house.wait(40)
        assert house.case.state is State.HELD


@pytest.mark.parametrize(("status", "body"), [(204, b""), (200, multipart([]))])
def test_a_way_that_brings_nothing_does_not_complete_what_another_began(tmp_path: Path, status: int, body: bytes) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, web() as server:
        source = node.settings | server.settings | {"ways": ["C-GET", "WADO-RS"]}
        with fetcher_of(tmp_path, source) as (house, fetcher):
            node.die_after, server.status, server.body = 4, status, body
            ask(house, series)
            fetch(fetcher)
            assert "WADO-RS: it gave nothing of the series, and an earlier way a part" in held(house)
            assert (house.case.instances, len(node.asked), len(server.asked)) == (4, 3, 3)


def test_what_one_way_brought_is_not_counted_against_the_next(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, web() as server, fetcher_of(tmp_path, node.settings | server.settings, maximum_upload_files=COUNT) as both:
        house, fetcher = both
        fetcher._sources["pacs"] = house.settings.sources[0].model_copy(update={"ways": ("C-GET", "WADO-RS")})
        node.die_after, server.body = 4, multipart([part10(dataset) for dataset in series])
        ask(house, series)
        fetch(fetcher)
        assert (house.case.state, house.case.instances, len(server.asked)) == (State.QUEUED, COUNT, 1)


def test_what_nobody_asked_for_and_what_is_no_dicom_is_not_taken(tmp_path: Path) -> None:
    series, other = flair_series(COUNT), flair_series(1)
    with web() as server, fetcher_of(tmp_path, server.settings) as (house, fetcher):
        server.body = multipart([*(part10(dataset) for dataset in [*series, *other]), b"no dicom"])
        ask(house, series)
        fetch(fetcher)
        assert house.case.series_uid == series[0].SeriesInstanceUID
    assert held(house).startswith("not fetched from pacs: not taken: 1 × an instance of another series, 1 × not a DICOM file.")


def test_an_instance_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.fetching.taking.HEADER_BYTES", 0)
    series = flair_series(2)
    with web() as server, fetcher_of(tmp_path, server.settings, maximum_series_bytes=4096) as (house, fetcher):
        server.body = multipart([part10(dataset) for dataset in series])
        assert told(house, fetcher, series) == "an instance has more than 4096 bytes (maximum_series_bytes and 0 MiB)"
        assert (house.case.instances, len(server.asked)) == (0, 1)


def test_more_files_than_an_upload_may_have_are_refused(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with web() as server, fetcher_of(tmp_path, server.settings, maximum_upload_files=3) as (house, fetcher):
        server.body = multipart([part10(dataset) for dataset in series])
        ask(house, series)
        fetch(fetcher)
    assert held(house).startswith("not fetched from pacs: At most 3 files are taken at once.")
    assert house.case.instances == 0


def test_what_fails_on_our_side_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    series = flair_series(2)
    with web() as server, fetcher_of(tmp_path, server.settings) as (house, fetcher):
        source = house.settings.sources[0]
        server.body = multipart([part10(dataset) for dataset in series])
        with monkeypatch.context() as patched:
            patched.setattr(Intray, "feed", fill)
            assert told(house, fetcher, series) == "WADO-RS: what comes could not be written: No space left on device"
        assert len(server.asked) == 3
        for change, why in (
            ({"url": "https://h", "ca_file": tmp_path / "gone"}, f"WADO-RS: ca_file {tmp_path / 'gone'}: No such file or directory"),
            ({"url": "https://h:abc"}, "WADO-RS: url: Invalid port: 'abc'"),
        ):
            fetcher._sources["pacs"] = source.model_copy(update=change)
            assert told(house, fetcher, series) == why
            with pytest.raises(Unavailable, match=why.removeprefix("WADO-RS: ")):
                find_by_web(fetcher._sources["pacs"], series[0].SeriesInstanceUID)


def told(house: House, fetcher: Fetcher, series: list[Dataset]) -> str:
    """Why the series was not fetched."""
    ask(house, series)
    fetch(fetcher)
    return held(house).removeprefix("not fetched from pacs: ").removesuffix(". Ask again, or run the case again, when that is mended")


def test_a_server_that_is_away_or_has_no_token_is_told(tmp_path: Path) -> None:
    source = {"name": "pacs", "url": "http://127.0.0.1:1/dicom-web"}
    with fetcher_of(tmp_path, source) as (house, fetcher):
        ask(house, flair_series(1))
        fetch(fetcher)
        assert held(house).startswith("not fetched from pacs: WADO-RS: no connection.")
    with fetcher_of(tmp_path / "second", source | {"token_file": str(tmp_path / "gone")}) as (house, fetcher):
        ask(house, flair_series(1))
        fetch(fetcher)
        assert "token_file" in held(house)
        assert "No such file or directory" in held(house)
