"""The rejection note: a Key Object Selection that withdraws results which a destination was sent (IHE RAD, IOCM; PS3.3 A.35.4).

Which title. A result that a newer revision replaces, or whose series is no longer taken, is not unsafe: it was made from less than there
is now. That is "Rejected for Quality Reasons" (113001), which an archive hides from readers and keeps for those who ask. One that names
another patient than the case does now is "Incorrect Modality Worklist Entry" (113038). Where the source itself was rejected, what was
made from it is rejected for the same reason. "Data Retention Policy Expired" (113039) says that nothing was wrong, and is never ours.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from service.headers import Unreadable
from service.headers.damage import unreadable
from service.rejecting import TITLES
from service.series_numbers import BLOCK, FIRST
from worker.naming import name_uid

SUPERSEDED, WRONG_PATIENT = "113001", "113038"
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
_WHERE_KNOWN = ("IssuerOfPatientID", "StudyDescription", "PatientIdentityRemoved", "DeidentificationMethod")
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber")
_READ = (
    *("SpecificCharacterSet", "ContentDate", "ContentTime"),
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber"),
    *_PATIENT,
    *_STUDY,
    *_WHERE_KNOWN,
    *_EQUIPMENT,
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
_IMAGES = ("SEG", "OT", "MR")
_NO_DATE, _NO_TIME = "19000101", "000000"


def read_results(path: Path) -> list[Dataset]:
    """Read of a result's file what a note says of it: of every instance, where the result is a series in a zip.

    Raises
    ------
    Unreadable
        It is damaged.
    OSError
    """
    damaged = "damaged"
    with unreadable(damaged):
        try:
            if not zipfile.is_zipfile(path):
                return [read_result(path)]
            with zipfile.ZipFile(path) as archive:
                return [_read_entry(archive, name) for name in archive.namelist()]
        except (zipfile.BadZipFile, zlib.error) as error:
            raise Unreadable(damaged) from error


def _read_entry(archive: zipfile.ZipFile, name: str) -> Dataset:
    with archive.open(name) as file:
        return read_result(file)


def read_result(file: Path | IO[bytes]) -> Dataset:
    """Read what a note says of one instance. Raises OSError; ValueError, or what pydicom does, where there is too little to refer to it."""
    result = dcmread(file, stop_before_pixels=True, specific_tags=list(_READ))
    present = {element.keyword for element in result if element.value}
    if missing := [keyword for keyword in _NEEDED if keyword not in present]:
        raise ValueError(f"no {', '.join(missing)}")
    return result


def choose_title(results: Sequence[Dataset], patient_id: str, source_title: str | None) -> str:
    """Choose the code of the document title.

    Parameters
    ----------
    patient_id : whose case it is now
    source_title : the title under which instances of the source were rejected, if they were
    """
    if source_title is not None:
        return source_title
    others = {_letters(str(result.get("PatientID") or "")) for result in results} - {_letters(patient_id)}
    return WRONG_PATIENT if others else SUPERSEDED


def _letters(patient_id: str) -> str:
    """What stays of a PatientID where an invalid one was put right in the results."""
    return "".join(filter(str.isalnum, patient_id[:64]))


def encode_note(results: Sequence[Dataset], code: str) -> Dataset:
    """Encode a note that rejects results of one case; the same results and title give the same bytes.

    Parameters
    ----------
    results : as `read_results` gives them, of one study
    code : of the title, in TITLES

    References
    ----------
    PS3.3 C.17.6.1, C.17.6.2; PS3.16 TID 2010, CID 7010 and 7011
    """
    results = sorted(results, key=lambda result: str(result.SOPInstanceUID))
    note = _begin(results[0])
    note.ConceptNameCodeSequence = [_code(code, TITLES[code])]
    note.ContentTemplateSequence = [_template()]
    note.ContentSequence = [*_modifiers(code), *map(_item, results)]
    note.CurrentRequestedProcedureEvidenceSequence = [_evidence(results)]
    seed = hashlib.sha256(note.to_json().encode()).hexdigest()
    note.SeriesInstanceUID, note.SOPInstanceUID = name_uid(f"{seed}/rejection note series"), name_uid(f"{seed}/rejection note")
    note.file_meta = FileMetaDataset()
    note.file_meta.MediaStorageSOPClassUID, note.file_meta.MediaStorageSOPInstanceUID = note.SOPClassUID, note.SOPInstanceUID
    note.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return note


def as_bytes(note: Dataset) -> bytes:
    """Encode as a DICOM file (PS3.10 7)."""
    buffer = BytesIO()
    note.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _begin(result: Dataset) -> Dataset:
    """Whose it is and who made it, as the rejected result says; it belongs where that is."""
    note = Dataset()
    note.SpecificCharacterSet = "ISO_IR 192"
    note.SOPClassUID = KeyObjectSelectionDocumentStorage
    for keyword in (*_PATIENT, *_STUDY, *_EQUIPMENT):
        setattr(note, keyword, result.get(keyword) or None)
    for keyword in _WHERE_KNOWN:
        if keyword in result:
            setattr(note, keyword, result.get(keyword))
    note.Modality, note.SeriesNumber, note.InstanceNumber = "KO", _last_of_block(int(result.get("SeriesNumber") or FIRST)), 1
    note.SeriesDescription = "Leukoscope - withdrawn results"
    note.ReferencedPerformedProcedureStepSequence = []
    note.ContentDate, note.ContentTime = result.get("ContentDate") or _NO_DATE, result.get("ContentTime") or _NO_TIME
    note.ValueType, note.ContinuityOfContent = "CONTAINER", "SEPARATE"
    return note


def _last_of_block(number: int) -> int:
    """Give a number that the results of the case leave free, and no other case has."""
    return number - (number - FIRST) % BLOCK + BLOCK - 1


def _template() -> Dataset:
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    return template


def _modifiers(code: str) -> list[Dataset]:
    """TID 2010 row 2: a rejection for quality says what failed; none of CID 7011 is closer than 111220."""
    if code != SUPERSEDED:
        return []
    item = Dataset()
    item.RelationshipType, item.ValueType = "HAS CONCEPT MOD", "CODE"
    item.ConceptNameCodeSequence = [_code("113011", "Document Title Modifier")]
    item.ConceptCodeSequence = [_code("111220", "Other failure")]
    return [item]


def _item(result: Dataset) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "IMAGE" if result.Modality in _IMAGES else "COMPOSITE"
    item.ReferencedSOPSequence = [_reference(result)]
    return item


def _evidence(results: Sequence[Dataset]) -> Dataset:
    series: dict[str, list[Dataset]] = defaultdict(list)
    for result in results:
        series[str(result.SeriesInstanceUID)].append(_reference(result))
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = results[0].StudyInstanceUID, []
    for uid, references in sorted(series.items()):
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedSOPSequence = uid, references
        study.ReferencedSeriesSequence.append(item)
    return study


def _reference(result: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = result.SOPClassUID, result.SOPInstanceUID
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
