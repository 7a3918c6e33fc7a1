"""POST /cases with JSON: a series is named, its case is there at once, and what was asked for comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.fetching import fetching
from service.fetching.node import GET
from tests.pacs import Pacs, pacs
from tests.service.api.conftest import Host, hosts_in, make_series
from tests.service.house import eventually, join_network_threads
from tests.service.series import flair_series

MakeHost = Callable[..., Host]
NOWHERE = {"name": "away", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}


@pytest.fixture(scope="module")
def node() -> Iterator[Pacs]:
    with pacs(flair_series(6)) as one:
        yield one


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, node: Pacs) -> Iterator[Host]:
    """One service that fetches from the PACS, for all tests."""
    with hosts_in(tmp_path_factory.mktemp("asking")) as make:
        host = make(sources=[node.settings, NOWHERE], minimum_slices=2)
        with fetching(host.settings, host.book, host.store, host.intake, name=None):
            yield host
    join_network_threads()


def named(node: Pacs, **more: Any) -> dict[str, Any]:
    first = node.held[0]
    return {"study_uid": first.StudyInstanceUID, "series_uid": first.SeriesInstanceUID, "from": "pacs"} | more


def test_a_series_that_is_named_is_a_case_at_once_comes_and_starts(asking: Host, node: Pacs) -> None:
    node.gate.clear()
    answer = asking.client.post("/cases", json=named(node))
    assert answer.status_code == 202
    (case,) = answer.json()["items"]
    assert answer.headers["Location"] == f"/cases/{case['id']}"
    assert (case["state"], case["instances"], case["patient_id"]) == ("receiving", 0, "")
    assert case["reason"] in {"to be fetched from pacs", "being fetched from pacs"}
    again = asking.client.post("/cases", json=named(node)).json()["items"]
    assert [one["id"] for one in again] == [case["id"]]
    node.gate.set()
    assert eventually(lambda: asking.state(case["id"]).value == "queued", 20)
    come = asking.client.get(f"/cases/{case['id']}").json()
    assert (come["instances"], come["patient_id"], come["reason"], come["series_description"]) == (6, "P1", None, "AX T2 FLAIR")


def test_the_study_may_be_left_out_where_the_pacs_finds_it(asking: Host, node: Pacs, monkeypatch: pytest.MonkeyPatch) -> None:
    other = flair_series(2)
    monkeypatch.setattr(node, "held", [*node.held, *other])
    answer = asking.client.post("/cases", json={"series_uid": other[0].SeriesInstanceUID, "from": "pacs"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["items"][0]["study_uid"] == other[0].StudyInstanceUID


def test_a_study_that_is_known_here_is_not_asked_for(asking: Host) -> None:
    case_id = asking.send(make_series("1.2.3.77"))
    answer = asking.client.post("/cases", json={"series_uid": "1.2.3.77", "from": "away"})
    assert (answer.status_code, answer.json()["items"][0]["id"]) == (202, case_id)


def test_a_series_that_nobody_finds_and_a_pacs_that_is_away_are_told_apart(asking: Host) -> None:
    unknown = asking.client.post("/cases", json={"series_uid": "1.2.3.4", "from": "pacs"})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:leukoscope:problem:series-not-found")
    away = asking.client.post("/cases", json={"series_uid": "1.2.3.4", "from": "away"})
    assert (away.status_code, away.json()["type"]) == (503, "urn:leukoscope:problem:source-unavailable")
    assert "no connection" in away.json()["detail"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"from": "elsewhere"}, "body.from: is none of: pacs, away"),
        ({"series_uid": "1.2.x"}, "body.series_uid: "),
        ({"series_uid": "1." + "2" * 64}, "body.series_uid: "),
        ({"study_uid": "1..2"}, "body.study_uid: "),
        ({"series_uid": 5}, "body.series_uid: "),
        ({"more": 1}, "body.more: "),
        ({"from": None}, "body.from: "),
    ],
)
def test_a_request_that_is_wrong_is_told_where_and_leaves_nothing(asking: Host, node: Pacs, body: dict[str, Any], where: str) -> None:
    before = len(asking.book.find_cases(limit=500).items)
    answer = asking.client.post("/cases", json=named(node) | body)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(where)
    assert len(asking.book.find_cases(limit=500).items) == before


@pytest.mark.parametrize(("body", "status"), [(b"", 422), (b"{", 422), (b"[]", 422), (b'{"a": ' + b"1" * 70_000, 413)])
def test_a_body_that_is_no_such_json_is_told(asking: Host, body: bytes, status: int) -> None:
    assert asking.client.post("/cases", content=body, headers={"content-type": "application/json"}).status_code == status


def test_without_sources_it_says_so(make_host: MakeHost) -> None:
    answer = make_host().client.post("/cases", json={"series_uid": "1.2.3", "from": "pacs"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "body.from: the settings have no [[sources]]")


def test_a_held_fetch_is_run_again_by_a_retry(tmp_path: Path, make_host: MakeHost) -> None:
    series = flair_series(6)
    with pacs([], offers=(GET,)) as node:
        host = make_host(sources=[node.settings], minimum_slices=2)
        with fetching(host.settings, host.book, host.store, host.intake, name=None):
            body = {"study_uid": series[0].StudyInstanceUID, "series_uid": series[0].SeriesInstanceUID, "from": "pacs"}
            (case,) = host.client.post("/cases", json=body).json()["items"]
            known = host.client.get(f"/cases/{case['id']}?wait=20").json()
            assert known["state"] == "held"
            assert known["reason"].startswith("not fetched from pacs: it has no such series")
            node.held = series
            assert host.client.post(f"/cases/{case['id']}/retry").json()["state"] == "receiving"
            assert eventually(lambda: host.state(case["id"]).value == "queued", 20)
    join_network_threads()
