"""What makes image planes one stack: tolerances and measures that admission and the worker share, so that both take the same."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]

DIRECTION_TOLERANCE: Final = 2e-3  # direction cosines, about a tenth of a degree; often rounded to four or six digits
PIXEL_SPACING_TOLERANCE: Final = 1e-3  # of the larger
# Scanners write positions with three to six decimals; a slice that lies 5 % off its place is still in the right order.
SPACING_TOLERANCE: Final = 0.05
SPACING_TOLERANCE_MM: Final = 0.02
SAME_PLACE: Final = 0.1  # of the usual spacing
SHEAR_TOLERANCE: Final = 0.01  # of the distance along the normal
SHIFT_TOLERANCE_MM: Final = 0.5
# In voxels, from an even grid: headers round positions and cosines, dicom2nifti takes the planes for perfectly even.
IN_PLANE_TOLERANCE: Final = 0.3
BETWEEN_PLANES_TOLERANCE: Final = 0.25


def are_perpendicular(orientations: Floats) -> bool:
    """
    Tell whether all direction cosines are two perpendicular unit vectors.

    Parameters
    ----------
    orientations : shape (n, 6), ImageOrientationPatient of each plane (PS3.3 C.7.6.2.1.1)
    """
    lengths = np.linalg.norm(orientations.reshape(-1, 3), axis=1)
    products = np.einsum("ij,ij->i", orientations[:, :3], orientations[:, 3:])
    return bool(np.all(np.abs(lengths - 1.0) <= DIRECTION_TOLERANCE) and np.all(np.abs(products) <= DIRECTION_TOLERANCE))


def are_parallel(orientations: Floats) -> bool:
    """Tell whether all planes, shape (n, 6), lie and are turned as the median one, in whatever order they come."""
    return bool(np.all(np.abs(orientations - np.median(orientations, axis=0)) <= DIRECTION_TOLERANCE))


def are_spaced_alike(spacings_mm: Floats) -> bool:
    """Tell whether all planes have one pixel spacing, shape (n, 2)."""
    return bool(np.all(np.ptp(spacings_mm, axis=0) <= PIXEL_SPACING_TOLERANCE * spacings_mm.max()))


def find_normal(orientations: Floats) -> Floats:
    """Give the unit normal of parallel planes, shape (n, 6): that of their mean orientation, cross(along row, along column)."""
    axes = orientations.mean(axis=0)
    normal = np.cross(axes[:3], axes[3:])
    return np.asarray(normal / np.linalg.norm(normal))


def usual_step(steps_mm: Floats) -> float:
    """Give the median distance between neighbours; of two in the middle the smaller, so that a gap is not taken for the rule."""
    return float(np.percentile(steps_mm, 50, method="lower"))


def mark_same(steps_mm: Floats, expected_mm: float) -> Marks:
    """Mark the steps between planes that lie at one place."""
    return np.asarray(steps_mm <= SAME_PLACE * max(expected_mm, 1e-6))


def mark_uneven(steps_mm: Floats, expected_mm: float) -> Marks:
    """Mark the steps that are too wide or too narrow."""
    return np.asarray(np.abs(steps_mm - expected_mm) > max(SPACING_TOLERANCE * expected_mm, SPACING_TOLERANCE_MM))


def measure_shifts(offsets: Floats, normal: Floats) -> tuple[Floats, Marks]:
    """
    Measure how far planes lie to the side of the first, and mark those that lie too far: a sheared stack, a gantry that was tilted.

    Parameters
    ----------
    offsets : shape (n, 3), millimetres from the first plane
    normal : unit vector, in the same frame
    """
    along = offsets @ normal
    sideways = np.linalg.norm(offsets - along[:, np.newaxis] * normal, axis=1)
    return sideways, sideways > np.maximum(SHIFT_TOLERANCE_MM, SHEAR_TOLERANCE * np.abs(along))
