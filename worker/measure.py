"""Mask → Findings: the one place where lesions are numbered, counted and measured, for every output alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.postprocess import LESION, TUMOUR_LIKE, Masks
from model.release import Card
from model.volume import Volume
from service.errors import Rejected

Side = Literal["left", "right", "midline"]
Kind = Literal["lesion", "tumour-like"]
_KINDS: dict[int, Kind] = {LESION: "lesion", TUMOUR_LIKE: "tumour-like"}
_RANKS = {26: 3}
# A centroid this near the mid-sagittal plane, or a component reaching this far over it on both sides, has no side.
MIDLINE_MM = 2.0
_COVERAGE_SHARE = 0.05
_USUAL_BRAIN_ML = (750.0, 2000.0)  # adults, with ventricles, cerebellum and brainstem


@dataclass(frozen=True)
class Lesion:
    """One connected component of a class.

    Attributes
    ----------
    number : 1 = largest of its kind; the value of its voxels in `label_image`
    centroid_ras : patient millimetres; centroid_ijk : voxel index, fractional
    side : of the brain's mid-sagittal plane, see `measure`
    touches_edge : a voxel lies on the border of the field of view, so part of it may not have been imaged
    """

    number: int
    volume_ml: float
    centroid_ras: tuple[float, float, float]
    centroid_ijk: tuple[float, float, float]
    side: Side
    touches_edge: bool
    kind: Kind


@dataclass(frozen=True)
class Findings:
    """What was found, in millilitres to a tenth of a microlitre.

    Lesions (white-matter hyper-intensities) and tumour-like ones are apart, the largest of each first.
    """

    lesions: tuple[Lesion, ...]
    lesion_count: int
    lesion_volume_ml: float
    largest_lesion_ml: float
    tumour_like: tuple[Lesion, ...]
    tumour_like_volume_ml: float
    total_hyperintensity_ml: float
    brain_volume_ml: float
    lesion_share_of_brain_percent: float | None
    touches_edge: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the lesions as a list of dictionaries."""
        return asdict(self)


def label_image(labels: npt.NDArray[np.uint8], value: int = LESION, connectivity: int = 26) -> npt.NDArray[np.int32]:
    """Number the connected components of one class: 1 is the largest, ties go to the first in index order (i, then j, then k).

    SEG, report, table and follow-up all take a lesion's number from here.

    Parameters
    ----------
    labels : shape (i, j, k), `Masks.labels`
    value : the class, `LESION` or `TUMOUR_LIKE`

    Returns
    -------
    int32, shape (i, j, k), 0 outside
    """
    numbered = np.zeros(labels.shape, dtype=np.int32)
    mask = labels == value
    box = _bounding_box(mask)
    if box is None:
        return numbered
    components, count = ndimage.label(mask[box], ndimage.generate_binary_structure(3, _RANKS[connectivity]))
    present = components[components > 0]
    first = np.empty(count, dtype=np.intp)
    first[present[::-1] - 1] = np.arange(present.size - 1, -1, -1)
    order = np.lexsort((first, -np.bincount(present, minlength=count + 1)[1:]))
    numbers = np.zeros(count + 1, dtype=np.int32)
    numbers[order + 1] = np.arange(1, count + 1)
    numbered[box] = numbers[components]
    return numbered


def measure(masks: Masks, volume: Volume, card: Card) -> Findings:
    """Count and measure what the masks hold.

    Left and right are those of the patient, on either side of the sagittal plane (RAS x constant) through the brain mask's
    centroid: a tilted head or a large shift of the midline is not followed. A lesion is on the midline when its centroid lies
    within `MIDLINE_MM` of that plane or it reaches over it by more than `MIDLINE_MM` on both sides.

    Parameters
    ----------
    masks : on the grid of `volume`; too small components are gone already (`model.postprocess`)
    volume : the source grid
    card : the release, for its definition of a lesion

    Returns
    -------
    Findings
        `lesion_share_of_brain_percent` is None where no brain was found.
    """
    voxel_ml = volume.voxel_ml
    brain_count = int(np.count_nonzero(masks.brain))
    midline = _midline(masks.brain, volume)
    lesions, tumour_like = (
        _components(label_image(masks.labels, value, card.lesion.connectivity), _KINDS[value], volume, midline)
        for value in (LESION, TUMOUR_LIKE)
    )
    lesion_count = int(np.count_nonzero(masks.labels == LESION))
    tumour_count = int(np.count_nonzero(masks.labels == TUMOUR_LIKE))
    return Findings(
        lesions=lesions,
        lesion_count=len(lesions),
        lesion_volume_ml=_ml(lesion_count, voxel_ml),
        largest_lesion_ml=lesions[0].volume_ml if lesions else 0.0,
        tumour_like=tumour_like,
        tumour_like_volume_ml=_ml(tumour_count, voxel_ml),
        total_hyperintensity_ml=_ml(lesion_count + tumour_count, voxel_ml),
        brain_volume_ml=_ml(brain_count, voxel_ml),
        lesion_share_of_brain_percent=100.0 * lesion_count / brain_count if brain_count else None,
        touches_edge=any(lesion.touches_edge for lesion in (*lesions, *tumour_like)),
    )


