"""What callers over HTTP do stands in the audit trail, by their token; the trail is for those with the scope `admin`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.api.readings import TOLD_EVERY_S, Readings
from tests.service.api.conftest import Host, as_parts, make_series

SECRETS = {"planning": ["read", "submit"], "boss": ["admin"]}
TOKENS = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": scopes} for name, scopes in SECRETS.items()]


@pytest.fixture
def locked(make_host: Callable[..., Host]) -> Host:
    return make_host(tokens=TOKENS)


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def trail(host: Host, **filters: Any) -> list[dict[str, Any]]:
    host.book.write_audit(all_of_it=True)
    answer = host.client.get("/audit", params=filters, headers=bearer("boss"))
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_every_call_that_gives_or_changes_something_is_entered_with_who_made_it(locked: Host) -> None:
    locked.client.headers.update(bearer("planning"))
    sent = locked.client.post("/cases", files=as_parts(make_series()))
    case_id = sent.json()["items"][0]["id"]
    locked.finish(case_id)
    study, series = "1.2.3.4.5.900", "1.2.3.4.5"
    locked.client.get(f"/cases/{case_id}/report.pdf")
    locked.client.get(f"/cases/{case_id}/segmentation")
    locked.client.get("/dicomweb/studies", params={"PatientID": "ANON 7/1"})
    locked.client.get(f"/dicomweb/studies/{study}/series/{series}/metadata")
    for number in (1, 2, 3):
        locked.client.get(f"/dicomweb/studies/{study}/series/{series}/instances/{series}.{number}/frames/1")
    assert locked.client.post(f"/cases/{case_id}/retry").status_code == 409
    held = locked.client.post("/cases", files=as_parts(make_series("1.2.3.7")[:9])).json()["items"][0]["id"]
    locked.book.hold(held, "gap")
    assert locked.client.post(f"/cases/{held}/retry").status_code == 202
    entries = [entry for entry in trail(locked) if entry["actor"] == "planning" and entry["outcome"] == "success"]
    assert {entry["address"] for entry in entries} == {"127.0.0.1"}
    said = {(one["event"], one["what"].partition(" rest-")[0], one["case_id"], one["study_uid"], one["count"]) for one in entries}
    assert said == {
        ("DICOM Instances Transferred", "received over association", case_id, study, 20),
        ("DICOM Instances Transferred", "received over association", held, "1.2.3.7.900", 9),
        ("Export", "given over REST: report.pdf", case_id, study, 1),
        ("DICOM Instances Transferred", "given over REST: segmentation", case_id, study, 1),
        ("Query", "searched over QIDO-RS: studies, 1 given", None, None, 1),
        ("DICOM Instances Transferred", "given over WADO-RS: metadata", None, study, 20),
        ("DICOM Instances Transferred", "given over WADO-RS: frames", None, study, 3),
        ("Procedure Record", "case run again", held, None, 1),
    }
    assert "ANON" not in str(trail(locked))
    assert "Poirot" not in str(trail(locked))


def test_who_reads_cases_and_lists_is_entered_once_a_minute(locked: Host) -> None:
    case_id = locked.client.post("/cases", files=as_parts(make_series()), headers=bearer("planning")).json()["items"][0]["id"]
    key = locked.book.find_cases().items[0].patient_key
    for name in ("planning", "boss"):
        for _ in range(3):
            assert locked.client.get(f"/cases/{case_id}", headers=bearer(name)).status_code == 200
            locked.client.get("/cases", params={"patient_id": "ANON 7/1"}, headers=bearer(name))
            locked.client.get("/cases", params={"patient_id": "ANON 8"}, headers=bearer(name))
            locked.book.write_audit()
    read = [(one["what"], one["actor"], one["case_id"], one["patient_key"], one["count"]) for one in trail(locked) if "REST" in one["what"]]
    read = [one for one in read if "audit trail" not in one[0]]
    assert sorted(read, key=str) == [
        (what, name, case, patient, 1)
        for what, case, patient in (
            ("case read over REST", case_id, None),
            ("searched over REST: cases, 0 given", None, None),
            ("searched over REST: cases, 1 given", None, key),
        )
        for name in ("boss", "planning")
    ]
    assert "ANON" not in str(trail(locked))


def test_a_reading_is_told_again_after_a_minute_and_then_forgotten() -> None:
    now = [0.0]
    readings = Readings(lambda: now[0])
    assert [readings.is_new("a"), readings.is_new("b"), readings.is_new("a")] == [True, True, False]
    now[0] = TOLD_EVERY_S
    assert [readings.is_new("a"), readings.is_new("a")] == [True, False]
    assert len(readings._told) == 1


def test_bad_tokens_and_missing_scopes_are_entered_together(locked: Host) -> None:
    for _ in range(5):
        locked.client.get("/cases", headers=bearer("guess"))
    locked.client.get("/audit", headers=bearer("planning"))
    failures = [(one["event"], one["actor"], one["count"]) for one in trail(locked) if one["outcome"] == "failure"]
    assert sorted(failures) == [("Security Alert", "planning", 1), ("User Authentication", "", 5)]


def test_the_trail_is_paged_and_its_readers_are_in_it(locked: Host) -> None:
    locked.client.headers.update(bearer("boss"))
    for _ in range(5):
        trail(locked)
    page = locked.client.get("/audit", params={"limit": 2}).json()
    rest = locked.client.get("/audit", params={"limit": 2, "cursor": page["next"]}).json()
    assert [one["event"] for one in page["items"] + rest["items"]] == ["Audit Log Used"] * 4
    assert locked.client.get("/audit", params={"cursor": "eyJ4IjoxfQ"}).status_code == 422
    assert locked.client.get("/audit", params={"since": "2026-01-01T00:00:00"}).status_code == 422, "a time without a zone"
    assert locked.client.get("/audit", headers=bearer("planning")).status_code == 403


def test_an_identity_is_corrected_by_those_who_may_and_its_values_are_not_in_the_trail(locked: Host) -> None:
    case_id = locked.client.post("/cases", files=as_parts(make_series()), headers=bearer("planning")).json()["items"][0]["id"]
    locked.finish(case_id)
    place, body = f"/cases/{case_id}/identity", {"patient_id": "RIGHT 7", "sex": "F", "by": "dr who", "reason": "worklist mix-up"}
    assert locked.client.post(place, json=body, headers=bearer("planning")).status_code == 403
    locked.client.headers.update(bearer("boss"))
    answer = locked.client.post(place, json=body)
    assert answer.status_code == 202, answer.text
    case = answer.json()
    assert (case["patient_id"], case["revision"], case["state"]) == ("RIGHT 7", 2, "receiving")
    for bad in ({"sex": "X"}, {"birth_date": "19611302"}, {"patient_id": "A\\B"}, {"age": "7"}, {"reason": "RIGHT 7"}, {}):
        refused = locked.client.post(place, json=body | bad)
        assert refused.status_code == 422
        assert "RIGHT" not in refused.text
        assert "A\\B" not in refused.text
    assert locked.client.post(place, content=b"{" + b" " * 20000).status_code == 413
    assert locked.client.post(f"/cases/{'0' * 32}/identity", json=body).status_code == 404
    (entry,) = [one for one in trail(locked) if one["event"] == "Patient Record"]
    assert (entry["what"], entry["actor"], entry["case_id"]) == ("identity corrected by dr who: worklist mix-up", "boss", case_id)
    assert "RIGHT" not in str(trail(locked))


def test_corrections_of_an_identity_are_read_by_those_who_may_and_that_is_in_the_trail(locked: Host) -> None:
    case_id = locked.client.post("/cases", files=as_parts(make_series()), headers=bearer("planning")).json()["items"][0]["id"]
    place, body = f"/cases/{case_id}/identity", {"patient_id": "RIGHT 7", "sex": "F", "by": "dr who", "reason": "worklist mix-up"}
    assert locked.client.get(place, headers=bearer("planning")).status_code == 403
    locked.client.headers.update(bearer("boss"))
    assert locked.client.get(place).json() == {"items": []}
    assert locked.client.post(place, json=body).status_code == 202
    (said,) = locked.client.get(place).json()["items"]
    assert (said["by"], said["reason"]) == ("dr who", "worklist mix-up")
    assert datetime.now(UTC) - datetime.fromisoformat(said["at"]) < timedelta(minutes=1)
    assert (said["before"]["patient_id"], said["before"]["sex"]) == ("ANON 7/1", "O")
    assert said["after"] == said["before"] | {"patient_id": "RIGHT 7", "sex": "F"}
    assert set(said["after"]) == {"patient_id", "issuer", "name", "birth_date", "sex"}
    assert locked.client.get(f"/cases/{'0' * 32}/identity").status_code == 404
    read = [one for one in trail(locked) if one["what"] == "corrected identities read over REST"]
    assert [(one["event"], one["actor"], one["case_id"]) for one in read] == [("Patient Record", "boss", case_id)], "once a minute"
