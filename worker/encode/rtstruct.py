"""DICOM RT Structure Set: one region of interest per class, drawn on transverse planes, for radiotherapy planning (PS3.3 A.19)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import CodedConcept
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, RTStructureSetStorage
from pydicom.valuerep import format_number_as_ds

from model.postprocess import LESION, TUMOUR_LIKE
from service.series_numbers import FIRST
from worker.encode import resampled, seg
from worker.encode.context import Context, Output
from worker.encode.display import LESION_COLOUR, TUMOUR_LIKE_COLOUR
from worker.encode.frames import source_objects
from worker.encode.instance import algorithm, as_output, begin, reference
from worker.encode.structures import Contour, Roi, Structures
from worker.encode.wording import NONE_FOUND, PRODUCT, STATEMENT, counted, person_name

KIND = "rtstruct"
SERIES_NUMBER = FIRST + 2
_CONTOUR_DATA = 0x30060050
_STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired, and still what PS3.3 C.8.8.5 names a study by
_COLOURS = {LESION: LESION_COLOUR, TUMOUR_LIKE: TUMOUR_LIKE_COLOUR}


def encode(context: Context) -> Output:
    """Encode the contours; the region of all lesions is always there, without contours where none was found.

    They lie on the source's slices or, where those are not axial, on the series of `worker.encode.resampled`.

    References
    ----------
    PS3.3 C.8.8.5 (structure set), C.8.8.6 (ROI contour), C.8.8.8 (RT ROI observations), C.8.8.16 (approval)
    """
    structures = context.structures
    if structures is None:
        raise ValueError("a structure set needs the DICOM series it belongs to")
    source = source_objects(context)[0]
    dataset = begin(context, KIND, SERIES_NUMBER, sop_class_uid=RTStructureSetStorage, modality="RTSTRUCT")
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = source.FrameOfReferenceUID, None
    dataset.OperatorsName = None
    dataset.StructureSetLabel = f"{PRODUCT} WMH"
    dataset.StructureSetDescription = STATEMENT
    dataset.StructureSetDate, dataset.StructureSetTime = context.identity.content_date, context.identity.content_time
    dataset.ApprovalStatus = "UNAPPROVED"
    planes = _planes(context, structures)
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(context, source, planes, structures)]
    numbered = list(enumerate(structures.rois, start=1))
    dataset.StructureSetROISequence = [_roi(context, source, number, roi) for number, roi in numbered]
    dataset.ROIContourSequence = [_drawn(context, number, roi, planes) for number, roi in numbered]
    dataset.RTROIObservationsSequence = [_observation(context, number, roi) for number, roi in numbered]
    return as_output(dataset, context, KIND, "rtstruct.dcm")


def _planes(context: Context, structures: Structures) -> list[Dataset]:
    """Refer to the image of each plane, ascending along k."""
    if structures.grid.resampled:
        return [reference(MRImageStorage, resampled.instance_uid(context, k)) for k in range(structures.grid.shape[2])]
    assert context.series is not None
    return [reference(frame.sop_class_uid, frame.sop_instance_uid, frame.frame_number) for frame in context.series.frames]


def _referenced_frame(context: Context, source: Dataset, planes: Sequence[Dataset], structures: Structures) -> Dataset:
    instances = {plane.ReferencedSOPInstanceUID: plane.ReferencedSOPClassUID for plane in planes}
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = resampled.series_uid(context) if structures.grid.resampled else source.SeriesInstanceUID
    series.ContourImageSequence = [reference(sop_class, instance) for instance, sop_class in instances.items()]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_COMPONENT, source.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(context: Context, source: Dataset, number: int, roi: Roi) -> Dataset:
    card = context.release.card
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = source.FrameOfReferenceUID
    item.ROIName = roi.name
    said = f"{counted(roi.parts, 'lesion')}." if roi.parts else NONE_FOUND
    item.ROIDescription = f"{seg.CLASSES[roi.label].text}. {said} {STATEMENT}"
    item.ROIVolume = format_number_as_ds(round(roi.grid_ml, 6))
    item.ROIGenerationAlgorithm = context.corrected.algorithm if context.corrected else "AUTOMATIC"
    item.ROIGenerationDescription = "corrected by a reader" if context.corrected else f"{card.name} {card.version}"[:64]
    if item.ROIGenerationAlgorithm != "MANUAL":
        item.ROIDerivationAlgorithmIdentificationSequence = algorithm(context)
    return item


def _drawn(context: Context, number: int, roi: Roi, planes: Sequence[Dataset]) -> Dataset:
    structures = context.structures
    assert structures is not None
    kind = "CLOSEDPLANAR_XOR" if roi.exclusive else "CLOSED_PLANAR"
    heights = [format_number_as_ds(float(position)) for position in structures.grid.positions_lps[:, 2]]
    item = Dataset()
    item.ROIDisplayColor = list(_COLOURS[roi.label])
    item.ReferencedROINumber = number
    if roi.contours:
        item.ContourSequence = [
            _contour(order, kind, contour, planes[contour.k], heights[contour.k]) for order, contour in enumerate(roi.contours, start=1)
        ]
    return item


def _contour(order: int, kind: str, contour: Contour, plane: Dataset, height: str) -> Dataset:
    item = Dataset()
    item.ContourImageSequence = [plane]
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(contour.points_lps)
    item.ContourNumber = order
    text = "\\".join(f"{x:.4f}\\{y:.4f}\\{height}" for x, y in contour.points_lps.tolist())
    item[_CONTOUR_DATA] = DataElement(_CONTOUR_DATA, "DS", text, already_converted=True)  # pydicom takes seconds over many numbers
    return item


def _observation(context: Context, number: int, roi: Roi) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIIdentificationCodeSequence = [CodedConcept.from_code(seg.CLASSES[roi.label].property_type)]
    item.RTROIInterpretedType = None  # no target and no organ: whoever plans says what it is for
    item.ROIInterpreter = person_name(context.corrected.reader) if context.corrected else None
    return item
