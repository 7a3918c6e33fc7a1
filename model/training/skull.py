"""A synthetic skull, scalp and face around a brain-extracted scan: public data are stripped, hospital scans are not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from model.training.fields import blur
from model.volume import Volume, canonical

PADDING_MM = ((24, 24), (26, 30), (60, 26))
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def add_head(brain_scan: Volume, brain: Mask, seed: int) -> tuple[Volume, Mask]:
    """Grow a head around the brain of a 1 mm, brain-extracted scan.

    Parameters
    ----------
    brain : bool, on the scan's grid
    seed : thickness, contrast and texture follow from it

    Returns
    -------
    A larger canonical volume with a head in it, and the brain mask on that grid.
    """
    random = np.random.default_rng(seed)
    scan = canonical(brain_scan)
    mask = np.asarray(canonical(brain_scan.with_data(brain)).data, bool)
    data = np.pad(np.asarray(scan.data, np.float32), PADDING_MM)
    mask = np.pad(mask, PADDING_MM)
    affine = scan.affine_ras.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.asarray([before for before, _ in PADDING_MM])
    level = float(np.median(data[mask]))
    head = blur(_tissue(_distance(mask), mask, level, random), 0.6).clamp_min_(0.0)
    noise = level * float(random.uniform(0.01, 0.06))
    power = torch.from_numpy(random.standard_exponential(data.shape, dtype=np.float32))  # of two channels of Gaussian noise
    whole = torch.where(torch.from_numpy(mask), torch.from_numpy(data), head.add_(power.mul_(2.0).sqrt_(), alpha=noise))
    return Volume(whole.numpy(), affine), mask


def _distance(mask: Mask) -> Tensor:
    """Millimetres to the brain, from a half-size copy (smooth enough for bone)."""
    distance = ndimage.distance_transform_edt(~mask[::2, ::2, ::2])
    return _stretched(np.asarray(distance, np.float32) * 2, mask.shape)


def _stretched(field: Floats, shape: tuple[int, ...]) -> Tensor:
    """Linear between the field's values, corner to corner (scipy's zoom does the same in fifty times the time)."""
    return functional.interpolate(torch.from_numpy(field)[None, None], size=shape, mode="trilinear", align_corners=True)[0, 0]


def _noise(shape: tuple[int, ...], cell: float, random: np.random.Generator) -> Tensor:
    coarse = [max(2, int(n / cell)) for n in shape]
    return _stretched(random.normal(0, 1, coarse).astype(np.float32), shape)


def _tissue(distance: Tensor, mask: Mask, level: float, random: np.random.Generator) -> Tensor:
    """Layers by distance: fluid, bone with marrow, fat, skin; face and neck below."""
    shape = mask.shape
    texture = _noise(shape, 4, random)
    thickness = random.uniform(0.5, 3.0)
    fluid = _noise(shape, 20, random).mul_(0.8).add_(thickness)
    thickness = random.uniform(3.5, 8.0)
    bone = _noise(shape, 24, random).mul_(1.2).add_(thickness).add_(fluid)
    thickness = random.uniform(3.0, 8.0)
    scalp = _noise(shape, 24, random).mul_(1.2).add_(thickness).add_(bone)
    fat = level * random.uniform(0.6, 2.4)
    muscle = level * random.uniform(0.4, 1.0)
    marrow = level * random.uniform(0.05, 0.9)
    outside = distance >= scalp
    out = torch.full(shape, fat).masked_fill_(distance > scalp - 1.8, muscle)
    out.masked_fill_(distance < bone, level * random.uniform(0.02, 0.12))
    spongy = (distance > fluid + 1.5).logical_and_(distance < bone - 1.2)
    out = torch.where(spongy, (texture * 0.5).add_(0.7).clamp_(0.0, 2.0).mul_(marrow), out)
    out.masked_fill_(distance < fluid, level * random.uniform(0.05, 0.4))
    face, deep = _face(shape, mask, random)
    soft = face & (distance > bone)
    patches = torch.where(_noise(shape, 9, random) > 0.3, fat, muscle).mul_((texture * 0.25).add_(1.0).clamp_(0.2, 2.0))
    patches.masked_fill_(_noise(shape, 12, random) > 1.0, level * 0.05)
    out = torch.where(soft, torch.where(deep, patches, fat), out)
    _draw_eyes(out.numpy(), mask, level, random)
    return out.masked_fill_(outside & ~face, 0.0).mul_(texture.mul_(0.12).add_(1.0).clamp_(0.3, 2.0))


def _face(shape: tuple[int, ...], mask: Mask, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Everything below and in front of the brain, and the part of it that is deeper than the skin."""
    low, high = _extent(mask)
    centre, size = (low + high) / 2, (high - low).astype(float)
    face_centre = (centre[0], centre[1] + size[1] * random.uniform(0.05, 0.22), low[2] + size[2] * random.uniform(-0.1, 0.2))
    radius = size * np.asarray([random.uniform(0.42, 0.52), random.uniform(0.40, 0.55), random.uniform(0.55, 0.8)])
    i, j, k = (torch.from_numpy(part.astype(np.float32)) for part in np.ogrid[: shape[0], : shape[1], : shape[2]])
    ball = ((i - face_centre[0]) / radius[0]) ** 2 + ((j - face_centre[1]) / radius[1]) ** 2 + ((k - face_centre[2]) / radius[2]) ** 2
    neck = ((i - centre[0]) / (0.40 * size[0])) ** 2 + ((j - centre[1] + 0.15 * size[1]) / (0.33 * size[1])) ** 2
    below = k < low[2] + 0.3 * size[2]
    return (ball < 1) | ((neck < 1) & below), (ball < 0.85) | ((neck < 0.8) & below)


def _extent(mask: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last voxel of the brain along each axis."""
    where = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.asarray([w[0] for w in where]), np.asarray([w[-1] for w in where])


def _draw_eyes(out: Floats, mask: Mask, level: float, random: np.random.Generator) -> None:
    first, last = _extent(mask)
    middle = (first[0] + last[0]) / 2
    front, low = last[1], first[2] + 0.28 * (last[2] - first[2])
    for side in (-1, 1):
        centre = (int(middle + side * random.uniform(28, 34)), int(front - random.uniform(-4, 12)), int(low - random.uniform(0, 10)))
        box = tuple(slice(max(c - 18, 0), c + 18) for c in centre)
        i, j, k = np.ogrid[box]
        distance = np.sqrt((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2)
        view, inside = out[box], mask[box]
        view[(distance < 17) & ~inside] = level * random.uniform(0.8, 2.0)
        view[(distance < 12) & ~inside] = level * random.uniform(0.02, 0.3)
