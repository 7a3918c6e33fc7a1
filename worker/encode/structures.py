"""What was found as regions of interest: contours on transverse planes, and how much of each mask they give back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.postprocess import LESION, TUMOUR_LIKE, Masks
from model.volume import Volume
from service.sections import RTStruct
from worker.encode.axial import AxialGrid, Numbers, carry, choose_grid
from worker.encode.contours import Mask, fill, is_hole, trace
from worker.measure import Findings, Lesion, label_image

NAMES = {LESION: "WMH", TUMOUR_LIKE: "Tumour-like"}
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed polygon in plane k: x and y in millimetres, LPS, shape (n, 2), as they are written."""

    k: int
    points_lps: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest.

    Attributes
    ----------
    label : `LESION` or `TUMOUR_LIKE`
    parts : how many lesions it holds
    exclusive : some contours are holes in others: what lies within an odd number of contours belongs to it
    mask_ml : the mask on the source grid
    grid_ml : the mask on the grid of the contours
    rasterised_ml : the contours as they are written, filled again on that grid
    dice : of the mask on that grid and the filled contours; 1 where both are empty
    """

    name: str
    label: int
    parts: int
    contours: tuple[Contour, ...]
    exclusive: bool
    mask_ml: float
    grid_ml: float
    rasterised_ml: float
    dice: float


@dataclass(frozen=True, eq=False)
class Structures:
    """All regions of interest of a case, on one grid; the first is that of all lesions, without contours where none was found."""

    grid: AxialGrid
    rois: tuple[Roi, ...]


def draw(
    masks: Masks, volume: Volume, findings: Findings, chosen: RTStruct, connectivity: int, positions_lps: Sequence[Sequence[float]]
) -> Structures:
    """Draw a case's contours.

    Parameters
    ----------
    masks, findings : on the grid of `volume`
    chosen : the hole method, and how many of the largest lesions of each class have a region of their own beside that of their class
    connectivity : of the release's definition of a lesion
    positions_lps : of the source's slices, ascending along k
    """
    grid = choose_grid(volume, positions_lps)
    rois: list[Roi] = []
    for label, lesions, whole_ml in (
        (LESION, findings.lesions, findings.lesion_volume_ml),
        (TUMOUR_LIKE, findings.tumour_like, findings.tumour_like_volume_ml),
    ):
        if label != LESION and not lesions:
            continue
        numbers = _on_grid(label_image(masks.labels, label, connectivity), lesions, volume, grid)
        boxes = ndimage.find_objects(numbers, max_label=len(lesions))
        rois.append(_roi(NAMES[label], label, len(lesions), numbers > 0, whole_ml, grid, chosen))
        for lesion in lesions[: chosen.lesion_rois]:
            box: Box = boxes[lesion.number - 1] or (slice(0), slice(0), slice(0))
            own = numbers[box] == lesion.number
            start = (box[0].start or 0, box[1].start or 0, box[2].start or 0)
            rois.append(_roi(f"{NAMES[label]} {lesion.number}", label, 1, own, lesion.volume_ml, grid, chosen, start))
    return Structures(grid, tuple(rois))


def _on_grid(numbers: Numbers, lesions: Sequence[Lesion], volume: Volume, grid: AxialGrid) -> Numbers:
    """Number the grid's voxels by lesion; one that falls between the grid's points gets the point nearest to it, so that none is lost."""
    if not grid.resampled:
        return numbers
    carried = carry(numbers, volume.affine_ras, grid)
    kept = set(np.unique(carried[carried > 0]).tolist())
    to_grid = np.linalg.inv(grid.affine_ras)
    for lesion in lesions:
        if lesion.number not in kept:
            nearest = np.rint(to_grid[:3, :3] @ lesion.centroid_ras + to_grid[:3, 3]).astype(int)
            i, j, k = np.clip(nearest, 0, np.array(grid.shape) - 1)
            carried[i, j, k] = carried[i, j, k] or lesion.number
    return carried


def _roi(
    name: str,
    label: int,
    parts: int,
    mask: Mask,
    mask_ml: float,
    grid: AxialGrid,
    chosen: RTStruct,
    start: tuple[int, int, int] = (0, 0, 0),
) -> Roi:
    """Trace a mask, which begins at voxel `start` of the grid, and fill what was traced."""
    contours: list[Contour] = []
    filled_count = common_count = 0
    exclusive = False
    for plane in np.flatnonzero(mask.any(axis=(0, 1))):
        k = int(plane) + start[2]
        rows, columns = (np.flatnonzero(mask[:, :, plane].any(axis=axis)) for axis in (1, 0))
        here = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, plane], 1)
        corner = np.array([rows[0] + start[0], columns[0] + start[1]]) - 1
        polygons = trace(here, chosen.holes)
        exclusive |= any(map(is_hole, polygons))
        drawn = [grid.to_millimetres(polygon + corner, k) for polygon in polygons]
        filled = fill([grid.to_pixels(points, k) - corner for points in drawn], (here.shape[0], here.shape[1]))
        filled_count += int(filled.sum())
        common_count += int((filled & here).sum())
        contours += [Contour(k, points) for points in drawn]
    count = int(np.count_nonzero(mask))
    return Roi(
        name=name,
        label=label,
        parts=parts,
        contours=tuple(contours),
        exclusive=exclusive,
        mask_ml=mask_ml,
        grid_ml=count * grid.voxel_ml,
        rasterised_ml=filled_count * grid.voxel_ml,
        dice=2.0 * common_count / (filled_count + count) if count else 1.0,
    )
