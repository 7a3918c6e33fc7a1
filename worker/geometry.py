"""Where the planes of a series lie in the patient, and the one grid they form: computed from the headers, never guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.volume import Affine
from service.errors import Rejected
from service.stack import (
    Floats,
    are_parallel,
    are_perpendicular,
    are_spaced_alike,
    find_normal,
    mark_same,
    mark_uneven,
    measure_shifts,
    usual_step,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Planes:
    """The image planes of n frames, as their headers state them (PS3.3 C.7.6.2.1.1).

    Attributes
    ----------
    position_lps : shape (n, 3), centre of the first voxel, millimetres
    along_row_lps : shape (n, 3), unit vector along which the column index grows (first three direction cosines)
    along_column_lps : shape (n, 3), unit vector along which the row index grows (last three)
    spacing_mm : shape (n, 2), between columns (axis i), between rows (axis j)
    size : shape (n, 2), columns, rows
    """

    position_lps: Floats
    along_row_lps: Floats
    along_column_lps: Floats
    spacing_mm: Floats
    size: npt.NDArray[np.int64]

    @property
    def orientation_lps(self) -> Floats:
        """Both unit vectors, shape (n, 6), as in ImageOrientationPatient."""
        return np.concatenate([self.along_row_lps, self.along_column_lps], axis=1)


@dataclass(frozen=True, eq=False)
class Grid:
    """One regular grid of planes.

    Attributes
    ----------
    order : the frames' numbers (0-based), ascending along the normal, cross(along_row, along_column)
    affine_ras : voxel (column i, row j, plane k) → patient millimetres, RAS
    step_mm : distance between planes
    unevenness_mm : largest difference of a distance between neighbours from `step_mm`
    """

    order: npt.NDArray[np.intp]
    affine_ras: Affine
    step_mm: float
    unevenness_mm: float


def demand_alike(planes: Planes) -> None:
    """Refuse planes that cannot belong to one stack: other sizes, orientations or pixel spacings.

    Raises
    ------
    Rejected
    """
    if len(np.unique(planes.size, axis=0)) > 1:
        sizes = ", ".join(f"{columns} × {rows}" for columns, rows in np.unique(planes.size, axis=0))
        raise Rejected(f"slices of different sizes in one series: {sizes}")
    if not are_perpendicular(planes.orientation_lps):
        raise Rejected("ImageOrientationPatient is not two perpendicular unit vectors")
    if not are_parallel(planes.orientation_lps):
        raise Rejected("slices of different orientation in one series")
    if np.any(planes.spacing_mm <= 0) or not np.all(np.isfinite(planes.spacing_mm)):
        raise Rejected("PixelSpacing is not positive")
    if not are_spaced_alike(planes.spacing_mm):
        raise Rejected("slices of different pixel spacing in one series")


def arrange(planes: Planes) -> Grid:
    """Order alike planes along their normal and give the affine of the grid they form; a slight shear is in it.

    Raises
    ------
    Rejected
        The planes share a position, leave a gap, or are sheared.
    """
    normal = find_normal(planes.orientation_lps)
    distance = planes.position_lps @ normal
    order = np.argsort(distance, kind="stable")
    steps = np.diff(distance[order])
    step = usual_step(steps)
    _demand_even(steps, step)
    first, last = planes.position_lps[order[0]], planes.position_lps[order[-1]]
    between = (last - first) / (len(order) - 1)
    _demand_straight(planes.position_lps - first, normal)
    column_mm, row_mm = planes.spacing_mm[order[0]]
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = planes.along_row_lps[order[0]] * column_mm
    affine_lps[:3, 1] = planes.along_column_lps[order[0]] * row_mm
    affine_lps[:3, 2] = between
    affine_lps[:3, 3] = first
    mean = float(between @ normal)
    return Grid(order, LPS_TO_RAS @ affine_lps, mean, float(np.abs(steps - mean).max()))


def place(planes: Planes, affine_ras: Affine) -> Floats:
    """Index coordinates of every plane's first, last-column and last-row voxel on a grid.

    Returns
    -------
    float64, shape (n, 3, 3): plane, corner, (i, j, k)
    """
    reach = (planes.size - 1) * planes.spacing_mm
    corners_lps = np.stack(
        [
            planes.position_lps,
            planes.position_lps + planes.along_row_lps * reach[:, :1],
            planes.position_lps + planes.along_column_lps * reach[:, 1:],
        ],
        axis=1,
    )
    corners_ras = corners_lps * np.array([-1.0, -1.0, 1.0])
    to_index = np.linalg.inv(affine_ras)
    return np.asarray(corners_ras @ to_index[:3, :3].T + to_index[:3, 3])


def _demand_even(steps: Floats, step: float) -> None:
    same = mark_same(steps, step)
    if same.any():
        first = int(np.argmax(same)) + 1
        raise Rejected(f"two slices at one position: slices {first} and {first + 1} along the normal")
    wrong = mark_uneven(steps, step)
    if wrong.any():
        after = int(np.argmax(wrong))
        word = "gap" if steps[after] > step else "uneven spacing"
        raise Rejected(f"{word} after slice {after + 1}: {steps[after]:.1f} mm, expected {step:.1f} mm")


def _demand_straight(offset_lps: Floats, normal: Floats) -> None:
    sideways, too_far = measure_shifts(offset_lps, normal)
    if too_far.any():
        raise Rejected(f"slices are sheared (gantry tilt): shifted sideways by up to {sideways.max():.1f} mm")
