"""A whole-head FLAIR made by code, with white-matter lesions that are known: for the demo, the tests and the training.

Anatomy is a set of smooth fields in millimetres on a 2 mm lattice, brought to 1 mm and painted there, then sampled by the
scanner's grid. Head frame: x right, y anterior, z superior, origin in the middle of the brain. White matter has intensity 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from model.volume import Affine, Floats, Volume, resample

Generator = np.random.Generator
Plane = Literal["axial", "sagittal", "coronal", "ras"]

LOW_MM = np.asarray([-92.0, -112.0, -160.0])  # corner of the head frame
SIZE_MM = np.asarray([184, 240, 262])
LATTICE_MM = 2.0
BRAIN = (slice(16, 168), slice(14, 210), slice(62, 240))  # where in the frame the brain is
BRAIN_SD = 22.0  # one standard deviation of a FLAIR brain where white matter is 100
# which head axis (x, y, z) the columns, rows and slices of a stored image run along, and which way
PLANES: dict[Plane, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "axial": ((0, 1, 2), (-1, -1, 1)),
    "sagittal": ((1, 2, 0), (-1, -1, -1)),
    "coronal": ((0, 2, 1), (-1, -1, 1)),
    "ras": ((0, 1, 2), (1, 1, 1)),
}
VENTRICLE = (  # one side: x, y, z, radius
    ((13, 40, 0, 2.5), (10, 24, 10, 4.5)),
    ((10, 24, 10, 4.5), (11, -5, 18, 4.5)),
    ((11, -5, 18, 4.5), (21, -34, 11, 5.5)),
    ((21, -34, 11, 5.5), (25, -60, 3, 2.0)),
    ((22, -32, 9, 4.0), (34, -18, -16, 1.5)),
)
DEEP_GREY = ((11, -12, 5, 9, 14, 9), (14, 20, 8, 5, 10, 8), (25, 4, 1, 5, 15, 10))  # thalamus, caudate, putamen: x y z, semi-axes


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


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """Fields in millimetres, positive inside, at 1 mm: cavity and head in the whole frame, the others in BRAIN."""

    cavity: Floats
    head: Floats
    cerebrum: Floats
    hindbrain: Floats
    ventricle: Floats
    fold: Floats
    deep: Floats


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
    anatomy = _grow(rng)
    image, white = _paint_tissue(anatomy, rng)
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
    image *= np.exp(0.10 * _noise(rng, size, tuple(70 / np.linalg.norm(grid[:3, :3], axis=0))))
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


def _noise(rng: Generator, shape: tuple[int, int, int], wavelength: tuple[float, ...]) -> Floats:
    """Smooth noise of about unit variance, features of `wavelength` voxels."""
    coarse = tuple(int(np.ceil(n / w)) + 4 for n, w in zip(shape, wavelength, strict=True))
    affine = np.diag([*(1 / w for w in wavelength), 1.0])
    affine[:3, 3] = 1.5
    return resample(Volume(rng.standard_normal(coarse, dtype=np.float32) * 1.5, np.eye(4)), affine, shape, "cubic")


def _lattice(rng: Generator) -> tuple[Floats, Floats, Floats]:
    """Head coordinates at every lattice point, bent a little so that no two heads and no two sides are alike."""
    shape = (int(SIZE_MM[0] / LATTICE_MM), int(SIZE_MM[1] / LATTICE_MM), int(SIZE_MM[2] / LATTICE_MM))
    scale = rng.normal(0.955, 0.03, 3)
    axes = [(LOW_MM[n] + LATTICE_MM * np.arange(shape[n])) / scale[n] for n in range(3)]
    grids = np.meshgrid(*axes, indexing="ij")
    x, y, z = (np.asarray(g, np.float32) + 2.0 * _noise(rng, shape, (20, 20, 20)) for g in grids)
    return x, y, z


def _ellipsoid(p: tuple[Floats, Floats, Floats], centre: Sequence[float], radii: Sequence[float], power: float = 2.0) -> Floats:
    """About the distance in mm to the surface, positive inside."""
    parts = sum(np.abs((q - c) / r) ** power for q, c, r in zip(p, centre, radii, strict=True))
    return np.asarray((1 - np.asarray(parts) ** (1 / power)) * np.mean(radii), np.float32)


def _capsule(p: tuple[Floats, Floats, Floats], start: Sequence[float], end: Sequence[float]) -> Floats:
    """Distance to a tapering tube; start and end are x, y, z, radius."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    way = b[:3] - a[:3]
    relative = [q - c for q, c in zip(p, a[:3], strict=True)]
    along = np.clip(sum(q * w for q, w in zip(relative, way, strict=True)) / float(way @ way), 0, 1)
    gap = np.sqrt(sum((q - along * w) ** 2 for q, w in zip(relative, way, strict=True)))
    return np.asarray(a[3] + along * (b[3] - a[3]) - gap, np.float32)


