"""The middle of the report's page: table of the largest lesions, what limits the result, planes through lesions, axial levels."""

from __future__ import annotations

from typing import Any

from worker.encode.context import Context
from worker.encode.display import AXIAL, LESION_COLOUR, TUMOUR_LIKE_COLOUR, Colour, Scene, level_positions, marked
from worker.encode.figures import FIELD_MM, middle_view, shown_lesions, three_planes, views
from worker.encode.page import INK, INNER, MARGIN, PIXELS_PER_POINT, QUIET, RULE, WIDTH, fill, place, stroke, title
from worker.encode.report_form import Lesion, Report
from worker.encode.typeset import width_of, wrapped, write, write_block
from worker.encode.wording import LESION_LABEL, NONE_FOUND, TUMOUR_LIKE_LABEL
from worker.measure import Lesion as Measured

_TABLE_WIDTH = 188.0
_ROWS = 9
_TUMOUR_LIKE_ROWS = 3
_SHOWN = 3
_LEAST_ROWS = 2  # of planes: the table and the limits beside them need the room
_LEVELS_PER_ROW = 6
_GAP = 3.0
_TITLES = ("axial", "coronal", "sagittal")
# place, alignment and title of the table's columns
_COLUMNS = ((12.0, "right", "No."), (50.0, "right", "ml"), (58.0, "left", "side"), (186.0, "right", "R · A · S of centre, mm"))


def draw_lesions(page: Any, context: Context, report: Report, scene: Scene, y: float) -> float:
    """Draw table and limits on the left, the planes on the right; give where they end."""
    bottom = _planes(page, context, scene, y)
    after = _table(page, report, y)
    _limits(page, report, after - 8, bottom)
    return bottom - 15


def _table(page: Any, report: Report, y: float) -> float:
    found = report.findings
    tumour_like = found.tumour_like[:_TUMOUR_LIKE_ROWS]
    rows: list[Lesion] = [*found.lesions[: _ROWS - len(tumour_like)], *tumour_like]
    title(page, MARGIN, y, "Largest lesions")
    if not rows:
        fill(page, INK)
        return write_block(page, MARGIN, y - 16, NONE_FOUND, 8.2, _TABLE_WIDTH)
    y -= 13
    fill(page, QUIET)
    for x, align, label in _COLUMNS:
        write(page, MARGIN + x, y, label, 6.4, align=align)
    for lesion in rows:
        y -= 12.4
        _row(page, lesion, y)
    more = found.lesion_count + found.tumour_like_count - len(rows)
    notes = (
        (more, f"{more} more in report.json"),
        (found.tumour_like_count, "T: tumour-like, counted apart"),
        (found.touches_edge, "*: reaches the edge of the scan"),
    )
    fill(page, QUIET)
    y -= 11
    write(page, MARGIN, y, "   ".join(text for wanted, text in notes if wanted), 6.4, width=_TABLE_WIDTH)
    return y - 8


def _row(page: Any, lesion: Lesion, y: float) -> None:
    tumour_like = lesion.kind == "tumour-like"
    fill(page, TUMOUR_LIKE_COLOUR if tumour_like else LESION_COLOUR)
    page.rect(MARGIN - 5, y - 1, 2, 8, stroke=0, fill=1)
    fill(page, INK)
    centre = " · ".join(f"{round(value):d}" for value in lesion.centroid_ras_mm).replace("-", "−")
    texts = (
        f"{'T' if tumour_like else ''}{lesion.number}",
        f"{lesion.volume_ml:.2f}",
        f"{lesion.side}{'*' if lesion.touches_edge else ''}",
        centre,
    )
    for (x, align, _), text in zip(_COLUMNS, texts, strict=True):
        write(page, MARGIN + x, y, text, 8.2, align=align)
    stroke(page, RULE, 0.4)
    page.line(MARGIN - 5, y - 3.4, MARGIN + _TABLE_WIDTH, y - 3.4)


