"""DICOM Segmentation on the grid of the source, frame for frame: single bits, fractions, or a label map (PS3.3 A.51, A.51.5, C.8.20)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from model.postprocess import LESION, TUMOUR_LIKE
from service.series_numbers import FIRST
from worker.encode.context import Context, Output
from worker.encode.frames import source_images
from worker.encode.instance import algorithm, as_output, common_arguments, reference
from worker.encode.segments import BRAIN, MAXIMUM_FRACTIONAL_VALUE, Segment, Segments
from worker.encode.wording import LESION_LABEL, PRODUCT, STATEMENT, TUMOUR_LIKE_LABEL, calibration_sentence, person_name

if TYPE_CHECKING:
    from worker.convert import SourceFrame

KIND = "segmentation"
SERIES_NUMBER = FIRST
_WHOLE_BYTES = 8  # so many frames of single bits end with a byte, whatever their size


@dataclass(frozen=True)
class Class:
    """What the segments of a class say of themselves.

    Attributes
    ----------
    tracking : begins their tracking identifiers
    """

    text: str
    tracking: str
    category: Code
    property_type: Code
    region: Code


CLASSES = {
    LESION: Class(
        LESION_LABEL,
        "lesion",
        codes.SCT.MorphologicallyAbnormalStructure,
        codes.DCM.WhiteMatterT2Hyperintensity,
        codes.SCT.CerebralWhiteMatter,
    ),
    TUMOUR_LIKE: Class(TUMOUR_LIKE_LABEL, "tumour-like", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, codes.SCT.Brain),
    BRAIN: Class("Brain", "brain", codes.SCT.AnatomicalStructure, codes.SCT.Brain, codes.SCT.Brain),
}


def encode(context: Context) -> Output:
    """Encode the segments of the case; that of the lesions is always there, empty where none was found.

    Every source frame has its frame in each segment, also where that is empty: viewers have shifted masks whose empty frames
    were left out. Only lesions with segments of their own leave them out.

    References
    ----------
    PS3.3 C.8.20.2 (segmentation image), C.8.20.3 (label map), C.8.20.4 (segment description); PS3.16 CID 7150
    """
    if context.series is None or context.segments is None:
        raise ValueError("a segmentation object needs the DICOM series it belongs to")
    frames, segments = context.series.frames, context.segments
    dataset = _build(context, frames, segments)
    if segments.probability is not None or segments.overlap:
        _paint(dataset, frames, segments)
    organization = context.identity.uid("dimension organization")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if frames[0].frame_number is not None:
        _restore_references(dataset, frames)
    return as_output(dataset, context, KIND, "segmentation.dcm")


def _build(context: Context, frames: tuple[SourceFrame, ...], segments: Segments) -> Segmentation:
    reader = context.corrected
    return Segmentation(
        source_images=source_images(context, frames),
        # planes of rows of columns: (k, j, i)
        pixel_array=np.ascontiguousarray(segments.occupied().transpose(2, 1, 0)),
        segmentation_type=SegmentationTypeValues[segments.encoding.upper()],
        max_fractional_value=MAXIMUM_FRACTIONAL_VALUE,
        segment_descriptions=[_describe(context, segments, segment) for segment in segments.listed],
        omit_empty_frames=segments.sparse,
        content_label="WMH",
        content_description=f"FLAIR white-matter hyper-intensity, {'corrected by a reader' if reader else 'AI, unverified'}",
        content_creator_name=person_name(reader.reader) if reader else f"{PRODUCT}^",
        **common_arguments(context, KIND, SERIES_NUMBER),
    )


def _describe(context: Context, segments: Segments, segment: Segment) -> SegmentDescription:
    said = CLASSES[segment.label]
    tracking = said.tracking if segment.lesion is None else f"{said.tracking} {segment.lesion}"
    reader = context.corrected if segment.label != BRAIN else None  # the brain is always the release's
    made = SegmentAlgorithmTypeValues(reader.algorithm if reader else "AUTOMATIC")
    description = SegmentDescription(
        segment_number=segment.number,
        segment_label=_label(segment, segments)[:64],
        segmented_property_category=said.category,
        segmented_property_type=said.property_type,
        algorithm_type=made,
        algorithm_identification=None if made is SegmentAlgorithmTypeValues.MANUAL else algorithm(context),
        tracking_id=f"{PRODUCT} {tracking}",
        tracking_uid=context.identity.uid(f"tracking/{tracking}"),
        anatomic_regions=[said.region] if segment.label != BRAIN else None,
    )
    description.SegmentDescription = " ".join([STATEMENT, *_values(context, segments, segment)])
    return description


def _label(segment: Segment, segments: Segments) -> str:
    text = CLASSES[segment.label].text
    if segment.label == BRAIN:
        return text if segments.overlap else f"{text} without hyper-intensity"
    if segment.lesion is not None:
        return f"{text} {segment.lesion}"
    return f"{text}, others" if segment.others else text


def _values(context: Context, segments: Segments, segment: Segment) -> list[str]:
    """Say what the values of a fractional segment are."""
    if segments.probability is None:
        return []
    if segment.label != LESION or context.corrected is not None:
        return ["Values are 0 and the maximum: a mask, no probability."]
    threshold = context.release.card.lesion.threshold
    return [
        f"Values are probability; voxels above {threshold:g} of the maximum were segmented.",
        calibration_sentence(context.release.card),
    ]


def _paint(dataset: Dataset, frames: Sequence[SourceFrame], segments: Segments) -> None:
    """Store what highdicom cannot be told by a label map: probabilities, and a brain under its lesions."""
    pixels = _pixels(dataset, frames, segments)
    if segments.probability is not None:
        stored = b"".join(frame.tobytes() for frame in pixels)
    else:
        stored = b"".join(np.packbits(bits, bitorder="little").tobytes() for bits in _batches(pixels))
    dataset.PixelData = stored + b"\0" * (len(stored) % 2)
    dataset.SegmentsOverlap = "YES" if segments.overlap else "NO"


def _pixels(dataset: Dataset, frames: Sequence[SourceFrame], segments: Segments) -> Iterator[npt.NDArray[np.uint8]]:
    """Give every frame of the object, in its order; highdicom has named the planes by their classic objects or by k + 1."""
    planes = {frame.sop_instance_uid: frame.k for frame in frames}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = _sources(group)
        number = source.get("ReferencedFrameNumber")
        k = planes[source.ReferencedSOPInstanceUID] if number is None else number - 1
        identified = group if "SegmentIdentificationSequence" in group else shared
        segment = segments.listed[identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        yield segments.frame(segment, k)


def _batches(pixels: Iterator[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
    while batch := list(islice(pixels, _WHOLE_BYTES)):
        yield np.concatenate(batch, axis=None)


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
