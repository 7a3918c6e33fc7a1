"""The report for people: one A4 page that says what it is, the numbers, the largest lesions in three planes, and what limits it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import Image
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from worker.encode import report_json
from worker.encode.context import Context, Output
from worker.encode.display import AXIAL, LESION_COLOUR, TUMOUR_LIKE_COLOUR, Colour, Scene, level_positions, marked, open_scene
from worker.encode.figures import FIELD_MM, nearest_inside, shown_lesions, three_planes
from worker.encode.report_json import Lesion, Report
from worker.encode.typeset import fitted, width_of, wrapped, write, write_block
from worker.encode.wording import LESION_LABEL, NONE_FOUND, PRODUCT, TUMOUR_LIKE_LABEL, counted, sentence

KIND = "report.pdf"
_WIDTH, _HEIGHT = A4
_MARGIN = 34.0
_INNER = _WIDTH - 2 * _MARGIN
_INK: Colour = (24, 30, 40)
_QUIET: Colour = (98, 108, 122)
_RULE: Colour = (214, 219, 226)
_WARNING: Colour = (255, 243, 214)
_PALE: Colour = (243, 245, 248)
_TABLE_WIDTH = 188.0
_ROWS = 12
_LEVELS, _LEVELS_PER_ROW = 14, 7
_PIXELS_PER_POINT = 3.0
_QUALITY_JPEG = 92


def encode(context: Context) -> Output:
    """Encode the page; reportlab's invariant mode leaves out clock and chance."""
    report = report_json.report(context)
    scene = open_scene(context)
    buffer = BytesIO()
    page = Canvas(buffer, pagesize=A4, invariant=1, pageCompression=1)
    page.setTitle("FLAIR white-matter hyper-intensity report")
    page.setCreator(f"{PRODUCT} {context.product_version}")
    page.setAuthor(PRODUCT)
    y = _head(page, report)
    y = _statement(page, report, y)
    y = _subject(page, context, report, y)
    y = _headline(page, report, y)
    y = _lesions(page, context, report, scene, y)
    y = _levels(page, scene, y)
    _quality(page, report, y)
    _small_print(page, context, report)
    page.showPage()
    page.save()
    return Output(KIND, "application/pdf", KIND, buffer.getvalue())


def _fill(page: Any, colour: Colour) -> None:
    page.setFillColorRGB(*(part / 255 for part in colour))


def _stroke(page: Any, colour: Colour, width: float) -> None:
    page.setStrokeColorRGB(*(part / 255 for part in colour))
    page.setLineWidth(width)


def _head(page: Any, report: Report) -> float:
    y = _HEIGHT - _MARGIN - 12
    _fill(page, _INK)
    write(page, _MARGIN, y, "FLAIR white-matter hyper-intensity", 16, bold=True)
    write(page, _WIDTH - _MARGIN, y + 4, f"{PRODUCT} {report.made_by.product_version}", 9, bold=True, align="right")
    _fill(page, _QUIET)
    write(page, _WIDTH - _MARGIN, y - 6, "computed by AI, not verified by a physician", 7.5, align="right")
    return y - 14


def _statement(page: Any, report: Report, y: float) -> float:
    """What it is and is not, verbatim, before any number."""
    size, inset = 7.8, 7.0
    lines = wrapped(f"{report.statement} {report.evidence}", size, _INNER - 2 * inset)
    height = len(lines) * size * 1.32 + 8
    _fill(page, _WARNING)
    page.roundRect(_MARGIN, y - height, _INNER, height, 3, stroke=0, fill=1)
    _fill(page, _INK)
    baseline = y - 4 - size
    for line in lines:
        write(page, _MARGIN + inset, baseline, line, size)
        baseline -= size * 1.32
    return y - height - 14


