"""What those who run the service are told, by parts that are processes of their own: sums, living parts, a disk that is full."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import Unavailable
from service.presence import BEAT_S
from tests.running import Running, series_uid
from worker.send import read_outgoing, send

Seen = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: Any) -> Seen:
    text = client.get("/metrics").raise_for_status().text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(seen: Seen, name: str, **labels: str) -> float:
    return seen.get((f"leukoscope_{name}", frozenset(labels.items())), 0.0)


def eventually(check: Callable[[], object], limit_s: float = 30.0) -> None:
    """Repeat until it raises no AssertionError."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            check()
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def parts(service: Any) -> dict[str, dict[str, Any]]:
    return service.client.get("/health/ready").json()["parts"]


def settled(service: Any) -> Seen:
    """Scrape when every process has added what it counted for the tests before."""
    deadline = time.monotonic() + 60
    seen = scrape(service.client)
    while True:
        time.sleep(2 * BEAT_S)
        last, seen = seen, scrape(service.client)
        counted = [name for name in seen if name[0].endswith("_total") and "http" not in name[0] and "process" not in name[0]]
        if all(seen[name] == last.get(name) for name in counted):
            return seen
        assert time.monotonic() < deadline


def test_every_api_tells_the_same_of_all_processes(running, write_phantom):
    files, uploaded = write_phantom("operations"), write_phantom("operations-rest")[:3]
    before = settled(running)
    size = sum(path.stat().st_size for path in files)
    running.push(files)
    running.client.post("/cases", files=[("files", (path.name, path.read_bytes())) for path in uploaded]).raise_for_status()
    running.wait_until(series_uid(files), "done")

    def told() -> None:
        for client in running.clients:
            now = scrape(client)

            def more(name: str, now: Seen = now, **labels: str) -> float:
                return of(now, name, **labels) - of(before, name, **labels)

            assert more("associations_total", result="accepted") == 1
            assert more("c_store_responses_total", status="0x0000") == len(files)
            assert more("received_instances_total", door="dicom", outcome="new") == len(files)
            assert more("received_instances_total", door="rest", outcome="new") == len(uploaded)
            assert 0.9 * size < more("received_bytes_total", door="dicom") <= size
            assert more("case_events_total", event="finish") == 1
            assert more("stage_seconds_count", stage="predict") == 1
            assert of(now, "associations_open") == 0
            assert of(now, "parts", kind="listener") == 1
            assert of(now, "parts", kind="api") == len(running.clients)
            assert of(now, "parts", kind="inference") >= 1
            assert of(now, "parts", kind="delivery") >= 1
            assert of(now, "queue_oldest_seconds") == 0

    eventually(told)


def test_readiness_names_the_release_the_engine_and_the_case_in_hand(running, write_phantom):
    answer = running.client.get("/health/ready")
    assert answer.status_code == 200, answer.text
    told = parts(running)
    assert {name: part["ok"] for name, part in told.items()} == dict.fromkeys(told, True)
    assert f"port {running.ports['dicom_port']}, 0 associations" in told["listener"]["reason"]

    def the_page_tells() -> None:
        assert "No irradiated patient was in training or evaluation of this release." in running.client.get("/").text

    eventually(the_page_tells)

    def engine_is_told() -> None:
        assert "engine not loaded yet" not in parts(running)["workers"]["reason"]

    eventually(engine_is_told)
    children = [child for worker in running.workers("inference") for child in worker.children()]
    files = write_phantom("operations-hang")
    for child in children:
        child.suspend()
    try:
        running.push(files)

        def the_case_is_told() -> None:
            assert f"on case {running.case_of(series_uid(files))['id']} since " in parts(running)["workers"]["reason"]

        eventually(the_case_is_told)
    finally:
        for child in children:
            child.resume()
    running.wait_until(series_uid(files), "done")


def test_a_full_disk_is_told_at_every_door(tmp_path, write_head, tiny_release):
    service = Running(tmp_path / "data", minimum_free_mb=1 << 40, release=tiny_release, engine="onnxruntime-cpu").start()
    try:
        files = write_head("full-disk")
        with pytest.raises(Unavailable, match="rejected"):
            send(service.node, read_outgoing(files))
        upload = service.client.post("/cases", files=[("files", ("x", files[0].read_bytes()))])
        assert upload.status_code == 507

        def told() -> None:
            answer = service.client.get("/health/ready")
            assert answer.status_code == 503
            assert "disk nearly full" in answer.json()["parts"]["store"]["reason"]
            assert "takes none: disk nearly full" in answer.json()["parts"]["listener"]["reason"]
            now = scrape(service.client)
            assert of(now, "listeners_refusing") == 1
            assert of(now, "associations_total", result="disk_full") == 1

        eventually(told)
        assert "new associations are refused: disk nearly full" in service.log.read_text()
    finally:
        service.stop()
