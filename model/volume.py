"""A scan as an array with its place in the patient, and the few geometric operations everything else is built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

Array = npt.NDArray[np.generic]
Affine = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Kernel = Literal["nearest", "linear", "cubic"]


class UnusableVolume(Exception):
    """The volume cannot be segmented (no head found, not finite, too small). Rejected, never retried."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar field on a regular grid.

    Attributes
    ----------
    data : shape (i, j, k), any real dtype
    affine_ras : float64, shape (4, 4); voxel index (i, j, k, 1) of a voxel's centre -> patient millimetres, RAS
    """

    data: Array
    affine_ras: Affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k)."""
        i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance between neighbouring voxel centres along (i, j, k), in millimetres."""
        return np.asarray(np.linalg.norm(self.affine_ras[:3, :3], axis=0))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres (|det| of the affine, so oblique and sheared grids are right too)."""
        return float(abs(np.linalg.det(self.affine_ras[:3, :3]))) / 1000.0

    def with_data(self, data: Array) -> Volume:
        """Other values on the same grid."""
        if data.shape != self.data.shape:
            raise ValueError(f"expected shape {self.data.shape}, got {data.shape}")
        return Volume(data, self.affine_ras)


def canonical(volume: Volume) -> Volume:
    """The same voxels with axes permuted and flipped so that (i, j, k) run closest to (right, anterior, superior).

    Nothing is interpolated: an oblique grid stays oblique. The data are a view where numpy can give one.
    """
    directions = volume.affine_ras[:3, :3] / volume.spacing_mm
    order = max(permutations(range(3)), key=lambda p: sum(abs(directions[axis, p[axis]]) for axis in range(3)))
    data = volume.data.transpose(order)
    affine = volume.affine_ras[:, [*order, 3]].copy()
    for axis in range(3):
        if affine[axis, axis] < 0:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return Volume(data, affine)


def resample(volume: Volume, affine_ras: Affine, shape: tuple[int, int, int], kernel: Kernel, antialias: bool = False) -> Floats:
    """Values of `volume` on another grid, 0 outside of its field of view.

    Grids whose axes are parallel (any permutation, flip, spacing and offset) go one axis after the other as sparse
    matrix products, which makes cubic nearly as cheap as linear; other grids go through scipy.

    Parameters
    ----------
    affine_ras, shape : the grid wanted
    antialias : widen the kernel where the wanted grid is the coarser one
    """
    source_from_wanted = np.linalg.inv(volume.affine_ras) @ affine_ras
    matrix = source_from_wanted[:3, :3]
    axes = np.argmax(np.abs(matrix), axis=1)
    rest = matrix.copy()
    rest[range(3), axes] = 0
    if sorted(axes) == [0, 1, 2] and np.abs(rest * np.asarray(shape)).max() < 0.01:
        return _resample_parallel(volume.data, matrix, source_from_wanted[:3, 3], axes.tolist(), shape, kernel, antialias)
    order = {"nearest": 0, "linear": 1, "cubic": 3}[kernel]
    values = np.asarray(volume.data, np.float32)
    out = ndimage.affine_transform(values, matrix, source_from_wanted[:3, 3], shape, order=order, mode="constant")
    return np.asarray(out, np.float32)


def _resample_parallel(
    data: Array,
    matrix: Affine,
    offset: Affine,
    axes: Sequence[int],
    shape: tuple[int, int, int],
    kernel: Kernel,
    antialias: bool,
) -> Floats:
    """Source axis s runs along wanted axis axes[s]; the axes that lose most voxels go first."""
    plans = [_weights(data.shape[s], shape[axes[s]], float(matrix[s, axes[s]]), float(offset[s]), kernel, antialias) for s in range(3)]
    bounds = [_used(plan) for plan in plans]
    values = np.asarray(data[tuple(slice(low, high) for low, high in bounds)], np.float32)
    for s in sorted(range(3), key=lambda s: shape[axes[s]] / max(1, values.shape[s])):
        values = _apply(plans[s][:, bounds[s][0] : bounds[s][1]], values, s)
    return np.ascontiguousarray(values.transpose(np.argsort(axes)))


def _used(weights: Floats) -> tuple[int, int]:
    """First and one-past-last source voxel that any wanted voxel needs."""
    columns = np.flatnonzero(weights.any(axis=0))
    return (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 1)


def _apply(weights: Floats, values: Floats, axis: int) -> Floats:
    """Sparse products: half the time of dense ones, and BLAS threads would stall on a busy machine."""
    if _is_placement(weights):
        return _place(weights, values, axis)
    matrix, values = sparse.csr_array(weights), np.ascontiguousarray(values)
    if axis == 0:
        flat = matrix @ values.reshape(values.shape[0], -1)
        return np.asarray(flat.reshape(-1, *values.shape[1:]), np.float32)
    shape = list(values.shape)
    shape[axis] = weights.shape[0]
    out = np.empty(shape, np.float32)
    for plane, result in zip(values, out, strict=True):
        result[...] = matrix @ plane if axis == 1 else (matrix @ np.ascontiguousarray(plane.T)).T
    return out


def _is_placement(weights: Floats) -> bool:
    """Every wanted voxel is one source voxel, or none."""
    return bool(np.all((weights == 0) | (weights == 1)) and weights.sum(axis=1).max(initial=0) <= 1)


def _place(weights: Floats, values: Floats, axis: int) -> Floats:
    shape = list(values.shape)
    shape[axis] = weights.shape[0]
    out = np.zeros(shape, np.float32)
    wanted, source = np.nonzero(weights)
    if wanted.size:
        select: list[slice | npt.NDArray[np.intp]] = [slice(None)] * 3
        select[axis] = wanted
        out[tuple(select)] = np.take(values, source, axis=axis)
    return out


def _weights(source: int, wanted: int, step: float, offset: float, kernel: Kernel, antialias: bool) -> Floats:
    """Matrix (wanted, source) that interpolates along one axis: source index = step * wanted index + offset."""
    position = offset + step * np.arange(wanted)
    inside = (position > -0.5 - 1e-6) & (position < source - 0.5 + 1e-6)
    if kernel == "nearest" or (abs(abs(step) - 1) * max(source, wanted) < 0.05 and abs(position[0] - round(position[0])) < 0.02):
        position = np.round(position)
    position = np.clip(position, 0, source - 1)
    width = max(1.0, abs(step)) if antialias and kernel != "nearest" else 1.0
    distance = np.abs(position[:, None] - np.arange(source)) / width
    weights = _keys(distance) if kernel == "cubic" else np.maximum(0, 1 - distance)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    weights[np.abs(weights) < 1e-6] = 0
    return np.asarray(weights * inside[:, None], np.float32)


def _keys(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cubic convolution, a = -0.5 (Keys 1981)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