def _subject(page: Any, context: Context, report: Report, y: float) -> float:
    """Whose head it is, and which scan."""
    header = context.header.get
    i, j, k = report.grid.shape
    spacing = " × ".join(f"{step:.2f}" for step in report.grid.spacing_mm)
    sex = header("PatientSex")
    birth = _day(header("PatientBirthDate"))
    scanner = " ".join(filter(None, (header("Manufacturer"), header("ManufacturerModelName"))))
    series = " ".join(filter(None, (f"#{header('SeriesNumber')}" if header("SeriesNumber") else "", header("SeriesDescription"))))
    fields = (
        ("Patient", _person(header("PatientName"))),
        ("Patient ID", header("PatientID")),
        ("Born, sex", ", ".join(filter(None, (birth, sex)))),
        ("Study date", _day(header("StudyDate"))),
        ("Study", header("StudyDescription")),
        ("Accession number", header("AccessionNumber")),
        ("Series", series),
        ("Scanner", scanner),
        ("Voxels", f"{i} × {j} × {k}"),
        ("Voxel size, mm", spacing),
    )
    widths = (0.28, 0.18, 0.22, 0.16, 0.16)
    for row in range(2):
        x = _MARGIN
        for (label, value), share in zip(fields[row * 5 : row * 5 + 5], widths, strict=True):
            _fill(page, _QUIET)
            write(page, x, y, label, 6.4)
            _fill(page, _INK)
            write(page, x, y - 10, value or "–", 8.6, bold=label in {"Patient", "Patient ID"}, width=_INNER * share - 6)
            x += _INNER * share
        y -= 24
    _stroke(page, _RULE, 0.6)
    page.line(_MARGIN, y + 6, _WIDTH - _MARGIN, y + 6)
    return y - 8


