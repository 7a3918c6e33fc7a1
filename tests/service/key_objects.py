"""Key Object Selections as an archive sends them."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage, generate_uid

from tests.service.series import with_meta

QUALITY = ("113001", "DCM", "Rejected for Quality Reasons")
SAFETY = ("113037", "DCM", "Rejected for Patient Safety Reasons")
WORKLIST = ("113038", "DCM", "Incorrect Modality Worklist Entry")
EXPIRED = ("113039", "DCM", "Data Retention Policy Expired")
OF_INTEREST = ("113000", "DCM", "Of Interest")


def key_objects(instances: Sequence[Dataset], title: tuple[str, str, str] | None = QUALITY) -> Dataset:
    """A selection of instances, which are of one series."""
    first = instances[0]
    selection = Dataset()
    selection.SOPClassUID, selection.SOPInstanceUID = KeyObjectSelectionDocumentStorage, generate_uid()
    selection.PatientID, selection.PatientName, selection.Modality = first.PatientID, first.PatientName, "KO"
    selection.SpecificCharacterSet = "ISO_IR 192"
    selection.StudyInstanceUID, selection.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()
    selection.ValueType, selection.ContentSequence = "CONTAINER", []
    if title is not None:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = title
        selection.ConceptNameCodeSequence = [code]
    references = []
    for instance in instances:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = instance.SOPClassUID, instance.SOPInstanceUID
        references.append(reference)
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = first.SeriesInstanceUID, references
    study.StudyInstanceUID, study.ReferencedSeriesSequence = first.StudyInstanceUID, [series]
    selection.CurrentRequestedProcedureEvidenceSequence = [study]
    return with_meta(selection)
