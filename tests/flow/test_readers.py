"""A reader's verdict from the door to the results: real intake, case book, store and worker's desk; a network that takes what is bright."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from model.training.adapt_command import read_cases
from model.training.corrections import number_corrections
from model.volume import Volume
from service.errors import Rejected
from service.export import export_corrections
from service.intake.handover import Receipt, Source
from service.records import State, VerdictKind, VerdictRefused, VerdictState, told_correction
from service.records.result_record import RECORD, ResultRecord
from service.sections import Corrections, Destination
from service.verdicts import judge
from tests.running import series_uid
from tests.service.house import House
from tests.tiny import SMALL
from tests.worker.test_pipeline import HEAD, Bright, head
from tests.workstation import described, drawn
from worker import encode
from worker.corrections import read_corrections
from worker.phantom import write_series
from worker.tasks import inference

CARD = HEAD.card.model_copy(update={"input": SMALL})
PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
WORKSTATION = "WORKSTATION"


def coarse(offset: float = 0.0) -> Volume:
    """Every second voxel of the head: what is measured here is not how well it is found."""
    fine = head()[0]
    return Volume(np.ascontiguousarray(fine.data[::2, ::2, ::2]) + offset, fine.affine_ras @ np.diag([2.0, 2.0, 2.0, 1.0]))


SCAN = coarse()


class Ward(House):
    """An installation in which corrections are wanted from one workstation, with a desk of its own instead of a worker."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, destinations=(PACS,), corrections=Corrections(calling_ae=("WORKSTATION",)))
        self.desk = inference.Desk(self.settings, SimpleNamespace(card=CARD), None, "test:1:")
        self.line = generate_uid()
        self.desk._announce = lambda _lease: None

    def receive(self, files) -> str:
        """Take a series in, do what comes of it, and give its case."""
        receipts = [self.take(Path(path).read_bytes(), close=False) for path in files]
        self.intake.close_source(self.line, clean=True)
        self.line = generate_uid()
        self.wait(2.0)  # few instances over one association: others may follow
        self.work()
        return receipts[0].case_id

    def take(self, data: bytes, calling_ae: str = "SCANNER", *, close: bool = True) -> Receipt:
        """One object over an association."""
        receipt = self.intake.receive(data, Source(self.line, calling_ae))
        if close:
            self.intake.close_source(self.line, clean=True)
            self.line = generate_uid()
        return receipt

    def work(self) -> None:
        """Do what was asked for."""
        for queue, task in ((self.submitted, self.desk.infer), (self.corrected, self.desk.correct)):
            while queue:
                task(queue.pop(0))

    def output(self, case_id: str, kind: str) -> bytes:
        (row,) = [row for row in self.book.outputs(case_id) if row.kind == kind]
        with self.store.open_output(row.path) as file:
            return file.read()

    def report(self, case_id: str):
        return json.loads(self.output(case_id, "report.json"))

    def mask(self, case_id: str):
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(self.output(case_id, "segmentation.nii.gz")))
        return np.asarray(image.dataobj), image.affine

    def last(self, case_id: str):
        return self.book.verdicts_of([case_id])[case_id][-1]


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "open_engine", lambda *_, **__: Bright())
        # Page and picture are drawn in tests/worker/encode; here they would take longer than all the rest.
        patch.setattr(encode, "PLAIN_ENCODERS", (encode.nifti.encode, encode.report_json.encode))
        made = Ward(tmp_path_factory.mktemp("ward"))
        yield made
        made.book.close()


@pytest.fixture
def files(tmp_path, request):
    return write_series(SCAN, tmp_path / "series", uid_seed=request.node.name)


def nifti(labels, place) -> bytes:
    image = nibabel.Nifti1Image(labels, None)
    image.set_sform(place, code=1)
    return gzip.compress(image.to_bytes(), mtime=0)


def by_hand(files, labels, *, creator: str | None = "Reader^Ada") -> bytes:
    """A SEG that a reader drew on the series at a workstation."""
    sources = sorted((pydicom.dcmread(path) for path in files), key=lambda one: float(one.ImagePositionPatient[2]))
    lesion = described(1, "WMH", codes.DCM.WhiteMatterT2Hyperintensity)
    buffer = io.BytesIO()
    drawn(sources, labels, [lesion], content_creator_name=creator).save_as(buffer)
    return buffer.getvalue()


def read_record(path):
    return ResultRecord.from_bytes(path.read_bytes())


def without_one(labels, found):
    """The mask without its first lesion."""
    lesion = found["lesions"][0]
    i, j, k = (round(value) for value in lesion["centroid_ijk"])
    corrected = labels.copy()
    corrected[i - 3 : i + 4, j - 3 : j + 4, k - 3 : k + 4] = 0
    return corrected


