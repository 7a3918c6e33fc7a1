"""The pictures of the report's page: the largest lesions in three planes, and the levels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from worker.encode.display import AXIAL, BACKGROUND, CORONAL, SAGITTAL, Scene, marked
from worker.measure import Findings, Lesion

PLANES = (AXIAL, CORONAL, SAGITTAL)
FIELD_MM = (116.0, 92.0)


def shown_lesions(findings: Findings, most: int = 3) -> list[Lesion]:
    """Choose what is shown in three planes: the largest lesions, the last place to the largest tumour-like one if there is any."""
    lesions = list(findings.lesions)
    if findings.tumour_like:
        return [*lesions[: most - 1], *findings.tumour_like][:most]
    return lesions[:most]


def three_planes(scene: Scene, position_ras: tuple[float, float, float], pixels_per_mm: float, text_pixels: int) -> list[Image.Image]:
    """Draw axial, coronal and sagittal planes through a place, each `FIELD_MM` wide and high, black where the scan ends."""
    index = scene.index_of(position_ras)
    size = (round(FIELD_MM[0] * pixels_per_mm), round(FIELD_MM[1] * pixels_per_mm))
    pictures = []
    for plane in PLANES:
        image = marked(_cropped(scene, plane, index), plane, int(index[plane]), pixels_per_mm, text_pixels)
        field = Image.new("RGB", size, BACKGROUND)
        field.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
        pictures.append(field)
    return pictures


def nearest_inside(scene: Scene, lesion: Lesion) -> tuple[float, float, float]:
    """Give the centre of the component's voxel nearest to its centroid (a crescent's centroid lies outside of it)."""
    label = 1 if lesion.kind == "lesion" else 2
    index = scene.index_of(lesion.centroid_ras)
    if scene.labels[tuple(index)] == label:
        return lesion.centroid_ras
    reach = np.ceil(40.0 / scene.image.spacing_mm).astype(np.intp)
    low, high = np.maximum(index - reach, 0), index + reach + 1
    near = np.argwhere(scene.labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] == label)
    if not len(near):
        return lesion.centroid_ras
    distance = np.linalg.norm((near + low - index) * scene.image.spacing_mm, axis=1)
    x, y, z = (scene.image.affine_ras @ (*(near[distance.argmin()] + low), 1.0))[:3]
    return float(x), float(y), float(z)


def _cropped(scene: Scene, plane: int, index: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Scene:
    across, down = (1, 2) if plane == SAGITTAL else (0, 3 - plane)
    low, high = scene.low.copy(), scene.high.copy()
    for axis, extent_mm in ((across, FIELD_MM[0]), (down, FIELD_MM[1])):
        voxels = max(1, round(extent_mm / float(scene.image.spacing_mm[axis])))
        first = int(np.clip(index[axis] - voxels // 2, scene.low[axis], max(scene.low[axis], scene.high[axis] - voxels + 1)))
        low[axis], high[axis] = first, min(first + voxels - 1, scene.high[axis])
    return replace(scene, low=low, high=high)
