"""Where the head is: found on a coarse copy of the scan, whole or brain-extracted, thick slices or thin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.volume import Affine, Floats, UnusableVolume, Volume

Mask = npt.NDArray[np.bool_]
Box = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

COARSE_MM = 4.0
HEAD_HEIGHT_MM = 168.0  # vertex to below the foramen magnum; what is lower is neck
VAULT_HEIGHT_MM = 110.0  # above nose, ears and shoulders


@dataclass(frozen=True, eq=False)
class Head:
    """The head as found on a coarse copy of a canonical volume.

    Attributes
    ----------
    mask : float32 on the coarse grid, 1 in the head
    affine_ras : coarse index -> patient millimetres
    low, high : first and last voxel of the box around the skull vault (and down to the neck), canonical voxel indices
    stripped : the background is exactly one value: brain-extracted or masked
    air, floor : intensity of the background, and one between it and tissue
    height_mm : of the whole mask
    """

    mask: Floats
    affine_ras: Affine
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    stripped: bool
    air: float
    floor: float
    height_mm: float


def find_head(volume: Volume) -> Head:
    """Find the head in a canonical volume on a copy of about 4 mm.

    Raises
    ------
    UnusableVolume
        Nothing in the field of view has the size of a head.
    """
    coarse, affine, step = _shrink(volume)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    air, floor, stripped = _background(volume, coarse)
    mask = _largest(_smooth(coarse > floor, spacing))
    where = np.nonzero(mask)
    size_mm = np.asarray([axis.max() - axis.min() + 1 for axis in where]) * spacing if where[0].size else np.zeros(3)
    litres = mask.sum() * np.prod(spacing) / 1e6
    if np.sort(size_mm)[1] < 80 or litres < 0.03 or np.sort(size_mm)[1] > 330:
        raise UnusableVolume(f"no head found: the largest object is {' x '.join(f'{s:.0f}' for s in size_mm)} mm")
    low, high = _vault(mask, spacing)
    return Head(mask.astype(np.float32), affine, low * step, (high + 1) * step - 1, stripped, air, floor, float(size_mm[2]))


def _shrink(volume: Volume) -> tuple[Floats, Affine, npt.NDArray[np.float64]]:
    """Block means of about COARSE_MM; what does not fill a block at the far side is left out."""
    step = np.minimum(np.maximum(1, np.round(COARSE_MM / volume.spacing_mm)), volume.shape).astype(int)
    counts = np.asarray(volume.shape) // step
    i, j, k = (slice(0, c * s) for c, s in zip(counts, step, strict=True))
    data = volume.data[i, j, k]
    for axis in (2, 1, 0):
        starts = np.arange(counts[axis]) * step[axis]
        data = np.add.reduceat(data, starts, axis=axis, dtype=np.float32) if step[axis] > 1 else data
    affine = volume.affine_ras.copy()
    affine[:3, 3] += affine[:3, :3] @ ((step - 1) / 2)
    affine[:3, :3] *= step
    return np.asarray(data, np.float32) / np.float32(step.prod()), affine, step.astype(float)


def _background(volume: Volume, coarse: Floats) -> tuple[float, float, bool]:
    """Intensity of the background, one between it and tissue, and whether the background is one exact value."""
    sample = volume.data[::3, ::3, :: 1 if volume.shape[2] < 60 else 3]
    values, counts = np.unique(sample, return_counts=True)
    common = float(values[counts.argmax()])
    stripped = bool(counts.max() > 0.2 * sample.size) and common <= float(np.median(np.asarray(sample, np.float32))) + 1e-6
    top = float(np.percentile(coarse, 99.5))
    split = _otsu(np.clip(coarse, None, top))
    tissue = float(np.median(coarse[coarse > split])) if (coarse > split).any() else top
    air = common if stripped else float(np.median(coarse[coarse <= split]))
    return air, air + (0.15 if stripped else 0.3) * (tissue - air), stripped


def _otsu(values: Floats) -> float:
    counts, edges = np.histogram(values, 128)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centres[np.nanargmax(np.where(np.isfinite(between), between, -1))])


def _smooth(mask: Mask, spacing: npt.NDArray[np.float64]) -> Mask:
    """Close what skull and CSF leave open, fill, and drop thin bridges; a slab goes on beyond its faces."""
    ball, small = _ball(9.0, spacing), _ball(5.0, spacing)
    pad = [(width // 2 + 1,) * 2 for width in ball.shape]
    inner = tuple(slice(before, -before) for before, _ in pad)
    closed = ndimage.binary_closing(np.pad(mask, pad), ball)[inner]
    filled = ndimage.binary_fill_holes(closed)
    return np.asarray(ndimage.binary_opening(np.pad(filled, pad, "edge"), small)[inner], bool)


def _ball(radius_mm: float, spacing: npt.NDArray[np.float64]) -> Mask:
    reach = np.floor(radius_mm / spacing).astype(int)
    grid = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    return np.asarray(sum((g * s) ** 2 for g, s in zip(grid, spacing, strict=True)) <= radius_mm**2, bool)


def _largest(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]), bool)


def _vault(mask: Mask, spacing: npt.NDArray[np.float64]) -> Box:
    """Box around the head: height down to the neck, length and width from the part above nose and ears."""
    slices = np.flatnonzero(mask.sum(axis=(0, 1)) * spacing[0] * spacing[1] > 400)
    slices = slices if slices.size else np.flatnonzero(mask.any(axis=(0, 1)))
    top = int(slices[-1])
    bottom = max(int(slices[0]), top - int(HEAD_HEIGHT_MM / spacing[2]))
    vault = mask[:, :, max(bottom, top - int(VAULT_HEIGHT_MM / spacing[2])) : top + 1]
    low, high = [], []
    for axis in (0, 1):
        extent = np.flatnonzero(vault.any(axis=tuple({0, 1, 2} - {axis})))
        low.append(extent[0])
        high.append(extent[-1])
    return np.asarray([*low, bottom], float), np.asarray([*high, top], float)
