"""Rejection notes and predecessors, against readers and checkers that nobody here wrote, and on their way to destinations."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from model.volume import Volume
from service.records import Book, OutputRow, open_book, upgrade
from service.sections import Destination
from service.settings import Settings
from service.store import Store
from tests.provider import CLASSES, provider
from tests.service.casebook import FINDINGS, instance, queue
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_seg import PLANES, errors_of
from worker.deliver import Sender
from worker.encode import Context, Output, Predecessor, seg, sr
from worker.encode.source import read_header
from worker.rejection import as_bytes, choose_title, encode_note, read_result

SHAPE = (20, 18, 9)
TAKES = (*CLASSES.values(), KeyObjectSelectionDocumentStorage)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:7, 4:7, 3:5] = 1
    volume = Volume(textured(SHAPE), affine(PLANES["axial"], (1.0, 1.2, 3.0)))
    return context_of(series_of(volume, tmp_path_factory.mktemp("in")), labels)


@pytest.fixture(scope="module")
def outputs(context: Context) -> dict[str, Output]:
    return {output.kind: output for output in (seg.encode(context), sr.encode(context))}


@pytest.fixture(scope="module")
def results(outputs: dict[str, Output], tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    folder = tmp_path_factory.mktemp("results")
    found = []
    for output in outputs.values():
        (folder / output.filename).write_bytes(output.data)
        found.append(read_result(folder / output.filename))
    return found


@pytest.mark.parametrize("code", ["113001", "113037", "113038"])
def test_a_note_is_valid_and_the_same_bytes_again(results: list[Dataset], code: str, peer, tmp_path: Path) -> None:
    data = as_bytes(encode_note(results, code))
    assert data == as_bytes(encode_note(results[::-1], code))
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    read = highdicom.ko.KeyObjectSelectionDocument.from_dataset(pydicom.dcmread(BytesIO(data)))
    assert read.ConceptNameCodeSequence[0].CodeValue == code
    assert {str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for item in read.content.get_references()} == {
        str(result.SOPInstanceUID) for result in results
    }
    assert {read.resolve_reference(result.SOPInstanceUID)[:2] for result in results} == {
        (result.StudyInstanceUID, result.SeriesInstanceUID) for result in results
    }
    assert (read.PatientID, read.PatientName, read.Modality) == (results[0].PatientID, results[0].PatientName, "KO")


def test_every_title_and_every_set_of_results_is_a_note_of_its_own(results: list[Dataset]) -> None:
    notes = [encode_note(results, "113001"), encode_note(results, "113037"), encode_note(results[:1], "113001")]
    assert len({note.SOPInstanceUID for note in notes} | {note.SeriesInstanceUID for note in notes}) == 6


def test_the_title_says_why(results: list[Dataset]) -> None:
    patient = str(results[0].PatientID)
    assert choose_title(results, patient, None) == "113001"
    assert choose_title(results, "ANOTHER", None) == "113038"
    assert choose_title(results, "ANOTHER", "113037") == "113037"


def test_an_identity_that_was_corrected_is_in_every_object_under_new_uids(context: Context, results: list[Dataset]) -> None:
    right = {"PatientID": "RIGHT 7", "PatientName": "Zhāng^Wěi", "PatientBirthDate": "19610203", "PatientSex": ""}
    header = read_header(context.series, right)
    assert header.as_text() != context.header.as_text(), "the seed of the UIDs"
    for encode in (seg.encode, sr.encode):
        made = pydicom.dcmread(BytesIO(encode(replace(context, header=header)).data))
        assert (made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex) == tuple(right.values())
        assert "PatientAge" not in made
    assert results[0].PatientID != "RIGHT 7"


def test_a_report_names_the_one_it_takes_the_place_of(context: Context, outputs: dict[str, Output], peer, tmp_path: Path) -> None:
    before = pydicom.dcmread(BytesIO(outputs["structured-report"].data))
    assert "PredecessorDocumentsSequence" not in before
    uids = before.StudyInstanceUID, before.SeriesInstanceUID, before.SOPClassUID, before.SOPInstanceUID
    after = sr.encode(replace(context, predecessor=Predecessor(*map(str, uids))))
    assert errors_of(peer("dciodvfy"), after.data, tmp_path) == []
    (study,) = pydicom.dcmread(BytesIO(after.data)).PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    found = study.StudyInstanceUID, series.SeriesInstanceUID, document.ReferencedSOPClassUID, document.ReferencedSOPInstanceUID
    assert found == uids


class House:
    """A book and a sender with two destinations at one port: one takes notes, the other, `plain`, does not."""

    def __init__(self, folder: Path, port: int, *, plain: bool = True) -> None:
        common = {"ae_title": "PACS", "host": "127.0.0.1", "port": port, "outputs": ("segmentation", "structured-report")}
        destinations = (Destination(name="taking", rejection_notes=True, **common), Destination(name="plain", **common))[: 1 + plain]
        settings = Settings(data_dir=folder, destinations=destinations)
        upgrade(settings.database)
        self.book: Book = open_book(settings)
        self.store = Store(folder)
        self.sender = Sender(settings, self.book, self.store, "test:1:")

    def finish(self, case_id: str) -> list[str]:
        """Finish the revision, deliver it, and give the UIDs of its results."""
        lease = self.book.claim(case_id, "w")
        assert lease is not None
        rows = []
        for kind in ("segmentation", "structured-report"):
            uid = f"2.25.{lease.revision}{len(rows)}"
            data = small(uid, CLASSES[kind], "SEG" if kind == "segmentation" else "SR")
            path = self.store.put_output(case_id, kind, data)
            row = OutputRow(
                kind, "application/dicom", path, hashlib.sha256(data).hexdigest(), len(data), lease.revision, CLASSES[kind], uid
            )
            rows.append(row)
        self.book.finish(lease, outputs=rows, findings=FINDINGS)
        self.sender.deliver(case_id)
        return [str(row.sop_instance_uid) for row in rows]


def small(uid: str, sop_class: str, modality: str) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, uid, modality
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = "1.2", f"{uid}.1", "P/1"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = sop_class, uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def referenced(house: House, uid: str, case_id: str) -> tuple[str, set[str]]:
    (path,) = [one.path for one in house.book.deliveries(case_id) if one.sop_instance_uid == uid]
    note = pydicom.dcmread(house.store.path_of(path))
    series = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    return note.ConceptNameCodeSequence[0].CodeValue, {str(one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for one in series}


def test_what_is_superseded_is_withdrawn_before_its_successor_comes(tmp_path: Path) -> None:
    with provider(classes=TAKES) as pacs:
        house = House(tmp_path, pacs.port, plain=False)
        case_id = queue(house.book)
        first = house.finish(case_id)
        house.book.note_instances([instance(9)])
        assert house.book.queue_case(case_id, "flair", rank=(1,))
        second = house.finish(case_id)
        note = pacs.got[2]
        assert pacs.got == [*first, note, *second]
        assert referenced(house, note, case_id) == ("113001", set(first))
        house.book.reject_instances("1.9", "113037", "x", [("1.2", "1.2.3", f"1.2.3.{number}") for number in (1, 2, 3, 9)])
        house.sender.deliver(case_id)
        assert len(pacs.got) == 6
        assert referenced(house, pacs.got[5], case_id) == ("113037", set(second))
    house.book.close()


def test_a_destination_that_refuses_the_note_or_takes_none_gets_the_results_all_the_same(tmp_path: Path) -> None:
    with provider() as pacs:
        house = House(tmp_path, pacs.port)
        case_id = queue(house.book)
        house.finish(case_id)
        house.book.note_instances([instance(9)])
        assert house.book.queue_case(case_id, "flair", rank=(1,))
        house.finish(case_id)
        found = {(one.destination, one.output): one.state.value for one in house.book.deliveries(case_id) if one.revision == 2}
        assert found.pop(("taking", "rejection-note.taking")) == "pending"
        assert found == {(name, kind): "sent" for name in ("taking", "plain") for kind in ("segmentation", "structured-report")}
    house.book.close()