def test_a_corrected_mask_becomes_one_revision_that_outlives_a_late_slice(ward, files):
    case_id = ward.receive(files[:-1])
    before, own = ward.report(case_id), ward.book.case(case_id)
    first_uid = pydicom.dcmread(io.BytesIO(ward.output(case_id, "segmentation"))).SOPInstanceUID
    labels, place = ward.mask(case_id)
    corrected = without_one(labels, before["findings"])
    data = nifti(corrected, place)
    for _ in range(2):
        ward.intake.corrections.take(case_id, data, "Ada Reader", "a vessel", revision=1)
    ward.work()
    ward.intake.corrections.take(case_id, data, "Ada Reader", revision=1)
    ward.work()

    case = ward.book.case(case_id)
    assert (case.state, case.revision) == (State.DONE, 2)
    assert np.array_equal(ward.mask(case_id)[0], corrected)
    after = ward.report(case_id)
    assert after["findings"]["lesion_count"] == before["findings"]["lesion_count"] - 1
    (told,) = [one for one in map(read_record, ward.store.every_output(RECORD)) if (one.series_uid, one.revision) == (case.series_uid, 2)]
    assert told.correction == told_correction(ward.book.correction_of(case_id)) | {"seen": ANY}
    assert after["correction"]["release_lesion_volume_ml"] == before["findings"]["lesion_volume_ml"]
    assert case.findings["corrected"]["reader"] == "Ada Reader"
    assert case.findings["corrected"]["model_lesion_volume_ml"] == own.findings["lesion_volume_ml"]
    segmentation = pydicom.dcmread(io.BytesIO(ward.output(case_id, "segmentation")))
    assert segmentation.SOPInstanceUID != first_uid
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert {one.state.value for one in ward.book.deliveries(case_id) if one.revision == 1} == {"withheld"}

    ward.receive(files[-1:])
    case = ward.book.case(case_id)
    assert (case.state, case.revision) == (State.DONE, 3)
    later, _ = ward.mask(case_id)
    assert any(np.array_equal(later[:, :, part], corrected) for part in (slice(None, -1), slice(1, None)))
    assert any(flag.startswith("correction: 1 slice came after it") for flag in case.quality)
    assert case.findings["corrected"]["reader"] == "Ada Reader"


def test_corrections_are_exported_as_training_reads_them(tmp_path, ward, files):
    sent = np.zeros(SCAN.shape, np.uint8)
    sent[15:17, 20:22, 10:12] = 1
    case_id, other = ward.receive(files), ward.receive(write_series(coarse(1.0), tmp_path / "other", uid_seed="other", patient_id="Q"))
    labels, place = ward.mask(other)
    ward.intake.corrections.take(case_id, by_hand(files, sent), "Ada Reader")
    ward.intake.corrections.take(other, nifti(labels * _left(labels), place), "Bob", "right side only")
    ward.work()
    found = {one.case_id: one.why_not for one in export_corrections(ward.book, ward.store, tmp_path / "out")}
    assert found.pop(case_id) == found.pop(other) == ""
    assert set(found.values()) <= {"slices came after the reader had the series; correct it again"}
    told = json.loads((tmp_path / "out" / other / "provenance.json").read_text())
    assert (told["reader"], told["comment"], told["corrected_revision"], told["made_revision"]) == ("Bob", "right side only", 1, 2)
    assert told["corrected_release"]["version"] == CARD.version
    assert told["release_itself"]["model_lesion_volume_ml"] > told["lesion_volume_ml"]
    manifest = read_corrections(tmp_path / "out", tmp_path / "read")
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    masks = [np.asarray(nibabel.load(manifest.parent / row["lesion"]).dataobj) for row in rows]
    for wanted in (sent, ward.mask(other)[0] == 1):
        assert any(np.array_equal(mask, wanted) for mask in masks)
    assert not any("not corrected" in row["provenance"] for row in rows)
    assert len(number_corrections(read_cases(tmp_path / "out", tmp_path / "cases", read_corrections), CARD)) == len(rows)
    with pytest.raises(Rejected, match="not empty"):
        list(export_corrections(ward.book, ward.store, tmp_path / "out"))


