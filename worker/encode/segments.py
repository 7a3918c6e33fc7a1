"""Which segments a segmentation object has, and which voxels each holds: classes, lesions of their own, the brain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.uid import UID, SegmentationStorage
from scipy import ndimage

from model.postprocess import LESION, TUMOUR_LIKE, Masks
from service.sections import Segmentation
from worker.measure import Findings, Lesion, label_image

BRAIN = 3
LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation Storage; pydicom 3.0 does not know it
MAXIMUM_FRACTIONAL_VALUE = 255
# In the frames of lesions of their own: 128 MiB of probabilities, 16 MiB of single bits
_MOST_PIXELS = 2**27
_LABELS = {"lesion": LESION, "tumour-like": TUMOUR_LIKE}

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes
    ----------
    number : 1, 2, … in the object
    label : `LESION`, `TUMOUR_LIKE` or `BRAIN`
    lesion : the lesion's number where it is a lesion's own segment, else None
    others : it holds what is left of its class beside segments of single lesions
    """

    number: int
    label: int
    lesion: int | None = None
    others: bool = False


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one object.

    Attributes
    ----------
    listed : ascending by number; one of lesions is always there, empty where none was found; the brain is the last
    numbers : shape (i, j, k); the segment each voxel belongs to, 0 outside; the brain has what no other segment has
    probability : uint8, shape (i, j, k), 0 to `MAXIMUM_FRACTIONAL_VALUE`; None unless the encoding is fractional
    brain : bool, shape (i, j, k); None unless it is a segment
    """

    encoding: Literal["binary", "labelmap", "fractional"]
    listed: tuple[Segment, ...]
    numbers: Numbers
    probability: Pixels | None
    brain: npt.NDArray[np.bool_] | None

    @property
    def sop_class_uid(self) -> UID:
        """Label maps have a class of their own (PS3.4 B.5)."""
        return LABEL_MAP_STORAGE if self.encoding == "labelmap" else SegmentationStorage

    @property
    def beside_mask(self) -> tuple[npt.NDArray[np.generic], ...]:
        """What goes out beside the mask."""
        return tuple(array for array in (self.probability, self.brain) if array is not None)

    @property
    def overlap(self) -> bool:
        """Voxels of the brain are also those of other segments; a label map cannot say so."""
        return self.brain is not None and self.encoding != "labelmap"

    @property
    def sparse(self) -> bool:
        """Frames without a voxel of their segment are left out: else every lesion would have a frame for every plane."""
        return self.encoding != "labelmap" and any(segment.lesion for segment in self.listed)

    def of_class(self, lesion: Lesion) -> Segment:
        """Give the segment that holds a lesion: its own, else that of the others."""
        of_class = [one for one in self.listed if one.label == _LABELS[lesion.kind]]
        return next((one for one in of_class if one.lesion == lesion.number), of_class[-1])

    def occupied(self) -> Numbers:
        """Give `numbers`, with a voxel of a segment also in planes where only its frame's own values say that it is there."""
        if not self.sparse:
            return self.numbers
        numbers = self.numbers.copy()
        if self.probability is not None:
            numbers[self._outside(numbers) & (self.probability > 0)] = self._others_of_lesions()
        if self.brain is not None:
            last = self.listed[-1].number
            for k in np.flatnonzero(self.brain.any(axis=(0, 1)) & ~(numbers == last).any(axis=(0, 1))):
                plane = numbers[..., k]
                plane[np.unravel_index(int(plane.argmin()), plane.shape)] = last
        return numbers

    def frame(self, segment: Segment, k: int) -> Pixels:
        """Give what the frame of a segment in plane k stores, shape (rows, columns): 0 and 1, or fractions of 255."""
        numbers = self.numbers[..., k].T
        full = np.uint8(1 if self.probability is None else MAXIMUM_FRACTIONAL_VALUE)
        if segment.label == BRAIN and self.brain is not None:
            return np.where(self.brain[..., k].T, full, np.uint8(0))
        here = numbers == segment.number
        if self.probability is None or segment.label == TUMOUR_LIKE:
            return np.where(here, full, np.uint8(0))
        if segment.lesion is None:
            here |= self._outside(numbers)
        return np.where(here, self.probability[..., k].T, np.uint8(0))

    def _others_of_lesions(self) -> int:
        return next(one.number for one in self.listed if one.label == LESION and one.lesion is None)

    def _outside(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Tell which voxels belong to no hyper-intensity."""
        outside: npt.NDArray[np.bool_] = numbers == 0
        if self.brain is not None:
            outside |= numbers == self.listed[-1].number
        return outside


def choose_segments(masks: Masks, findings: Findings, chosen: Segmentation, connectivity: int) -> Segments:
    """List the segments, and number the voxels by them.

    Lesions have segments of their own, the largest first, as far as `chosen` asks for them and their frames stay within a bound; what is
    left of a class is one more segment.

    Parameters
    ----------
    masks, findings : on the grid of the source
    connectivity : of a lesion, the release card's
    """
    wanted, fractional = chosen.lesion_segments, chosen.encoding == "fractional"
    listed: list[Segment] = []
    # merged classes have the numbers of their labels
    numbers: Numbers = np.zeros(masks.labels.shape, np.uint16) if wanted else masks.labels.copy()
    for label, found in ((LESION, findings.lesions), (TUMOUR_LIKE, findings.tumour_like)):
        first, own = len(listed) + 1, 0
        if wanted and found:
            components = label_image(masks.labels, label, connectivity)
            own = _own(components, min(wanted, len(found)), chosen)
            inside = components > 0
            numbers[inside] = first + np.minimum(components[inside] - 1, own)
        listed += [Segment(first + lesion, label, lesion + 1) for lesion in range(own)]
        if len(found) > own or (label == LESION and (fractional or not own)):
            listed.append(Segment(first + own, label, others=own > 0))
    if chosen.brain:
        listed.append(Segment(len(listed) + 1, BRAIN))
        numbers[masks.brain & (numbers == 0)] = len(listed)
    return Segments(
        encoding=chosen.encoding,
        listed=tuple(listed),
        numbers=numbers.astype(np.uint8, copy=False) if len(listed) < 256 else numbers,
        probability=_fractions(masks) if fractional else None,
        brain=masks.brain if chosen.brain else None,
    )


def _own(components: npt.NDArray[np.int32], wanted: int, chosen: Segmentation) -> int:
    """Give how many lesions have a segment of their own: in a label map they share frames, elsewhere each has one a plane it is in."""
    if chosen.encoding == "labelmap":
        return wanted
    boxes: Sequence[tuple[slice, slice, slice]] = ndimage.find_objects(components, wanted)
    frames = np.cumsum([box[2].stop - box[2].start for box in boxes])
    return int(np.count_nonzero(frames * components[..., 0].size <= _MOST_PIXELS))


def _fractions(masks: Masks) -> Pixels:
    """The probability that a voxel is lesion, in 255ths; 0 in what is tumour-like, and outside of the brain but for a reader's lesions."""
    fractions: Pixels = np.rint(masks.lesion_probability * np.float32(MAXIMUM_FRACTIONAL_VALUE)).astype(np.uint8)
    fractions[(~masks.brain & (masks.labels != LESION)) | (masks.labels == TUMOUR_LIKE)] = 0
    return fractions
