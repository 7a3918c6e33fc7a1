"""How a series was acquired, as its headers tell it, and whether two series were acquired alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from service.headers import Header

SPACING_TOLERANCE: Final = 0.15
"""Of the greater: 0.9 and 1.0 mm measure a lesion alike, 1 and 1.25 mm do not."""

_NO_AGENT: Final = re.compile(r"no|none|n/?a?|without.*|0", re.I)
_CONTRAST: Final = re.compile(r"\b(post|gd|gado\w*|kontrast|contrast|dotarem|gadavist|\+c|km|ce|inj)\b|\+ ?(c|gd|km)\b", re.I)


def is_after_contrast(headers: Sequence[Header]) -> bool:
    """Tell whether contrast agent was given, by its own attribute or by name."""
    named = any(_CONTRAST.search(header.series_description.replace("_", " ")) for header in headers)
    return named or any(header.contrast_agent and not _NO_AGENT.fullmatch(header.contrast_agent) for header in headers)


def is_derived(headers: Sequence[Header]) -> bool:
    """Tell whether the series was reformatted or computed from another one."""
    return any("DERIVED" in header.image_type[:1] or {"MPR", "REFORMATTED", "RESAMPLED"} & set(header.image_type) for header in headers)


def is_3d(headers: Sequence[Header]) -> bool:
    """Tell whether the series is one excitation of a whole volume."""
    return any(header.acquisition_type == "3D" for header in headers)


def likeness(one: Header, other: Header) -> int:
    """
    Tell how much two series, by one image of each, were acquired by the same protocol.

    What changes the volume of a lesion decides whether they were at all: 2D or 3D, the plane, before or after contrast, original or
    reformatted, the size of a pixel and the thickness of a slice. Names only tell such series apart: they change with the scanner's
    software and the site's habits, and a Protocol Name may be that of a whole examination. TE, TI and the field are left out: they
    change with the scanner, and then no series of the visit would be the like of the earlier one.

    Returns
    -------
    0: acquired in another way; else 1, and 1 more for each of Protocol Name, Series Description and Sequence Name that both have alike
    """
    if _kind(one) != _kind(other) or not all(map(_is_near, _sizes_mm(one), _sizes_mm(other))):
        return 0
    return 1 + sum(a == b != "" for a, b in zip(_names(one), _names(other), strict=True))


def _kind(header: Header) -> tuple[bool, bool, bool, int | None]:
    return is_3d([header]), is_after_contrast([header]), is_derived([header]), _plane(header)


def _plane(header: Header) -> int | None:
    """Give the patient's axis that the slices lie across: 0 sagittal, 1 coronal, 2 transverse."""
    directions = header.frames[0].orientation_lps if header.frames else None
    return None if directions is None else int(np.argmax(np.abs(np.cross(directions[:3], directions[3:]))))


def _sizes_mm(header: Header) -> tuple[float | None, float | None, float | None]:
    down, across = (header.frames[0].spacing_mm if header.frames else None) or (None, None)
    return down, across, header.slice_thickness_mm


def _is_near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SPACING_TOLERANCE * max(one, other)


def _names(header: Header) -> tuple[str, ...]:
    named = (header.protocol_name, header.series_description, header.sequence_name)
    return tuple("".join(filter(str.isalnum, name.casefold())) for name in named)
