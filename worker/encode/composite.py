"""What every DICOM object of ours says alike: whose it is, which study it belongs to, and who made it."""

from __future__ import annotations

from io import BytesIO

from highdicom import ContributingEquipment
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from worker.encode.context import Context
from worker.encode.source import PATIENT, STUDY
from worker.encode.wording import PRODUCT

# Type 2: there even where the source says nothing (PS3.3 C.7.1.1, C.7.2.1)
_DEMANDED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)


def begin(context: Context, sop_class_uid: str, kind: str) -> Dataset:
    """Begin an object: SOP common, patient, study, series UID, frame of reference and equipment.

    Parameters
    ----------
    kind : what the identity derives the object's UID from; "`kind` series" is its series

    References
    ----------
    PS3.3 C.12.1 (SOP common), C.7.1.1 (patient), C.7.2.1 and C.7.2.2 (study, patient study), C.7.4.1 (frame of reference), C.7.5.1
    """
    header, identity = context.header, context.identity
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class_uid, identity.uid(kind)
    for keyword in (*PATIENT, *STUDY):
        if keyword in _DEMANDED or header.get(keyword):
            setattr(dataset, keyword, header.get(keyword))
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_of_reference(context), None
    dataset.StudyInstanceUID = header.get("StudyInstanceUID") or identity.uid("study")
    dataset.SeriesInstanceUID = identity.uid(f"{kind} series")
    dataset.Manufacturer = PRODUCT
    dataset.ManufacturerModelName = f"{PRODUCT} WMH"
    dataset.SoftwareVersions = context.product_version
    dataset.DeviceSerialNumber = context.release.card.sha256[:64]
    dataset.ContributingEquipmentSequence = [contributing_equipment(context)]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def frame_of_reference(context: Context) -> str:
    """Give the source's frame of reference, or one of our own where it names none."""
    return context.header.get("FrameOfReferenceUID") or context.identity.uid("frame of reference")


def contributing_equipment(context: Context) -> ContributingEquipment:
    """Name product, version and release (109102 DCM), without the date that highdicom takes from the clock (decision 0002)."""
    card = context.release.card
    equipment = ContributingEquipment(
        manufacturer=PRODUCT,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=f"{PRODUCT} WMH",
        software_versions=[context.product_version, f"{card.name} {card.version}"[:64]],
        contribution_description=f"Segmentation by release {card.name} {card.version}, SHA-256 {card.sha256}"[:1024],
    )
    equipment.pop("ContributionDateTime", None)
    return equipment


def code(value: Code) -> Dataset:
    """Give the item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value.value, value.scheme_designator, value.meaning
    return item


def reference(sop_class_uid: str, sop_instance_uid: str, frame_number: int | None = None) -> Dataset:
    """Refer to an instance, or to one frame of it (PS3.3 10.3)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    return item


def as_bytes(dataset: Dataset) -> bytes:
    """Encode as a DICOM file (PS3.10 7)."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
