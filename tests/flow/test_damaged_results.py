"""Results of an earlier revision that are gone or damaged: a correction goes on, and a case that needs them says what is missing."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

from service.errors import Unavailable
from service.records import State, VerdictState
from tests.flow.test_readers import SCAN, Ward, nifti
from tests.worker.test_pipeline import Bright
from worker import correcting, encode, keeping, reader_mask
from worker.phantom import write_series
from worker.tasks import inference


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "open_engine", lambda *_, **__: Bright())
        patch.setattr(encode, "PLAIN_ENCODERS", (encode.nifti.encode,))
        made = Ward(tmp_path_factory.mktemp("ward"))
        made.case_id = made.receive(write_series(SCAN, tmp_path_factory.mktemp("series"), uid_seed="damaged"))
        yield made
        made.book.close()


def path_of(ward, kind):
    (row,) = [row for row in ward.book.outputs(ward.case_id) if row.kind == kind and row.revision == ward.book.case(ward.case_id).revision]
    return ward.store.path_of(row.path)


@pytest.fixture
def correct(ward):
    """Send another mask each time, as a reader does, and give what the case book says of it."""

    def go():
        labels = np.zeros(SCAN.shape, np.uint8)
        labels[15:17, 20:22, 10 : 11 + ward.book.case(ward.case_id).revision] = 1
        ward.intake.corrections.take(ward.case_id, nifti(labels, SCAN.affine_ras), "Ada Reader")
        ward.work()
        return ward.last(ward.case_id)

    return go


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    "harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"rubbish"), cut], ids=["gone", "rubbish", "cut"]
)
def test_a_correction_of_a_mask_that_cannot_be_read_any_more_is_taken(ward, correct, harm, request):
    revision = ward.book.case(ward.case_id).revision
    harm(path_of(ward, "segmentation.nii.gz"))
    said = correct()
    assert (said.state, said.made) == (VerdictState.STANDS, revision + 1)
    assert ward.book.case(ward.case_id).state is State.DONE


def test_a_disk_that_fails_under_the_mask_puts_the_correction_off(ward, correct, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(correcting.gzip, "decompress", fail)
        assert correct().state is VerdictState.PENDING
    ward.desk.correct(ward.case_id)
    assert ward.last(ward.case_id).state is VerdictState.STANDS


def test_a_disk_that_fails_under_the_report_before_is_no_attempt(ward, correct, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "dcmread", fail)
        correct()
        case = ward.book.case(ward.case_id)
        assert (case.state, case.attempts, case.reason) == (State.QUEUED, 0, "the object store: Input/output error")
    ward.desk.infer(ward.case_id)
    assert ward.book.case(ward.case_id).state is State.DONE


def test_a_damaged_report_before_is_told_in_words(ward, correct):
    report = path_of(ward, "structured-report")
    whole = report.read_bytes()
    nameless = pydicom.dcmread(report)
    del nameless.StudyInstanceUID
    for damage in (lambda: report.write_bytes(b"rubbish"), lambda: nameless.save_as(report), report.unlink):
        damage()
        if ward.book.case(ward.case_id).state is State.DONE:
            correct()
        else:
            ward.desk.infer(ward.case_id)
    case = ward.book.case(ward.case_id)
    assert case.state is State.FAILED
    reasons = {line.reason for line in case.history if line.event in {"stumble", "fail"}}
    assert reasons == {"the report of the revision before is missing from the store, or damaged; restore it, then retry the case"}
    report.write_bytes(whole)
    ward.book.retry(ward.case_id)
    ward.desk.infer(ward.case_id)
    assert ward.book.case(ward.case_id).state is State.DONE


@pytest.mark.parametrize("reader", ["gzip.GzipFile", "pydicom.dcmread"], ids=["NIfTI", "DICOM"])
def test_a_disk_that_fails_under_the_readers_own_file_refuses_nothing(ward, tmp_path, monkeypatch, reader):
    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    data = nifti(np.zeros(SCAN.shape, np.uint8), SCAN.affine_ras) if reader.startswith("gzip") else bytes(128) + b"DICM"
    (tmp_path / "mask").write_bytes(data)
    module, _, name = reader.partition(".")
    monkeypatch.setattr(getattr(reader_mask, module), name, fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        reader_mask.read_mask(tmp_path / "mask", SimpleNamespace(volume=SCAN))
