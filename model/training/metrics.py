"""How well a mask fits another: the rules of the evidence.

Both masks empty: nothing to score, so not a number, and counted apart as a correct negative. One empty: every share is 0 (also the
one whose denominator is empty) and every distance the image's diagonal. A miss is never dropped from a mean.

References
----------
Maier-Hein, Reinke et al. 2024, Metrics reloaded, doi:10.1038/s41592-023-02151-z: what is measured, and that undefined is not perfect.
Kuijf et al. 2019, WMH Segmentation Challenge, doi:10.1109/TMI.2019.2905770: the lesion-wise scores and the 95th percentile.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isnan

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Spacing = npt.NDArray[np.float64]
EVERY_NEIGHBOUR = np.ones((3, 3, 3), bool)
NAN = float("nan")


@dataclass(frozen=True)
class Scores:
    """One scan's figures. Distances in millimetres, volumes in millilitres; NaN where both masks are empty."""

    dice: float
    sensitivity: float
    precision: float
    hausdorff_mm: float
    hausdorff95_mm: float
    lesion_f1: float
    lesion_sensitivity: float
    lesion_precision: float
    truth_ml: float
    found_ml: float
    truth_lesions: int
    found_lesions: int

    @property
    def volume_difference_ml(self) -> float:
        """Found minus true."""
        return self.found_ml - self.truth_ml

    @property
    def correct_negative(self) -> bool:
        """Nothing there, nothing found."""
        return self.truth_ml == 0 and self.found_ml == 0

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON: rounded, NaN as null."""
        values = {**asdict(self), "volume_difference_ml": self.volume_difference_ml}
        return {name: None if isnan(value) else round(value, 4) for name, value in values.items()}


def score(truth: Mask, found: Mask, spacing_mm: Spacing) -> Scores:
    """All figures of one scan. Masks are bool, (i, j, k), on one grid."""
    if truth.shape != found.shape:
        raise ValueError(f"masks of different shapes: {truth.shape} and {found.shape}")
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    far, far95 = hausdorff(truth, found, spacing_mm)
    wise = lesion_wise(truth, found)
    return Scores(
        dice=dice(truth, found),
        sensitivity=_share(truth & found, truth, found),
        precision=_share(truth & found, found, truth),
        hausdorff_mm=far,
        hausdorff95_mm=far95,
        lesion_f1=wise[0],
        lesion_sensitivity=wise[1],
        lesion_precision=wise[2],
        truth_ml=float(truth.sum()) * voxel_ml,
        found_ml=float(found.sum()) * voxel_ml,
        truth_lesions=wise[3],
        found_lesions=wise[4],
    )


def dice(truth: Mask, found: Mask) -> float:
    """2 |A and B| / (|A| + |B|); NaN where both are empty."""
    total = int(truth.sum()) + int(found.sum())
    return 2.0 * float((truth & found).sum()) / total if total else NAN


def _share(part: Mask, whole: Mask, other: Mask) -> float:
    """|part| / |whole|; with an empty denominator 0 if the other mask holds something, else NaN."""
    count = int(whole.sum())
    if count:
        return float(part.sum()) / count
    return 0.0 if other.any() else NAN


def hausdorff(truth: Mask, found: Mask, spacing_mm: Spacing) -> tuple[float, float]:
    """Largest and 95th-percentile distance between the surfaces, the larger of both directions.

    Surfaces are the mask's voxels with a face neighbour outside of it, distances go from centre to centre. The percentile is taken in
    each direction before the larger is chosen (as WMH 2017 and MONAI do; pooling both directions, as medpy does, gives less).

    Parameters
    ----------
    truth, found : bool, (i, j, k), on one grid
    spacing_mm : along (i, j, k)
    """
    if not truth.any() and not found.any():
        return NAN, NAN
    if not truth.any() or not found.any():
        diagonal = float(np.linalg.norm(np.asarray(truth.shape) * spacing_mm))
        return diagonal, diagonal
    window = _window(truth | found)
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (np.pad(truth[window], 1), np.pad(found[window], 1))]
    directed = []
    for one, other in (surfaces, surfaces[::-1]):
        distance = ndimage.distance_transform_edt(~other, sampling=spacing_mm)
        directed.append(distance[one])
    return float(max(d.max() for d in directed)), float(max(np.percentile(d, 95) for d in directed))


def _window(mask: Mask) -> tuple[slice, slice, slice]:
    i, j, k = ndimage.find_objects(mask.astype(np.uint8))[0]
    return i, j, k


def lesion_wise(truth: Mask, found: Mask) -> tuple[float, float, float, int, int]:
    """F1, sensitivity and precision over lesions, and the counts of true and found ones.

    A lesion is a 26-connected component. A true one is hit by one common voxel, a found one is right by one; so one found lesion that
    joins two true ones hits both and is one right one. Sensitivity is hit / true, precision right / found, F1 their harmonic mean, as
    in the evaluation of WMH 2017 (there a scan without true lesions has sensitivity 1; here a false alarm scores 0).
    """
    true_labels, true_count = ndimage.label(truth, EVERY_NEIGHBOUR)
    found_labels, found_count = ndimage.label(found, EVERY_NEIGHBOUR)
    if true_count == 0 and found_count == 0:
        return NAN, NAN, NAN, 0, 0
    hit = len(np.unique(true_labels[found & truth]))
    right = len(np.unique(found_labels[found & truth]))
    sensitivity = hit / true_count if true_count else 0.0
    precision = right / found_count if found_count else 0.0
    both = sensitivity + precision
    return (2 * sensitivity * precision / both if both else 0.0), sensitivity, precision, true_count, found_count
