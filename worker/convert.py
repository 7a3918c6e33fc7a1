"""DICOM files → Series. The only importer of dicom2nifti, whose work is checked frame by frame against the headers and the pixels."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import charset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import MRImageStorage

_ENCODINGS = dict(charset.python_encoding)
from dicom2nifti import convert_generic, settings  # noqa: E402
from dicom2nifti.exceptions import ConversionError, ConversionValidationError  # noqa: E402

# Importing dicom2nifti rewrites pydicom's table of character sets for the whole process.
charset.python_encoding.clear()
charset.python_encoding.update(_ENCODINGS)

from model.volume import Affine, Volume  # noqa: E402
from service.errors import Rejected  # noqa: E402
from service.stack import BETWEEN_PLANES_TOLERANCE, IN_PLANE_TOLERANCE  # noqa: E402
from worker import quality  # noqa: E402
from worker.frames import Frame, Limits, locate, read_frames  # noqa: E402
from worker.geometry import Grid, Planes, arrange, demand_alike, place  # noqa: E402
from worker.pixels import Stored  # noqa: E402

_VIEW_META = FileMetaDataset()
_VIEW_META.MediaStorageSOPClassUID = MRImageStorage
_LOCK = threading.Lock()
_AFFINE_TOLERANCE_MM = 1e-3
_VALIDATIONS = (
    "validate_slicecount",
    "validate_orientation",
    "validate_orthogonal",
    "validate_slice_increment",
    "validate_instance_number",
)


@dataclass(frozen=True)
class SourceFrame:
    """Which frame of which instance is plane k of the volume.

    Attributes
    ----------
    frame_number : 1-based in a multi-frame object, None in a classic one
    k : index along the volume's third axis
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    k: int


@dataclass(frozen=True, eq=False)
class Series:
    """A series that is one volume.

    Attributes
    ----------
    datasets : headers without pixels; classic: one per slice, ascending in k; Enhanced: one per multi-frame object
    volume : float32 (i columns, j rows, k planes ascending along cross(row, column)), rescaled; affine from the headers, RAS
    frames : the source of every plane, ascending in k
    quality : what is unusual about the input, `code: detail`
    """

    datasets: tuple[Dataset, ...]
    volume: Volume
    frames: tuple[SourceFrame, ...]
    quality: tuple[str, ...]


def read_series(files: Sequence[Path], limits: Limits = Limits()) -> Series:
    """Convert the files of one series, and prove that every frame became the plane where its header says it lies.

    Parameters
    ----------
    files : all instances of one series, in any order; an instance may come twice
    limits : caps and minima

    Raises
    ------
    Rejected
        The files are no single grey volume; the reason says why. Never retried.

    References
    ----------
    PS3.3 C.7.6.2.1.1 (image plane), C.7.6.16.2.3, C.7.6.16.2.4 (plane position and orientation of a frame)
    """
    frames = read_frames(files, limits)
    planes = locate(frames)
    demand_alike(planes)
    quality.demand_one_stack(frames)
    grid = arrange(planes)
    ordered = [frames[index] for index in grid.order]
    quality.demand_picture(ordered, limits.minimum_values)
    data = _convert(ordered, planes, grid)
    volume = Volume(data, grid.affine_ras)
    flags = quality.describe(ordered, volume, grid)
    return Series(_headers(ordered), volume, tuple(_source(frame, k) for k, frame in enumerate(ordered)), flags)


def _headers(ordered: Sequence[Frame]) -> tuple[Dataset, ...]:
    return tuple({id(frame.dataset): frame.dataset for frame in ordered}.values())


def _source(frame: Frame, k: int) -> SourceFrame:
    return SourceFrame(str(frame.dataset.SOPClassUID), str(frame.dataset.SOPInstanceUID), frame.frame_number, k)