def _day(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 else ""


def _person(name: str) -> str:
    """Give the groups of a person name (PS3.5 6.2.1.1) as people write them: alphabetic (ideographic)."""
    groups = [" ".join(part for part in group.replace("^", ", ", 1).split("^") if part).strip(" ,") for group in name.split("=")]
    first, *others = [group for group in groups if group] or [""]
    return f"{first} ({others[0]})" if others else first


def _headline(page: Any, report: Report, y: float) -> float:
    """The number to read first with its label, and what it is made of."""
    found = report.findings
    height, left = 47.0, 186.0
    _fill(page, _PALE)
    page.roundRect(_MARGIN, y - height + 6, left, height, 3, stroke=0, fill=1)
    _fill(page, _INK)
    write(page, _MARGIN + 8, y - 6, report.headline.label, 7.2, bold=True, width=left - 14)
    end = write(page, _MARGIN + 8, y - 32, f"{report.headline.volume_ml:.2f}", 23, bold=True)
    write(page, end + 4, y - 32, "ml", 12)
    share = found.lesion_share_of_brain_percent
    tiles = (
        ("White-matter", f"{found.lesion_volume_ml:.2f}", "ml", LESION_COLOUR),
        ("Lesions", f"{found.lesion_count}", "", LESION_COLOUR),
        ("Largest", f"{found.largest_lesion_ml:.2f}", "ml", LESION_COLOUR),
        ("Share of brain", "–" if share is None else f"{share:.3f}", "%", LESION_COLOUR),
        ("Tumour-like", f"{found.tumour_like_volume_ml:.2f}", "ml", TUMOUR_LIKE_COLOUR),
        ("Brain", f"{found.brain_volume_ml:.0f}", "ml", _QUIET),
    )
    step = (_INNER - left) / len(tiles)
    for number, (label, value, unit, colour) in enumerate(tiles):
        x = _MARGIN + left + number * step + 8
        _fill(page, colour)
        page.rect(x, y - 40, 1.6, 45, stroke=0, fill=1)
        _fill(page, _QUIET)
        write(page, x + 5, y - 6, label, 6.8)
        _fill(page, _INK)
        end = write(page, x + 5, y - 29, value, 12.5, bold=True)
        write(page, x + 5, y - 39, unit, 7)
    return y - height - 10


def _lesions(page: Any, context: Context, report: Report, scene: Scene, y: float) -> float:
    """The table on the left, the pictures on the right."""
    bottom = _pictures(page, context, scene, y)
    _table(page, report, y, bottom)
    return bottom - 14


def _table(page: Any, report: Report, y: float, bottom: float) -> None:
    found = report.findings
    tumour_like = found.tumour_like[:3]
    rows: list[Lesion] = [*found.lesions[: _ROWS - len(tumour_like)], *tumour_like]
    _title(page, _MARGIN, y, "Largest lesions")
    columns = ((12, "right", "No."), (50, "right", "ml"), (58, "left", "side"), (186, "right", "R · A · S of centre, mm"))
    y -= 13
    _fill(page, _QUIET)
    for x, align, label in columns:
        write(page, _MARGIN + x, y, label, 6.4, align=align)
    for lesion in rows:
        y -= 12.4
        _row(page, lesion, y, columns)
    if not rows:
        _fill(page, _INK)
        write_block(page, _MARGIN, y - 16, NONE_FOUND, 8.6, _TABLE_WIDTH)
        return
    y -= 12
    _fill(page, _QUIET)
    more = found.lesion_count + found.tumour_like_count - len(rows)
    notes = [f"and {counted(more, 'more')[: -1 if more != 1 else None]} in report.json" if more else ""]
    notes += ["T: tumour-like, counted apart" if found.tumour_like else "", "*: reaches the edge of the scan" if found.touches_edge else ""]
    for note in filter(None, notes):
        if y > bottom - 4:
            write(page, _MARGIN, y, note, 6.6, width=_TABLE_WIDTH)
            y -= 8.6


def _row(page: Any, lesion: Lesion, y: float, columns: tuple[tuple[int, str, str], ...]) -> None:
    tumour_like = lesion.kind == "tumour-like"
    _fill(page, TUMOUR_LIKE_COLOUR if tumour_like else LESION_COLOUR)
    page.rect(_MARGIN - 5, y - 1, 2, 8, stroke=0, fill=1)
    _fill(page, _INK)
    x, anterior, superior = (f"{value:.0f}".replace("-0", "0") for value in lesion.centroid_ras_mm)
    edge = "*" if lesion.touches_edge else ""
    texts = (
        f"{'T' if tumour_like else ''}{lesion.number}",
        f"{lesion.volume_ml:.2f}",
        f"{lesion.side}{edge}",
        f"{x} · {anterior} · {superior}".replace("-", "−"),
    )
    for (place, align, _), text in zip(columns, texts, strict=True):
        write(page, _MARGIN + place, y, text, 8.2, align=align)
    _stroke(page, _RULE, 0.4)
    page.line(_MARGIN - 5, y - 3.4, _MARGIN + _TABLE_WIDTH, y - 3.4)


def _pictures(page: Any, context: Context, scene: Scene, y: float) -> float:
    """Three planes through each of the largest lesions, one row each; give where they end."""
    left, gap = _MARGIN + _TABLE_WIDTH + 14, 3.0
    width = (_INNER - _TABLE_WIDTH - 14 - 2 * gap) / 3
    height = width * FIELD_MM[1] / FIELD_MM[0]
    shown = shown_lesions(context.findings)
    for column, name in enumerate(("axial", "coronal", "sagittal")):
        _title(page, left + column * (width + gap), y, name)
    top = y - 5
    places = [(_caption(lesion), nearest_inside(scene, lesion)) for lesion in shown] or [("", _middle(scene))]
    scale = width * _PIXELS_PER_POINT / FIELD_MM[0]
    for row, (caption, place) in enumerate(places):
        for column, picture in enumerate(three_planes(scene, place, scale, 22)):
            x, bottom = left + column * (width + gap), top - (row + 1) * height - row * gap
            _place(page, picture, x, bottom, width, height)
            if not column:
                page.setFillColorRGB(1, 1, 1)
                write(page, x + 4, bottom + height - 9, caption, 6.8, bold=True)
    rows = max(len(places), 2)
    return top - rows * height - (rows - 1) * gap


def _caption(lesion: Any) -> str:
    return f"{'T' if lesion.kind == 'tumour-like' else ''}{lesion.number} · {lesion.volume_ml:.2f} ml · {lesion.side}"


def _middle(scene: Scene) -> tuple[float, float, float]:
    x, y, z = (scene.image.affine_ras @ (*((scene.brain_low + scene.brain_high) / 2), 1.0))[:3]
    return float(x), float(y), float(z)


def _levels(page: Any, scene: Scene, y: float) -> float:
    """The levels worth seeing, inferior first, with the meaning of the outlines above."""
    _title(page, _MARGIN, y, "Axial levels")
    x = _WIDTH - _MARGIN
    for label, colour, dash in ((TUMOUR_LIKE_LABEL, TUMOUR_LIKE_COLOUR, (4, 2)), (LESION_LABEL, LESION_COLOUR, ())):
        x -= width_of(label, 7)
        _fill(page, _INK)
        write(page, x, y, label, 7)
        _stroke(page, colour, 1.8)
        page.setDash(*dash)
        page.line(x - 20, y + 2.4, x - 4, y + 2.4)
        page.setDash()
        x -= 32
    gap = 3.0
    width = (_INNER - gap * (_LEVELS_PER_ROW - 1)) / _LEVELS_PER_ROW
    across_mm, down_mm = scene.size_mm(AXIAL)
    height = min(width * down_mm / across_mm, width * 1.25)
    width_shown = height * across_mm / down_mm
    top = y - 5
    scale = width_shown * _PIXELS_PER_POINT / across_mm
    for number, level in enumerate(level_positions(scene, _LEVELS)):
        row, column = divmod(number, _LEVELS_PER_ROW)
        left = _MARGIN + column * (width + gap) + (width - width_shown) / 2
        _place(page, marked(scene, AXIAL, level, scale, 20), left, top - (row + 1) * height - row * gap, width_shown, height)
    return top - 2 * height - gap - 14


def _place(page: Any, picture: Image.Image, x: float, y: float, width: float, height: float) -> None:
    packed = BytesIO()
    picture.save(packed, "JPEG", quality=_QUALITY_JPEG, subsampling=0)
    packed.seek(0)
    page.drawImage(ImageReader(packed), x, y, width, height)


def _title(page: Any, x: float, y: float, text: str) -> None:
    _fill(page, _INK)
    write(page, x, y, text, 8.4, bold=True)


def _quality(page: Any, report: Report, y: float) -> None:
    _title(page, _MARGIN, y, "What limits this result")
    _fill(page, _INK)
    said = [flag.sentence for flag in report.quality] or ["No quality flag was raised for this scan."]
    y -= 11
    for text in said:
        if y < 78:
            write(page, _MARGIN, y, "… more in report.json", 7.2)
            return
        write(page, _MARGIN, y, "•", 7.2)
        write(page, _MARGIN + 8, y, text, 7.2, width=_INNER - 8)
        y -= 9.6


def _small_print(page: Any, context: Context, report: Report) -> None:
    """Who computed it, by which definition, and what was measured of it."""
    made, definition = report.made_by, report.lesion_definition
    texts = [
        f"Release {made.release_name} {made.release_version}, SHA-256 {made.release_sha256}; {made.engine}, {made.precision}; "
        f"{PRODUCT} {made.product_version}; revision {report.revision}.",
        f"A lesion is a {definition.connectivity}-connected component of probability ≥ {definition.probability_threshold:g} and "
        f"≥ {definition.smallest_mm3:g} mm³; tumour-like: ≥ {definition.tumour_touch_fraction:.0%} of it taken for tumour. "
        f"Lesion volume without a threshold (sum of probabilities): {report.volume_estimates.by_probability_ml:.2f} ml. "
        "Sides and millimetres are the patient's (R, A, S positive).",
        " ".join(map(sentence, (*_figures(context), *report.limits))),
        f"Segmentation {report.segmentation_uid or 'as NIfTI only'}"
        + (f"; series {report.subject.series_uid}" if report.subject else "")
        + ".",
    ]
    _stroke(page, _RULE, 0.6)
    page.line(_MARGIN, 70, _WIDTH - _MARGIN, 70)
    _fill(page, _QUIET)
    y = 62.0
    for text in filter(None, texts):
        y = write_block(page, _MARGIN, y, text, 5.9, _INNER, most=2)


def _figures(context: Context) -> list[str]:
    """Give the release's measured figures that are plain numbers or texts, in its own words."""
    plain = {name: value for name, value in context.release.card.figures.items() if isinstance(value, int | float | str)}
    return [fitted(f"{name.replace('_', ' ')}: {value}", 5.9, _INNER) for name, value in plain.items()][:6]
