"""The reasons not to take a series, one function each: a reason in words, or nothing.

All look at headers only. What they call a T2-weighted FLAIR is defined here once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from service.headers import Frame, Header
from service.settings import Settings
from service.sop_classes import class_name

Check = Callable[[Sequence[Header], Settings], str | None]

MR_IMAGE_CLASSES: Final = {
    "1.2.840.10008.5.1.4.1.1.4": "MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.3": "Enhanced MR Color Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image Storage",
}

FLAIR_NAME: Final = re.compile(r"flair|dark.?fluid|fluid.?att|\btirm|\bda[-_ ]?fl\b", re.I)
# TE and TI in ms. A T2-weighted FLAIR nulls fluid (TI 1.4 s at 0.06 T to 2.8 s at 3 T) and has a long echo; T1-FLAIR and STIR do not.
FLAIR_ECHO_MS: Final = 60.0
FLAIR_INVERSION_MS: Final = (1200.0, 3200.0)
FLAIR_REPETITION_MS: Final = 3500.0
HEAD_FIELD_MM: Final = (120.0, 420.0)

_LOCALIZER: Final = re.compile(r"\b(locali[sz]er?|loc|(aahead_?)?scout|survey|topogram|(3|three).?plane)\b", re.I)
_MASK: Final = re.compile(r"\b(roi|mask|seg|label)", re.I)
_DIFFUSION: Final = re.compile(r"\b(dwi|dti|adc|trace|diff|diffusion|colfa)\b|_?colfa", re.I)
_MAP: Final = re.compile(r"\b(phase map|field.?map(ping)?|b0|swi|qsm|perf(usion)?|asl|cbf|cbv|mra|tof|subtraction|mip|minip)\b", re.I)
_T1: Final = re.compile(r"\bt1|\bmp2?rage\b|\bbravo\b|\btfl\b|\bspgr\b", re.I)
_T2: Final = re.compile(r"\bt2", re.I)
_OTHER_BODY: Final = re.compile(
    r"\b([ctl]?spine|knee|hip|shoulder|ankle|foot|wrist|hand|elbow|abdomen|pelvis|prostate|breast|cardiac|heart|liver|chest|thorax|"
    r"cervical|lumbar|thoracic|femur|extremity|leg|arm|orbits?|pituitary|neck)\b",
    re.I,
)
_HEAD: Final = re.compile(r"brain|head|skull|cerebr|neuro", re.I)


def names(header: Header) -> str:
    """Give the names a scanner or a site gave the series, underscores read as separators."""
    return f"{header.series_description} {header.protocol_name} {header.sequence_name}".replace("_", " ")


def describe_timing(header: Header) -> str:
    """Give TR, TE and TI in a few words."""
    values = (("TR", header.repetition_time_ms), ("TE", header.echo_time_ms), ("TI", header.inversion_time_ms))
    known = [f"{name} {value:g} ms" for name, value in values if value]
    return ", ".join(known) or "no TR, TE or TI given"


def has_flair_timing(header: Header) -> bool:
    """Tell whether TR, TE and TI are all given and are those of a T2-weighted FLAIR."""
    echo, inversion, repetition = header.echo_time_ms, header.inversion_time_ms, header.repetition_time_ms
    if not echo or not inversion or not repetition:
        return False
    lowest, highest = FLAIR_INVERSION_MS
    return echo >= FLAIR_ECHO_MS and lowest <= inversion <= highest and repetition >= FLAIR_REPETITION_MS and inversion < repetition


def _not_mr(headers: Sequence[Header], _: Settings) -> str | None:
    header = headers[0]
    if header.withdrew:
        return f"rejection note, carried out: {header.withdrew}"
    if header.sop_class_uid not in MR_IMAGE_CLASSES:
        return f"not an MR image: {class_name(header.sop_class_uid)}{f', {header.why_unwanted}' if header.why_unwanted else ''}"
    if header.modality not in ("MR", ""):
        return f"not an MR image: modality {header.modality}"
    return None


def _own_result(headers: Sequence[Header], _: Settings) -> str | None:
    return "made by Leukoscope from another series, not a scan" if any(header.made_here for header in headers) else None


def _no_pixels(headers: Sequence[Header], _: Settings) -> str | None:
    missing = sum(not header.has_pixels for header in headers)
    return f"{missing} of {len(headers)} instances have no pixel data" if missing else None


def _colour(headers: Sequence[Header], _: Settings) -> str | None:
    coloured = any((header.samples or 1) > 1 or header.sop_class_uid.endswith(".4.3") for header in headers)
    return "a colour image, not a scan" if coloured else None


def _too_large(headers: Sequence[Header], settings: Settings) -> str | None:
    columns = max(header.columns or 0 for header in headers)
    rows = max(header.rows or 0 for header in headers)
    slices = sum(len(header.frames) for header in headers)
    if columns <= settings.maximum_columns and rows <= settings.maximum_rows and slices <= settings.maximum_slices:
        return None
    limit = f"{settings.maximum_columns} × {settings.maximum_rows} × {settings.maximum_slices}"
    return f"{columns} × {rows} × {slices} voxels, at most {limit} are taken"


def _localizer(headers: Sequence[Header], _: Settings) -> str | None:
    if any("LOCALIZER" in header.image_type for header in headers):
        return "a localizer by its image type"
    return "a localizer by its name" if any(_LOCALIZER.search(names(header)) for header in headers) else None


def _mask(headers: Sequence[Header], _: Settings) -> str | None:
    """Only the description tells: a protocol's or a sequence's name may hold "seg" for other reasons (segmented k-space)."""
    found = any(_MASK.search(header.series_description.replace("_", " ")) for header in headers)
    return "a mask or region of interest by its name" if found else None


def _mosaic(headers: Sequence[Header], _: Settings) -> str | None:
    return "a mosaic of slices" if any("MOSAIC" in header.image_type for header in headers) else None


def _diffusion(headers: Sequence[Header], _: Settings) -> str | None:
    kinds = {"DIFFUSION", "ADC", "TRACEW", "FA", "COLFA"}
    found = any(kinds & {*header.image_type, header.acquisition_contrast} for header in headers)
    weighted = any(frame.b_value for frame in _frames(headers))
    named = any(_DIFFUSION.search(names(header)) for header in headers)
    return "a diffusion image or map" if found or weighted or named else None


def _complex(headers: Sequence[Header], _: Settings) -> str | None:
    components = {frame.component for frame in _frames(headers)} - {"", "MAGNITUDE"}
    phase = {"P", "PHASE", "PHASE MAP", "REAL", "IMAGINARY"}
    if components or any(phase & set(header.image_type[2:]) for header in headers):
        return "phase, real or imaginary parts, not a magnitude image"
    return None


def _map(headers: Sequence[Header], _: Settings) -> str | None:
    kinds = {"PROJECTION IMAGE", "MIN IP", "MINIP", "MIP", "SUBTRACT", "SUB", "B0 MAP", "PERFUSION", "SWI", "FMRI"}
    found = any(kinds & set(header.image_type) for header in headers) or any(_MAP.search(names(header)) for header in headers)
    return "a map, projection or functional image by its type or name" if found else None


def _several_echoes(headers: Sequence[Header], _: Settings) -> str | None:
    echoes = _distinct((frame.echo_time_ms for frame in _frames(headers)), tolerance=0.02)
    if len(echoes) > 1:
        return f"{len(echoes)} echo times in one series ({', '.join(f'{echo:g}' for echo in echoes[:4])} ms)"
    times = _distinct((frame.temporal_index for frame in _frames(headers)), tolerance=0.0)
    return f"{len(times)} time points in one series" if len(times) > 1 else None


def _gradient_echo(headers: Sequence[Header], _: Settings) -> str | None:
    header = headers[0]
    gradient = "GR" in header.scanning_sequence and "SE" not in header.scanning_sequence
    short = header.repetition_time_ms is not None and header.repetition_time_ms < 1000
    return f"a gradient echo image ({describe_timing(header)})" if gradient and short else None


def _t1(headers: Sequence[Header], _: Settings) -> str | None:
    header = headers[0]
    named = bool(_T1.search(names(header))) and not _T2.search(names(header))
    if header.echo_time_ms is not None and header.echo_time_ms < FLAIR_ECHO_MS:
        if FLAIR_NAME.search(names(header)) or header.inversion_time_ms:
            return f"T1-weighted inversion recovery, not a T2-weighted FLAIR ({describe_timing(header)})"
        return f"T1-weighted by its name ({describe_timing(header)})" if named else None
    return "T1-weighted by its name" if named and not has_flair_timing(header) else None


def _short_inversion(headers: Sequence[Header], _: Settings) -> str | None:
    inversion = headers[0].inversion_time_ms
    if inversion and inversion < FLAIR_INVERSION_MS[0]:
        return f"inversion time {inversion:g} ms does not null fluid in a T2-weighted image"
    return None


def _other_body(headers: Sequence[Header], _: Settings) -> str | None:
    header = headers[0]
    part = header.body_part.replace("_", " ")
    if _HEAD.search(part) or _HEAD.search(names(header)):
        return None
    if _OTHER_BODY.search(part):
        return f"body part {header.body_part}, not the head"
    return "another part of the body by its name" if _OTHER_BODY.search(names(header)) else None


def _no_head_field(headers: Sequence[Header], _: Settings) -> str | None:
    header = headers[0]
    spacing = header.frames[0].spacing_mm if header.frames else None
    if not spacing or not header.rows or not header.columns:
        return None
    field = (header.columns * spacing[1], header.rows * spacing[0])
    if all(HEAD_FIELD_MM[0] <= side <= HEAD_FIELD_MM[1] for side in field):
        return None
    return f"field of view {field[0]:.0f} × {field[1]:.0f} mm is not that of a head"


STRUCTURE: Final[tuple[tuple[str, Check], ...]] = (
    ("not-mr", _not_mr),
    ("own-result", _own_result),
    ("no-pixels", _no_pixels),
    ("colour", _colour),
    ("too-large", _too_large),
)
REFUSALS: Final[tuple[tuple[str, Check], ...]] = (
    ("localizer", _localizer),
    ("mask", _mask),
    ("mosaic", _mosaic),
    ("diffusion", _diffusion),
    ("phase", _complex),
    ("map", _map),
    ("gradient-echo", _gradient_echo),
    ("t1", _t1),
    ("short-inversion", _short_inversion),
    ("several-echoes", _several_echoes),
    ("other-body-part", _other_body),
    ("field-of-view", _no_head_field),
)


def _frames(headers: Sequence[Header]) -> Iterable[Frame]:
    return (frame for header in headers for frame in header.frames)


def _distinct(values: Iterable[float | None], tolerance: float) -> list[float]:
    """Give the values that differ by more than `tolerance` (relative), sorted."""
    found: list[float] = []
    for value in sorted({one for one in values if one is not None}):
        if not found or value - found[-1] > tolerance * abs(found[-1]):
            found.append(value)
    return found
