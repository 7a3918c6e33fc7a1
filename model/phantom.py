"""A whole-head FLAIR made by code, with white-matter lesions that are known: for the demo, the tests and the training.

The anatomy is painted at 1 mm in the head's own frame, lesions are put into its white matter, and the scanner's grid samples it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.anatomy import BRAIN, LOW_MM, Generator, grow, noise_field, paint_tissue, ramp
from model.volume import Affine, Floats, Volume, resample

Plane = Literal["axial", "sagittal", "coronal", "ras"]

BRAIN_SD = 22.0  # one standard deviation of a FLAIR brain where white matter is 100
# which head axis (x, y, z) the columns, rows and slices of a stored image run along, and which way
PLANES: dict[Plane, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "axial": ((0, 1, 2), (-1, -1, 1)),
    "sagittal": ((1, 2, 0), (-1, -1, -1)),
    "coronal": ((0, 2, 1), (-1, -1, 1)),
    "ras": ((0, 1, 2), (1, 1, 1)),
}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A scan whose lesions are known, all on one grid.

    Attributes
    ----------
    flair : int16, white matter near 400
    lesions : uint8, 1 = white-matter lesion
    brain : bool
    """

    flair: Volume
    lesions: Volume
    brain: Volume


def make_phantom(
    seed: int = 0,
    shape: tuple[int, int, int] = (176, 256, 256),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    plane: Plane = "sagittal",
    oblique_degrees: tuple[float, float, float] = (4.0, -3.0, 6.0),
    lesions_ml: Sequence[float] | None = None,
    contrast_sd: tuple[float, float] = (1.4, 2.6),
    noise: float = 3.0,
    skull: bool = True,
) -> Phantom:
    """Make a head and scan it.

    Parameters
    ----------
    shape, spacing_mm : along the head's right, anterior and superior axes, whatever the plane
    plane : how the images are stored (DICOM's usual directions), or "ras"
    oblique_degrees : rotation of head and slices together about the scanner's x, y and z
    lesions_ml : volume of each lesion; by default 6 to 14 of 0.05-6 ml
    contrast_sd : range of the lesions' brightness over white matter, in standard deviations of a brain
    noise : Rician, in percent of white matter
    skull : False gives a brain-extracted scan with a background of exactly 0
    """
    rng = np.random.default_rng(seed)
    anatomy = grow(rng)
    image, white = paint_tissue(anatomy, rng)
    wanted = list(lesions_ml) if lesions_ml is not None else _draw_volumes(rng)
    profile = _add_lesions(image, white, anatomy.ventricle, wanted, contrast_sd, rng)
    brain = np.zeros_like(image)
    brain[BRAIN] = np.clip(np.maximum(anatomy.cerebrum, anatomy.hindbrain), 0, 1)
    grid, affine, size = _scanner_grid(shape, spacing_mm, plane, oblique_degrees, rng)
    return _scan((image, profile, brain), grid, affine, size, rng, noise, skull)


def _scan(
    fields: tuple[Floats, Floats, Floats],
    grid: Affine,
    affine: Affine,
    size: tuple[int, int, int],
    rng: Generator,
    noise: float,
    skull: bool,
) -> Phantom:
    image, profile, brain = (resample(Volume(field, _frame()), grid, size, "linear", antialias=True) for field in fields)
    inside = brain > 0.5
    image *= np.exp(0.10 * noise_field(rng, size, tuple(70 / np.linalg.norm(grid[:3, :3], axis=0))))
    image += rng.standard_normal(size, dtype=np.float32) * np.float32(noise)
    image = np.hypot(image, rng.standard_normal(size, dtype=np.float32) * np.float32(noise))
    if not skull:
        image *= inside
    data = np.clip(np.rint(image * np.float32(4)), 0, 4095).astype(np.int16)
    truth = ((profile > 0.5) & inside).astype(np.uint8)
    return Phantom(Volume(data, affine), Volume(truth, affine), Volume(inside, affine))


def _frame() -> Affine:
    affine = np.eye(4)
    affine[:3, 3] = LOW_MM
    return affine


