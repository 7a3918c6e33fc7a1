"""What a worker writes down when a case works, is refused, must wait, stumbles, hangs or takes its process with it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from model.volume import UnusableVolume
from service.errors import Rejected, Unavailable
from service.queue import make_app, submit
from service.records import State, open_book, upgrade
from service.settings import Settings
from tests.service.casebook import FINDINGS, instance, queue
from worker import pipeline, tasks
from worker.encode import Output

CARD = SimpleNamespace(name="m", version="1", sha256="a" * 64, input=SimpleNamespace(shapes=((16, 16, 16),)))
RESULT = pipeline.Result(
    outputs=(Output("segmentation", "application/dicom", "segmentation.dcm", b"seg", "1.2.840.10008.5.1.4.1.1.66.4", "2.25.1"),),
    findings=SimpleNamespace(as_dict=lambda: FINDINGS),
    quality=("flag",),
    engine="e",
    precision="f32",
    stages={"convert": (1.0, 2.0)},
)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    settings = Settings(data_dir=tmp_path, lease_s=1.0)
    upgrade(settings.database)
    monkeypatch.setattr(tasks, "open_engine", lambda *_, **__: SimpleNamespace(name="e", precision="f32", warm=lambda _: None))
    return tasks.Desk(settings, SimpleNamespace(card=CARD), None, "test:1:")


def give(monkeypatch, outcome):
    """Let the pipeline return or raise `outcome`."""

    def run(*_, on_stage, **__):
        on_stage("predict")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome(_) if callable(outcome) else outcome

    monkeypatch.setattr(tasks.pipeline, "run", run)


def test_a_case_that_works_is_done_with_its_rows(desk, monkeypatch):
    give(monkeypatch, RESULT)
    case_id = queue(desk._book)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.revision, case.attempts) == (State.DONE, 1, 0)
    assert set(case.stages) == {"convert", "store"}
    assert "flag" in case.quality
    (row,) = desk._book.outputs(case_id)
    assert desk._store.open_output(row.path).read() == b"seg"
    desk.infer(case_id)  # a message that came twice finds nothing to do
    assert len(desk._book.case(case_id).history) == len(case.history)


@pytest.mark.parametrize("error", [Rejected("no head found"), UnusableVolume("no head found")])
def test_what_cannot_be_segmented_is_rejected_with_its_reason(desk, monkeypatch, error):
    give(monkeypatch, error)
    case_id = queue(desk._book)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.reason, case.attempts) == (State.REJECTED, "no head found", 0)


def test_a_part_that_is_away_is_no_attempt(desk, monkeypatch):
    give(monkeypatch, Unavailable("the disk is full"))
    case_id = queue(desk._book)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.reason, case.attempts) == (State.QUEUED, "the disk is full", 0)


def test_a_defect_fails_the_case_after_three_attempts_without_quoting_it(desk, monkeypatch):
    give(monkeypatch, ValueError("MUSTERMANN^MAX"))
    case_id = queue(desk._book)
    for attempts in (1, 2):
        desk.infer(case_id)
        assert (desk._book.case(case_id).state, desk._book.case(case_id).attempts) == (State.QUEUED, attempts)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.attempts) == (State.FAILED, 3)
    assert "ValueError in the stage predict" in case.reason
    assert "MUSTERMANN" not in case.reason


def test_a_late_slice_throws_the_work_away(desk, monkeypatch):
    case_id = queue(desk._book)

    def late(_):
        desk._book.note_instances([instance(99)])
        return RESULT

    give(monkeypatch, late)
    desk.infer(case_id)
    assert desk._book.case(case_id).state is State.RECEIVING
    assert desk._book.outputs(case_id) == []


def test_the_lease_is_renewed_while_the_work_goes_on(desk, monkeypatch):
    case_id = queue(desk._book)

    def slow(_):
        time.sleep(3.5)  # longer than lease_s
        assert desk._book.claim(case_id, "thief") is None
        return RESULT

    desk._book._lease = timedelta(seconds=1)
    give(monkeypatch, slow)
    desk.infer(case_id)
    assert desk._book.case(case_id).state is State.DONE


HANGING = """
    import os, sys, time
    from pathlib import Path
    from types import SimpleNamespace as Any
    from service.settings import Settings
    from worker import tasks

    def run(*_, **__):
        if sys.argv[2] == "hang":
            time.sleep(600)
        os._exit(9)

    tasks.pipeline.run = run
    tasks.open_engine = lambda *_, **__: Any(name="e", precision="f32", warm=lambda _: None)
    card = Any(name="m", version="1", sha256="a" * 64, input=Any(shapes=((16, 16, 16),)))
    os._exit(tasks.work_on_inference(Settings(data_dir=Path(sys.argv[1]), time_limit_s=2), Any(card=card)))
"""


@pytest.mark.parametrize(("way", "reason"), [("hang", "not done within 2 s"), ("die", "its process died")])
def test_the_parent_charges_the_case_its_child_was_lost_on(tmp_path, way, reason):
    settings = Settings(data_dir=tmp_path)
    upgrade(settings.database)
    book = open_book(settings)
    app = make_app(settings)
    case_id = queue(book)
    command = [sys.executable, "-c", textwrap.dedent(HANGING), str(tmp_path), way]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 150
        asked = -1
        while (case := book.case(case_id)).state is not State.FAILED:
            assert time.monotonic() < deadline, case
            if case.state is State.QUEUED and case.attempts > asked:
                asked = case.attempts
                submit(app, case_id)
            time.sleep(0.05)
    finally:
        worker.kill()
        worker.wait()
        book.close()
    assert case.attempts == 3
    assert reason in case.reason
    assert [line.event for line in case.history].count("stumble") == 2
