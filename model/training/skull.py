"""A synthetic skull, scalp and face around a brain-extracted scan: public data are stripped, hospital scans are not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

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
    head = _tissue(_distance(mask), mask, level, random)
    noise = level * float(random.uniform(0.01, 0.06))
    background = np.abs(random.normal(0, noise, data.shape) + 1j * random.normal(0, noise, data.shape)).astype(np.float32)
    whole = np.where(mask, data, np.maximum(ndimage.gaussian_filter(head, 0.6), 0) + background)
    return Volume(whole.astype(np.float32), affine), mask


def _distance(mask: Mask) -> Floats:
    """Millimetres to the brain, from a half-size copy (smooth enough for bone)."""
    half = mask[::2, ::2, ::2]
    distance = ndimage.distance_transform_edt(~half).astype(np.float32) * 2
    zoomed = ndimage.zoom(distance, np.asarray(mask.shape) / np.asarray(half.shape), order=1)
    return np.asarray(zoomed, np.float32)


def _noise(shape: tuple[int, ...], cell: float, random: np.random.Generator) -> Floats:
    coarse = [max(2, int(n / cell)) for n in shape]
    field = ndimage.zoom(random.normal(0, 1, coarse).astype(np.float32), np.asarray(shape) / np.asarray(coarse), order=1)
    return np.asarray(field, np.float32)


def _tissue(distance: Floats, mask: Mask, level: float, random: np.random.Generator) -> Floats:
    """Layers by distance: fluid, bone with marrow, fat, skin; face and neck below."""
    shape = mask.shape
    texture = _noise(shape, 4, random)
    fluid = random.uniform(0.5, 3.0) + 0.8 * _noise(shape, 20, random)
    bone = fluid + random.uniform(3.5, 8.0) + 1.2 * _noise(shape, 24, random)
    scalp = bone + random.uniform(3.0, 8.0) + 1.2 * _noise(shape, 24, random)
    fat = level * random.uniform(0.6, 2.4)
    muscle = level * random.uniform(0.4, 1.0)
    marrow = level * random.uniform(0.05, 0.9)
    out = np.zeros(shape, np.float32)
    out[distance < scalp] = fat
    out = np.where((distance > scalp - 1.8) & (distance < scalp), muscle, out)
    out = np.where(distance < bone, level * random.uniform(0.02, 0.12), out)
    middle = (distance > fluid + 1.5) & (distance < bone - 1.2)
    out = np.where(middle, marrow * np.clip(0.7 + 0.5 * texture, 0, 2), out)
    out = np.where(distance < fluid, level * random.uniform(0.05, 0.4), out)
    face, deep = _face(shape, mask, random)
    soft = face & (distance > bone)
    patches = np.where(_noise(shape, 9, random) > 0.3, fat, muscle) * np.clip(1 + 0.25 * texture, 0.2, 2)
    patches = np.where(_noise(shape, 12, random) > 1.0, level * 0.05, patches)
    out = np.where(soft & deep, patches, out)
    out = np.where(soft & ~deep, fat, out)
    out = _eyes(out, mask, level, random)
    out = np.where(distance > scalp, np.where(face, out, 0), out)
    return np.asarray(out * np.clip(1 + 0.12 * texture, 0.3, 2), np.float32)


def _face(shape: tuple[int, ...], mask: Mask, random: np.random.Generator) -> tuple[Mask, Mask]:
    """Everything below and in front of the brain, and the part of it that is deeper than the skin."""
    where = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low, high = np.asarray([w[0] for w in where]), np.asarray([w[-1] for w in where])
    centre, size = (low + high) / 2, (high - low).astype(float)
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    face_centre = (centre[0], centre[1] + size[1] * random.uniform(0.05, 0.22), low[2] + size[2] * random.uniform(-0.1, 0.2))
    radius = size * np.asarray([random.uniform(0.42, 0.52), random.uniform(0.40, 0.55), random.uniform(0.55, 0.8)])
    ball = ((i - face_centre[0]) / radius[0]) ** 2 + ((j - face_centre[1]) / radius[1]) ** 2 + ((k - face_centre[2]) / radius[2]) ** 2
    neck = ((i - centre[0]) / (0.40 * size[0])) ** 2 + ((j - centre[1] + 0.15 * size[1]) / (0.33 * size[1])) ** 2 + 0 * k
    below = k < low[2] + 0.3 * size[2]
    return np.asarray((ball < 1) | ((neck < 1) & below)), np.asarray((ball < 0.85) | ((neck < 0.8) & below))


def _eyes(out: Floats, mask: Mask, level: float, random: np.random.Generator) -> Floats:
    where = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    middle = (where[0][0] + where[0][-1]) / 2
    front, low = where[1][-1], where[2][0] + 0.28 * (where[2][-1] - where[2][0])
    for side in (-1, 1):
        centre = (int(middle + side * random.uniform(28, 34)), int(front - random.uniform(-4, 12)), int(low - random.uniform(0, 10)))
        box = tuple(slice(max(c - 18, 0), c + 18) for c in centre)
        i, j, k = np.ogrid[box]
        distance = np.sqrt((i - centre[0]) ** 2 + (j - centre[1]) ** 2 + (k - centre[2]) ** 2)
        view, inside = out[box], mask[box]
        view[(distance < 17) & ~inside] = level * random.uniform(0.8, 2.0)
        view[(distance < 12) & ~inside] = level * random.uniform(0.02, 0.3)
    return out
