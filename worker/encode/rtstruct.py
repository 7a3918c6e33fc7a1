"""DICOM RT Structure Set: one region of interest per class, drawn on transverse planes, for radiotherapy planning (PS3.3 A.19)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import AlgorithmIdentificationSequence
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import MRImageStorage, RTStructureSetStorage
from pydicom.valuerep import format_number_as_ds

from model.postprocess import LESION, TUMOUR_LIKE
from worker.encode import resampled
from worker.encode.composite import as_bytes, begin, code, frame_of_reference, reference
from worker.encode.context import Context, Output
from worker.encode.display import LESION_COLOUR, TUMOUR_LIKE_COLOUR
from worker.encode.structures import Contour, Roi, Structures
from worker.encode.wording import LESION_LABEL, NONE_FOUND, PRODUCT, STATEMENT, TUMOUR_LIKE_LABEL, counted, series_description

KIND = "rtstruct"
SERIES_NUMBER = 9102
_CONTOUR_DATA = 0x30060050
_STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired, and still what PS3.3 C.8.8.5 names a study by
_CLASSES = {
    LESION: (LESION_LABEL, LESION_COLOUR, codes.DCM.WhiteMatterT2Hyperintensity),
    TUMOUR_LIKE: (TUMOUR_LIKE_LABEL, TUMOUR_LIKE_COLOUR, codes.SCT.Lesion),
}


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
    dataset = begin(context, RTStructureSetStorage, KIND)
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = series_description(context.product_version)
    dataset.OperatorsName = None
    dataset.InstanceNumber = 1
    dataset.StructureSetLabel = f"{PRODUCT} WMH"
    dataset.StructureSetDescription = STATEMENT
    dataset.StructureSetDate, dataset.StructureSetTime = context.identity.content_date, context.identity.content_time
    dataset.ApprovalStatus = "UNAPPROVED"
    planes = _planes(context, structures)
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(dataset, context, planes, structures)]
    numbered = list(enumerate(structures.rois, start=1))
    dataset.StructureSetROISequence = [_roi(context, number, roi) for number, roi in numbered]
    dataset.ROIContourSequence = [_drawn(context, number, roi, planes) for number, roi in numbered]
    dataset.RTROIObservationsSequence = [_observation(number, roi) for number, roi in numbered]
    return Output(KIND, "application/dicom", f"{KIND}.dcm", as_bytes(dataset), dataset.SOPClassUID, dataset.SOPInstanceUID)


def _planes(context: Context, structures: Structures) -> list[Dataset]:
    """Refer to the image of each plane, ascending along k."""
    if structures.grid.resampled:
        return [reference(MRImageStorage, resampled.instance_uid(context, k)) for k in range(structures.grid.shape[2])]
    assert context.series is not None
    return [reference(frame.sop_class_uid, frame.sop_instance_uid, frame.frame_number) for frame in context.series.frames]


def _referenced_frame(dataset: Dataset, context: Context, planes: Sequence[Dataset], structures: Structures) -> Dataset:
    instances = {plane.ReferencedSOPInstanceUID: plane.ReferencedSOPClassUID for plane in planes}
    series, study, frame = Dataset(), Dataset(), Dataset()
    source = context.header.get("SeriesInstanceUID") or context.identity.uid("source series")
    series.SeriesInstanceUID = resampled.series_uid(context) if structures.grid.resampled else source
    series.ContourImageSequence = [reference(sop_class, instance) for instance, sop_class in instances.items()]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_COMPONENT, dataset.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = frame_of_reference(context)
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(context: Context, number: int, roi: Roi) -> Dataset:
    card = context.release.card
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame_of_reference(context)
    item.ROIName = roi.name
    said = f"{counted(roi.parts, 'lesion')}." if roi.parts else NONE_FOUND
    item.ROIDescription = f"{_CLASSES[roi.label][0]}. {said} {STATEMENT}"
    item.ROIVolume = format_number_as_ds(round(roi.grid_ml, 6))
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{card.name} {card.version}"[:64]
    item.ROIDerivationAlgorithmIdentificationSequence = AlgorithmIdentificationSequence(
        name=card.name[:64],
        version=card.version[:64],
        family=codes.DCM.ArtificialIntelligence,
        parameters={"sha256": card.sha256, "engine": context.engine_name, "precision": context.precision},
    )
    return item


def _drawn(context: Context, number: int, roi: Roi, planes: Sequence[Dataset]) -> Dataset:
    structures = context.structures
    assert structures is not None
    kind = "CLOSEDPLANAR_XOR" if roi.exclusive else "CLOSED_PLANAR"
    heights = [format_number_as_ds(float(position)) for position in structures.grid.positions_lps[:, 2]]
    item = Dataset()
    item.ROIDisplayColor = list(_CLASSES[roi.label][1])
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


def _observation(number: int, roi: Roi) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIIdentificationCodeSequence = [code(_CLASSES[roi.label][2])]
    item.RTROIInterpretedType = None  # no target and no organ: whoever plans says what it is for
    item.ROIInterpreter = None
    return item
