"""From a volume as it was scanned to what the network sees; training and serving both go through `prepare`.

Axes are permuted and flipped to the closest canonical RAS order. An oblique grid keeps its own axes: rotating it would
interpolate once more and the network is trained with rotations anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.release import InputPreparation
from model.volume import Affine, Floats, UnusableVolume, Volume, canonical, resample

Mask = npt.NDArray[np.bool_]
Box = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

COARSE_MM = 4.0
HEAD_HEIGHT_MM = 168.0  # vertex to below the foramen magnum; what is lower is neck
VAULT_HEIGHT_MM = 110.0  # above nose, ears and shoulders
LESION_HEADROOM = 4.0  # a nearly healthy brain has its 99.5th percentile at z 1.6, below any lesion: never clip lower than this
LARGEST_BRAIN_MM = np.asarray([158.0, 190.0, 158.0])  # what is larger than this has scalp, skull or neck around it,
SCALP_MM = 7.0  # of which this much may be cut off a side


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the network sees, and where that is.

    Attributes
    ----------
    data : float32, shape (1, 1, i, j, k); z-scored, 0 outside of the head
    affine_ras : network grid index -> patient millimetres, RAS
    head : shape (i, j, k)
    source : the volume as it came
    quality : plain sentences on what limits the result
    """

    data: Floats
    affine_ras: Affine
    head: Mask
    source: Volume
    quality: tuple[str, ...]


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


def prepare(volume: Volume, preparation: InputPreparation) -> Inputs:
    """Find the head, bring it to the network's grid and scale.

    Raises
    ------
    UnusableVolume
        Not finite, constant, too small, or no head in it.
    """
    _demand_usable(volume)
    straight = canonical(volume)
    head = find_head(straight)
    affine, shape = _network_grid(straight, head, preparation)
    # cubic (Keys): as matrix products it costs what linear does, and thick slices stay sharper
    values = resample(straight, affine, shape, "cubic", antialias=True)
    mask = _fine_mask(values, head, affine)
    core = _core(mask, affine, straight, head)
    data = _standardise(values, mask, core, preparation)
    return Inputs(data[None, None], affine, mask, volume, _judge(volume, straight, head, values[core]))


def resample_to(inputs: Inputs, volume: Volume, linear: bool = False) -> Floats:
    """Values of a mask (or any field) on the source grid, or any grid of the same patient space, on the network grid.

    Nearest by default; `linear` gives partial volumes, to be thresholded at 0.5.
    """
    i, j, k = inputs.head.shape
    return resample(volume, inputs.affine_ras, (i, j, k), "linear" if linear else "nearest", antialias=linear)


