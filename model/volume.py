"""A scan as an array with its place in the patient, and the few geometric operations everything else is built from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Affine = npt.NDArray[np.float64]


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
