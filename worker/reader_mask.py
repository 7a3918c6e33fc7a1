"""A mask that a reader corrected, as DICOM SEG or NIfTI → labels on the grid of the series, and the results made from them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from model.postprocess import LESION, TUMOUR_LIKE
from model.volume import Volume
from service.errors import Rejected, Unavailable
from worker.convert import Series
from worker.encode.wording import counted
from worker.frames import MALFORMED, is_of_the_disk, value_of
from worker.segments import CLASSES, Mask, Segment, describe, place_segments, read_segments

Labels = npt.NDArray[np.uint8]
Algorithm = Literal["MANUAL", "SEMIAUTOMATIC"]

CORRECTION_FLAG = "correction"
"""The code of the quality flags that come with a reader's mask."""
NAME = "the corrected mask"
_LABELS = {"lesion": LESION, "tumour": TUMOUR_LIKE}
_APART = ("ignore", "brain")  # known, and no part of the mask
_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 1 << 20
_VOXEL_BYTES = 8  # of the widest number
_OFF_GRID_VOXELS = 0.3


@dataclass(frozen=True)
class Correction:
    """A correction that results are to be made from.

    Attributes
    ----------
    path, digest : of the reader's file
    revision : the one that was corrected
    seen : SOP Instance UIDs of the series as the reader had it
    """

    path: Path
    digest: str
    reader: str
    at: datetime
    revision: int
    seen: frozenset[str]


@dataclass(frozen=True, eq=False)
class ReaderMask:
    """What a reader's file says.

    Attributes
    ----------
    labels : shape (i, j, k), as `model.postprocess.Masks.labels`
    algorithm : how it was made (PS3.3 C.8.20.4, Segment Algorithm Type)
    flags : what limits it
    """

    labels: Labels
    algorithm: Algorithm
    flags: tuple[str, ...]

    def with_later(self, series: Series, seen: frozenset[str], found: Labels) -> ReaderMask:
        """The same, but on planes that came after the reader had the series, where what the release found stays."""
        later = [frame.k for frame in series.frames if frame.sop_instance_uid not in seen]
        if not later:
            return self
        labels = self.labels.copy()
        labels[:, :, later] = found[:, :, later]
        flag = f"{CORRECTION_FLAG}: {counted(len(later), 'slice')} came after it, and no reader has seen what the release found there"
        return replace(self, labels=labels, algorithm="SEMIAUTOMATIC", flags=(*self.flags, flag))


def read_mask(path: Path, series: Series, *, grown: bool = False) -> ReaderMask:
    """Read a reader's file; a mask without a voxel says that there is no lesion.

    Parameters
    ----------
    path : a DICOM segmentation (BINARY, FRACTIONAL or LABELMAP), or NIfTI, packed or not, on the grid of the series with 1 for
        lesions and 2 for what is tumour-like
    grown : slices may have come to the series since: NIfTI may be on a part of its grid

    Raises
    ------
    Rejected
        It is about another series, on another grid, unreadable, contradicts itself, or has a segment that means nothing here. Never
        retried.
    Unavailable
        The disk fails.

    References
    ----------
    PS3.3 C.8.20.2, C.8.20.4
    """
    with path.open("rb") as file:
        is_dicom = file.read(132)[128:] == b"DICM"
    return _read_segmentation(path, series) if is_dicom else _read_nifti(path, series.volume, grown=grown)


def _read_segmentation(path: Path, series: Series) -> ReaderMask:
    try:
        dataset = pydicom.dcmread(path)
    except (InvalidDicomError, *MALFORMED) as error:
        _demand_disk(error)
        raise Rejected(f"{NAME}: cannot be read ({type(error).__name__})") from error
    if str(value_of(dataset, "SOPClassUID")) not in CLASSES:
        raise Rejected(f"{NAME}: not a DICOM segmentation (SEG)")
    refers = _demand_ours(dataset, series)
    segments = read_segments(dataset)
    if not any(segment.meaning in _LABELS for segment in segments):
        raise Rejected(f"{NAME}: no segment is called a lesion or a tumour (there are: {describe(segments)}); rename it and send it again")
    placed = place_segments(dataset, series.volume, NAME)
    unknown = [one for one in segments if one.meaning not in (*_LABELS, *_APART) and placed[one.number].any()]
    if unknown:
        raise Rejected(f"{NAME}: what these segments are is not known here: {describe(unknown)}; rename them and send it again")
    labels = _join(segments, placed, series.volume)
    if not refers and not labels.any():
        raise Rejected(f"{NAME}: is empty and names no series, so nobody can know that it is about this one")
    fractional = str(value_of(dataset, "SegmentationType")) == "FRACTIONAL"
    flags = (f"{CORRECTION_FLAG}: the mask was fractional, half and more of a voxel was taken",) if fractional else ()
    drawn = {segment.algorithm for segment in segments if segment.meaning in _LABELS}
    return ReaderMask(labels, "MANUAL" if drawn == {"MANUAL"} else "SEMIAUTOMATIC", flags)