def _scanner_grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    plane: Plane,
    oblique_degrees: tuple[float, float, float],
    rng: Generator,
) -> tuple[Affine, Affine, tuple[int, int, int]]:
    """Grid in the head frame, the same grid in the patient frame, and its size as stored."""
    spacing = np.asarray(spacing_mm, float)
    extent = (np.asarray(shape) - 1) * spacing
    centre = np.asarray([0.0, 0.0, 88.0 - extent[2] / 2]) + rng.uniform(-1, 1, 3) * [3, 4, 2]
    axes, signs = PLANES[plane]
    grid = np.eye(4)
    grid[:3, :3] = 0
    for stored, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        grid[axis, stored] = sign * spacing[axis]
    i, j, k = (int(shape[axis]) for axis in axes)
    grid[:3, 3] = centre - grid[:3, :3] @ (np.asarray([i, j, k]) - 1) / 2
    if np.allclose(spacing, 1):  # the frame's own voxels: nothing to interpolate
        grid[:3, 3] = np.round(grid[:3, 3])
    tilt = np.eye(4)
    for axis, degrees in enumerate(oblique_degrees):
        a, b = (n for n in range(3) if n != axis)
        turn = np.eye(4)
        turn[a, a] = turn[b, b] = np.cos(np.radians(degrees))
        turn[b, a] = np.sin(np.radians(degrees))
        turn[a, b] = -turn[b, a]
        tilt = turn @ tilt
    tilt[:3, 3] = rng.uniform(-12, 12, 3)
    return grid, tilt @ grid, (i, j, k)


def _draw_volumes(rng: Generator) -> list[float]:
    count = int(rng.integers(6, 15))
    return sorted(np.exp(rng.uniform(np.log(0.05), np.log(6.0), count)).tolist(), reverse=True)


def _add_lesions(
    image: Floats, white: Floats, ventricle: Floats, volumes_ml: list[float], contrast_sd: tuple[float, float], rng: Generator
) -> Floats:
    """Brighten the image in place; the share of each voxel that is lesion comes back (0.5 is the edge)."""
    profile = np.zeros_like(image)
    free = white > 0.8
    frame = np.full_like(image, -99)
    frame[BRAIN] = ventricle
    free[:, :, : int(-20 - LOW_MM[2])] = False
    for number, volume in enumerate(volumes_ml):
        voxels = round(volume * 1000)
        reach = int(2.2 * (voxels / 4.2) ** (1 / 3)) + 5
        near = free & (frame > -9) if number % 5 < 3 else free & (frame < -11)
        places = np.flatnonzero(near[reach:-reach, reach:-reach, reach:-reach])
        if not places.size:
            continue
        inner = tuple(n - 2 * reach for n in image.shape)
        centre = np.asarray(np.unravel_index(places[rng.integers(places.size)], inner)) + reach
        box = tuple(slice(int(c) - reach, int(c) + reach + 1) for c in centre)
        radius = _lesion_radius(reach, rng)
        allowed = np.sort(radius[free[box]])
        edge = float(allowed[min(voxels, allowed.size - 1)])
        share = ramp((edge - radius) * np.float32((voxels / 4.2) ** (1 / 3) / edge), 1.0) * white[box]
        profile[box] = np.maximum(profile[box], share)
        image[box] += share * np.float32(rng.uniform(*contrast_sd) * BRAIN_SD)
        free[box] &= radius * (voxels / 4.2) ** (1 / 3) / edge > (voxels / 4.2) ** (1 / 3) + 4
    return profile


def _lesion_radius(reach: int, rng: Generator) -> Floats:
    """Distance from a lesion's middle in a stretched, turned, warped space; its level sets are lesion shapes."""
    axes = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1].reshape(3, -1).astype(np.float32)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    stretch = np.exp(rng.uniform(-0.35, 0.35, 3))
    radius = np.linalg.norm((turn * stretch).T.astype(np.float32) @ axes, axis=0).reshape((2 * reach + 1,) * 3)
    wavelength = max(3.0, reach / 2.5)
    warp = noise_field(rng, radius.shape, (wavelength,) * 3)
    return np.asarray(radius * np.exp(0.16 * warp) + 1e-3, np.float32)
