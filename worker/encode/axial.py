"""The transverse planes that contours lie on: the source's own slices where they are axial, else a grid to resample the source to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from model.volume import Affine, Volume

# In a field of view of 256 mm a slice leaves its plane by a quarter of a millimetre at most
_COSINE_TOLERANCE = 1e-3
# Interpolated scans state less, and planning needs no more
FINEST_STEP_MM = 0.8
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class AxialGrid:
    """Transverse planes, as radiotherapy planning systems want them.

    Attributes
    ----------
    affine_ras : voxel (i, j, k) → patient millimetres, RAS; planes of constant k are transverse
    shape : voxels along i, j, k
    positions_lps : shape (k, 3), Image Position (Patient) of each plane, millimetres
    resampled : False where these are the source's own slices
    """

    affine_ras: Affine
    shape: tuple[int, int, int]
    positions_lps: npt.NDArray[np.float64]
    resampled: bool

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine_ras[:3, :3]))) / 1000.0

    def to_millimetres(self, points: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
        """Give x and y (LPS) of pixel coordinates (i, j) in plane k, shape (n, 2), rounded to a tenth of a micrometre."""
        return np.round(points @ self._in_plane.T + self.positions_lps[k, :2], 4) + 0.0

    def to_pixels(self, points_lps: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
        """Undo `to_millimetres`."""
        return np.asarray((points_lps - self.positions_lps[k, :2]) @ np.linalg.inv(self._in_plane).T)

    @property
    def _in_plane(self) -> npt.NDArray[np.float64]:
        return -self.affine_ras[:2, :2]


def choose_grid(volume: Volume, positions_lps: Sequence[Sequence[float]] = ()) -> AxialGrid:
    """Keep the source's slices where their rows, columns and normal run along the patient's axes (to 0.001 of a cosine), else lay a grid.

    The grid laid covers the field of view, with square pixels and the axes of the patient: rows to the left, columns to the back, planes
    ascending to the head. A step along an axis passes one voxel of the source at most, but is no finer than `FINEST_STEP_MM`.

    Parameters
    ----------
    positions_lps : of the source's slices as its headers have them, ascending along k; by the affine where they are not known

    References
    ----------
    PS3.3 C.7.6.2.1.1 (image plane)
    """
    if not is_axial(volume):
        return _lay_grid(volume)
    affine_lps = _LPS @ volume.affine_ras
    by_affine = affine_lps[:3, 3] + np.arange(volume.shape[2])[:, None] * affine_lps[:3, 2]
    known = len(positions_lps) == volume.shape[2]
    return AxialGrid(volume.affine_ras, volume.shape, np.asarray(positions_lps, np.float64) if known else by_affine, resampled=False)


def is_axial(volume: Volume) -> bool:
    """Tell whether the planes of constant k are transverse, and turned by nothing or quarters within their plane."""
    cosines = np.abs(volume.affine_ras[:3, :2] / volume.spacing_mm[:2])
    return bool(np.abs(cosines - np.rint(cosines)).max() <= _COSINE_TOLERANCE and not np.rint(cosines[2]).any())


def _lay_grid(volume: Volume) -> AxialGrid:
    affine_lps = _LPS @ volume.affine_ras
    place = _corners([(0.0, size - 1.0) for size in volume.shape], affine_lps)
    low, high = place.min(axis=0), place.max(axis=0)
    voxels_per_mm = np.abs(np.linalg.inv(affine_lps[:3, :3])).max(axis=0)
    x, y, z = np.maximum(np.round(1 / voxels_per_mm, 4), FINEST_STEP_MM)
    steps = np.array([min(x, y), min(x, y), z])
    columns, rows, planes = (int(count) for count in np.ceil((high - low) / steps - 1e-3) + 1)
    grid_lps = np.diag([*steps, 1.0])
    grid_lps[:3, 3] = np.round(low, 3)
    positions = np.asarray(np.round(grid_lps[:3, 3] + np.arange(planes)[:, None] * grid_lps[:3, 2], 4), np.float64)
    return AxialGrid(_LPS @ grid_lps, (columns, rows, planes), positions, resampled=True)


def carry(numbers: Numbers, affine_ras: Affine, grid: AxialGrid) -> Numbers:
    """Give each voxel of the grid the number of the source voxel in which its centre lies, 0 outside; no volume is favoured.

    Parameters
    ----------
    numbers : on the source grid, shape (i, j, k); affine_ras : the source's
    """
    out = np.zeros(grid.shape, np.int32)
    inside = np.nonzero(numbers)
    if not inside[0].size:
        return out
    place = _corners([(axis.min() - 1.0, axis.max() + 1.0) for axis in inside], np.linalg.inv(grid.affine_ras) @ affine_ras)
    start = np.maximum(np.floor(place.min(axis=0)), 0).astype(int)
    stop = np.minimum(np.ceil(place.max(axis=0)) + 1, grid.shape).astype(int)
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    i, j, k = np.ogrid[window]
    to_source = (np.linalg.inv(affine_ras) @ grid.affine_ras)[:3]
    index = [np.rint(row[0] * i + row[1] * j + row[2] * k + row[3]).astype(np.int32) for row in to_source]
    valid = np.logical_and.reduce([(axis >= 0) & (axis < size) for axis, size in zip(index, numbers.shape, strict=True)])
    source = tuple(np.clip(axis, 0, size - 1) for axis, size in zip(index, numbers.shape, strict=True))
    out[window] = np.where(valid, numbers[source], 0)
    return out


def _corners(bounds: Sequence[tuple[float, float]], affine: Affine) -> npt.NDArray[np.float64]:
    """Where the eight corners of a box of voxels lie, shape (8, 3)."""
    return np.asarray(np.array(list(product(*bounds))) @ affine[:3, :3].T + affine[:3, 3])
