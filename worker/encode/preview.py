"""The preview: a montage of axial planes through what was found, with outlines, side marks and a legend."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageDraw

from worker.encode.context import Context, Output
from worker.encode.display import (
    AXIAL,
    BACKGROUND,
    LESION_COLOUR,
    TEXT_COLOUR,
    TUMOUR_LIKE_COLOUR,
    Colour,
    Scene,
    lettering,
    level_positions,
    marked,
    open_scene,
)
from worker.encode.wording import LESION_LABEL, NONE_FOUND, PRODUCT, STATEMENT, TUMOUR_LIKE_LABEL, counted

KIND = "preview.png"
_COLUMNS, _ROWS = 4, 3
_WIDTH = 1200
_GAP = 6
_HEADER, _FOOTER = 44, 92
_QUIET: Colour = (148, 158, 172)


def encode(context: Context) -> Output:
    """Encode the montage; it shows no name and no date."""
    scene = open_scene(context)
    panels = draw_levels(scene, _COLUMNS * _ROWS, (_WIDTH - _GAP * (_COLUMNS + 1)) // _COLUMNS, 15)
    sheet = montage(panels, _COLUMNS, _GAP, top=_HEADER, bottom=_FOOTER)
    _write_around(sheet, context)
    buffer = BytesIO()
    sheet.save(buffer, "PNG", compress_level=4)
    return Output(KIND, "image/png", KIND, buffer.getvalue())


def draw_levels(scene: Scene, count: int, width: int, text_pixels: int) -> list[Image.Image]:
    """Draw the axial levels worth seeing, inferior first, each `width` pixels wide."""
    scale = width / scene.size_mm(AXIAL)[0]
    return [marked(scene, AXIAL, level, scale, text_pixels) for level in level_positions(scene, count)]


def montage(panels: list[Image.Image], columns: int, gap: int, top: int = 0, bottom: int = 0) -> Image.Image:
    """Put panels of one size into rows."""
    width, height = panels[0].size
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, top + rows * (height + gap) + gap + bottom), BACKGROUND)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(panel, (gap + column * (width + gap), top + gap + row * (height + gap)))
    return sheet


def _write_around(sheet: Image.Image, context: Context) -> None:
    draw = ImageDraw.Draw(sheet)
    findings, card = context.findings, context.release.card
    left, right = _GAP + 4, sheet.width - _GAP - 4
    draw.text((left, _HEADER // 2), f"{PRODUCT}  FLAIR white-matter hyper-intensity", TEXT_COLOUR, lettering(21, bold=True), anchor="lm")
    release = f"{card.name} {card.version} · {'corrected by a reader' if context.corrected else 'AI, unverified'}"
    draw.text((right, _HEADER // 2), release, _QUIET, lettering(16), anchor="rm")
    line = sheet.height - _FOOTER + 14
    found = counted(findings.lesion_count, "lesion")
    lesions = f"{LESION_LABEL}: {found}, {findings.lesion_volume_ml:.2f} ml"
    tumour = f"{TUMOUR_LIKE_LABEL}: {findings.tumour_like_volume_ml:.2f} ml"
    after = _legend(draw, (left, line), LESION_COLOUR, lesions, broken=False)
    _legend(draw, (after + 36, line), TUMOUR_LIKE_COLOUR, tumour, broken=True)
    if not findings.lesion_count and not findings.tumour_like:
        draw.text((right, line), NONE_FOUND, TEXT_COLOUR, lettering(16, bold=True), anchor="rm")
    half = STATEMENT.index(": ") + 1
    for row, text in enumerate((STATEMENT[:half], STATEMENT[half:].strip())):
        draw.text((left, line + 28 + 22 * row), text, _QUIET, lettering(16), anchor="lm")


def _legend(draw: ImageDraw.ImageDraw, place: tuple[int, int], colour: Colour, text: str, broken: bool) -> int:
    """Draw a piece of outline and its meaning; give where it ends."""
    x, y = place
    for start in range(0, 34, 9 if broken else 34):
        draw.line([(x + start, y), (x + min(start + (5 if broken else 34), 34), y)], colour, 3)
    font = lettering(17)
    draw.text((x + 44, y), text, TEXT_COLOUR, font, anchor="lm")
    return x + 44 + round(draw.textlength(text, font))
