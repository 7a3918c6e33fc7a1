"""Pictures of the source with the mask's outlines, the same for the preview and the PDF.

Pictures show the acquisition's own planes, named after the closest of axial, coronal and sagittal: an oblique scan is not resampled,
so an outline lies exactly on the voxels of the mask. Radiological convention: the patient's right is on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from model.volume import Array, Volume, canonical
from worker.encode.context import Context

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

SAGITTAL, CORONAL, AXIAL = 0, 1, 2
# Okabe and Ito's orange and a violet: apart for every kind of colour vision; the tumour-like outline is broken as well, for print
LESION_COLOUR: Colour = (255, 176, 0)
TUMOUR_LIKE_COLOUR: Colour = (255, 92, 214)
TEXT_COLOUR: Colour = (214, 220, 228)
BACKGROUND: Colour = (10, 12, 16)
FONT = Path(__file__).parent / "fonts" / "DejaVuSansCondensed.ttf"
BOLD = Path(__file__).parent / "fonts" / "DejaVuSansCondensed-Bold.ttf"
_MARGIN_MM = 12.0
_MARKS = {SAGITTAL: ("A", "P"), CORONAL: ("R", "L"), AXIAL: ("R", "L")}


@dataclass(frozen=True, eq=False)
class Scene:
    """A case turned so that (i, j, k) run closest to right, anterior, superior.

    Attributes
    ----------
    image : the scan; labels : uint8 on the same grid (views of the source's arrays, nothing is copied)
    low, high : first and last voxel shown along each axis: the brain and a margin
    brain_low, brain_high : first and last voxel of the brain
    window : intensities shown black and white
    """

    image: Volume
    labels: npt.NDArray[np.uint8]
    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    brain_low: npt.NDArray[np.intp]
    brain_high: npt.NDArray[np.intp]
    window: tuple[float, float]

    def size_mm(self, plane: int) -> tuple[float, float]:
        """Width and height of a picture of this plane."""
        across, down = (1, 2) if plane == SAGITTAL else (0, 3 - plane)
        extent = (self.high - self.low + 1) * self.image.spacing_mm
        return float(extent[across]), float(extent[down])


def open_scene(context: Context) -> Scene:
    """Turn the case for display."""
    affine = context.volume.affine_ras
    image = canonical(context.volume)
    labels = canonical(Volume(context.masks.labels, affine)).data
    brain = canonical(Volume(context.masks.brain, affine)).data
    low, high = _extent(brain if brain.any() else np.ones((2, 2, 2), bool), image.shape)
    margin = np.ceil(_MARGIN_MM / image.spacing_mm).astype(np.intp)
    return Scene(
        image=image,
        labels=labels.astype(np.uint8, copy=False),
        low=np.maximum(low - margin, 0),
        high=np.minimum(high + margin, np.array(image.shape) - 1),
        brain_low=low,
        brain_high=high,
        window=_window(image.data, brain),
    )


def _extent(mask: Array, shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    if mask.shape != shape:
        return np.zeros(3, np.intp), np.array(shape) - 1
    inside = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return np.array([axis[0] for axis in inside]), np.array([axis[-1] for axis in inside])


def _window(data: Array, brain: Array) -> tuple[float, float]:
    """Black just below the brain's darkest fluid, white above its brightest tissue; a thinned sample is enough."""
    thinned = (slice(None, None, 3),) * 3
    values, inside = data[thinned].astype(np.float32), brain[thinned].astype(np.bool_)
    sample = values[inside] if inside.any() else values.ravel()
    low, high = np.percentile(sample, (0.5, 99.7))
    floor = float(np.percentile(values, 2.0))
    return min(floor, float(low)), max(float(high) * 1.05, float(low) + 1.0)


def level_positions(scene: Scene, count: int, apart_mm: float = 6.0) -> list[int]:
    """Choose axial levels, ascending: two thirds of them for lesions, then for all of the mask, the rest evenly through the brain.

    Within each the levels with most mask come first; chosen levels are at least `apart_mm` apart.
    """
    reach = max(1, round(apart_mm / float(scene.image.spacing_mm[AXIAL])))
    chosen: list[int] = []
    for mask, most in ((scene.labels == 1, max(1, count * 2 // 3)), (scene.labels > 0, count)):
        _take_fullest(np.count_nonzero(mask, axis=(0, 1)), chosen, most, reach)
    low, high = int(scene.brain_low[AXIAL]), int(scene.brain_high[AXIAL])
    inset = (high - low) // 8
    free = np.arange(low + inset, high - inset + 1)
    while len(chosen) < count:
        taken = np.array(chosen if chosen else [low - (high - low)])
        distance = np.abs(free[:, None] - taken).min(axis=1)
        if not distance.size or not distance.max():
            break
        chosen.append(int(free[distance.argmax()]))
    return sorted(chosen)


def _take_fullest(area: npt.NDArray[np.intp], chosen: list[int], most: int, reach: int) -> None:
    """Add the levels of largest area, none closer than `reach` to one chosen before."""
    positions = np.arange(len(area))
    for level in chosen:
        area[np.abs(positions - level) < reach] = 0
    while len(chosen) < most and area.any():
        chosen.append(int(area.argmax()))
        area[np.abs(positions - chosen[-1]) < reach] = 0


def picture(scene: Scene, plane: int, index: int, pixels_per_mm: float) -> Picture:
    """Draw one plane with outlines.

    Returns
    -------
    uint8, shape (rows, columns, 3); pixels are square in millimetres whatever the voxels are
    """
    grey = _slice(scene.image.data, scene, plane, index).astype(np.float32)
    low, high = scene.window
    shown = np.clip((grey - low) * (255.0 / (high - low)), 0, 255).astype(np.uint8)
    width_mm, height_mm = scene.size_mm(plane)
    size = (max(1, round(width_mm * pixels_per_mm)), max(1, round(height_mm * pixels_per_mm)))
    colours = np.array(Image.fromarray(shown).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    labels = np.asarray(Image.fromarray(_slice(scene.labels, scene, plane, index)).resize(size, Image.Resampling.NEAREST))
    for label, colour, broken in ((1, LESION_COLOUR, False), (2, TUMOUR_LIKE_COLOUR, True)):
        colours[_outline(labels == label, broken)] = colour
    return colours


def _slice(data: Array, scene: Scene, plane: int, index: int) -> Array:
    """Rows downwards (inferior or posterior), columns to the patient's left (or posterior in a sagittal plane)."""
    window = [slice(int(low), int(high) + 1) for low, high in zip(scene.low, scene.high, strict=True)]
    where: list[int | slice] = list(window)
    where[plane] = index
    return np.ascontiguousarray(data[tuple(where)][::-1, ::-1].T)


def _outline(mask: npt.NDArray[np.bool_], broken: bool) -> npt.NDArray[np.bool_]:
    """Pixels just outside of a mask, so that a lesion of a few pixels stays visible inside its line."""
    if not mask.any():
        return mask
    line: npt.NDArray[np.bool_] = ndimage.binary_dilation(mask, iterations=2 if broken else 1) & ~mask
    if broken:
        rows, columns = np.arange(mask.shape[0]), np.arange(mask.shape[1])
        line &= (rows[:, None] + columns) % 9 < 6
    return line


def position_text(scene: Scene, plane: int, index: int) -> str:
    """Say where a plane lies: patient coordinate of its middle along the axis it is named after, in millimetres."""
    middle = (scene.low + scene.high) / 2.0
    middle[plane] = index
    place: list[float] = (scene.image.affine_ras[:3, :3] @ middle + scene.image.affine_ras[:3, 3]).tolist()
    direction = (("R", "L"), ("A", "P"), ("S", "I"))[plane][0 if place[plane] >= 0 else 1]
    return f"{direction} {abs(place[plane]):.0f} mm"


def marked(scene: Scene, plane: int, index: int, pixels_per_mm: float, text_pixels: int) -> Image.Image:
    """Draw one plane with outlines, side marks and its position."""
    image = Image.fromarray(picture(scene, plane, index, pixels_per_mm))
    draw = ImageDraw.Draw(image)
    font, bold = lettering(text_pixels), lettering(text_pixels, bold=True)
    left, right = _MARKS[plane]
    pad = text_pixels // 3
    middle = image.height // 2
    for place, text, type_, anchor in (
        ((pad, middle), left, bold, "lm"),
        ((image.width - pad, middle), right, bold, "rm"),
        ((pad, image.height - pad), position_text(scene, plane, index), font, "ls"),
    ):
        draw.text(place, text, TEXT_COLOUR, type_, anchor=anchor, stroke_width=text_pixels // 9, stroke_fill=(0, 0, 0))
    return image


@lru_cache
def lettering(pixels: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Give the type of our pictures; its file travels with us, so that every machine draws the same."""
    return ImageFont.truetype(str(BOLD if bold else FONT), pixels, layout_engine=ImageFont.Layout.BASIC)
