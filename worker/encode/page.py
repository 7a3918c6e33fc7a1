"""One A4 page: its measures, its colours, and the strokes everything on it is made of."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import Image
from reportlab import rl_config
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader

from worker.encode.display import Colour
from worker.encode.typeset import write

WIDTH, HEIGHT = float(A4[0]), float(A4[1])
MARGIN = 34.0
INNER = WIDTH - 2 * MARGIN
INK: Colour = (24, 30, 40)
QUIET: Colour = (98, 108, 122)
RULE: Colour = (214, 219, 226)
WARNING: Colour = (255, 243, 214)
PALE: Colour = (243, 245, 248)
PIXELS_PER_POINT = 3.0
_JPEG_QUALITY = 92
# Pictures as they are: ASCII 85 is for printers of the past, a quarter larger and half of the page's time. reportlab has no other switch.
rl_config.useA85 = 0


def fill(page: Any, colour: Colour) -> None:
    """Choose the colour of what is filled next, text too."""
    page.setFillColorRGB(*(part / 255 for part in colour))


def stroke(page: Any, colour: Colour, width: float) -> None:
    """Choose colour and width of the lines drawn next."""
    page.setStrokeColorRGB(*(part / 255 for part in colour))
    page.setLineWidth(width)


def place(page: Any, picture: Image.Image, x: float, y: float, width: float, height: float) -> None:
    """Place a picture with its lower left corner at (x, y)."""
    packed = BytesIO()
    picture.save(packed, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    packed.seek(0)
    page.drawImage(ImageReader(packed), x, y, width, height)


def title(page: Any, x: float, y: float, text: str) -> None:
    """Write the title of a part."""
    fill(page, INK)
    write(page, x, y, text, 8.4, bold=True)
