"""Outputs over HTTP: media types, names, ETag, ranges, HEAD, and the state while there are none."""

from __future__ import annotations

import pytest

from tests.service.api.conftest import OUTPUTS, Host, make_series


@pytest.fixture(scope="module")
def done(shared_host: Host) -> str:
    case_id = shared_host.send(make_series())
    shared_host.finish(case_id)
    return f"/cases/{case_id}"


@pytest.mark.parametrize("kind", OUTPUTS)
def test_each_output_comes_whole_with_type_name_and_etag(shared_host: Host, done: str, kind: str) -> None:
    answer = shared_host.client.get(f"{done}/{kind}")
    media_type, data = OUTPUTS[kind]
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, media_type, data)
    name = kind if "." in kind else f"{kind}.dcm"
    assert f'filename="{name}"' in answer.headers["content-disposition"]
    etag = answer.headers["etag"]
    assert len(etag) == 66
    again = shared_host.client.get(f"{done}/{kind}", headers={"If-None-Match": f'"other", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert shared_host.client.get(f"{done}/{kind}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_head_is_get_without_the_body(shared_host: Host, done: str) -> None:
    for path in (f"{done}/segmentation", done, "/cases", "/health/live", "/"):
        got, head = shared_host.client.get(path), shared_host.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"], path
        assert head.headers.get("etag") == got.headers.get("etag")
    assert shared_host.client.head("/cases/nope").status_code == 404


@pytest.mark.parametrize(
    ("wanted", "first", "last"), [("bytes=0-0", 0, 0), ("bytes=100-199", 100, 199), ("bytes=2000-", 2000, 2179), ("bytes=-10", 2170, 2179)]
)
def test_a_range_gives_that_part(shared_host: Host, done: str, wanted: str, first: int, last: int) -> None:
    answer = shared_host.client.get(f"{done}/segmentation", headers={"Range": wanted})
    data = OUTPUTS["segmentation"][1]
    assert len(data) == 2180
    assert (answer.status_code, answer.content) == (206, data[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/2180"
    assert answer.headers["etag"]


def test_several_ranges_come_as_parts(shared_host: Host, done: str) -> None:
    answer = shared_host.client.get(f"{done}/segmentation", headers={"Range": "bytes=0-3,128-131"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    assert b"DICM" in answer.content


def test_a_range_outside_the_file_is_a_problem(shared_host: Host, done: str) -> None:
    for wanted in ("bytes=2180-", "bytes=99999999-100000000", "bytes=-0"):
        answer = shared_host.client.get(f"{done}/segmentation", headers={"Range": wanted})
        assert answer.status_code == 416, wanted
        assert answer.headers["content-range"] == "bytes */2180"
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "wanted", ["bytes=5-2", "bytes=a-b", "lines=0-1", "bytes", "bytes=", "bytes=0-" + "9" * 5000, "bytes=" + "0-0," * 200]
)
def test_an_unreadable_range_is_ignored(shared_host: Host, done: str, wanted: str) -> None:
    answer = shared_host.client.get(f"{done}/segmentation", headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, OUTPUTS["segmentation"][1])


def test_if_range_gives_the_whole_of_a_changed_file(shared_host: Host, done: str) -> None:
    etag = shared_host.client.get(f"{done}/segmentation").headers["etag"]
    assert shared_host.client.get(f"{done}/segmentation", headers={"Range": "bytes=0-3", "If-Range": etag}).status_code == 206
    assert shared_host.client.get(f"{done}/segmentation", headers={"Range": "bytes=0-3", "If-Range": '"old"'}).status_code == 200


def test_no_output_yet_is_404_with_the_state(host: Host) -> None:
    case_id = host.send(make_series())
    answer = host.client.get(f"/cases/{case_id}/segmentation")
    assert answer.status_code == 404
    assert (answer.json()["type"], answer.json()["state"]) == ("urn:leukoscope:problem:output-not-found", "queued")


def test_a_superseded_revision_is_not_served(host: Host) -> None:
    series = make_series(slices=21)
    case_id = host.send(series[:20])
    host.finish(case_id)
    assert host.client.get(f"/cases/{case_id}/report.json").status_code == 200
    assert host.send(series[20:]) == case_id
    status = host.client.get(f"/cases/{case_id}").json()
    assert (status["revision"], status["outputs"]) == (2, {})
    answer = host.client.get(f"/cases/{case_id}/report.json")
    assert (answer.status_code, answer.json()["state"]) == (404, status["state"])


def test_a_file_that_is_gone_is_404_not_500(shared_host: Host, done: str) -> None:
    for path in (shared_host.store.root / "outputs").rglob("preview.png-*"):
        path.unlink()
    answer = shared_host.client.get(f"{done}/preview.png")
    assert (answer.status_code, answer.json()["state"]) == (404, "done")


@pytest.mark.parametrize("path", ["/patients/x/follow-up", "/patients/x/follow-up.csv"])
def test_what_comes_later_is_a_plain_problem(shared_host: Host, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        answer = shared_host.client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert shared_host.client.get(path).json()["type"] == "urn:leukoscope:problem:not-found"
