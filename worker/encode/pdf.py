"""The report for people: one A4 page that says what it is, the numbers, the largest lesions in three planes, and what limits it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from worker.encode import report_json
from worker.encode.context import Context, Output
from worker.encode.display import LESION_COLOUR, TUMOUR_LIKE_COLOUR, open_scene
from worker.encode.evidence import draw_lesions, draw_levels
from worker.encode.page import HEIGHT, INK, INNER, MARGIN, PALE, QUIET, RULE, WARNING, WIDTH, fill, stroke
from worker.encode.report_form import Report
from worker.encode.typeset import shortened, shrunk, wrapped, write, write_block
from worker.encode.wording import PRODUCT, sentence, unsaid

KIND = "report.pdf"
_WHO = {"Patient", "Patient ID"}  # never cut
_FOOT = 84.0  # where the small print begins


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
    y = draw_lesions(page, context, report, scene, y)
    draw_levels(page, scene, y, _FOOT + 8)
    _small_print(page, context, report)
    page.showPage()
    page.save()
    return Output(KIND, "application/pdf", KIND, buffer.getvalue())


def _head(page: Any, report: Report) -> float:
    y = HEIGHT - MARGIN - 12
    fill(page, INK)
    write(page, MARGIN, y, "FLAIR white-matter hyper-intensity", 16, bold=True)
    write(page, WIDTH - MARGIN, y + 4, f"{PRODUCT} {report.made_by.product_version}", 9, bold=True, align="right")
    fill(page, QUIET)
    made = "mask corrected by a reader, report not verified" if report.correction else "computed by AI, not verified by a physician"
    write(page, WIDTH - MARGIN, y - 6, made, 7.5, align="right")
    return y - 14


def _statement(page: Any, report: Report, y: float) -> float:
    """What it is and is not, verbatim, before any number."""
    size, inset = 7.8, 7.0
    said = (report.statement, report.evidence, report.correction.sentence if report.correction else "")
    lines = wrapped(" ".join(filter(None, said)), size, INNER - 2 * inset)
    height = len(lines) * size * 1.32 + 8
    fill(page, WARNING)
    page.roundRect(MARGIN, y - height, INNER, height, 3, stroke=0, fill=1)
    fill(page, INK)
    baseline = y - 4 - size
    for line in lines:
        write(page, MARGIN + inset, baseline, line, size)
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
        x = MARGIN
        for (label, value), share in zip(fields[row * 5 : row * 5 + 5], widths, strict=True):
            fill(page, QUIET)
            write(page, x, y, label, 6.4)
            fill(page, INK)
            room, bold = INNER * share - 6, label in _WHO
            size = shrunk(value, 8.6, room, bold) if bold else 8.6
            write(page, x, y - 10, value or "–", size, bold=bold, width=room)
            x += INNER * share
        y -= 24
    stroke(page, RULE, 0.6)
    page.line(MARGIN, y + 6, WIDTH - MARGIN, y + 6)
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
    fill(page, PALE)
    page.roundRect(MARGIN, y - height + 6, left, height, 3, stroke=0, fill=1)
    fill(page, INK)
    write(page, MARGIN + 8, y - 6, report.headline.label, 6.4, bold=True, width=left - 14)
    end = write(page, MARGIN + 8, y - 32, f"{report.headline.volume_ml:.2f}", 23, bold=True)
    write(page, end + 4, y - 32, "ml", 12)
    share = found.lesion_share_of_brain_percent
    tiles = (
        ("White-matter", f"{found.lesion_volume_ml:.2f}", "ml", LESION_COLOUR),
        ("Lesions", f"{found.lesion_count}", "", LESION_COLOUR),
        ("Largest", f"{found.largest_lesion_ml:.2f}", "ml", LESION_COLOUR),
        ("Share of brain", "–" if share is None else f"{share:.3f}", "%", LESION_COLOUR),
        ("Tumour-like", f"{found.tumour_like_volume_ml:.2f}", "ml", TUMOUR_LIKE_COLOUR),
        ("Brain", f"{found.brain_volume_ml:.0f}", "ml", QUIET),
    )
    step = (INNER - left) / len(tiles)
    for number, (label, value, unit, colour) in enumerate(tiles):
        x = MARGIN + left + number * step + 8
        fill(page, colour)
        page.rect(x, y - 40, 1.6, 45, stroke=0, fill=1)
        fill(page, QUIET)
        write(page, x + 5, y - 6, label, 6.8)
        fill(page, INK)
        end = write(page, x + 5, y - 29, value, 12.5, bold=True)
        write(page, x + 5, y - 39, unit, 7)
    return y - height - 10


def _small_print(page: Any, context: Context, report: Report) -> None:
    """Say who computed it, by which definition, and what was measured of the release."""
    made, definition, card = report.made_by, report.lesion_definition, context.release.card
    source = f"; source series {report.subject.series_uid}" if report.subject else ""
    computed = (
        f"Release {made.release_name} {made.release_version}, SHA-256 {made.release_sha256}; {made.engine}, {made.precision}; "
        f"{PRODUCT} {made.product_version}; revision {report.revision}."
    )
    peak = f", its peak > {definition.peak_probability_threshold:g}" if definition.peak_probability_threshold else ""
    edge = f", its edge at {definition.edge_fraction:.0%} of its contrast" if definition.edge_fraction else ""
    by_release = (
        f"A lesion is a {definition.connectivity}-connected component of probability > {definition.probability_threshold:g}{peak}{edge} "
        f"and ≥ {definition.smallest_mm3:g} mm³; tumour-like where ≥ {definition.tumour_touch_fraction:.0%} of it lies in or "
        f"beside ≥ {definition.smallest_tumour_mm3:g} mm³ taken for tumour."
    )
    by_reader = f"A lesion is a {definition.connectivity}-connected component of the reader's mask, whatever its size."
    axes = "Sides and coordinates are the patient's (right, anterior, superior positive); pictures show the acquisition's own planes."
    defined = f"{by_reader if report.correction else by_release} {axes}"
    release = shortened(list(map(sentence, filter(None, (card.summary, *unsaid(report.limits, card.summary))))), 5.7, INNER, 5)
    objects = f"Segmentation {report.segmentation_uid or 'as NIfTI'}{source}."
    stroke(page, RULE, 0.6)
    page.line(MARGIN, _FOOT, WIDTH - MARGIN, _FOOT)
    fill(page, QUIET)
    y = _FOOT - 8
    for text, most in ((computed, 2), (defined, 2), (release, 5), (objects, 1)):
        y = write_block(page, MARGIN, y, text, 5.7, INNER, most=most)