def _ml(voxels: int, voxel_ml: float) -> float:
    """Round once, for all outputs: of a number rounded anew in each, one would say 0.63 and another 0.64."""
    return round(voxels * voxel_ml, 4)


def demand_brain(masks: Masks) -> None:
    """Refuse a volume in which the network sees no brain: that nothing was found in it would read as a healthy brain.

    Raises
    ------
    Rejected
    """
    if not masks.brain.any():
        raise Rejected("no brain found in the volume: nothing can be said about lesions")


def brain_flags(masks: Masks, findings: Findings) -> tuple[str, ...]:
    """Flag what the brain mask shows: that not all of the brain was imaged, or that the mask is not all of it.

    A brain that goes on beyond the first or last slice (axis k) was not measured there; lesions outside of the mask do not count.
    """
    area = np.count_nonzero(masks.brain, axis=(0, 1))
    ends = (("first", area[0]), ("last", area[-1]))
    flags = [f"coverage: the brain is cut at the {name} slice" for name, end in ends if end > _COVERAGE_SHARE * area.max(initial=0)]
    low, high = _USUAL_BRAIN_ML
    if not low <= findings.brain_volume_ml <= high:
        flags.append(f"brain-volume: {findings.brain_volume_ml:.0f} ml were taken for brain, {low:.0f} to {high:.0f} ml are usual")
    return tuple(flags)


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    inside = np.flatnonzero(mask.any(axis=(1, 2)))
    if not inside.size:
        return None
    slab = mask[inside[0] : inside[-1] + 1]
    rows, columns = np.flatnonzero(slab.any(axis=(0, 2))), np.flatnonzero(slab.any(axis=(0, 1)))
    return slice(inside[0], inside[-1] + 1), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _midline(brain: npt.NDArray[np.bool_], volume: Volume) -> float:
    """RAS x of the brain's mid-sagittal plane, of the field of view's centre where there is no brain."""
    centre = (np.array(volume.shape) - 1) / 2.0
    if brain.any():
        counts = [np.count_nonzero(brain, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        centre = np.array([np.average(np.arange(len(count)), weights=count) for count in counts])
    return float(volume.affine_ras[0, :3] @ centre + volume.affine_ras[0, 3])


def _components(numbered: npt.NDArray[np.int32], kind: Kind, volume: Volume, midline: float) -> tuple[Lesion, ...]:
    """Measure every component in one pass over its voxels."""
    box = _bounding_box(numbered > 0)
    if box is None:
        return ()
    inside = np.nonzero(numbered[box])
    number = numbered[box][inside]
    index = np.stack(inside) + np.array([[side.start] for side in box])
    counts = np.bincount(number)[1:]
    centroids = np.stack([np.bincount(number, weights=axis)[1:] / counts for axis in index], axis=1)
    beyond = volume.affine_ras[0, :3] @ index + volume.affine_ras[0, 3] - midline
    lowest, highest = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(lowest, number - 1, beyond)
    np.maximum.at(highest, number - 1, beyond)
    last = np.array(volume.shape)[:, None] - 1
    at_edge = np.bincount(number, weights=((index == 0) | (index == last)).any(axis=0))[1:] > 0
    positions = centroids @ volume.affine_ras[:3, :3].T + volume.affine_ras[:3, 3]
    return tuple(
        Lesion(
            number=row + 1,
            volume_ml=_ml(int(counts[row]), volume.voxel_ml),
            centroid_ras=_triple(positions[row]),
            centroid_ijk=_triple(centroids[row]),
            side=_side(float(positions[row, 0]) - midline, float(lowest[row]), float(highest[row])),
            touches_edge=bool(at_edge[row]),
            kind=kind,
        )
        for row in range(len(counts))
    )


def _side(centroid: float, lowest: float, highest: float) -> Side:
    """Side of the plane at 0; right is positive in RAS."""
    if abs(centroid) <= MIDLINE_MM or (lowest < -MIDLINE_MM and highest > MIDLINE_MM):
        return "midline"
    return "right" if centroid > 0 else "left"


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
