"""Whether a scan has a FLAIR's contrast: a T1 or T2 under its name would teach the network the opposite.

Three signs. Lesions, and tumours, are brighter than what lies around them (on T1 darker). Deep white matter is about as bright as the grey
matter under the surface (on T1 brighter). Cerebrospinal fluid is dark (on T2 the brightest). Seen on 24 FLAIR scans of four data
sets: deep : shallow tissue was 0.84 to 1.04, and at most 0.022 of the inner brain was as bright as fluid on T2. On the 15 of them that have
masks, all 84 lesions and 23 parts of tumours that were large enough to judge were brighter. Beside them 1.10 on an average T1 head, and
0.074 on a T2 made from tissue maps; no real T2 was at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from model.training.layouts import Mask
from model.volume import Volume

T1_DEEP = 1.06  # deep : shallow tissue
T2_BRIGHT, T2_DARK = 0.03, 0.005  # shares of the inner brain
SHALLOW_MM, DEEP_MM, INNER_MM = (6.0, 10.0), (15.0, 32.0), 25.0
COARSE_MM = 2.0
SMALLEST_MM3 = 20.0
MOST_LESIONS = 200
SURE = 0.01  # probability of as many dark lesions if dark and bright were alike


@dataclass(frozen=True)
class Contrast:
    """What the scan looks like, how sure that is, and by which signs; kind is None where nothing speaks against a FLAIR."""

    kind: Literal["T1", "T2"] | None
    sure: bool
    why: str


def judge_contrast(scan: Volume, brain: Mask | None, disease: Mask | None) -> Contrast:
    """Look for the signs of a T1 or T2.

    Parameters
    ----------
    brain : where known; without it only lesions are looked at
    disease : lesions and tumour, on the scan's grid
    """
    dark, counted = count_dark(scan, disease) if disease is not None else (0, 0)
    chance = float(stats.binomtest(dark, counted, alternative="greater").pvalue) if counted else 1.0
    mostly_dark = 2 * dark > counted
    ratio, bright, low = _tissue(scan, brain, disease) if brain is not None else (1.0, 0.0, 1.0)
    deep = ratio > T1_DEEP
    signs = []
    if mostly_dark:
        signs.append(f"{dark} of {counted} lesions are darker than what lies around them")
    if deep:
        signs.append(f"deep white matter is {100 * (ratio - 1):.0f} % brighter than the tissue under the surface")
    if mostly_dark or (deep and not counted):
        return Contrast("T1", chance < SURE or (mostly_dark and deep), " and ".join(signs))
    if bright > T2_BRIGHT and low < T2_DARK:
        return Contrast("T2", False, f"{100 * bright:.0f} % of the inner brain is as bright as fluid on T2, and no fluid is dark")
    return Contrast(None, False, "")


def count_dark(scan: Volume, disease: Mask) -> tuple[int, int]:
    """How many of the lesions are darker than the shell around them, and how many were looked at."""
    found = [bool(inside < around) for inside, around in _inside_and_around(scan, disease)]
    return sum(found), len(found)


def _inside_and_around(scan: Volume, disease: Mask) -> Iterator[tuple[float, float]]:
    """Median of every lesion of some size and of the tissue 1 to 3 voxels off, largest lesions first."""
    data = np.asarray(scan.data, np.float32)
    labels, count = ndimage.label(disease, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    boxes = ndimage.find_objects(labels)
    for number in np.argsort(-sizes[1:], kind="stable")[:MOST_LESIONS] + 1:
        if sizes[number] * scan.voxel_ml * 1000 < SMALLEST_MM3:
            return
        window = tuple(slice(max(0, part.start - 4), part.stop + 4) for part in boxes[number - 1])
        one = labels[window] == number
        shell = ndimage.binary_dilation(one, iterations=3) & ~ndimage.binary_dilation(disease[window], iterations=1) & (data[window] > 0)
        if shell.sum() >= 10:
            yield float(np.median(data[window][one])), float(np.median(data[window][shell]))


def _tissue(scan: Volume, brain: Mask, disease: Mask | None) -> tuple[float, float, float]:
    """Deep : shallow tissue, and the bright and dark shares of the inner brain, away from disease."""
    step = np.maximum(1, np.round(COARSE_MM / scan.spacing_mm)).astype(int)
    thin = tuple(slice(None, None, int(one)) for one in step)
    image, inside = np.asarray(scan.data[thin], np.float32), brain[thin]
    depth: npt.NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=scan.spacing_mm * step)[1:-1, 1:-1, 1:-1]
    healthy = inside if disease is None else inside & ~ndimage.binary_dilation(disease[thin], iterations=3)
    if healthy.sum() < 1000:
        return 1.0, 0.0, 1.0
    middle = float(np.median(image[healthy]))
    tissue = healthy & (image > 0.5 * middle)
    shells = [image[tissue & (depth > near) & (depth <= far)] for near, far in (SHALLOW_MM, DEEP_MM)]
    inner = image[healthy & (depth > INNER_MM)]
    if min(*map(len, shells), len(inner)) < 100:
        return 1.0, 0.0, 1.0
    return float(np.median(shells[1]) / np.median(shells[0])), float((inner > 1.5 * middle).mean()), float((inner < 0.5 * middle).mean())