def _grow(rng: Generator) -> _Anatomy:
    p = _lattice(rng)
    x, y, z = p
    side = np.abs(x)
    cerebrum = np.where(z > 0, _ellipsoid(p, (0, 0, 0), (67, 84, 64), 2.3), _ellipsoid(p, (0, 0, 0), (67, 84, 50), 2.6))
    floor = np.where(y > 28, z + 26, np.where(y < -22, z + 18 - 0.15 * (y + 22), z + 52))
    middle = np.maximum(side - 8, z + 19)
    cerebrum = np.minimum(np.minimum(cerebrum, ndimage.gaussian_filter(floor, 2.5)), ndimage.gaussian_filter(middle, 1.5))
    hindbrain = np.maximum(_ellipsoid(p, (0, -50, -42), (50, 33, 25)), _capsule(p, (0, -6, -10, 16), (0, -28, -52, 13)))
    hindbrain = np.maximum(hindbrain, _capsule(p, (0, -28, -52, 11), (0, -42, -90, 6)))
    hindbrain = np.maximum(hindbrain, _capsule(p, (0, -42, -90, 6), (0, -50, -180, 6)))
    cavity = _close(np.maximum(cerebrum, hindbrain), 14, rng.uniform(1.5, 3.0))
    head = np.maximum(cavity + rng.uniform(9.5, 12.5), _ellipsoid(p, (0, 42, -62), (58, 58, 66)))
    head = np.maximum(head, _capsule(p, (0, -30, -60, 62), (0, -42, -200, 60)))
    head = np.maximum(head, _ellipsoid(p, (0, 100, -62), (13, 16, 22)))
    large = rng.uniform(-0.8, 2.5)
    mirrored = (np.asarray(side + 1.5 * np.sign(x) * rng.normal(), np.float32), y, z)
    tubes = [_capsule(mirrored, a, b) for a, b in VENTRICLE]
    third = np.minimum(1.8 - side, _ellipsoid(p, (0, -4, -2), (20, 18, 12)))
    ventricle = np.maximum(np.maximum.reduce(tubes) + large, np.maximum(third, _ellipsoid(p, (0, -34, -40), (7, 6, 10))))
    deep = np.maximum.reduce([_ellipsoid((side, y, z), d[:3], d[3:]) for d in DEEP_GREY])
    inner = (_fine(field, BRAIN) for field in (cerebrum, hindbrain, ventricle, _fold(p, rng), deep))
    return _Anatomy(_fine(cavity), _fine(head), *inner)


