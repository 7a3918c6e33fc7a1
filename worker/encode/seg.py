"""DICOM Segmentation: one segment per class, on the grid of the source, frame for frame (PS3.3 A.51, C.8.20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from worker.encode.composite import as_bytes, contributing_equipment, reference
from worker.encode.context import Context, Output
from worker.encode.frames import source_images
from worker.encode.wording import LESION_LABEL, PRODUCT, STATEMENT, TUMOUR_LIKE_LABEL, series_description

if TYPE_CHECKING:
    from worker.convert import SourceFrame

KIND = "segmentation"
SERIES_NUMBER = 9100
# label in the mask -> (segment label, tracking identifier, property type, region)
_SEGMENTS = {
    1: (LESION_LABEL, "lesion", codes.DCM.WhiteMatterT2Hyperintensity, codes.SCT.CerebralWhiteMatter),
    2: (TUMOUR_LIKE_LABEL, "tumour-like", codes.SCT.Lesion, codes.SCT.Brain),
}


def encode(context: Context) -> Output:
    """Encode the mask as a BINARY segmentation; the lesion segment is always there, empty where none was found.

    Every source frame has its frame in each segment, also where that is empty: viewers have shifted masks whose empty frames
    were left out.

    References
    ----------
    PS3.3 C.8.20.2 (segmentation image), C.8.20.4 (segment description); PS3.16 CID 7150
    """
    if context.series is None:
        raise ValueError("a segmentation object needs the DICOM series it belongs to")
    frames = context.series.frames
    segments = [label for label in _SEGMENTS if label == 1 or (context.masks.labels == label).any()]
    dataset = _build(context, frames, segments)
    _make_deterministic(dataset, context)
    if frames[0].frame_number is not None:
        _restore_references(dataset, frames)
    sop_class_uid, sop_instance_uid = str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    data = as_bytes(dataset)
    return Output(KIND, "application/dicom", "segmentation.dcm", data, sop_class_uid, sop_instance_uid)


def _build(context: Context, frames: tuple[SourceFrame, ...], segments: list[int]) -> Segmentation:
    identity, card = context.identity, context.release.card
    # planes of rows of columns: (k, j, i)
    stored: npt.NDArray[np.uint8] = np.ascontiguousarray(context.masks.labels.transpose(2, 1, 0))
    return Segmentation(
        source_images=source_images(context, frames),
        pixel_array=stored,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(context, label) for label in segments],
        series_instance_uid=identity.uid("segmentation series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=identity.uid(KIND),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=f"{PRODUCT} WMH",
        software_versions=context.product_version,
        device_serial_number=card.sha256[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=False,
        content_label="WMH",
        content_description="FLAIR white-matter hyper-intensity, AI, unverified",
        content_creator_name=f"{PRODUCT}^",
        series_description=series_description(context.product_version),
        content_date=identity.content_date,
        content_time=identity.content_time,
        specific_character_set="ISO_IR 192",
        contributing_equipment=[contributing_equipment(context)],
    )


def _describe(context: Context, label: int) -> SegmentDescription:
    text, tracking, property_type, region = _SEGMENTS[label]
    card = context.release.card
    description = SegmentDescription(
        segment_number=label,
        segment_label=text,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=property_type,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=card.name[:64],
            version=card.version[:64],
            family=codes.DCM.ArtificialIntelligence,
            parameters={"sha256": card.sha256, "engine": context.engine_name, "precision": context.precision},
        ),
        tracking_id=f"{PRODUCT} {tracking}",
        tracking_uid=context.identity.uid(f"tracking/{tracking}"),
        anatomic_regions=[region],
    )
    description.SegmentDescription = STATEMENT
    return description


def _make_deterministic(dataset: Dataset, context: Context) -> None:
    """Replace what highdicom takes from the clock and from chance (decision 0002)."""
    del dataset.InstanceCreationDate, dataset.InstanceCreationTime
    organization = context.identity.uid("dimension organization")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    for item in dataset.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    dataset.PatientName = context.header.get("PatientName")
    dataset.ReferringPhysicianName = context.header.get("ReferringPhysicianName")


def _restore_references(dataset: Dataset, frames: tuple[SourceFrame, ...]) -> None:
    """Name the frames of Enhanced sources by their own objects and numbers (highdicom was shown one object in the order of k)."""
    # the segments of a plane share one item, which must be renamed once
    shared = {id(item): item for group in dataset.PerFrameFunctionalGroupsSequence for item in _sources(group)}
    for source in shared.values():
        frame = frames[source.ReferencedFrameNumber - 1]
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
        source.ReferencedFrameNumber = frame.frame_number
    objects = {frame.sop_instance_uid: frame.sop_class_uid for frame in frames}
    for item, keyword in ((dataset, "SourceImageSequence"), (dataset.ReferencedSeriesSequence[0], "ReferencedInstanceSequence")):
        setattr(item, keyword, [reference(sop_class_uid, uid) for uid, sop_class_uid in objects.items()])


def _sources(group: Dataset) -> list[Dataset]:
    return list(group.DerivationImageSequence[0].SourceImageSequence)
