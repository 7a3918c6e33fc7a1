"""What every DICOM object of a case has in common: whose it is, who made it, in which series, when, and under which UIDs."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment, SOPClass
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from service.headers.equipment import MANUFACTURER
from worker.encode.context import Context, Output
from worker.encode.frames import source_objects
from worker.encode.wording import PRODUCT, series_description


def common_arguments(context: Context, kind: str, series_number: int) -> dict[str, Any]:
    """Give what highdicom's constructors all take: each kind of output is one instance in a series of its own."""
    identity, card = context.identity, context.release.card
    return {
        "series_instance_uid": identity.uid(f"{kind} series"),
        "series_number": series_number + context.series_shift,
        "sop_instance_uid": identity.uid(kind),
        "instance_number": 1,
        "manufacturer": PRODUCT,
        "manufacturer_model_name": f"{PRODUCT} WMH",
        "software_versions": context.product_version,
        "device_serial_number": card.sha256[:64],
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "series_description": series_description(context.product_version, corrected=context.corrected is not None),
        "content_date": identity.content_date,
        "content_time": identity.content_time,
        "specific_character_set": "ISO_IR 192",
        "contributing_equipment": [_equipment(context)],
    }


def begin(context: Context, kind: str, series_number: int, *, sop_class_uid: str, modality: str) -> Dataset:
    """Begin an object that highdicom has no constructor for: patient, study, series, equipment and SOP common modules are done.

    References
    ----------
    PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.5.1, C.12.1
    """
    source = source_objects(context)[0]
    arguments = common_arguments(context, kind, series_number)
    equipment = arguments.pop("contributing_equipment")
    date, time = arguments.pop("content_date"), arguments.pop("content_time")
    dataset = SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        sop_class_uid=sop_class_uid,
        modality=modality,
        patient_id=source.PatientID,
        patient_birth_date=source.PatientBirthDate,
        patient_sex=source.PatientSex,
        accession_number=source.AccessionNumber,
        study_id=source.StudyID,
        study_date=source.StudyDate,
        study_time=source.StudyTime,
        **arguments,
    )
    if "ContentDate" in dataset:  # from the clock, in the classes that have one
        dataset.ContentDate, dataset.ContentTime = date, time
    dataset.copy_patient_and_study_information(source)
    dataset._add_contributing_equipment(equipment, source)  # noqa: SLF001  # as highdicom's own constructors end
    return dataset


def as_output(dataset: Dataset, context: Context, kind: str, filename: str) -> Output:
    """Finish an object and write it."""
    finish(dataset, context)
    return Output(kind, "application/dicom", filename, as_bytes(dataset), str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))


def finish(dataset: Dataset, context: Context) -> None:
    """Replace what highdicom takes from the clock, and set the names it complains of (decision 0002)."""
    del dataset.InstanceCreationDate, dataset.InstanceCreationTime
    for item in dataset.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    dataset.PatientName = context.header.get("PatientName")
    dataset.ReferringPhysicianName = context.header.get("ReferringPhysicianName")


def as_bytes(dataset: Dataset) -> bytes:
    """Encode as a DICOM file (PS3.10 7)."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reference(sop_class_uid: str, sop_instance_uid: str, frame_number: int | None = None) -> Dataset:
    """Name an instance (PS3.3 10.8), or one frame of it (PS3.3 10.3)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    return item


def algorithm(context: Context) -> AlgorithmIdentificationSequence:
    """Name the release that segmented, and what it ran on (PS3.3 10.16)."""
    card = context.release.card
    return AlgorithmIdentificationSequence(
        name=card.name[:64],
        version=card.version[:64],
        family=codes.DCM.ArtificialIntelligence,
        parameters={"sha256": card.sha256, "engine": context.engine_name, "precision": context.precision},
    )


def _equipment(context: Context) -> ContributingEquipment:
    card = context.release.card
    return ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=f"{PRODUCT} WMH",
        software_versions=[context.product_version, f"{card.name} {card.version}"[:64]],
        contribution_description=f"Segmentation by release {card.name} {card.version}, SHA-256 {card.sha256}"[:1024],
    )
