"""DICOM Segmentation: one segment per class, on the grid of the source, frame for frame (PS3.3 A.51, C.8.20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from worker.encode.context import Context, Output
from worker.encode.frames import source_images
from worker.encode.instance import algorithm, as_output, common_arguments, reference
from worker.encode.wording import LESION_LABEL, PRODUCT, STATEMENT, TUMOUR_LIKE_LABEL, person_name

if TYPE_CHECKING:
    from worker.convert import SourceFrame

KIND = "segmentation"
SERIES_NUMBER = 9100
# label in the mask -> (segment label, tracking identifier, property type, region)
SEGMENTS = {
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
    segments = [label for label in SEGMENTS if label == 1 or (context.masks.labels == label).any()]
    dataset = _build(context, frames, segments)
    organization = context.identity.uid("dimension organization")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if frames[0].frame_number is not None:
        _restore_references(dataset, frames)
    return as_output(dataset, context, KIND, "segmentation.dcm")


def _build(context: Context, frames: tuple[SourceFrame, ...], segments: list[int]) -> Segmentation:
    # planes of rows of columns: (k, j, i)
    reader = context.corrected
    stored: npt.NDArray[np.uint8] = np.ascontiguousarray(context.masks.labels.transpose(2, 1, 0))
    return Segmentation(
        source_images=source_images(context, frames),
        pixel_array=stored,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(context, label) for label in segments],
        omit_empty_frames=False,
        content_label="WMH",
        content_description=f"FLAIR white-matter hyper-intensity, {'corrected by a reader' if reader else 'AI, unverified'}",
        content_creator_name=person_name(reader.reader) if reader else f"{PRODUCT}^",
        **common_arguments(context, KIND, SERIES_NUMBER),
    )


def _describe(context: Context, label: int) -> SegmentDescription:
    text, tracking, property_type, region = SEGMENTS[label]
    made = SegmentAlgorithmTypeValues(context.corrected.algorithm if context.corrected else "AUTOMATIC")
    description = SegmentDescription(
        segment_number=label,
        segment_label=text,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=property_type,
        algorithm_type=made,
        algorithm_identification=None if made is SegmentAlgorithmTypeValues.MANUAL else algorithm(context),
        tracking_id=f"{PRODUCT} {tracking}",
        tracking_uid=context.identity.uid(f"tracking/{tracking}"),
        anatomic_regions=[region],
    )
    description.SegmentDescription = STATEMENT
    return description


def _restore_references(dataset: Dataset, frames: tuple[SourceFrame, ...]) -> None:
    """Name the frames of Enhanced sources by their own objects and numbers (highdicom was shown one object in the order of k)."""
    # the segments of a plane share one item, which must be renamed once
    shared = {id(item): item for group in dataset.PerFrameFunctionalGroupsSequence for item in _sources(group)}
    for item in shared.values():
        frame = frames[item.ReferencedFrameNumber - 1]
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
        item.ReferencedFrameNumber = frame.frame_number
    objects = {frame.sop_instance_uid: frame.sop_class_uid for frame in frames}
    for holder, keyword in ((dataset, "SourceImageSequence"), (dataset.ReferencedSeriesSequence[0], "ReferencedInstanceSequence")):
        setattr(holder, keyword, [reference(sop_class, instance) for instance, sop_class in objects.items()])


def _sources(group: Dataset) -> list[Dataset]:
    return list(group.DerivationImageSequence[0].SourceImageSequence)
