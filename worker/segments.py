"""A segmentation object made by anybody → masks on the grid of its source series, frame by frame from where each frame lies."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from model.volume import Volume
from service.errors import Rejected
from worker.frames import MALFORMED, Frame, locate, value_of
from worker.geometry import place
from worker.pixels import frame_count

Mask = npt.NDArray[np.bool_]

CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
# tried in this order: a "tumour lesion" is a tumour
_LABELS = (
    ("tumour", re.compile(r"tumou?r|glioma|neoplasm|o?edema|necro|metasta|\bgtv", re.IGNORECASE)),
    ("ignore", re.compile(r"ignore|uncertain|unsure", re.IGNORECASE)),
    ("lesion", re.compile(r"white.?matter|wmh|hyper.?intens|leuko|lesion", re.IGNORECASE)),
    ("brain", re.compile(r"^\W*brain\W*(mask)?\W*$", re.IGNORECASE)),
)
_CODES = {
    ("DCM", "110702"): "lesion",  # White Matter T2 Hyperintensity
    ("SCT", "108369006"): "tumour",
    ("SCT", "86049000"): "tumour",
    ("SCT", "79654002"): "tumour",  # Edema
    ("SCT", "12738006"): "brain",
}
_LARGEST = 512 * 2**20  # pixels; what a series may have at most, worker.frames
_OFF_GRID_VOXELS = 0.3


@dataclass(frozen=True)
class Segment:
    """What a segment says it is (PS3.3 C.8.20.4).

    Attributes
    ----------
    meaning : lesion, tumour, ignore, brain, or None: nothing known here
    algorithm : AUTOMATIC, SEMIAUTOMATIC or MANUAL
    """

    number: int
    label: str
    meaning: str | None
    algorithm: str


def read_segments(dataset: Dataset) -> list[Segment]:
    """The segments of an object and what they mean: by the code of their type, else by their label."""
    segments = []
    for item in value_of(dataset, "SegmentSequence") or ():
        label = str(value_of(item, "SegmentLabel") or "")
        types = value_of(item, "SegmentedPropertyTypeCodeSequence")
        code = (str(value_of(types[0], "CodingSchemeDesignator")), str(value_of(types[0], "CodeValue"))) if types else ("", "")
        by_label = next((meaning for meaning, pattern in _LABELS if pattern.search(label)), None)
        algorithm = str(value_of(item, "SegmentAlgorithmType") or "")
        segments.append(Segment(int(item.SegmentNumber), label, _CODES.get(code, by_label), algorithm))
    return segments


def place_segments(dataset: Dataset, volume: Volume, name: str) -> dict[int, Mask]:
    """Every segment's mask on the grid of the source, (i, j, k); a segment without frames is empty.

    Parameters
    ----------
    dataset : with pixels; BINARY, FRACTIONAL (half and more of its maximum counts) or LABELMAP
    name : how the object is called in a reason

    Raises
    ------
    Rejected
        Unreadable pixels, or a frame that lies on another grid than the source. Never retried.

    References
    ----------
    PS3.3 C.8.20.2, C.8.20.3 (LABELMAP), C.7.6.16.2.3 and C.7.6.16.2.4 (position and orientation of a frame)
    """
    pixels = _decode(dataset, name)
    groups, shared = value_of(dataset, "PerFrameFunctionalGroupsSequence") or (), value_of(dataset, "SharedFunctionalGroupsSequence") or ()
    if len(groups) != len(pixels):
        raise Rejected(f"{name}: {len(pixels)} frames, but {len(groups)} descriptions of where they lie")
    frames = [
        Frame(dataset, number, (own, *shared), plane) for number, (own, plane) in enumerate(zip(groups, pixels, strict=True), start=1)
    ]
    masks = {segment.number: np.zeros(volume.shape, bool) for segment in read_segments(dataset)}
    corners = place(locate(frames), volume.affine_ras)
    for frame, corner in zip(frames, corners, strict=True):
        for number, plane in _segments_of(dataset, frame, name):
            if plane.any() and number in masks:
                masks[number][_indices(plane, corner, volume, name)] = True
    return masks


def _decode(dataset: Dataset, name: str) -> npt.NDArray[np.integer]:
    try:
        frames, rows, columns = frame_count(dataset), int(dataset.Rows), int(dataset.Columns)
        if frames * rows * columns > _LARGEST:
            raise Rejected(f"{name}: {frames} frames of {columns} × {rows} are more than is taken")
        return np.asarray(pixel_array(dataset, raw=True)).reshape(frames, rows, columns)
    except (*MALFORMED, RuntimeError, struct.error) as error:
        raise Rejected(f"{name}: its pixels cannot be decoded ({type(error).__name__})") from error


def _segments_of(dataset: Dataset, frame: Frame, name: str) -> Iterator[tuple[int, Mask]]:
    """The segments a frame shows, with their pixels."""
    kind = str(value_of(dataset, "SegmentationType"))
    if kind == "LABELMAP":
        for number in np.unique(frame.stored[frame.stored > 0]):
            yield int(number), np.asarray(frame.stored == number)
        return
    number = frame.find("ReferencedSegmentNumber", "SegmentIdentificationSequence")
    if number is None:
        raise Rejected(f"{name}: frame {frame.frame_number} names no segment")
    if kind == "FRACTIONAL":
        yield int(number), np.asarray(frame.stored.astype(np.int32) * 2 >= int(value_of(dataset, "MaximumFractionalValue") or 255))
    else:
        yield int(number), np.asarray(frame.stored > 0)


def _indices(plane: Mask, corner: npt.NDArray[np.float64], volume: Volume, name: str) -> tuple[npt.NDArray[np.intp], ...]:
    """The voxels of the source under a frame's pixels; `corner`: first, last-column and last-row pixel in voxels of the source."""
    reach = np.maximum(np.asarray(plane.shape[::-1]) - 1, 1)
    steps = (corner[1:] - corner[0]) / reach[:, None]
    whole = np.rint(steps)
    off = max(float(np.abs((steps - whole) * reach[:, None]).max()), float(np.abs(corner[0] - np.rint(corner[0])).max()))
    if off > _OFF_GRID_VOXELS or not np.array_equal(np.abs(whole).sum(axis=1), [1, 1]):
        raise Rejected(f"{name}: lies on another grid than its source series; resample it onto the series' slices and send it again")
    rows, columns = np.nonzero(plane)
    index = (np.rint(corner[0]) + columns[:, None] * whole[0] + rows[:, None] * whole[1]).astype(np.intp)
    if (index < 0).any() or (index >= volume.shape).any():
        raise Rejected(f"{name}: marks voxels outside of its source series")
    return tuple(index.T)


def describe(segments: Sequence[Segment]) -> str:
    """The segments in a reason: number and label."""
    return ", ".join(f"{segment.number} {segment.label!r}" for segment in segments) or "none"
