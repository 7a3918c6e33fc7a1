"""What a worker writes down when a case works, is refused, must wait, stumbles, hangs or takes its process with it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from datetime import timedelta
from types import SimpleNamespace

import pydicom
import pytest

from model.volume import UnusableVolume
from service import durable
from service import store as service_store
from service.errors import Rejected, Unavailable
from service.queue import COMPARE, make_app, submit
from service.records import State, open_book, upgrade
from service.records.result_record import NotARecord, ResultRecord
from service.settings import Settings
from tests.service.casebook import FINDINGS, instance, queue
from worker import pipeline
from worker.encode import Output
from worker.tasks import inference

CARD = SimpleNamespace(name="m", version="1", sha256="a" * 64, training={}, input=SimpleNamespace(shapes=((16, 16, 16),)))
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
    monkeypatch.setattr(inference, "open_engine", lambda *_, **__: SimpleNamespace(name="e", precision="f32", warm=lambda _: None))
    return inference.Desk(settings, SimpleNamespace(card=CARD), None, "test:1:")


def queue_with_files(book, data):
    """A queued case whose files are there; the pipeline of these tests does not look into them."""
    case_id = queue(book)
    for path in book.instance_paths(case_id):
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).touch()
    return case_id


def give(monkeypatch, outcome):
    """Let the pipeline return or raise `outcome`."""

    def run(*_, on_stage, **__):
        on_stage("predict")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome(_) if callable(outcome) else outcome

    monkeypatch.setattr(inference.pipeline, "run", run)


def test_a_case_that_works_is_done_with_its_rows(desk, monkeypatch):
    give(monkeypatch, RESULT)
    case_id = queue_with_files(desk._book, desk._store.root)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.revision, case.attempts) == (State.DONE, 1, 0)
    assert set(case.stages) == {"convert", "store"}
    assert "flag" in case.quality
    assert case.series_shift == 0
    (row,) = desk._book.outputs(case_id)
    assert desk._store.open_output(row.path).read() == b"seg"
    desk.infer(case_id)  # a message that came twice finds nothing to do
    assert len(desk._book.case(case_id).history) == len(case.history)


@pytest.mark.parametrize("error", [Rejected("no head found"), UnusableVolume("no head found")])
def test_what_cannot_be_segmented_is_rejected_with_its_reason(desk, monkeypatch, error):
    give(monkeypatch, error)
    case_id = queue_with_files(desk._book, desk._store.root)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.reason, case.attempts) == (State.REJECTED, "no head found", 0)


def test_a_part_that_is_away_is_no_attempt(desk, monkeypatch):
    give(monkeypatch, Unavailable("the disk is full"))
    case_id = queue_with_files(desk._book, desk._store.root)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.reason, case.attempts) == (State.QUEUED, "the disk is full", 0)


def test_a_defect_fails_the_case_after_three_attempts_without_quoting_it(desk, monkeypatch):
    give(monkeypatch, ValueError("MUSTERMANN^MAX"))
    case_id = queue_with_files(desk._book, desk._store.root)
    for attempts in (1, 2):
        desk.infer(case_id)
        assert (desk._book.case(case_id).state, desk._book.case(case_id).attempts) == (State.QUEUED, attempts)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.attempts) == (State.FAILED, 3)
    assert "ValueError in the stage predict" in case.reason
    assert "MUSTERMANN" not in case.reason


def test_a_late_slice_throws_the_work_away(desk, monkeypatch):
    case_id = queue_with_files(desk._book, desk._store.root)

    def late(_):
        desk._book.note_instances([instance(99)])
        return RESULT

    give(monkeypatch, late)
    desk.infer(case_id)
    assert desk._book.case(case_id).state is State.RECEIVING
    assert desk._book.outputs(case_id) == []


def test_the_lease_is_renewed_while_the_work_goes_on(desk, monkeypatch):
    case_id = queue_with_files(desk._book, desk._store.root)

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
    from worker.tasks import inference

    def run(*_, **__):
        if sys.argv[2] == "hang":
            time.sleep(600)
        os._exit(9)

    inference.pipeline.run = run
    inference.open_engine = lambda *_, **__: Any(name="e", precision="f32", warm=lambda _: None)
    card = Any(name="m", version="1", sha256="a" * 64, training={}, input=Any(shapes=((16, 16, 16),)))
    os._exit(inference.work_on_inference(Settings(data_dir=Path(sys.argv[1]), time_limit_s=2), Any(card=card)))
"""


