"""What the service stands on goes away, stands still, fills up or lies about the time; then everything goes on and nothing is lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from service.records import utc_now
from tests.faults.books import assert_balance, book_of, history, wait_for_all
from tests.faults.conftest import SHORT
from tests.faults.modality import Modality
from tests.faults.plan import Fault, Plan
from tests.faults.sets import on
from tests.installed import installed
from tests.running import Running, series_uid

LONG = pytest.mark.timeout(400)


@contextmanager
def still(*processes):
    """Processes that stand still while the block runs."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(Exception):
                process.resume()


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return Plan(tmp_path_factory.mktemp("flags"), [Fault("worker.pipeline:run", "slow", role="--queue inference")])


@pytest.fixture(scope="module")
def standing(tmp_path_factory, peer, tiny_release, flags):
    """One full set for all that strikes what it stands on: each test leaves it well."""
    folder = tmp_path_factory.mktemp("standing")
    with installed("full", folder, peer, flags.environ, **(SHORT | {"release": tiny_release, "time_limit_s": 60})) as made:
        yield made


@pytest.fixture(scope="module")
def standing_alone(tmp_path_factory, tiny_release):
    """One `serve` for what strikes its own files: each test leaves it well."""
    with installed("embedded", tmp_path_factory.mktemp("alone"), **(SHORT | {"release": tiny_release})) as made:
        yield made.service


@LONG
def test_a_flushed_embedded_broker_loses_no_case(standing_alone, write_small):
    service = standing_alone
    with queued(service, write_small(3)), closing(sqlite3.connect(service.data / "broker.sqlite", timeout=10)) as broker, broker:
        broker.execute("DELETE FROM message")


@LONG
def test_a_flushed_broker_loses_no_case(standing, write_small):
    with queued(standing.service, write_small(3)):
        redis.Redis.from_url(standing.broker.url).flushall()


@contextmanager
def queued(service, series):
    """Cases that wait for workers that stand still, while the block runs; then the books have to balance."""
    modality = Modality(service)
    with still(*service.workers("inference")):
        for files in series:
            modality.push(files)
            service.wait_until(series_uid(files), "queued", "running")
        yield
    assert_balance(service, series, modality.acknowledged)


@LONG
def test_a_broker_that_dies_and_comes_back_empty_loses_no_case(standing, write_small):
    service, series = standing.service, write_small(3)
    modality = Modality(service)
    modality.push(series[0])
    standing.broker.stop()
    for files in series[1:]:  # taken in, judged and queued without a broker
        modality.push(files)
        service.wait_until(series_uid(files), "queued", "done")
    parts = service.client.get("/health/ready").json()["parts"]
    assert parts["broker"]["ok"] is False
    standing.broker.start()
    assert_balance(service, series, modality.acknowledged)


@LONG
@pytest.mark.parametrize("way", ["gone", "frozen"])
def test_a_database_that_is_away_is_answered_with_out_of_resources_and_waited_for(standing, write_small, way):
    service, server, series = standing.service, standing.postgresql, write_small(3)
    modality = Modality(service)
    modality.push(series[0])
    server.freeze(True) if way == "frozen" else server.stop()
    senders = modality.push_all(series[1:], senders=2)
    time.sleep(4)
    server.freeze(False) if way == "frozen" else server.start()
    modality.finish(senders)
    assert way == "frozen" or modality.refusals > 0, "what is not indexed is not acknowledged"
    assert_balance(service, series, modality.acknowledged)


