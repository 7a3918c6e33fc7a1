"""What is wrong (refused) or unusual (flagged) about a series before it is segmented, from headers and pixels.

A flag is `code: detail`; the code is stable, the detail is for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from model.volume import Volume
from service.errors import Rejected
from worker.frames import Frame, image_type, is_inverted, value_of
from worker.geometry import Grid
from worker.pixels import is_lossy

_ROUNDING = 0.01
_THICK_MM = 2.0
_THICKNESS_TOLERANCE = 0.05
_UNEVEN_SHARE = 0.02
_SATURATED_SHARE = 1e-3
# The scalp over a whole brain still fills up to a third of the end slice (nine 2D series measured: 0.21-0.42).
_CUT_SHARE = 0.4
# Below the brain there is always more head; only a short stack is cut there.
_HEAD_HEIGHT_MM = 100.0
_NO_AGENT = frozenset({"", "NO", "NONE", "N", "0"})
_AFTER_CONTRAST = re.compile(r"\b(gd|gado\w*|post[ _-]?(contrast|gd|km)|km|ce)\b|\+ ?(c|gd|km)\b", re.IGNORECASE)
_ENDS = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


def demand_one_stack(frames: Sequence[Frame]) -> None:
    """Refuse a series that mixes echoes, diffusion weightings or image components (magnitude, phase).

    Raises
    ------
    Rejected
    """
    _demand_one(frames, "echoes", "EchoTime", None, "EffectiveEchoTime", "MREchoSequence")
    _demand_one(frames, "diffusion weightings", "DiffusionBValue", "MRDiffusionSequence")
    _demand_one(frames, "image components", "ComplexImageComponent", "MRImageFrameTypeSequence")
    kinds = {word for frame in frames for word in image_type(frame.dataset)[2:3]}
    if len(kinds) > 1:
        raise Rejected(f"images of different kinds in one series: {', '.join(sorted(kinds))}")


def demand_picture(frames: Sequence[Frame], minimum_values: int) -> None:
    """Refuse constant images, and masks dressed as MR: too few different values for a picture.

    Raises
    ------
    Rejected
    """
    values: set[int] = set()
    middle = len(frames) // 2
    for frame in [*frames[middle:], *frames[:middle]]:
        values.update(np.unique(frame.stored).tolist())
        if len(values) >= minimum_values:
            return
    if len(values) == 1:
        raise Rejected(f"all pixels have the value {values.pop()}")
    raise Rejected(f"only {len(values)} different pixel values: a mask, not a picture")


def describe(frames: Sequence[Frame], volume: Volume, grid: Grid) -> tuple[str, ...]:
    """Flag what makes the result of this series less certain.

    Parameters
    ----------
    frames : ascending along the normal, one per plane of `volume`
    """
    return (*_spacing_flags(frames, grid), *_header_flags(frames), *_pixel_flags(volume, grid))


def _demand_one(frames: Sequence[Frame], word: str, *places: str | None) -> None:
    """One value over all frames; `places` are pairs of keyword and functional group, the first that has a value counts."""
    pairs = list(zip(places[::2], places[1::2], strict=True))
    found = set()
    for frame in frames:
        values = (frame.find(keyword, group) for keyword, group in pairs if keyword)
        found.add(next((_hashable(value) for value in values if value is not None), None))
    found.discard(None)
    if len(found) > 1 and not _nearly_equal(found):
        raise Rejected(f"several {word} in one series: {', '.join(sorted(map(str, found))[:4])}")


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, float, int)) else str(value)


def _nearly_equal(values: Iterable[Any]) -> bool:
    """Numbers that differ by no more than rounding."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return False
    return max(numbers) - min(numbers) <= _ROUNDING * max(map(abs, numbers))


def _spacing_flags(frames: Sequence[Frame], grid: Grid) -> Iterator[str]:
    step = grid.step_mm
    try:
        thickness = float(frames[0].find("SliceThickness", "PixelMeasuresSequence") or step)
    except (TypeError, ValueError):
        thickness = step
    if round(max(step, thickness), 2) > _THICK_MM:
        yield f"thick-slices: {thickness:.1f} mm thick, every {step:.1f} mm"
    if thickness < step * (1 - _THICKNESS_TOLERANCE):
        yield f"slice-gap: {step - thickness:.2f} mm between slices of {thickness:.2f} mm are not imaged"
    if thickness > step * (1 + _THICKNESS_TOLERANCE):
        yield f"overlapping-slices: {thickness:.2f} mm thick, every {step:.2f} mm"
    if grid.unevenness_mm > _UNEVEN_SHARE * step:
        yield f"uneven-spacing: up to {grid.unevenness_mm:.2f} mm off {step:.2f} mm"


def _header_flags(frames: Sequence[Frame]) -> Iterator[str]:
    first = frames[0].dataset
    if any(is_lossy(frame.dataset) for frame in frames):
        ratio = value_of(first, "LossyImageCompressionRatio")
        yield "lossy-input: the images were compressed with loss" + (f", ratio {ratio}" if ratio else "")
    agent = _contrast_agent(frames[0])
    if agent:
        yield f"contrast-agent: {agent}"
    elif _AFTER_CONTRAST.search(str(value_of(first, "SeriesDescription") or "").replace("_", " ")):
        yield "contrast-agent: by the series description"
    if "DERIVED" in image_type(first):
        yield f"derived-images: {'/'.join(image_type(first)[:4])}"
    if is_inverted(first):
        yield "inverted-display: MONOCHROME1, values were turned round"
    padded = sum(np.count_nonzero(frame.padding) for frame in frames if frame.padding is not None)
    if padded:
        share = padded / sum(frame.stored.size for frame in frames)
        yield f"pixel-padding: {100 * share:.1f} % of the pixels are padding, taken for background"
    if len({frame.rescale for frame in frames}) > 1:
        yield "rescale-varies: slices have rescale factors of their own, applied slice by slice"


def _contrast_agent(frame: Frame) -> str:
    """What was given, empty if nothing (PS3.3 C.7.6.4, and C.7.6.4b for Enhanced)."""
    agent = str(value_of(frame.dataset, "ContrastBolusAgent") or "").strip()
    for item in value_of(frame.dataset, "ContrastBolusAgentSequence") or ():
        agent = agent or str(value_of(item, "CodeMeaning") or "unnamed")
    return "" if agent.upper() in _NO_AGENT else agent


def _pixel_flags(volume: Volume, grid: Grid) -> Iterator[str]:
    planes = np.asarray(volume.data, dtype=np.float32).transpose(2, 1, 0)
    sample = planes[:, ::4, ::4]
    bright = sample[sample > 0]
    if not bright.size:
        return
    tissue = 0.2 * float(np.percentile(bright, 98))
    area = np.array([np.count_nonzero(plane > tissue) for plane in planes])
    highest = planes.max()
    saturated = sum(np.count_nonzero(plane == highest) for plane in planes) / max(1, int(area.sum()))
    if saturated > _SATURATED_SHARE:
        yield f"saturation: {100 * saturated:.1f} % of the head has the highest value"
    normal_ras = grid.affine_ras[:3, 2]
    axis = int(np.argmax(np.abs(normal_ras)))
    extent = grid.step_mm * len(area)
    for name, end, sign in (("first", area[0], -1), ("last", area[-1], 1)):
        side = _ENDS[axis][int(sign * normal_ras[axis] > 0)]
        if end > _CUT_SHARE * area.max() and not (side == "inferior" and extent >= _HEAD_HEIGHT_MM):
            yield f"coverage: the head is cut at the {name} slice ({side} end)"