@pytest.mark.parametrize(("way", "reason"), [("hang", "not done within 2 s"), ("die", "its process died")])
def test_the_parent_charges_the_case_its_child_was_lost_on(tmp_path, way, reason):
    settings = Settings(data_dir=tmp_path)
    upgrade(settings.database)
    book = open_book(settings)
    app = make_app(settings)
    case_id = queue_with_files(book, tmp_path)
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


def test_beside_the_results_is_written_what_the_case_book_says_of_them(desk, monkeypatch):
    give(monkeypatch, RESULT)
    case_id = queue_with_files(desk._book, desk._store.root)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    (path,) = (desk._store.root / "outputs" / case_id).glob("record-*")
    record = ResultRecord.from_bytes(path.read_bytes())
    assert (record.study_uid, record.series_uid, record.revision) == (case.study_uid, case.series_uid, 1)
    assert record.digests == tuple(sorted(str(number) for number in (1, 2, 3)))
    assert (record.findings, record.quality, record.rank, record.rule) == (case.findings, case.quality, case.rank, case.rule)
    assert (record.model, record.stages, record.received_at) == (case.model, case.stages, case.received_at)
    assert list(record.outputs) == desk._book.outputs(case_id), "the record itself is not one of the results"
    assert ResultRecord.from_bytes(record.as_bytes()) == record
    assert b"P/1" not in path.read_bytes()
    assert "record" not in {one.output for one in desk._book.deliveries(case_id)}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"form": 2}', b'{"form": 1}', b"\xff", b"[" * 100_000])
def test_what_is_no_record_is_told_as_such(data):
    with pytest.raises(NotARecord):
        ResultRecord.from_bytes(data)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("at", ["looked for", "read"])
def test_a_disk_that_fails_under_the_files_is_no_attempt(desk, monkeypatch, code, at):
    case_id = queue_with_files(desk._book, desk._store.root)

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    if at == "looked for":
        monkeypatch.setattr(service_store.os, "open", fail)
    else:
        monkeypatch.setattr(pydicom.filereader, "open", fail, raising=False)
    desk.infer(case_id)
    monkeypatch.undo()
    case = desk._book.case(case_id)
    assert (case.state, case.attempts) == (State.QUEUED, 0)
    assert os.strerror(code) in case.reason


def test_a_disk_that_fails_under_the_results_is_no_attempt(desk, monkeypatch):
    give(monkeypatch, RESULT)
    case_id = queue_with_files(desk._book, desk._store.root)

    def fail(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(durable.os, "fsync", fail)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.attempts) == (State.QUEUED, 0)


def test_a_store_that_is_away_is_no_attempt(desk, monkeypatch):
    give(monkeypatch, RESULT)
    case_id = queue_with_files(desk._book, desk._store.root)
    instances = desk._store.root / "instances"
    instances.rename(desk._store.root / "elsewhere")
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.attempts) == (State.QUEUED, 0)
    assert "away" in case.reason
    (desk._store.root / "elsewhere").rename(instances)
    desk.infer(case_id)
    assert desk._book.case(case_id).state is State.DONE


def test_a_store_that_is_away_leaves_the_comparison_to_the_sweep(desk):
    case_id = queue_with_files(desk._book, desk._store.root)
    desk._book.note_instances([instance(1, digest="b" * 64)])
    desk._store.root.joinpath("instances").rename(desk._store.root / "elsewhere")
    desk.work((COMPARE, case_id), lambda _: None)
    assert [one.number for one in desk._book.uncompared(case_id)] != []


def test_a_case_whose_files_are_gone_fails_with_what_to_do_and_a_resend_heals_it(desk, monkeypatch):
    give(monkeypatch, RESULT)

    def put(number):
        stored = desk._store.put_instance(
            b"x%d" % number, series_uid="1.2.3", sop_class_uid="1", sop_instance_uid=f"1.2.3.{number}", transfer_syntax_uid="1"
        )
        return desk._book.note_instances([instance(number, digest=stored.digest, path=stored.path)])[0]

    (case_id,) = {put(number).case_id for number in range(40)}
    desk._book.queue_case(case_id, "flair", rank=(1,))
    for path in desk._book.instance_paths(case_id)[:3]:
        desk._store.path_of(path).unlink()
    for _ in range(3):
        desk.infer(case_id)
    case = desk._book.case(case_id)
    assert case.state is State.FAILED
    assert case.reason == "3 of 40 files are missing from the store; send the series again, then retry the case"
    assert {put(number).outcome for number in range(40)} == {"repeat"}
    desk._book.retry(case_id)
    desk.infer(case_id)
    case = desk._book.case(case_id)
    assert (case.state, case.revision) == (State.DONE, 1)
