"""How well each lesion definition would do on one scan. Lesions and their overlaps are counted once for a threshold, then only added up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.edges import EVERY_NEIGHBOUR, Edges
from model.postprocess import LESION, classify
from model.training.layouts import Mask

THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
PEAKS = (0.0, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
SMALLEST_MM3 = (5.0, 10.0, 20.0)


class Tried(NamedTuple):
    """A lesion definition, its probabilities at temperature 1 and bias 0."""

    threshold: float
    peak: float
    smallest_mm3: float


TRIED = tuple(Tried(t, p, s) for t, p, s in product(THRESHOLDS, PEAKS, SMALLEST_MM3) if p == 0.0 or p > t)


@dataclass(frozen=True, eq=False)
class Scan:
    """What was found on a scan, and what is true; all of one shape (i, j, k).

    Attributes
    ----------
    probability : of lesion, 0 outside the brain
    known : where somebody has said what is lesion and what is not; `truth` lies in it
    """

    probability: npt.NDArray[np.float32]
    tumour: Mask
    truth: Mask
    known: Mask
    voxel_mm3: float


def merits(scan: Scan, touch_fraction: float, edges: Edges) -> dict[Tried, float]:
    """Dice and half of the lesion-wise F1 of everything in `TRIED`; 1 each where rightly nothing is found."""
    true, true_count = ndimage.label(scan.truth, EVERY_NEIGHBOUR)
    return {tried: merit for threshold in THRESHOLDS for tried, merit in _at(scan, threshold, touch_fraction, edges, true, true_count)}


def _at(
    scan: Scan, threshold: float, touch_fraction: float, edges: Edges, true: npt.NDArray[np.int32], true_count: int
) -> Iterator[tuple[Tried, float]]:
    lesions = classify(scan.probability > threshold, scan.tumour, 1.0, touch_fraction, edges=edges) == LESION
    components, count = ndimage.label(lesions, EVERY_NEIGHBOUR)
    both = lesions & scan.truth
    voxels, seen, right = (np.bincount(components[where], minlength=count + 1) for where in (lesions, lesions & scan.known, both))
    highest = np.concatenate(([0.0], ndimage.maximum(scan.probability, components, np.arange(1, count + 1)))) if count else np.zeros(1)
    pairs = np.unique(np.stack((components[both], true[both])), axis=1)
    truth = int(scan.truth.sum())
    for tried in TRIED:
        if tried.threshold != threshold:
            continue
        kept = (voxels * scan.voxel_mm3 >= tried.smallest_mm3) & (highest > tried.peak)
        found = int(seen[kept].sum())
        if not found or not truth:
            yield tried, 1.5 if found == truth else 0.0
            continue
        hit = len(np.unique(pairs[1][kept[pairs[0]]])) / true_count
        precision = np.count_nonzero(right[kept]) / np.count_nonzero(seen[kept])
        f1 = 2 * hit * precision / (hit + precision) if hit else 0.0
        yield tried, 2.0 * float(right[kept].sum()) / (found + truth) + 0.5 * f1
