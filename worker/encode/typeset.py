"""Lines of text on a PDF page in any script: our own type, and the reader's Asian fonts for what it cannot draw."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import groupby
from typing import Any

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont

from worker.encode.display import BOLD, FONT

REGULAR_NAME, BOLD_NAME = "LeukoscopeSans", "LeukoscopeSans-Bold"
_JAPANESE, _CHINESE, _KOREAN = "HeiseiKakuGo-W5", "STSong-Light", "HYSMyeongJo-Medium"
_UNDRAWABLE = "□"
_CENTRED, _RIGHT = "centre", "right"
_SCRIPTS = (("HANGUL", _KOREAN), ("HIRAGANA", _JAPANESE), ("KATAKANA", _JAPANESE), ("CJK", _CHINESE), ("FULLWIDTH", _CHINESE))


@lru_cache(maxsize=1)
def register_type() -> frozenset[int]:
    """Tell reportlab our type once in a process; give the code points it can draw."""
    for name, path in ((REGULAR_NAME, FONT), (BOLD_NAME, BOLD)):
        pdfmetrics.registerFont(TTFont(name, str(path)))
    for name in (_JAPANESE, _CHINESE, _KOREAN):
        pdfmetrics.registerFont(UnicodeCIDFont(name))
    return frozenset(pdfmetrics.getFont(REGULAR_NAME).face.charToGlyph)


def runs(text: str, bold: bool = False) -> list[tuple[str, str]]:
    """Split a text into (font, piece); right-to-left pieces are turned round, what no font draws becomes a box."""
    ours = BOLD_NAME if bold else REGULAR_NAME
    drawable = register_type()
    clean = unicodedata.normalize("NFC", "".join(letter if letter.isprintable() else " " for letter in text))
    japanese = any("HIRAGANA" in _script(letter) or "KATAKANA" in _script(letter) for letter in clean)
    lettered = [_choose(letter, ours, drawable, japanese) for letter in clean]
    pieces = []
    for (font, backwards), group in groupby(lettered, key=lambda item: item[1:]):
        piece = "".join(letter for letter, *_ in group)
        pieces.append((font, piece[::-1] if backwards else piece))
    return pieces


def _script(letter: str) -> str:
    return unicodedata.name(letter, "")


def _choose(letter: str, ours: str, drawable: frozenset[int], japanese: bool) -> tuple[str, str, bool]:
    if ord(letter) in drawable:
        return letter, ours, unicodedata.bidirectional(letter) in {"R", "AL"}
    name = _script(letter)
    for word, font in _SCRIPTS:
        if name.startswith(word) and ord(letter) < 0x10000:
            return letter, _JAPANESE if japanese and font == _CHINESE else font, False
    return _UNDRAWABLE, ours, False


def width_of(text: str, size: float, bold: bool = False) -> float:
    """Width of a line in points."""
    return float(sum(pdfmetrics.stringWidth(piece, font, size) for font, piece in runs(text, bold)))


def fitted(text: str, size: float, width: float, bold: bool = False) -> str:
    """Cut a text to a width, with an ellipsis where something was cut."""
    if width_of(text, size, bold) <= width:
        return text
    while text and width_of(f"{text}…", size, bold) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


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
    x -= {_CENTRED: 0.5, _RIGHT: 1.0}.get(align, 0.0) * width_of(text, size, bold)
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


def write_block(page: Any, x: float, y: float, text: str, size: float, width: float, *, most: int = 99) -> float:
    """Write a wrapped text from its first baseline down, at most `most` lines; give the next baseline."""
    lines = wrapped(text, size, width)
    if len(lines) > most:
        lines = [*lines[: most - 1], fitted(" ".join(lines[most - 1 :]), size, width)]
    for line in lines:
        write(page, x, y, line, size, width=width)
        y -= size * 1.32
    return y
