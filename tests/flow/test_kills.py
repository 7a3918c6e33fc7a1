"""Whatever is killed in the middle, what was acknowledged is worked on, once."""

from __future__ import annotations

import subprocess
import time

import pytest

from service.records import Book
from tests.running import Running, assert_gone, series_uid


@pytest.fixture(scope="module")
def service_to_kill(tmp_path_factory):
    service = Running(tmp_path_factory.mktemp("fragile") / "data", quiet_time_s=1.5, sweep_s=0.5)
    yield service
    service.stop()


@pytest.fixture
def fragile(service_to_kill):
    """A service that is there to be killed, and is started again for the next test."""
    if service_to_kill.process is None or service_to_kill.process.poll() is not None:
        service_to_kill.start()
    return service_to_kill


def history(service, case):
    book = Book(f"sqlite:///{service.data / 'leukoscope.sqlite'}")
    try:
        return [line.event for line in book.case(case["id"]).history]
    finally:
        book.close()


def worker_of(service, queue):
    return next(one for one in service.family()[1:] if queue in one.cmdline())


def test_a_second_service_on_the_same_data_folder_is_refused(fragile):
    began = time.monotonic()
    second = subprocess.run(fragile.command, env=fragile.environ, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert "already runs on the data folder" in second.stderr
    assert "Traceback" not in second.stderr
    assert time.monotonic() - began < 30


def test_a_child_killed_while_idle_costs_nobody_anything(fragile, write_phantom):
    deadline = time.monotonic() + 60
    while not (children := worker_of(fragile, "inference").children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children[0].kill()
    files = write_phantom("kill-idle")
    fragile.push(files)
    case = fragile.wait_until(series_uid(files), "done")
    assert case["attempts"] == 0


def test_a_killed_service_leaves_no_process_and_finishes_once_after_its_restart(fragile, embedded_service, write_phantom):
    files = write_phantom("kill-all")
    fragile.push(files)
    fragile.wait_until(series_uid(files), "running")
    fragile.kill()
    fragile.start()
    case = fragile.wait_until(series_uid(files), "done")
    events = history(fragile, case)
    assert events.count("finish") == 1
    assert events.count("lapse") == 1
    assert events.count("stumble") == 0, "a kill of everything is not the case's fault"

    embedded_service.push(files)  # the same series in another fresh data folder, never disturbed
    other = embedded_service.wait_until(series_uid(files), "done")
    mine, theirs = fragile.outputs(case), embedded_service.outputs(other)
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_sigterm_finishes_the_case_in_hand(fragile, write_phantom):
    files = write_phantom("sigterm")
    fragile.push(files)
    case = fragile.wait_until(series_uid(files), "running")
    family = fragile.family()
    assert fragile.stop() == 0
    assert_gone(family)
    assert history(fragile, case)[-1] == "finish"
    assert not (fragile.data / "serve.json").exists()
