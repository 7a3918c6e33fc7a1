"""Lines of text on a PDF page in any script: a Latin, Greek, Cyrillic, Hebrew and Arabic type, and one for Chinese, Japanese, Korean.

The files travel with us and are embedded, so that every reader on every machine shows the same. Letters are not joined (Arabic) or
stacked (Thai, Devanagari); what no type has becomes a box.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import lru_cache
from itertools import groupby
from typing import Any

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from worker.encode.display import BOLD, FONT

_FILES = {
    "LeukoscopeSans": FONT,
    "LeukoscopeSans-Bold": BOLD,
    "LeukoscopeSans-Asian": FONT.with_name("DroidSansFallback.ttf"),
}
_REGULAR, _BOLD, _ASIAN = _FILES
_UNDRAWABLE = "□"
_RIGHT_TO_LEFT = {"R", "AL"}
_BEFORE = {"left": 0.0, "centre": 0.5, "right": 1.0}


@lru_cache(maxsize=len(_FILES))
def drawable(font: str) -> frozenset[int]:
    """Tell reportlab a type, once in a process and only if a text asks for it; give the code points it can draw."""
    pdfmetrics.registerFont(TTFont(font, str(_FILES[font])))
    return frozenset(pdfmetrics.getFont(font).face.charToGlyph)


def runs(text: str, bold: bool = False) -> list[tuple[str, str]]:
    """Split a text into (font, piece); right-to-left pieces are turned round."""
    clean = unicodedata.normalize("NFC", "".join(letter if letter.isprintable() else " " for letter in text))
    lettered = [_choose(letter, _BOLD if bold else _REGULAR) for letter in clean]
    pieces = []
    for (font, backwards), group in groupby(lettered, key=lambda item: item[1:]):
        piece = "".join(letter for letter, *_ in group)
        pieces.append((font, piece[::-1] if backwards else piece))
    return pieces


def _choose(letter: str, ours: str) -> tuple[str, str, bool]:
    if ord(letter) in drawable(ours):
        return letter, ours, unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT
    if ord(letter) in drawable(_ASIAN):
        return letter, _ASIAN, False
    return _UNDRAWABLE, ours, False


def width_of(text: str, size: float, bold: bool = False) -> float:
    """Width of a line in points."""
    return float(sum(pdfmetrics.stringWidth(piece, font, size) for font, piece in runs(text, bold)))


def fitted(text: str, size: float, width: float, bold: bool = False) -> str:
    """Cut a text to a width, with an ellipsis where something was cut."""
    most = int(width / (0.1 * size)) + 1  # no letter of a text type is narrower than a tenth of its size
    if len(text) <= most and width_of(text, size, bold) <= width:
        return text
    kept = bisect_right(range(1, min(len(text), most) + 1), width, key=lambda count: width_of(f"{text[:count]}…", size, bold))
    return f"{text[:kept].rstrip()}…"


def shrunk(text: str, size: float, width: float, bold: bool = False, smallest: float = 4.5) -> float:
    """Give the size at which a text fits a width, for what must not be cut."""
    return max(smallest, min(size, size * width / max(width, width_of(text, size, bold))))


def write(
    page: Any, x: float, y: float, text: str, size: float, *, bold: bool = False, width: float | None = None, align: str = "left"
) -> float:
    """Write one line with its baseline at y; give where it ends.

    Parameters
    ----------
    width : the text is cut to it; `align` is about x ("left" starts there, "right" ends there, "centre" has it in the middle)
    """
    if width is not None:
        text = fitted(text, size, width, bold)
    x -= _BEFORE[align] * width_of(text, size, bold)
    for font, piece in runs(text, bold):
        page.setFont(font, size)
        page.drawString(x, y, piece)
        x += pdfmetrics.stringWidth(piece, font, size)
    return x


def wrapped(text: str, size: float, width: float, bold: bool = False) -> list[str]:
    """Break a text into lines of a width at its spaces."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and width_of(longer, size, bold) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines


def shortened(sentences: list[str], size: float, width: float, most: int) -> str:
    """Join as many sentences as `most` lines of a width hold whole, and say how many more there are in report.json."""
    kept = len(sentences)
    text = " ".join(sentences)
    while kept > 1 and len(wrapped(text, size, width)) > most:
        kept -= 1
        text = " ".join((*sentences[:kept], f"… {len(sentences) - kept} more in report.json"))
    return text


def write_block(page: Any, x: float, y: float, text: str, size: float, width: float, *, most: int = 99) -> float:
    """Write a wrapped text from its first baseline down, at most `most` lines; give the next baseline."""
    lines = wrapped(text, size, width)
    if len(lines) > most:
        lines = [*lines[: most - 1], fitted(" ".join(lines[most - 1 : most + 1]), size, width)]
    for line in lines:
        write(page, x, y, line, size, width=width)
        y -= size * 1.32
    return y
