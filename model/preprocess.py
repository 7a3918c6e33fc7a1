"""From a volume as it was scanned to what the network sees; training and serving both go through `prepare`.

Axes are permuted and flipped to the closest canonical RAS order. An oblique grid keeps its own axes: rotating it would
interpolate once more and the network is trained with rotations anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from model.familiar import Profile, take_profile
from model.head import Head, Mask, find_head
from model.release import InputPreparation
from model.volume import Affine, Floats, UnusableVolume, Volume, canonical, resample

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
    quality : what limits the result, `code: detail`
    stripped : the background is exactly one value: brain-extracted or masked, and outside of `head` there is nothing
    profile : what the contrast looks like, see `model.familiar`
    """

    data: Floats
    affine_ras: Affine
    head: Mask
    source: Volume
    quality: tuple[str, ...]
    stripped: bool = False
    profile: Profile = ()


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
    flags = (*_judge(volume, straight, head, values[core]), *_judge_fit(straight, head, affine, shape))
    return Inputs(data[None, None], affine, mask, volume, flags, head.stripped, take_profile(data, core))


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
    """What of the scan limits the result, `code: detail`."""
    spacing = np.sort(volume.spacing_mm)
    flags = []
    if spacing[1] > 1.5:
        flags.append(f"coarse-spacing: {spacing[1]:.1f} mm in the image plane")
    if spacing[2] > 4.5:
        flags.append(f"thick-slices: {spacing[2]:.1f} mm apart")
    if head.height_mm < 100:
        flags.append(f"coverage: only {head.height_mm:.0f} mm of the head were scanned")
    ceiling = volume.data.max()
    if np.count_nonzero(straight.data[::2, ::2, ::2] >= ceiling) > 0.002 * core.size / 8:
        flags.append("saturation: many voxels have the highest intensity")
    quarter, middle, three = np.percentile(core, (25, 50, 75))
    if three - quarter < 0.06 * abs(middle):
        flags.append("low-contrast: tissue differs little in intensity")
    return tuple(flags)


def _judge_fit(volume: Volume, head: Head, affine: Affine, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Flag a head that is larger than every shape of the card: more than scalp and neck lies outside of what the network sees."""
    to_network = np.linalg.inv(affine) @ volume.affine_ras
    low, high = (to_network[:3, :3] @ end + to_network[:3, 3] for end in (head.low, head.high))
    outside = max(float((-low).max()), float((high - shape).max()) + 1)
    cut_mm = outside * float(np.linalg.norm(affine[:3, 0]))
    allowed_mm = 2 * SCALP_MM + 2.0  # all of it at the neck, and a voxel of rounding
    return (f"coverage: the head is larger than the network's field by {cut_mm:.0f} mm at one side",) if cut_mm > allowed_mm else ()