def _close(field: Floats, radius_mm: float, shell_mm: float) -> Floats:
    """Distance to the closed surface, `shell_mm` outside of it: what the skull encloses."""
    half = field[::2, ::2, ::2] > 0
    out = ndimage.distance_transform_edt(~half, sampling=2 * LATTICE_MM)
    grown = ndimage.distance_transform_edt(out < radius_mm, sampling=2 * LATTICE_MM)
    away = ndimage.distance_transform_edt(grown < radius_mm, sampling=2 * LATTICE_MM)
    signed = ndimage.gaussian_filter(np.minimum(grown - radius_mm, 20) - np.minimum(away, 60), 0.8).astype(np.float32)
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    i, j, k = field.shape
    whole = resample(Volume(np.pad(signed, 1, "edge"), np.eye(4)), affine + _shift(1), (i, j, k), "cubic")
    return np.asarray(np.maximum(whole, field) + shell_mm, np.float32)


def _shift(voxels: float) -> Affine:
    shift = np.zeros((4, 4))
    shift[:3, 3] = voxels
    return shift


def _fold(p: tuple[Floats, Floats, Floats], rng: Generator) -> Floats:
    """Noise whose zeros are sulci: it changes along the surface, hardly with depth. Unit: about a millimetre from the sheet."""
    radius = np.sqrt(sum(q * q for q in p)) + 8
    size = 40
    texture = ndimage.gaussian_filter(rng.standard_normal((size, size, size)), 0.8, mode="wrap").astype(np.float32)
    texture /= texture.std()
    where = [(q * (55 / radius + 0.12)) / 3.5 + size / 2 for q in p]
    return np.asarray(ndimage.map_coordinates(texture, where, order=1, mode="wrap") * 3.2, np.float32)


def _fine(field: Floats, window: tuple[slice, slice, slice] | None = None) -> Floats:
    """From the lattice to 1 mm, in a window of the frame or all of it."""
    low = [s.start for s in window] if window else [0, 0, 0]
    x, y, z = (s.stop - s.start for s in window) if window else (int(n) for n in SIZE_MM)
    affine = np.diag([1 / LATTICE_MM] * 3 + [1.0])
    affine[:3, 3] = np.asarray(low) / LATTICE_MM
    return resample(Volume(field, np.eye(4)), affine, (x, y, z), "cubic")


def _step(field: Floats, width: float = 0.7) -> Floats:
    """0 outside, 1 inside, a partial-volume ramp between."""
    return np.asarray(np.clip(field / np.float32(2 * width) + np.float32(0.5), 0, 1), np.float32)


def _blend(image: Floats, share: Floats, value: Floats | float) -> None:
    """Put `value` over the image where share is 1."""
    image += share * (np.asarray(value, np.float32) - image)


def _paint_tissue(a: _Anatomy, rng: Generator) -> tuple[Floats, Floats]:
    """The image before lesions and scanner, and how much of each voxel is cerebral white matter."""
    shape = (int(SIZE_MM[0]), int(SIZE_MM[1]), int(SIZE_MM[2]))
    texture = _noise(rng, shape, (5, 5, 5))
    image = _paint_outside(a, texture, rng)
    _blend(image, _step(a.cavity), 16 + 3 * texture)
    cerebrum, ventricle, fold, deep = a.cerebrum, a.ventricle, a.fold, a.deep
    part, grain = image[BRAIN], texture[BRAIN]
    depth = _pial_depth(cerebrum, fold, rng)
    _blend(part, _step(a.hindbrain), _hindbrain(a.hindbrain, fold, rng) + 3 * grain)
    grey = rng.uniform(116, 130)
    _blend(part, _step(np.minimum(depth - 0.8, cerebrum)), grey + 4 * grain)
    inside = _step(np.minimum(depth - rng.uniform(3.4, 4.2), cerebrum))
    _blend(part, inside, 100 + 2.5 * grain)
    core = _step(deep + grain, 1.2) * _step(cerebrum)
    _blend(part, core, rng.uniform(108, 118) + 2 * grain)
    rim = np.exp(-np.abs(ventricle) / 1.6) * inside
    part += rng.uniform(4, 12) * rim
    _blend(part, _step(ventricle), 14 + 2 * grain)
    white = np.zeros(shape, np.float32)
    white[BRAIN] = inside * (1 - core) * _step(-ventricle - 0.5)
    return image, white


