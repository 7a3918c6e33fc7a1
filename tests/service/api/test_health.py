"""Liveness, readiness with a reason per part, metrics from the case book."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api import make_api, start_api
from service.errors import Unavailable
from service.health import Health
from service.records import finished
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
    assert {name: part["ok"] for name, part in answer.json()["parts"].items()} == dict.fromkeys(
        ("database", "store", "broker", "workers"), True
    )
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


def test_a_queue_that_nobody_works_on_is_told_but_uploads_still_come_in(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.health.STUCK_AFTER_S", 0.0)
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

    monkeypatch.setattr("service.health.ANSWER_WITHIN_S", 0.2)
    monkeypatch.setattr("service.health.REMEMBERED_S", 0.0)
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