@LONG
def test_a_database_locked_by_somebody_else_is_waited_for(standing_alone, write_small):
    service, series = standing_alone, write_small(2)
    modality = Modality(service)
    modality.push(series[0])
    other = sqlite3.connect(service.data / "leukoscope.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    senders = modality.push_all(series[1:], senders=1)
    time.sleep(2)
    assert len(modality.acknowledged) == len(series[0]), "what is not indexed is not acknowledged"
    other.execute("ROLLBACK")
    other.close()
    modality.finish(senders)
    assert_balance(service, series, modality.acknowledged)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        reason = f"no file system can be mounted here: {mounted.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@LONG
@pytest.mark.parametrize(
    "reserve_mb", [pytest.param(0, id="to the last byte"), pytest.param(16, id="to the reserve", marks=pytest.mark.soak)]
)
def test_a_full_disk_refuses_keeps_and_recovers(tiny_release, write_small, small_disk, free_port, reserve_mb):
    service = Running(
        small_disk / "data",
        release=tiny_release,
        engine="onnxruntime-cpu",
        quiet_time_s=4,
        sweep_s=0.5,
        minimum_free_mb=reserve_mb,
        dicom_port=free_port(),
        http_port=free_port(),
    )
    series = write_small(2)
    modality = Modality(service)
    try:
        service.start()
        modality.push(series[0])
        wait_for_all(service, series[:1])
        filler = small_disk / "filler"
        fill(filler, leave_mb=reserve_mb)
        senders = modality.push_all(series[1:], senders=1)
        time.sleep(4)
        acknowledged = len(modality.acknowledged)
        assert acknowledged < 40, "the disk was not full"
        assert modality.refusals + modality.broken > 0
        ready = service.client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["parts"]["store"]["ok"] is False
        filler.unlink()
        modality.finish(senders)
        assert_balance(service, series, modality.acknowledged)
    finally:
        service.stop()


def fill(path: Path, leave_mb: int) -> None:
    """Take all the room but `leave_mb`."""
    with path.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(1 << 18))
        file.truncate(max(0, file.tell() - (leave_mb << 20)))


@LONG
def test_a_listener_that_stands_still_loses_nothing(standing, write_small):
    service, series = standing.service, write_small(2)
    modality = Modality(service)
    listener = service.family()[0]
    senders = modality.push_all(series, senders=2)
    time.sleep(0.2)
    with still(listener):
        time.sleep(3)
    modality.finish(senders)
    assert_balance(service, series, modality.acknowledged)


@LONG
def test_a_worker_that_stood_still_finds_its_case_taken_and_its_writes_void(standing, write_small, flags):
    service, plan = standing.service, flags
    (files,) = write_small(1)
    modality = Modality(service)
    plan.arm(0)
    modality.push(files)
    plan.wait(0)
    case_id = service.case_of(series_uid(files))["id"]
    book = book_of(service)
    lease = book.lease_of(case_id)
    owner = next(one for one in service.workers("inference") if f":{one.pid}:" in lease.owner)
    said = "lease lost, work thrown away"
    before = service.log.read_text().count(said)
    with still(owner, *owner.children()):
        wait_for_all(service, [files])  # the other worker, once the lease ran out
        taken = book.case(case_id).history
    deadline = time.monotonic() + 60
    while service.log.read_text().count(said) == before:  # the first one wakes up and is turned away
        assert time.monotonic() < deadline, service.last_words()
        time.sleep(0.1)
    assert book.case(case_id).history == taken
    book.close()
    assert history(service, case_id).count("lapse") == 1
    assert_balance(service, [files], modality.acknowledged)


@LONG
@on("embedded")
def test_a_clock_set_back_or_ahead_stops_nothing(make_fragile, write_small, tmp_path):
    offset = tmp_path / "offset"
    offset.write_text("0")
    plan = Plan(tmp_path / "flags", [Fault("worker.pipeline:run", "slow", role="--queue inference")] * 3)
    service = make_fragile()
    service.extra = plan.environ | {"PLANTED_CLOCK": str(offset)}
    service.start()
    series = write_small(6)
    modality = Modality(service)
    hour, day = 3600, 86400
    for number, shift in enumerate((-3 * hour, -400 * day, 2 * day)):
        receiving, running = series[2 * number : 2 * number + 2]
        plan.arm(number)
        modality.push(running)
        plan.wait(number)  # one case runs under a lease of the old time
        modality.push(receiving[:10])
        offset.write_text(str(shift))  # one case receives
        modality.push(receiving[10:])
        cases = wait_for_all(service, [receiving, running])
        finished = cases[series_uid(receiving)].history[-1].at
        assert abs((finished - utc_now()).total_seconds() - shift) < 600, "the service lives in the shifted time"
    assert_balance(service, series, modality.acknowledged)