def _pial_depth(cerebrum: Floats, fold: Floats, rng: Generator) -> Floats:
    """Millimetres from the nearest cerebrospinal fluid of surface, sulci and fissures."""
    x, y, z = (g.astype(np.float32) for g in np.ogrid[BRAIN])
    x, y, z = (g + np.float32(low) for g, low in zip((x, y, z), LOW_MM, strict=True))
    middle = np.maximum(0, 36 - np.sqrt(x * x + y * y * 0.5 + z * z))
    sulcus = np.abs(fold) * 1.3 + np.maximum(0, cerebrum - np.float32(rng.uniform(13, 18))) * 1.2 + middle
    bend = rng.normal(0, 1.0) + 1.2 * np.sin(y / 28 + rng.uniform(0, 6)) + 0.6 * np.sin(z / 19)
    callosum = np.maximum(0, 26 - np.hypot((y + 2) * 0.62, z - 2))
    fissure = np.abs(x + bend + 0.35 * fold) - 0.3 + 1.5 * callosum
    slope = z + 8 - 0.28 * y - 0.3 * (np.abs(x) - 45) + 0.9 * fold
    sylvian = np.abs(slope) * 0.8 + np.maximum(0, 37 - np.abs(x)) + np.maximum(0, np.abs(y - 5) - 30)
    return np.asarray(np.minimum(np.minimum(cerebrum, sulcus), np.minimum(fissure, sylvian)), np.float32)


def _hindbrain(field: Floats, fold: Floats, rng: Generator) -> Floats:
    """Cerebellar cortex is striped by its folia, the middle and the brainstem are white matter."""
    folia = np.sin((np.arange(field.shape[2])[None, None, :] + 0.8 * fold) * 2 * np.pi / 6.5)
    cortex = _step(9 - field, 3)
    return np.asarray(rng.uniform(98, 108) + cortex * (6 + 14 * folia), np.float32)


def _paint_outside(a: _Anatomy, texture: Floats, rng: Generator) -> Floats:
    """Scalp, fat, muscle, skull, eyes and sinuses, by depth under the skin and distance from the cavity."""
    x, y, z = np.ogrid[tuple(slice(0, int(n)) for n in SIZE_MM)]
    p = (np.abs(x + LOW_MM[0]).astype(np.float32), (y + LOW_MM[1]).astype(np.float32), (z + LOW_MM[2]).astype(np.float32))
    fat, muscle = rng.uniform(45, 150), rng.uniform(40, 60)
    image = (muscle + 8 * texture) * _step(a.head)
    _blend(image, _step(5.0 + 1.5 * texture - a.head) * _step(a.head - 1.6), fat + 8 * texture)
    skull = _step(a.cavity + 6.2 + 0.6 * texture) * _step(a.head - 3)
    _blend(image, skull, 12)
    marrow = _step(a.cavity + 4.8) * _step(-1.6 - a.cavity)
    _blend(image, marrow, rng.uniform(25, 65) + 8 * texture)
    orbit = (slice(None), slice(150, 240), slice(80, 160))
    near = (p[0], p[1][:, orbit[1]], p[2][..., orbit[2]])
    outside = _step(-2.0 - a.cavity[orbit])
    _blend(image[orbit], _step(_ellipsoid(near, (32, 78, -40), (17, 22, 16))) * outside, fat + 6 * texture[orbit])
    _blend(image[orbit], _step(_ellipsoid(near, (32, 84, -40), (12, 12, 12))) * outside, 18)
    _blend(image[orbit], _step(_ellipsoid(near, (0, 74, -58), (13, 26, 18)) + 5 * texture[orbit]) * outside, 4)
    return image


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
        share = _step((edge - radius) * np.float32((voxels / 4.2) ** (1 / 3) / edge), 1.0) * white[box]
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
    warp = _noise(rng, radius.shape, (wavelength,) * 3)
    return np.asarray(radius * np.exp(0.16 * warp) + 1e-3, np.float32)