def _left(labels):
    half = np.zeros(labels.shape, np.uint8)
    half[: labels.shape[0] // 2] = 1
    return half


def test_a_segmentation_sent_back_is_a_correction_and_our_own_is_not(ward, files, tmp_path):
    case_id = ward.receive(files)
    ours = ward.output(case_id, "segmentation")
    assert ward.take(ours, WORKSTATION).outcome == "discarded", "a PACS may route it back"
    labels = np.zeros(SCAN.shape, np.uint8)
    labels[15:17, 20:22, 10:12] = 1
    sent = by_hand(files, labels)
    assert ward.take(sent).outcome == "discarded", "not wanted from there"
    receipt = ward.take(sent, WORKSTATION)
    assert (receipt.outcome, receipt.case_id) == ("correction", case_id)
    ward.take(sent, WORKSTATION)
    ward.work()
    case = ward.book.case(case_id)
    assert (case.state, case.revision) == (State.DONE, 2)
    assert np.array_equal(ward.mask(case_id)[0], labels)
    assert ward.report(case_id)["correction"]["reader"] == "Reader Ada"
    assert pydicom.dcmread(io.BytesIO(ward.output(case_id, "segmentation"))).SegmentSequence[0].SegmentAlgorithmType == "MANUAL"

    # Nobody named, and no lesion at all.
    assert ward.take(by_hand(files, np.zeros_like(labels), creator=None), WORKSTATION).outcome == "correction"
    ward.work()
    report = ward.report(case_id)
    assert (report["revision"], report["findings"]["lesion_count"]) == (3, 0)
    assert report["correction"]["reader"] == "unnamed, sent by WORKSTATION"


def test_what_cannot_be_used_changes_nothing_and_says_why(ward, files):
    case_id = ward.receive(files)
    labels, place = ward.mask(case_id)
    before = ward.book.outputs(case_id)
    moved = place.copy()
    moved[:3, 3] += 4.0
    for data, why in (
        (nifti(labels, moved), "lies on another grid than the series"),
        (nifti(labels, place), "is that of revision 1, nothing is corrected; accept it instead"),
        (nifti(labels * 5, place), "has other values than"),
        (Path(files[0]).read_bytes(), "not a DICOM segmentation"),
    ):
        ward.intake.corrections.take(case_id, data, "A")
        ward.work()
        said = ward.last(case_id)
        assert (said.state, why in said.reason) == (VerdictState.REFUSED, True), said.reason
    case = ward.book.case(case_id)
    assert (case.state, case.revision) == (State.DONE, 1)
    assert ward.book.outputs(case_id) == before


def test_a_mistaken_rejection_is_undone_by_the_mask_itself(ward, files):
    case_id = ward.receive(files)
    labels, place = ward.mask(case_id)
    found = ward.report(case_id)["findings"]
    judge(ward.book, ward.store, case_id, VerdictKind.REJECT, "Bob", "another visit", None)
    with pytest.raises(VerdictRefused, match="sent back unchanged"):
        judge(ward.book, ward.store, case_id, VerdictKind.ACCEPT, "Bob", "", None)
    ward.intake.corrections.take(case_id, nifti(labels, place), "Ada Reader", "rejected by mistake", revision=1)
    ward.work()
    case, said = ward.book.case(case_id), ward.last(case_id)
    assert (case.state, case.revision, said.state, said.made) == (State.DONE, 2, VerdictState.STANDS, 2), said.reason
    assert np.array_equal(ward.mask(case_id)[0], labels)
    assert ward.report(case_id)["findings"]["lesion_count"] == found["lesion_count"]
    assert case.findings["corrected"]["reader"] == "Ada Reader"
    assert {one.revision: one.state.value for one in ward.book.deliveries(case_id)} == {1: "withheld", 2: "pending"}
    ward.intake.corrections.take(case_id, nifti(labels, place), "Bob", revision=2)
    ward.work()
    assert "is that of revision 2, nothing is corrected" in ward.last(case_id).reason


def test_a_segmentation_about_a_series_that_is_not_here_is_recorded_and_refused(ward, files):
    sent = by_hand(files, np.ones(SCAN.shape, np.uint8))
    receipt = ward.take(sent, WORKSTATION)
    assert receipt.outcome == "discarded"
    case = ward.book.case(receipt.case_id)
    assert case.state is State.REJECTED
    assert case.reason == "not an MR image: Segmentation Storage, about a series that is not here"


def test_a_segmentation_about_a_case_that_is_not_done_is_recorded_with_the_reason(ward, files):
    ward.take(files[0].read_bytes())
    sent = by_hand(files, np.ones(SCAN.shape, np.uint8))
    (case_id,) = {ward.take(sent, WORKSTATION).case_id for _ in range(2)}
    said = ward.last(case_id)
    assert (said.kind, said.state) == (VerdictKind.CORRECT, VerdictState.REFUSED)
    assert said.reason == "the case is receiving: there is no result to judge now"
    assert len(ward.book.verdicts_of([case_id])[case_id]) == 1


def test_a_reader_of_a_running_service_corrects_and_then_rejects(embedded_service, write_phantom):
    files = write_phantom("read")
    embedded_service.push(files)
    case = embedded_service.wait_until(series_uid(files), "done")
    address = f"/cases/{case['id']}/verdict"
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(embedded_service.output(case, "segmentation.nii.gz")))
    labels = np.asarray(image.dataobj).copy()
    labels[: labels.shape[0] // 2] = 0
    sent = {"file": ("mask.nii.gz", nifti(labels, image.affine))}
    answer = embedded_service.client.post(address, data={"reader": "Ada Reader", "revision": "1"}, files=sent)
    assert (answer.status_code, answer.json()["state"], answer.json()["correction"]["state"]) == (202, "done", "pending")
    case = embedded_service.wait_until(series_uid(files), "done", revision=2)
    assert (case["verdict"]["verdict"], case["verdict"]["made"], case["correction"]) == ("correct", 2, None)
    assert case["findings"]["corrected"]["model_lesion_volume_ml"] > case["findings"]["lesion_volume_ml"]
    assert embedded_service.output(case, "report.pdf").startswith(b"%PDF-")
    rejected = embedded_service.client.post(address, json={"verdict": "reject", "reader": "Bob", "comment": "c", "revision": 1})
    assert rejected.status_code == 409
    rejected = embedded_service.client.post(address, json={"verdict": "reject", "reader": "Bob", "comment": "c", "revision": 2})
    assert rejected.json()["verdict"]["verdict"] == "reject"