def _limits(page: Any, report: Report, y: float, bottom: float) -> None:
    """Write the volume without a threshold, where it is worth reading, and the quality flags, as many as there is room for."""
    size = 7.2
    title(page, MARGIN, y, "What limits this result")
    fill(page, INK)
    y -= 11.5
    said = [flag.sentence for flag in report.quality] or ["No quality flag was raised for this scan."]
    if report.volume_estimates.probability_is_calibrated:
        said.insert(0, f"White-matter by probability, without a threshold: {report.volume_estimates.by_probability_ml:.2f} ml.")
    for number, text in enumerate(said):
        lines = wrapped(text, size, _TABLE_WIDTH - 8)
        left = len(said) - number
        if y - (len(lines) - 1) * size * 1.32 < bottom + (9 if left > 1 else 0):
            write(page, MARGIN, y, f"… {left} more in report.json", size)
            return
        write(page, MARGIN, y, "•", size)
        y = write_block(page, MARGIN + 8, y, text, size, _TABLE_WIDTH - 8) - 1


def _planes(page: Any, context: Context, scene: Scene, y: float) -> float:
    """Draw three planes through each of the largest lesions, one row each; give where they end."""
    left = MARGIN + _TABLE_WIDTH + 14
    width = (INNER - _TABLE_WIDTH - 14 - 2 * _GAP) / 3
    height = width * FIELD_MM[1] / FIELD_MM[0]
    for column, name in enumerate(_TITLES):
        title(page, left + column * (width + _GAP), y, name)
    top = y - 5
    lesions = shown_lesions(context.findings, _SHOWN)
    rows = list(zip(map(_caption, lesions), views(context, lesions), strict=True)) or [("middle of the brain", middle_view(scene))]
    scale = width * PIXELS_PER_POINT / FIELD_MM[0]
    for row, (caption, view) in enumerate(rows):
        bottom = top - (row + 1) * height - row * _GAP
        for column, picture in enumerate(three_planes(scene, view, scale, 22)):
            place(page, picture, left + column * (width + _GAP), bottom, width, height)
        _label(page, left, bottom + height, caption)
    taken = max(len(rows), _LEAST_ROWS)
    return top - taken * height - (taken - 1) * _GAP


def _label(page: Any, x: float, top: float, text: str) -> None:
    """Write a caption on a dark tab in the upper left corner of a picture."""
    page.setFillColorRGB(0.05, 0.06, 0.08)
    page.rect(x, top - 11, width_of(text, 6.8, bold=True) + 8, 11, stroke=0, fill=1)
    page.setFillColorRGB(1, 1, 1)
    write(page, x + 4, top - 8, text, 6.8, bold=True)


def _caption(lesion: Measured) -> str:
    return f"{'T' if lesion.kind == 'tumour-like' else ''}{lesion.number} · {lesion.volume_ml:.2f} ml · {lesion.side}"


def draw_levels(page: Any, scene: Scene, y: float, bottom: float) -> None:
    """Draw the levels worth seeing, inferior first, above `bottom`, with the meaning of the outlines in the title's line."""
    title(page, MARGIN, y, "Axial levels, inferior to superior")
    _legend(page, y)
    cell = (INNER - _GAP * (_LEVELS_PER_ROW - 1)) / _LEVELS_PER_ROW
    across_mm, down_mm = scene.size_mm(AXIAL)
    top = y - 5
    height = cell * down_mm / across_mm
    rows = max(2, int((top - bottom + _GAP) // (height + _GAP)))
    height = min(height, (top - bottom - _GAP * (rows - 1)) / rows)
    width = height * across_mm / down_mm
    scale = width * PIXELS_PER_POINT / across_mm
    for number, level in enumerate(level_positions(scene, rows * _LEVELS_PER_ROW)):
        row, column = divmod(number, _LEVELS_PER_ROW)
        left = MARGIN + column * (cell + _GAP) + (cell - width) / 2
        place(page, marked(scene, AXIAL, level, scale, 20), left, top - (row + 1) * height - row * _GAP, width, height)


def _legend(page: Any, y: float) -> None:
    x = WIDTH - MARGIN
    outlines: tuple[tuple[str, Colour, tuple[int, ...]], ...] = (
        (TUMOUR_LIKE_LABEL, TUMOUR_LIKE_COLOUR, (4, 2)),
        (LESION_LABEL, LESION_COLOUR, ()),
    )
    for label, colour, dash in outlines:
        x -= width_of(label, 7)
        fill(page, INK)
        write(page, x, y, label, 7)
        stroke(page, colour, 1.8)
        page.setDash(*dash)
        page.line(x - 20, y + 2.4, x - 4, y + 2.4)
        page.setDash()
        x -= 32
