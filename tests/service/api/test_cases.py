"""Cases over HTTP: the status resource, lists and their pages, waiting, retry, and what nonsense is answered with."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import httpx
import pytest

from service.records import State
from tests.service.api.conftest import OUTPUTS, PATIENT, Host, make_series

FIELDS = [
    *("id", "patient_id", "patient_key", "study_uid", "series_uid", "series_description"),
    *("study_date", "accession_number", "state", "reason", "revision", "attempts"),
    *("instances", "received_at", "stages", "model", "quality", "findings", "primary", "outputs", "deliveries"),
    *("verdict", "correction"),
]


def test_status_resource_has_the_fields_of_the_contract(host: Host) -> None:
    case_id = host.send(make_series())
    status = host.client.get(f"/cases/{case_id}").json()
    assert list(status) == FIELDS
    assert (status["state"], status["outputs"], status["findings"]) == ("queued", {}, None)
    host.finish(case_id)
    status = host.client.get(f"/cases/{case_id}").json()
    assert status["state"] == "done"
    assert status["instances"] == 20
    assert status["patient_id"] == "ANON 7/1"
    assert status["outputs"]["segmentation"] == f"/cases/{case_id}/segmentation"
    assert set(status["outputs"]) == set(OUTPUTS)
    assert status["stages"]["predict"]["seconds"] == 1.2
    assert status["stages"]["convert"]["start"].startswith("2023-11-14T22:13:20")
    assert status["findings"]["lesion_count"] == 7
    assert status["primary"] is True
    assert "/" not in status["patient_key"]


def test_two_visits_are_told_apart_by_the_date_of_their_study(shared_host: Host) -> None:
    visits = {"1.2.9.1": {"StudyDate": "20260301", "AccessionNumber": "A-1"}, "1.2.9.2": {"StudyDate": "20260902"}, "1.2.9.3": {}}
    for uid, study in visits.items():
        shared_host.send(make_series(uid, slices=12, size=16, patient_id="VISITS", **study))
    found = shared_host.client.get("/cases", params={"patient_id": "VISITS"}).json()["items"]
    assert [(one["study_date"], one["accession_number"]) for one in found] == [(None, None), ("20260902", None), ("20260301", "A-1")]
    assert shared_host.client.get(f"/cases/{found[2]['id']}").json()["study_date"] == "20260301"


def test_lists_are_filtered_and_paged_newest_first(host: Host) -> None:
    ids = [host.send(make_series(f"1.2.3.{number}", slices=12, size=16, patient_id=f"P{number % 2}")) for number in range(5)]
    pages, cursor = [], None
    while True:
        body = host.client.get("/cases", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        pages.append([item["id"] for item in body["items"]])
        cursor = body["next"]
        if cursor is None:
            break
    assert pages == [ids[4:2:-1], ids[2:0:-1], ids[:1]]

    def found(**query: str) -> list[str]:
        return [item["id"] for item in host.client.get("/cases", params=query).json()["items"]]

    assert found(series_uid="1.2.3.2") == [ids[2]]
    assert found(study_uid="1.2.3.2.900") == [ids[2]]
    assert found(patient_id="P1") == [ids[3], ids[1]]
    assert found(state="done") == []
    assert len(found(limit="500")) == 5


def test_wait_returns_soon_after_the_case_is_final(host: Host) -> None:
    case_id = host.send(make_series())
    answers: list[tuple[float, dict[str, Any]]] = []

    def wait() -> None:
        body = httpx.get(f"{host.server.url}/cases/{case_id}", params={"wait": 15}, timeout=20, trust_env=False).json()
        answers.append((time.monotonic(), body))

    threads = [threading.Thread(target=wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert not answers
    assert host.client.get("/health/live").status_code == 200
    host.finish(case_id)
    finished_at = time.monotonic()
    for thread in threads:
        thread.join()
    assert {body["state"] for _, body in answers} == {"done"}
    assert max(at for at, _ in answers) - finished_at < 5
    assert len(host.app.state.waiters) == 0


def test_wait_ends_when_its_time_is_over_and_a_final_case_is_not_waited_for(host: Host) -> None:
    case_id = host.send(make_series())
    began = time.monotonic()
    assert host.client.get(f"/cases/{case_id}", params={"wait": 0.3}).json()["state"] == "queued"
    assert 0.25 < time.monotonic() - began < 10
    host.finish(case_id)
    began = time.monotonic()
    assert host.client.get(f"/cases/{case_id}", params={"wait": 10}).json()["state"] == "done"
    assert time.monotonic() - began < 8


def test_stopping_lets_waiting_clients_go(host: Host) -> None:
    case_id = host.send(make_series())
    states: list[str] = []
    thread = threading.Thread(
        target=lambda: states.append(httpx.get(f"{host.server.url}/cases/{case_id}?wait=60", timeout=70, trust_env=False).json()["state"])
    )
    thread.start()
    while not len(host.app.state.waiters):
        time.sleep(0.01)
    began = time.monotonic()
    host.server.stop()
    thread.join()
    assert time.monotonic() - began < 20
    assert states == ["queued"]


def test_a_client_that_leaves_is_forgotten(host: Host) -> None:
    case_id = host.send(make_series())
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{host.server.url}/cases/{case_id}?wait=60", timeout=0.3, trust_env=False)
    deadline = time.monotonic() + 10
    while len(host.app.state.waiters) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(host.app.state.waiters) == 0


def test_retry_runs_failed_cases_and_refuses_others(host: Host) -> None:
    case_id = host.send(make_series())
    answer = host.client.post(f"/cases/{case_id}/retry")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["state"] == "queued"
    for _ in range(3):
        lease = host.book.claim(case_id, "test")
        assert lease is not None
        host.book.fail(lease, "the network fell over")
    status = host.client.get(f"/cases/{case_id}?wait=5").json()
    assert (status["state"], status["reason"]) == ("failed", "the network fell over")
    answer = host.client.post(f"/cases/{case_id}/retry")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert host.state(case_id) is State.QUEUED
    assert host.client.post("/cases/nope/retry").status_code == 404


@pytest.mark.parametrize(
    ("call", "status", "kind"),
    [
        ("/nope", 404, "not-found"),
        ("/cases/nope", 404, "case-not-found"),
        ("/cases/nope/segmentation", 404, "case-not-found"),
        ("/cases/nope/nothing", 404, "not-found"),
        ("/cases/", 404, "not-found"),
        ("/cases/a%00b", 422, "invalid-request"),
        ("/cases/%ed%a0%80", 422, "invalid-request"),
        ("/cases/..%2f..%2fetc%2fpasswd", 404, "not-found"),
        ("/cases?limit=0", 422, "invalid-request"),
        ("/cases?limit=501", 422, "invalid-request"),
        ("/cases?limit=1e3", 422, "invalid-request"),
        ("/cases?limit=" + "9" * 5000, 422, "invalid-request"),
        ("/cases?cursor=x", 422, "invalid-request"),
        ("/cases?cursor=W10", 422, "invalid-request"),
        ("/cases?cursor=%00", 422, "invalid-request"),
        ("/cases?state=lost", 422, "invalid-request"),
        ("/cases?patient_id=%00", 422, "invalid-request"),
        ("/cases?series_uid=1.2%20or%201", 422, "invalid-request"),
        ("/cases/x?wait=nan", 422, "invalid-request"),
        ("/cases/x?wait=inf", 422, "invalid-request"),
        ("/cases/x?wait=-1", 422, "invalid-request"),
    ],
)
def test_every_error_is_a_problem_detail(shared_host: Host, call: str, status: int, kind: str) -> None:
    answer = shared_host.client.get(call)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:leukoscope:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"].endswith(answer.headers["x-request-id"])


def test_a_wrong_method_names_the_right_ones(shared_host: Host) -> None:
    answer = shared_host.client.delete("/cases")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert answer.headers["content-type"] == "application/problem+json"


def test_odd_but_legal_patient_ids_are_looked_up(shared_host: Host) -> None:
    for patient_id in ("Ž 1/2", "💙", "'; drop table cases; --", "a" * 256, "\ufffd"):
        answer = shared_host.client.get("/cases", params={"patient_id": patient_id})
        assert (answer.status_code, answer.json()["items"]) == (200, []), patient_id


def test_a_defect_is_answered_without_its_text(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(case_id: str) -> None:
        raise RuntimeError(f"{PATIENT} {case_id}")

    monkeypatch.setattr(host.book, "case", broken)
    answer = host.client.get("/cases/some-case")
    assert answer.status_code == 500
    assert answer.json()["type"].endswith("internal-error")
    assert PATIENT not in answer.text
    assert PATIENT not in host.log.getvalue()
    assert "builtins.RuntimeError" in host.log.getvalue()


def test_openapi_names_every_call_and_the_one_shape_of_errors(shared_host: Host) -> None:
    document = shared_host.client.get("/openapi.json").json()
    assert {"/cases", "/cases/{case_id}", "/cases/{case_id}/retry", "/cases/{case_id}/report.pdf", "/health/ready"} <= set(
        document["paths"]
    )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert re.fullmatch(r"[a-z_]+", operation["operationId"]), (path, method)
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/health/ready":
                    assert list(response["content"]) == ["application/problem+json"], (path, method, status)
    assert "example" in document["components"]["schemas"]["CaseStatus"]
    assert "multipart/form-data" in document["paths"]["/cases"]["post"]["requestBody"]["content"]
