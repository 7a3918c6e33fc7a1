"""The pictures of the report's page: the largest lesions in three planes, each where its section is largest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from model.postprocess import LESION, TUMOUR_LIKE
from model.volume import Volume, canonical
from worker.encode.context import Context
from worker.encode.display import AXIAL, BACKGROUND, CORONAL, SAGITTAL, Scene, marked
from worker.measure import Findings, Lesion, label_image

PLANES = (AXIAL, CORONAL, SAGITTAL)
FIELD_MM = (116.0, 102.0)
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class View:
    """What three planes show: the voxel in the middle of the pictures, and the plane's index along each axis."""

    middle: Index
    planes: Index


def shown_lesions(findings: Findings, most: int) -> list[Lesion]:
    """Choose what is shown in three planes: the largest lesions, the last place to the largest tumour-like one if there is any."""
    lesions = list(findings.lesions)
    if findings.tumour_like:
        return [*lesions[: most - 1], *findings.tumour_like][:most]
    return lesions[:most]


def views(context: Context, lesions: list[Lesion]) -> list[View]:
    """Find each lesion in the scene: its middle, and the plane of its largest section along each axis."""
    found: dict[Lesion, View] = {}
    for value, kind in ((LESION, "lesion"), (TUMOUR_LIKE, "tumour-like")):
        if any(lesion.kind == kind for lesion in lesions):
            numbered = label_image(context.masks.labels, value, context.release.card.lesion.connectivity)
            turned = np.asarray(canonical(Volume(numbered, context.volume.affine_ras)).data)
            boxes = ndimage.find_objects(turned)
            found |= {lesion: _view(turned, boxes[lesion.number - 1], lesion.number) for lesion in lesions if lesion.kind == kind}
    return [found[lesion] for lesion in lesions]


def middle_view(scene: Scene) -> View:
    """Give the planes through the middle of the brain."""
    middle = (scene.brain_low + scene.brain_high) // 2
    return View(middle, middle)


def _view(numbered: npt.NDArray[np.generic], box: tuple[slice, slice, slice], number: int) -> View:
    mask = numbered[box] == number
    start = np.array([side.start for side in box])
    areas = [np.count_nonzero(mask, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    centre = [np.average(np.arange(len(area)), weights=area) for area in areas]
    return View(start + np.rint(centre).astype(np.intp), start + np.array([int(area.argmax()) for area in areas]))


def three_planes(scene: Scene, view: View, pixels_per_mm: float, text_pixels: int) -> list[Image.Image]:
    """Draw axial, coronal and sagittal planes, each `FIELD_MM` wide and high, black where the scan ends."""
    size = (round(FIELD_MM[0] * pixels_per_mm), round(FIELD_MM[1] * pixels_per_mm))
    pictures = []
    for plane in PLANES:
        image = marked(_cropped(scene, plane, view.middle), plane, int(view.planes[plane]), pixels_per_mm, text_pixels)
        field = Image.new("RGB", size, BACKGROUND)
        field.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
        pictures.append(field)
    return pictures


def _cropped(scene: Scene, plane: int, middle: Index) -> Scene:
    across, down = (1, 2) if plane == SAGITTAL else (0, 3 - plane)
    low, high = scene.low.copy(), scene.high.copy()
    for axis, extent_mm in ((across, FIELD_MM[0]), (down, FIELD_MM[1])):
        voxels = max(1, round(extent_mm / float(scene.image.spacing_mm[axis])))
        first = int(np.clip(middle[axis] - voxels // 2, scene.low[axis], max(scene.low[axis], scene.high[axis] - voxels + 1)))
        low[axis], high[axis] = first, min(first + voxels - 1, scene.high[axis])
    return replace(scene, low=low, high=high)
