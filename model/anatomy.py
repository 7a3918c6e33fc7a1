"""A head in smooth fields of millimetres, and its tissues as FLAIR shows them: what the phantom is made of.

Fields are made on a 2 mm lattice, brought to 1 mm and painted there. Frame: x right, y anterior, z superior, origin in the
middle of the brain. White matter has intensity 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from model.volume import Affine, Floats, Volume, resample

Generator = np.random.Generator

LOW_MM = np.asarray([-92.0, -112.0, -160.0])  # corner of the head frame
SIZE_MM = np.asarray([184, 240, 262])
LATTICE_MM = 2.0
BRAIN = (slice(16, 168), slice(14, 210), slice(62, 240))  # where in the frame the brain is
VENTRICLE = (  # one side: x, y, z, radius
    ((13, 40, 0, 2.5), (10, 24, 10, 4.5)),
    ((10, 24, 10, 4.5), (11, -5, 18, 4.5)),
    ((11, -5, 18, 4.5), (21, -34, 11, 5.5)),
    ((21, -34, 11, 5.5), (25, -60, 3, 2.0)),
    ((22, -32, 9, 4.0), (34, -18, -16, 1.5)),
)
DEEP_GREY = ((11, -12, 5, 9, 14, 9), (14, 20, 8, 5, 10, 8), (25, 4, 1, 5, 15, 10))  # thalamus, caudate, putamen: x y z, semi-axes


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Fields in millimetres, positive inside, at 1 mm: cavity and head in the whole frame, the others in BRAIN."""

    cavity: Floats
    head: Floats
    cerebrum: Floats
    hindbrain: Floats
    ventricle: Floats
    fold: Floats
    deep: Floats


def noise_field(rng: Generator, shape: tuple[int, int, int], wavelength: tuple[float, ...]) -> Floats:
    """Smooth noise of about unit variance, features of `wavelength` voxels."""
    coarse = tuple(int(np.ceil(n / w)) + 4 for n, w in zip(shape, wavelength, strict=True))
    affine = np.diag([*(1 / w for w in wavelength), 1.0])
    affine[:3, 3] = 1.5
    return resample(Volume(rng.standard_normal(coarse, dtype=np.float32) * 1.5, np.eye(4)), affine, shape, "cubic")


def ramp(field: Floats, width: float = 0.7) -> Floats:
    """0 outside, 1 inside, a partial-volume ramp between."""
    return np.asarray(np.clip(field / np.float32(2 * width) + np.float32(0.5), 0, 1), np.float32)


def _blend(image: Floats, share: Floats, value: Floats | float) -> None:
    """Put `value` over the image where share is 1."""
    image += share * (np.asarray(value, np.float32) - image)


def grow(rng: Generator) -> Anatomy:
    """A head of its own: sizes, bends and folds are drawn from `rng`."""
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
    return Anatomy(_fine(cavity), _fine(head), *inner)


def paint_tissue(a: Anatomy, rng: Generator) -> tuple[Floats, Floats]:
    """The image before lesions and scanner, and how much of each voxel is cerebral white matter."""
    shape = (int(SIZE_MM[0]), int(SIZE_MM[1]), int(SIZE_MM[2]))
    texture = noise_field(rng, shape, (5, 5, 5))
    image = _paint_outside(a, texture, rng)
    _blend(image, ramp(a.cavity), 16 + 3 * texture)
    cerebrum, ventricle, fold, deep = a.cerebrum, a.ventricle, a.fold, a.deep
    part, grain = image[BRAIN], texture[BRAIN]
    depth = _pial_depth(cerebrum, fold, rng)
    _blend(part, ramp(a.hindbrain), _hindbrain(a.hindbrain, fold, rng) + 3 * grain)
    grey = rng.uniform(116, 130)
    _blend(part, ramp(np.minimum(depth - 0.8, cerebrum)), grey + 4 * grain)
    inside = ramp(np.minimum(depth - rng.uniform(3.4, 4.2), cerebrum))
    _blend(part, inside, 100 + 2.5 * grain)
    core = ramp(deep + grain, 1.2) * ramp(cerebrum)
    _blend(part, core, rng.uniform(108, 118) + 2 * grain)
    rim = np.exp(-np.abs(ventricle) / 1.6) * inside
    part += rng.uniform(4, 12) * rim
    _blend(part, ramp(ventricle), 14 + 2 * grain)
    white = np.zeros(shape, np.float32)
    white[BRAIN] = inside * (1 - core) * ramp(-ventricle - 0.5)
    return image, white


def _lattice(rng: Generator) -> tuple[Floats, Floats, Floats]:
    """Head coordinates at every lattice point, bent a little so that no two heads and no two sides are alike."""
    shape = (int(SIZE_MM[0] / LATTICE_MM), int(SIZE_MM[1] / LATTICE_MM), int(SIZE_MM[2] / LATTICE_MM))
    scale = rng.normal(0.955, 0.03, 3)
    axes = [(LOW_MM[n] + LATTICE_MM * np.arange(shape[n])) / scale[n] for n in range(3)]
    grids = np.meshgrid(*axes, indexing="ij")
    x, y, z = (np.asarray(g, np.float32) + 2.0 * noise_field(rng, shape, (20, 20, 20)) for g in grids)
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
    cortex = ramp(9 - field, 3)
    return np.asarray(rng.uniform(98, 108) + cortex * (6 + 14 * folia), np.float32)


def _paint_outside(a: Anatomy, texture: Floats, rng: Generator) -> Floats:
    """Scalp, fat, muscle, skull, eyes and sinuses, by depth under the skin and distance from the cavity."""
    x, y, z = np.ogrid[tuple(slice(0, int(n)) for n in SIZE_MM)]
    p = (np.abs(x + LOW_MM[0]).astype(np.float32), (y + LOW_MM[1]).astype(np.float32), (z + LOW_MM[2]).astype(np.float32))
    fat, muscle = rng.uniform(45, 150), rng.uniform(40, 60)
    image = (muscle + 8 * texture) * ramp(a.head)
    _blend(image, ramp(5.0 + 1.5 * texture - a.head) * ramp(a.head - 1.6), fat + 8 * texture)
    skull = ramp(a.cavity + 6.2 + 0.6 * texture) * ramp(a.head - 3)
    _blend(image, skull, 12)
    marrow = ramp(a.cavity + 4.8) * ramp(-1.6 - a.cavity)
    _blend(image, marrow, rng.uniform(25, 65) + 8 * texture)
    orbit = (slice(None), slice(150, 240), slice(80, 160))
    near = (p[0], p[1][:, orbit[1]], p[2][..., orbit[2]])
    outside = ramp(-2.0 - a.cavity[orbit])
    _blend(image[orbit], ramp(_ellipsoid(near, (32, 78, -40), (17, 22, 16))) * outside, fat + 6 * texture[orbit])
    _blend(image[orbit], ramp(_ellipsoid(near, (32, 84, -40), (12, 12, 12))) * outside, 18)
    _blend(image[orbit], ramp(_ellipsoid(near, (0, 74, -58), (13, 26, 18)) + 5 * texture[orbit]) * outside, 4)
    return image