def _convert(ordered: Sequence[Frame], planes: Planes, grid: Grid) -> npt.NDArray[np.float32]:
    """Let dicom2nifti build the volume, then check its geometry and every value, and turn its planes to ascend along the normal."""
    slices = [_View(frame, number) for number, frame in enumerate(ordered, start=1)]
    try:
        with _own_validations():
            image = convert_generic.dicom_to_nifti(slices, None)["NII"]
    except (ConversionError, ConversionValidationError) as error:
        raise Rejected(f"conversion failed: {error}") from error
    converted = np.asanyarray(image.dataobj)
    expected = (*planes.size[0], len(ordered))
    if converted.shape != expected:
        raise Rejected(f"conversion gave {converted.shape} voxels for {expected}: frames were dropped")
    where = _match(planes, grid, np.asarray(image.affine, dtype=np.float64))
    data = np.empty(converted.shape, dtype=np.float32, order="F")
    for k, frame in enumerate(ordered):
        plane = converted[:, :, where[k]]
        if not np.array_equal(plane, _rescaled(frame).T):
            raise Rejected(f"conversion changed the values of slice {k + 1}")
        data[:, :, k] = plane
    return data


def _match(planes: Planes, grid: Grid, affine_ras: Affine) -> npt.NDArray[np.intp]:
    """The converted volume's plane for every plane of the grid: one to one, by each frame's own position and orientation."""
    for affine, word in ((grid.affine_ras, "grid"), (affine_ras, "converted volume")):
        corners = place(planes, affine)
        columns, rows = planes.size[0] - 1
        offset = corners[:, :, :2] - np.array([[0, 0], [columns, 0], [0, rows]])
        between = corners[:, :, 2] - np.rint(corners[:, :1, 2])
        if np.abs(offset).max() > IN_PLANE_TOLERANCE or np.abs(between).max() > BETWEEN_PLANES_TOLERANCE:
            raise Rejected(f"a frame does not lie on a plane of the {word}")
    where: npt.NDArray[np.intp] = np.rint(corners[grid.order, 0, 2]).astype(np.intp)
    if not np.array_equal(np.sort(where), np.arange(len(where))):
        raise Rejected("frames and planes of the converted volume do not match one to one")
    ascending = affine_ras.copy()
    if where[0] > where[-1]:
        ascending[:3, 3] += ascending[:3, 2] * (len(where) - 1)
        ascending[:3, 2] *= -1
    corner = np.array([*planes.size[0], len(where), 1.0])
    if np.abs((ascending - grid.affine_ras) * corner).max() > _AFFINE_TOLERANCE_MM:
        raise Rejected("the converted volume's affine is not the one the headers give")
    return where


class _View(Dataset):
    """One frame as the smallest classic slice dicom2nifti can read: decoded, and numbered along the normal."""

    def __init__(self, frame: Frame, number: int) -> None:
        super().__init__()
        self.file_meta = _VIEW_META
        self._stored = frame.stored
        bits = frame.stored.dtype.itemsize * 8
        self.InstanceNumber = number
        self.ImagePositionPatient = frame.find("ImagePositionPatient", "PlanePositionSequence")
        self.ImageOrientationPatient = frame.find("ImageOrientationPatient", "PlaneOrientationSequence")
        self.PixelSpacing = frame.find("PixelSpacing", "PixelMeasuresSequence")
        self.PhotometricInterpretation = "MONOCHROME2"
        self.Modality = "MR"
        self.BitsAllocated = self.BitsStored = bits
        self.HighBit = bits - 1
        self.PixelRepresentation = int(frame.stored.dtype.kind == "i")
        self.PixelData = b""
        if frame.rescale != (1.0, 0.0):
            self.RescaleSlope = frame.find("RescaleSlope", "PixelValueTransformationSequence") or 1
            self.RescaleIntercept = frame.find("RescaleIntercept", "PixelValueTransformationSequence") or 0

    @property
    def pixel_array(self) -> Stored:
        """The decoded values."""
        return self._stored

    def __deepcopy__(self, memo: object) -> _View:
        # dicom2nifti copies every slice to drop the copy's decoded pixels again; nothing is decoded here.
        return self


def _rescaled(frame: Frame) -> npt.NDArray[np.generic]:
    slope, intercept = frame.rescale
    return frame.stored if (slope, intercept) == (1.0, 0.0) else frame.stored.astype(np.float64) * slope + intercept


@contextlib.contextmanager
def _own_validations() -> Iterator[None]:
    """Switch off what is checked here more strictly; dicom2nifti's switches are module globals, so they are put back."""
    with _LOCK:
        before = {name: getattr(settings, name) for name in _VALIDATIONS}
        for name in _VALIDATIONS:
            setattr(settings, name, False)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(settings, name, value)