def _demand_disk(error: Exception) -> None:
    """Raise Unavailable where it was the disk's fault and not the file's."""
    if isinstance(error, OSError) and is_of_the_disk(error):
        raise Unavailable(f"a file cannot be read: {error.strerror}") from error


def _demand_ours(dataset: Dataset, series: Series) -> bool:
    """Refuse an object that refers to other series only; give whether it refers to any."""
    ours = str(value_of(series.datasets[0], "SeriesInstanceUID"))
    images = {frame.sop_instance_uid for frame in series.frames}
    named = {str(value_of(item, "SeriesInstanceUID")) for item in value_of(dataset, "ReferencedSeriesSequence") or ()}
    sources = {
        str(value_of(source, "ReferencedSOPInstanceUID"))
        for group in value_of(dataset, "PerFrameFunctionalGroupsSequence") or ()
        for derived in value_of(group, "DerivationImageSequence") or ()
        for source in value_of(derived, "SourceImageSequence") or ()
    }
    if (named or sources) and ours not in named and not sources & images:
        raise Rejected(f"{NAME}: is about another series than this case's")
    return bool(named or sources)


def _join(segments: Sequence[Segment], placed: dict[int, Mask], volume: Volume) -> Labels:
    labels = np.zeros(volume.shape, np.uint8)
    for segment in segments:
        label = _LABELS.get(segment.meaning or "")
        if label is None:
            continue
        mask = placed[segment.number]
        twice = int(np.count_nonzero(mask & (labels > 0) & (labels != label)))
        if twice:
            raise Rejected(f"{NAME}: {counted(twice, 'voxel')} called a lesion and a tumour too; say which, and send it again")
        labels[mask] = label
    return labels


def _read_nifti(path: Path, volume: Volume, *, grown: bool) -> ReaderMask:
    most = volume.data.size * _VOXEL_BYTES + _HEADER_BYTES
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            data = gzip.GzipFile(fileobj=file).read(most + 1) if packed else file.read(most + 1)
        if len(data) > most:
            raise Rejected(f"{NAME}: larger than the grid of the series")
        image = nibabel.Nifti1Image.from_stream(BytesIO(data))
        window = _find_window(image, volume, grown=grown)
        values = np.asanyarray(image.dataobj).reshape([part.stop - part.start for part in window])
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, zlib.error) as error:
        _demand_disk(error)
        raise Rejected(f"{NAME}: no readable NIfTI file ({type(error).__name__})") from error
    if not np.isin(values, (0, LESION, TUMOUR_LIKE)).all():
        raise Rejected(f"{NAME}: has other values than 0, {LESION} (lesion) and {TUMOUR_LIKE} (tumour-like)")
    labels = np.zeros(volume.shape, np.uint8)
    labels[window] = values
    return ReaderMask(labels, "SEMIAUTOMATIC", ())


def _find_window(image: nibabel.Nifti1Image, volume: Volume, *, grown: bool) -> tuple[slice, ...]:
    """The part of the volume's grid that an image lies on: all of it, or with `grown` whatever it was."""
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise Rejected(f"{NAME}: neither sform nor qform is set: where the patient's left is cannot be known")
    shape = tuple(image.shape) + (1,) * (3 - len(image.shape))
    corners = np.asarray([[*corner, 1] for corner in product(*((0, size - 1) for size in shape[:3]))], dtype=np.float64)
    moved = (np.linalg.inv(volume.affine_ras) @ image.affine @ corners.T - corners.T)[:3]
    start = np.rint(moved[:, 0])
    off = np.abs(moved - start[:, None]).max()
    inside = (start >= 0).all() and (start + shape[:3] <= volume.shape).all()
    whole = shape[:3] == volume.shape and not start.any()
    if not (off <= _OFF_GRID_VOXELS and inside and (whole or grown)) or any(size != 1 for size in shape[3:]):
        raise Rejected(f"{NAME}: lies on another grid than the series; resample it onto the series' slices and send it again")
    return tuple(slice(int(first), int(first) + size) for first, size in zip(start, shape[:3], strict=True))
