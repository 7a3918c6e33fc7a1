"""Liveness, readiness with a reason per part, metrics from the case book."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api import health, make_api, start_api
from service.api.health import Health
from service.api.metrics import SUMS
from service.errors import Unavailable
from service.presence import Counts, Presence
from service.records import finished, upkeep
from tests.service.api.conftest import Host, make_series


def metrics_of(host: Host) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = host.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def value_of(host: Host, name: str, **labels: str) -> float:
    return metrics_of(host)[name, frozenset(labels.items())]


def _of(seen: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return seen[name, frozenset(labels.items())]


def test_ready_names_every_part(host: Host) -> None:
    answer = host.client.get("/health/ready")
    assert answer.status_code == 200
    told = {name: part["ok"] for name, part in answer.json()["parts"].items()}
    assert told == {"database": True, "store": True, "broker": True, "listener": False, "workers": False, "delivery": True, "audit": True}
    assert host.client.get("/health/live").json() == {"status": "alive"}


def test_each_part_that_is_away_makes_it_not_ready_and_says_why(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise Unavailable("the database: gone fishing")

    monkeypatch.setattr(host.book, "ping", away)
    answer = host.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["parts"]["database"] == {"ok": False, "reason": "the database: gone fishing"}
    assert answer.json()["parts"]["store"]["ok"] is True
    assert host.client.get("/health/live").status_code == 200


def test_a_nearly_full_disk_is_a_reason(make_host: Callable[..., Host]) -> None:
    answer = make_host(minimum_free_mb=1 << 40).client.get("/health/ready")
    assert answer.status_code == 503
    assert "disk nearly full" in answer.json()["parts"]["store"]["reason"]


def test_a_broker_that_is_away_is_a_reason(make_host: Callable[..., Host]) -> None:
    answer = make_host(broker_url="redis://127.0.0.1:1/0").client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["parts"]["broker"]["ok"] is False


def parts_of(host: Host) -> dict[str, str]:
    time.sleep(health.REMEMBERED_S)
    return {name: part["reason"] for name, part in host.client.get("/health/ready").json()["parts"].items()}


def test_an_api_alone_tells_where_the_other_parts_are(make_host: Callable[..., Host]) -> None:
    host = make_host(destinations=[{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}])
    reasons = parts_of(host)
    assert reasons["listener"] == "no DICOM listener is alive"
    assert reasons["workers"] == "no inference worker is alive"
    assert reasons["delivery"] == "no delivery worker is alive; 0 to be sent, 0 given up"
    working = {"release": "0.1.0 (abc)", "engine": "openvino-cpu bf16", "case_id": "c7", "since": "2026-01-02 03:04:05 UTC"}
    tells = {
        "listener": lambda: {"port": 11112, "associations": 2, "refuses": None},
        "inference": lambda: working,
        "delivery": dict,
    }
    presence = Presence(host.book, Counts(), tells)
    presence.beat()
    reasons = parts_of(host)
    assert reasons["listener"].startswith("alive on ")
    assert reasons["listener"].endswith("port 11112, 2 associations")
    assert "release 0.1.0 (abc), openvino-cpu bf16, on case c7 since 2026-01-02 03:04:05 UTC" in reasons["workers"]
    assert reasons["delivery"].endswith("0 to be sent, 0 given up")
    tells["listener"] = lambda: {"port": 11112, "associations": 0, "refuses": "disk nearly full"}
    Presence(host.book, Counts(), {"listener": tells["listener"]}).beat()
    answer = parts_of(host)["listener"]
    assert "takes none: disk nearly full" in answer
    presence.leave()
    time.sleep(health.REMEMBERED_S)
    answer = host.client.get("/health/ready")
    assert (answer.status_code, answer.json()["parts"]["listener"]["ok"]) == (200, False)


def test_what_of_tls_is_to_be_renewed_is_told_by_readiness_and_metrics(host: Host) -> None:
    now = datetime.now(UTC)
    ends = {"dicom_tls.certificate_file": now + timedelta(days=9.5), "dicom_tls.crl_file": now - timedelta(days=1)}
    tells = {"ends": {name: end.isoformat() for name, end in ends.items()}, "troubled": True}
    older = {"ends": {"dicom_tls.certificate_file": (now + timedelta(days=400)).isoformat()}, "troubled": False}
    for told in (tells, older):
        Presence(host.book, Counts(), {"listener": lambda told=told: {"port": 1, "associations": 0, "tls": told}}).beat()
    part = host.client.get("/health/ready").json()["parts"]["listener"]
    assert part["ok"]
    for note in ("dicom_tls.certificate_file ends at ", ", in 9 days", "dicom_tls.crl_file ended at ", "new TLS files cannot be used"):
        assert part["reason"].count(note) == 1
    seen = metrics_of(host)
    for name, end in ends.items():
        assert _of(seen, "leukoscope_tls_file_end_timestamp_seconds", file=name) == pytest.approx(end.timestamp())
    assert _of(seen, "leukoscope_tls_renewals_failing") == 1


def test_a_service_whose_own_listener_is_gone_is_not_ready(host: Host) -> None:
    server = start_api(make_api(host.settings, host.book, host.store, host.intake, own={"listener"}), host.settings)
    answer = httpx.get(server.url + "/health/ready", trust_env=False)
    assert (answer.status_code, answer.json()["parts"]["listener"]["reason"]) == (503, "no DICOM listener is alive")
    server.stop()


def test_a_queue_that_nobody_works_on_is_told_but_uploads_still_come_in(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.health.STUCK_AFTER_S", 0.0)
    Presence(host.book, Counts(), {"inference": dict}).beat()
    case_id = host.send(make_series())
    answer = host.client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    assert answer.json()["parts"]["workers"]["ok"] is False
    assert "no worker takes cases" in answer.json()["parts"]["workers"]["reason"]
    host.finish(case_id)


def test_a_part_that_hangs_is_told_in_time_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    gate = threading.Event()

    def hang() -> str:
        asked.append(1)
        gate.wait(30)
        return "late"

    monkeypatch.setattr("service.api.health.ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr("service.api.health.REMEMBERED_S", 0.0)
    health = Health({"slow": hang, "quick": lambda: "fine", "broken": lambda: str(1 / 0)})
    began = time.monotonic()
    for _ in range(3):
        answer = health.readiness()
        assert not answer.ready
        assert "no answer" in answer.parts["slow"].reason
        assert answer.parts["quick"].ok
        assert answer.parts["broken"].reason == "fails with ZeroDivisionError"
    assert time.monotonic() - began < 5
    assert len(asked) == 1
    gate.set()
    health.close()


def test_composition_can_add_parts(host: Host) -> None:
    def no_release() -> str:
        raise Unavailable("release 0.1.0: weights do not match the card")

    server = start_api(make_api(host.settings, host.book, host.store, host.intake, checks={"release": no_release}), host.settings)
    answer = httpx.get(server.url + "/health/ready", trust_env=False)
    assert (answer.status_code, answer.json()["parts"]["release"]["reason"]) == (503, "release 0.1.0: weights do not match the card")
    server.stop()


def test_metrics_count_cases_stages_and_requests(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "SETTLED", finished.SETTLED * 0)
    case_id = host.send(make_series())
    assert value_of(host, "leukoscope_cases", state="queued") == 1
    assert value_of(host, "leukoscope_queue_oldest_seconds") > 0
    host.finish(case_id)
    for _ in range(2):  # the second scrape counts nothing twice
        of = partial(_of, metrics_of(host))
        assert of("leukoscope_cases", state="done") == 1
        assert of("leukoscope_cases", state="queued") == 0
        assert of("leukoscope_queue_oldest_seconds") == 0
        assert of("leukoscope_stage_seconds_count", stage="predict") == 1
        assert of("leukoscope_stage_seconds_sum", stage="predict") == pytest.approx(1.2)
        assert of("leukoscope_stage_seconds_bucket", stage="predict", le="1.0") == 0
        assert of("leukoscope_stage_seconds_bucket", stage="predict", le="2.0") == 1
        assert of("leukoscope_stage_seconds_bucket", stage="predict", le="+Inf") == 1
        assert of("leukoscope_http_requests_total", method="POST", route="/cases", status="202") == 1
        assert of("leukoscope_disk_free_bytes") > 0
        assert of("leukoscope_database_up") == 1
    assert "leukoscope_build_info{" in host.client.get("/metrics").text


def test_sums_of_all_processes_are_told_by_any_api(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SETTLED", finished.SETTLED * 0)
    before = partial(_of, metrics_of(host))
    assert before("leukoscope_received_bytes_total", door="dicom") == 0
    assert before("leukoscope_associations_total", result="accepted") == 0
    assert before("leukoscope_retention_cases_total") == 0
    far, near = Counts(), Counts()
    for counts, opened in ((far, 2), (near, 3)):
        counts.add("associations", "accepted", by=opened)
        counts.add("c_store_responses", "0xA700")
        counts.add("delivery_attempts", "pacs, main", "failed")
        Presence(host.book, counts, {"listener": lambda opened=opened: {"associations": opened}}).beat()
    host.finish(host.send(make_series()))
    of = partial(_of, metrics_of(host))
    assert of("leukoscope_associations_open") == 5
    assert of("leukoscope_associations_total", result="accepted") == 5
    assert of("leukoscope_c_store_responses_total", status="0xA700") == 2
    assert of("leukoscope_delivery_attempts_total", destination="pacs, main", result="failed") == 2
    assert of("leukoscope_parts", kind="listener") == 2
    assert of("leukoscope_parts", kind="inference") == 0
    assert of("leukoscope_case_events_total", event="finish") == 1
    assert of("leukoscope_case_events_total", event="put_back") == 0
    assert of("leukoscope_deliveries_oldest_pending_seconds") == 0
    assert of("leukoscope_disk_reserve_bytes") == 0


def test_every_metric_is_named_as_prometheus_wants_it(host: Host) -> None:
    host.send(make_series())
    text = host.client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text) if family.name.startswith("leukoscope_")}
    for name, family in families.items():
        assert family.documentation.strip(), name
        assert family.type != "unknown", name
        assert name == name.lower()
        assert not name.endswith(("_total", "_ms", "_mb", "_kb")), name
    assert {f"leukoscope_{name}" for name in SUMS} <= families.keys()
    assert {families[f"leukoscope_{name}"].type for name in SUMS} == {"counter"}
    lines = [line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    sums = {name for name in lines if name.removesuffix("_total") in families and families[name.removesuffix("_total")].type == "counter"}
    assert len(sums) >= len(SUMS)
    assert all(name.endswith("_total") for name in sums)


def test_metrics_come_without_a_database(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(host.book, "count_cases", away)
    assert value_of(host, "leukoscope_database_up") == 0
    assert value_of(host, "leukoscope_store_up") == 1


def test_nonsense_makes_no_new_series(host: Host) -> None:
    for number in range(5):
        host.client.request(f"ODD{number}", f"/odd/{number}")
    routes = {key for key in metrics_of(host) if key[0] == "leukoscope_http_requests_total" and ("method", "other") in key[1]}
    assert len(routes) == 1
