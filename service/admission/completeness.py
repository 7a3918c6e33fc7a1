"""Is the series complete? Told from where its slices lie, not from a timer and not from a counter.

"A whole head, nothing cut at an end slice" needs pixels, which are never decoded here: the worker judges it and sets a quality flag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.headers import Frame, Header
from service.stack import (
    BETWEEN_PLANES_TOLERANCE,
    IN_PLANE_TOLERANCE,
    SPACING_TOLERANCE,
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


@dataclass(frozen=True)
class Geometry:
    """What the positions say.

    Attributes
    ----------
    problem : why the slices are no gap-free stack, or nothing
    slices : how many there are
    spacing_mm : between neighbouring slices, along the normal
    doubts : why more slices may be on their way although the stack looks whole; they only postpone the start
    """

    problem: str | None
    slices: int
    spacing_mm: float | None = None
    doubts: tuple[str, ...] = ()


def check_geometry(headers: Sequence[Header]) -> Geometry:
    """
    Look at the frames of one series, in any order.

    References
    ----------
    PS3.3 C.7.6.2.1.1 (position and orientation), C.7.6.16.2.3 (the same for frames)
    """
    frames = [frame for header in headers for frame in header.frames]
    for check in (_check_counts, _check_sizes):
        if problem := check(headers):
            return Geometry(problem, len(frames))
    if problem := _check_planes(frames):
        return Geometry(problem, len(frames))
    if len(frames) < 2:
        return Geometry("one slice is no volume", len(frames))
    normal = find_normal(np.array([frame.orientation_lps for frame in frames]))
    positions = np.array([frame.position_lps for frame in frames], dtype=np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    steps = np.diff(positions[order] @ normal)
    spacing = usual_step(steps)
    problem = (
        _check_steps(steps, _expected_mm(headers, spacing))
        or _check_shifts(positions[order], normal)
        or _check_grid(headers[0], [frames[index] for index in order])
    )
    return Geometry(problem, len(frames), spacing, _doubts(headers, len(frames), spacing))


def check_patient(headers: Sequence[Header]) -> str | None:
    """Tell whether the instances name more than one patient: a mix-up at the sender that nobody here can undo. No identifier is quoted."""
    patients = {(header.patient_id, header.patient_id_issuer) for header in headers}
    return "instances of more than one patient in one series" if len(patients) > 1 else None


def _check_counts(headers: Sequence[Header]) -> str | None:
    for header in headers:
        announced = header.number_of_frames or 1
        if announced != len(header.frames):
            return f"{announced} frames announced, positions for {len(header.frames)}"
    return None


def _check_sizes(headers: Sequence[Header]) -> str | None:
    sizes = Counter((header.columns, header.rows) for header in headers)
    if len(sizes) > 1:
        return f"slices of {len(sizes)} sizes: {' and '.join(f'{columns} × {rows}' for (columns, rows), _ in sizes.most_common(2))}"
    if None in next(iter(sizes)):
        return "rows or columns missing"
    return None


def _check_planes(frames: Sequence[Frame]) -> str | None:
    if any(frame.position_lps is None or frame.orientation_lps is None or frame.spacing_mm is None for frame in frames):
        return "a slice without position, orientation or pixel spacing"
    orientations = np.array([frame.orientation_lps for frame in frames])
    if not are_perpendicular(orientations):
        return "direction cosines that are no right angle"
    if not are_parallel(orientations):
        return "slices of more than one orientation"
    spacings = np.array([frame.spacing_mm for frame in frames])
    if np.any(spacings <= 0) or not are_spaced_alike(spacings):
        return "slices of more than one pixel spacing"
    return None


def _expected_mm(headers: Sequence[Header], spacing: float) -> float:
    """A stack of which every second slice is missing is uniform too; then the declared spacing tells."""
    declared = abs(headers[0].spacing_between_slices_mm or 0.0)
    return declared if declared and 1.5 * declared < spacing and _is_multiple(spacing, declared) else spacing


def _is_multiple(spacing: float, declared: float) -> bool:
    return abs(spacing / declared - round(spacing / declared)) <= SPACING_TOLERANCE


def _check_steps(steps: Floats, expected: float) -> str | None:
    same = np.flatnonzero(mark_same(steps, expected))
    if expected <= 1e-6 or len(same):
        at = int(same[0]) + 1 if len(same) else 1
        return f"two slices at one place (slices {at} and {at + 1})"
    wrong = np.flatnonzero(mark_uneven(steps, expected))
    if not len(wrong):
        return None
    at = int(wrong[0])
    kind = "gap" if steps[at] > expected else "short step"
    return f"{kind} after slice {at + 1}: {steps[at]:.1f} mm, expected {expected:.1f} mm"


def _check_shifts(ordered: Floats, normal: Floats) -> str | None:
    """The slices of a stack lie behind each other; a constant shift from slice to slice (a sheared stack) is no stack."""
    sideways, too_far = measure_shifts(ordered - ordered[0], normal)
    if not too_far.any():
        return None
    at = int(np.argmax(too_far)) + 1
    return f"slice {at} lies {sideways[at - 1]:.1f} mm to the side of the first"


def _check_grid(header: Header, ordered: Sequence[Frame]) -> str | None:
    """Each slice lies on the grid that the first and the last span: none aside, no drift of small steps, no slow turn."""
    positions = np.array([frame.position_lps for frame in ordered], dtype=np.float64)
    axes = np.array([frame.orientation_lps for frame in ordered], dtype=np.float64).reshape(-1, 2, 3)
    row_mm, column_mm = ordered[0].spacing_mm or (1.0, 1.0)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    to_index = np.linalg.inv(np.stack([axes[0, 0] * column_mm, axes[0, 1] * row_mm, step], axis=1))
    columns, rows = (header.columns or 1) - 1, (header.rows or 1) - 1
    worst = np.zeros((len(ordered), 2))
    for i, j in ((0, 0), (columns, 0), (0, rows)):
        corners = positions - positions[0] + axes[:, 0] * (i * column_mm) + axes[:, 1] * (j * row_mm)
        away = np.abs(
            corners @ to_index.T - np.stack([np.full(len(ordered), i), np.full(len(ordered), j), np.arange(len(ordered))], axis=1)
        )
        worst = np.maximum(worst, np.stack([away[:, :2].max(axis=1), away[:, 2]], axis=1))
    for distance, allowed, way in (
        (worst[:, 0], IN_PLANE_TOLERANCE, "to the side of"),
        (worst[:, 1], BETWEEN_PLANES_TOLERANCE, "before or behind"),
    ):
        if distance.max() > allowed:
            at = int(np.argmax(distance > allowed)) + 1
            return f"slice {at} lies {distance[at - 1]:.2f} voxels {way} its place on an even grid"
    return None


def _doubts(headers: Sequence[Header], slices: int, spacing: float) -> tuple[str, ...]:
    found = []
    announced = max((header.images_in_acquisition or 0 for header in headers), default=0)
    if announced > slices:
        found.append(f"images-in-acquisition: {announced} announced, {slices} came")
    thickness = headers[0].slice_thickness_mm or 0.0
    if headers[0].acquisition_type == "3D" and thickness and spacing > 1.5 * thickness:
        found.append(f"sparse-3d: slices of {thickness:.1f} mm every {spacing:.1f} mm in a 3D acquisition")
    numbered = [header.instance_number for header in headers if header.instance_number is not None]
    if len(headers) > 1 and len(set(numbered)) == len(headers) and max(numbered) - min(numbered) >= len(headers):
        found.append(f"instance-numbers: {min(numbered)} to {max(numbered)}, {len(headers)} came")
    return tuple(found)