def _demand_usable(volume: Volume) -> None:
    if volume.data.ndim != 3 or min(volume.shape) < 3 or volume.data.size < 4096:
        raise UnusableVolume(f"too few voxels: {' x '.join(map(str, volume.data.shape))}")
    if volume.data.dtype.kind not in "biuf":
        raise UnusableVolume("intensities are not plain numbers")
    if not np.isfinite(volume.affine_ras).all() or volume.voxel_ml <= 0:
        raise UnusableVolume("the grid has no volume")
    low, high = float(volume.data.min()), float(volume.data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnusableVolume("intensities are not all finite numbers")
    if low == high:
        raise UnusableVolume("every voxel has the same intensity")


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


def _network_grid(volume: Volume, head: Head, preparation: InputPreparation) -> tuple[Affine, tuple[int, int, int]]:
    """The smallest card shape that holds the head, over the head; the source's own voxels where they are 1 mm already."""
    spacing = volume.spacing_mm
    same = np.abs(spacing / preparation.spacing_mm - 1) < 0.02
    zoom = np.where(same, 1.0, preparation.spacing_mm / spacing)
    size = (head.high - head.low + 1) / zoom
    largest_brain, scalp = LARGEST_BRAIN_MM / preparation.spacing_mm, 2 * SCALP_MM / preparation.spacing_mm
    needed = np.maximum(size - scalp, np.minimum(size, largest_brain))
    fitting = [shape for shape in preparation.shapes if np.all(needed <= shape)]
    shape = min(fitting, key=lambda s: int(np.prod(s))) if fitting else max(preparation.shapes, key=lambda s: int(np.prod(s)))
    free = (np.asarray(shape) - size) * zoom
    start = head.low - free / 2
    # too high a head loses its neck, not its vertex; a margin above is kept where there is room
    start[2] = (
        head.high[2] + 1 + min(max(free[2] / 2, -1.0 if head.stripped else -2.0), preparation.margin_mm / spacing[2]) - shape[2] * zoom[2]
    )
    start = np.where(same, np.round(start), start + (zoom - 1) / 2)
    affine = volume.affine_ras.copy()
    affine[:3, 3] = volume.affine_ras[:3, :3] @ start + volume.affine_ras[:3, 3]
    affine[:3, :3] = volume.affine_ras[:3, :3] * zoom
    return affine, shape


def _fine_mask(values: Floats, head: Head, affine: Affine) -> Mask:
    """Coarse head mask on the network grid; an exact background is taken out voxel by voxel."""
    i, j, k = values.shape
    fine = resample(Volume(head.mask, head.affine_ras), affine, (i, j, k), "linear")
    if not head.stripped:
        return np.asarray(fine > 0.5, bool)
    inner = ndimage.binary_erosion(head.mask > 0.5, iterations=2).astype(np.float32)
    inside = resample(Volume(inner, head.affine_ras), affine, (i, j, k), "linear") > 0.5
    return np.asarray(((fine > 0.05) & (values > head.air + 0.3 * (head.floor - head.air))) | inside, bool)


def _core(mask: Mask, affine: Affine, volume: Volume, head: Head) -> Mask:
    """Central ellipsoid of the vault: brain in a whole head as in a brain-extracted one."""
    to_network = np.linalg.inv(affine) @ volume.affine_ras
    low = to_network[:3, :3] @ head.low + to_network[:3, 3]
    high = to_network[:3, :3] @ head.high + to_network[:3, 3]
    size = high - low
    centre = np.asarray([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[2] - min(62.0, size[2] / 2)])
    radius = np.maximum([0.36 * size[0], 0.37 * size[1], 42.0], 1.5)
    parts = [((np.arange(n) - c) / r) ** 2 for n, c, r in zip(mask.shape, centre, radius, strict=True)]
    inside = parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :] <= 1
    core = np.asarray(inside & mask, bool)
    if core.sum() < 2000:
        raise UnusableVolume("no head found: nothing where the brain should be")
    return core


def _standardise(values: Floats, mask: Mask, core: Mask, preparation: InputPreparation) -> Floats:
    """Clip and z-score by the core, background 0.

    Measured on nine scans, whole and with the brain cut out: white matter lies at z 0.09 ± 0.07 and 0.14 ± 0.10 this way,
    the scale differs by 2 ± 5 %. Mean, mode, quartiles and MAD moved more between scans.
    """
    sample = values[core]
    low, high = (float(p) for p in np.percentile(sample, preparation.clip_percentiles))
    if high <= low:
        raise UnusableVolume("no contrast inside the head")
    centre = float(np.median(sample))
    # as far above the median as the darkest CSF is below, so that a large tumour does not shrink everything else
    spread = float(np.clip(sample, low, 2 * centre - float(np.percentile(sample, 2))).std())
    if spread <= 0:
        raise UnusableVolume("no contrast inside the head")
    high = max(high, centre + LESION_HEADROOM * spread)
    data = (np.clip(values, low, high) - np.float32(centre)) * np.float32(1 / spread)
    return np.asarray(data * mask, np.float32)


def _judge(volume: Volume, straight: Volume, head: Head, core: Floats) -> tuple[str, ...]:
    """Plain sentences on what limits the result."""
    spacing = np.sort(volume.spacing_mm)
    flags = []
    if spacing[1] > 1.5:
        flags.append(f"coarse spacing: {spacing[1]:.1f} mm in the image plane")
    if spacing[2] > 4.5:
        flags.append(f"slice thickness: slices are {spacing[2]:.1f} mm apart")
    if head.height_mm < 100:
        flags.append(f"coverage: only {head.height_mm:.0f} mm of the head were scanned")
    ceiling = volume.data.max()
    if np.count_nonzero(straight.data[::2, ::2, ::2] >= ceiling) > 0.002 * core.size / 8:
        flags.append("saturation: many voxels have the highest intensity")
    quarter, middle, three = np.percentile(core, (25, 50, 75))
    if three - quarter < 0.06 * abs(middle):
        flags.append("contrast: tissue differs little in intensity")
    return tuple(flags)
