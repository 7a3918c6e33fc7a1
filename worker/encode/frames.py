"""The source series as highdicom wants to see it: only the elements it copies, normalised, in the order of axis k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from model.volume import Volume
from worker.encode.context import Context
from worker.encode.source import EQUIPMENT, PATIENT, STUDY, Header

if TYPE_CHECKING:
    from worker.convert import SourceFrame

# highdicom demands these even where they are empty; MagneticFieldStrength is no part of equipment there
_DEMANDED = ("PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
_COPIED = frozenset((*PATIENT, *STUDY, *EQUIPMENT)) - {"PatientName", "MagneticFieldStrength"}


def source_images(context: Context, frames: tuple[SourceFrame, ...]) -> list[Dataset]:
    """Give one light data set per source slice, or one for an Enhanced object with its frames renumbered along k.

    Parameters
    ----------
    frames : the source frames, ascending along k, one per plane of `context.volume`
    """
    shared = _shared(context.header, context)
    measures = _measures(context.volume, context.header)
    orientation = Dataset()
    orientation.ImageOrientationPatient = _orientation_lps(context.volume)
    positions = _positions_lps(context.volume, context.header)
    if frames[0].frame_number is None:
        shared.update(orientation)
        shared.update(measures)
        return [_classic(shared, frame, position) for frame, position in zip(frames, positions, strict=True)]
    groups = Dataset()
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [orientation], [measures]
    return [_enhanced(shared, frames[0], groups, positions)]


def source_objects(context: Context) -> list[Dataset]:
    """Give one light data set per object of the source, without frames: who it belongs to and its UIDs.

    Raises
    ------
    ValueError
        The case has no DICOM source.
    """
    if context.series is None:
        raise ValueError("a DICOM object needs the DICOM series it belongs to")
    shared = _shared(context.header, context)
    objects = {}
    for frame in context.series.frames:
        image = Dataset()
        image.update(shared)
        image.SOPClassUID, image.SOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
        objects[frame.sop_instance_uid] = image
    return list(objects.values())


def _shared(header: Header, context: Context) -> Dataset:
    shared = Dataset()
    for keyword in _DEMANDED:
        setattr(shared, keyword, None)
    for keyword in _COPIED & header.values.keys():
        if header.values[keyword]:
            setattr(shared, keyword, header.values[keyword])
    # set by the encoder: highdicom complains of names without a caret
    shared.PatientName = None
    shared.Modality = "MR"
    shared.StudyInstanceUID = header.get("StudyInstanceUID") or context.identity.uid("study")
    shared.SeriesInstanceUID = header.get("SeriesInstanceUID") or context.identity.uid("source series")
    shared.FrameOfReferenceUID = header.get("FrameOfReferenceUID") or context.identity.uid("frame of reference")
    shared.PositionReferenceIndicator = None
    shared.Columns, shared.Rows = context.volume.shape[:2]
    shared.LossyImageCompression = "01" if header.lossy else "00"
    return shared


def _classic(shared: Dataset, frame: SourceFrame, position: list[str]) -> Dataset:
    image = Dataset()
    image.update(shared)
    image.SOPClassUID, image.SOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
    image.ImagePositionPatient = position
    return image


def _enhanced(shared: Dataset, frame: SourceFrame, groups: Dataset, positions: list[list[str]]) -> Dataset:
    shared.SOPClassUID, shared.SOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
    shared.NumberOfFrames = len(positions)
    shared.SharedFunctionalGroupsSequence = [groups]
    shared.PerFrameFunctionalGroupsSequence = [_plane(position) for position in positions]
    return shared


def _plane(position: list[str]) -> Dataset:
    plane = Dataset()
    plane.ImagePositionPatient = position
    group = Dataset()
    group.PlanePositionSequence = [plane]
    return group


def _measures(volume: Volume, header: Header) -> Dataset:
    measures = Dataset()
    columns_apart, rows_apart, _ = volume.spacing_mm
    measures.PixelSpacing = _decimals(rows_apart, columns_apart)
    measures.SpacingBetweenSlices = _decimals(plane_distance_mm(volume))[0]
    measures.SliceThickness = header.get("SliceThickness") or measures.SpacingBetweenSlices
    return measures


def plane_distance_mm(volume: Volume) -> float:
    """Give the distance between neighbouring planes along their normal (not along a sheared axis k)."""
    i, j, k = volume.affine_ras[:3, :3].T
    normal = np.cross(i, j)
    return abs(float(normal @ k)) / float(np.linalg.norm(normal))


def _orientation_lps(volume: Volume) -> list[str]:
    cosines = volume.affine_ras[:3, :2] / volume.spacing_mm[:2] * [[-1], [-1], [1]]
    return _decimals(*cosines[:, 0], *cosines[:, 1])


def _positions_lps(volume: Volume, header: Header) -> list[list[str]]:
    origin, step = volume.affine_ras[:3, 3] * (-1, -1, 1), volume.affine_ras[:3, 2] * (-1, -1, 1)
    positions = [_decimals(*(origin + k * step)) for k in range(volume.shape[2])]
    if len(header.positions_lps) != len(positions):
        return positions
    # the source's own digits, so that viewers which compare positions find their slice
    return [_decimals(*position) for position in header.positions_lps]


def _decimals(*values: float) -> list[str]:
    return [format_number_as_ds(float(value) + 0.0) for value in values]
