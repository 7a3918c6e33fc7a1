"""Tolerant reading of single elements: what cannot be read counts as not there, and nothing warns or raises.

Works on the raw bytes pydicom keeps for elements nobody has asked for yet.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

_BINARY: Final = {"FD": "d", "FL": "f", "US": "H", "UL": "I", "SS": "h", "SL": "i"}
_ESCAPE: Final = b"\x1b"
_GB2312_ESCAPE: Final = "\x1b$)A"  # pydicom leaves it in the text it decodes (PS3.5 6.1.2.5.3)


def raw(dataset: Dataset, keyword: str) -> bytes:
    """Give the value's bytes as they came, or nothing."""
    element = _stored(dataset, keyword)
    return element.value or b"" if element is not None else b""


def uid(dataset: Dataset, keyword: str) -> str:
    """Give a UID, or nothing when it is not one (PS3.5 9: 64 characters of digits and dots)."""
    value = raw(dataset, keyword).strip(b"\x00 ").decode("ascii", "replace")
    return value if value and len(value) <= 64 and set(value) <= set("0123456789.") else ""


def text(dataset: Dataset, keyword: str, encodings: Sequence[str] = ("latin-1",)) -> str:
    """Give a text value, decoded with the dataset's repertoires, its padding and control characters gone."""
    value = raw(dataset, keyword).strip(b"\x00 ")
    return "".join(character for character in decode(value, encodings) if character.isprintable()).strip()


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Give the values of a code string, upper case."""
    value = raw(dataset, keyword).strip(b"\x00 ").decode("latin-1")
    return tuple(part.strip().upper() for part in value.split("\\")) if value else ()


def numbers(dataset: Dataset, keyword: str, vr: str) -> tuple[float, ...]:
    """Give the finite numbers of an element whose standard value representation is `vr`; none at all when one is not a number."""
    element = _stored(dataset, keyword)
    if element is None or not element.value:
        return ()
    stored = vr if element.VR in (None, "UN") else element.VR
    try:
        found = _unpack(element.value, _BINARY[stored], element.is_little_endian) if stored in _BINARY else _parse(element.value)
    except (ValueError, struct.error):
        return ()
    return found if all(math.isfinite(one) for one in found) else ()


def number(dataset: Dataset, keyword: str, vr: str) -> float | None:
    """Give the first number of an element."""
    found = numbers(dataset, keyword, vr)
    return found[0] if found else None


def whole(dataset: Dataset, keyword: str, vr: str) -> int | None:
    """Give the first number of an element as an integer; none where it is not one of 32 bits (PS3.5 6.2, IS)."""
    found = number(dataset, keyword, vr)
    return None if found is None or not -(2**31) <= int(found) < 2**31 else int(found)


def moment(dataset: Dataset, date: str, time: str) -> str:
    """
    Give a date and a time, by keyword, as one text that sorts as moments follow each other; nothing where the date is none.

    References
    ----------
    PS3.5 6.2 (DA, TM; the older forms with dots and colons are read too)
    """
    day = text(dataset, date).replace(".", "")
    try:
        datetime.strptime(day, "%Y%m%d")  # noqa: DTZ007  (a date of the scanner's calendar, in no zone)
    except ValueError:
        return ""
    clock = text(dataset, time).replace(":", "").partition(".")[0]
    return f"{day}{clock:0<6}" if re.fullmatch(r"(\d\d){0,3}", clock) else f"{day}000000"


def sequence(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Give the items of a sequence, or none."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return ()
    value = dataset[tag].value
    return value if dataset[tag].VR == "SQ" and value else ()


def repertoires(dataset: Dataset) -> tuple[str, ...]:
    """Give the Python encodings of Specific Character Set (PS3.3 C.12.1.1.2); an unknown one counts as Latin-1."""
    terms = raw(dataset, "SpecificCharacterSet").strip(b"\x00 ").decode("latin-1").split("\\")
    return tuple(python_encoding.get(term.strip(), "latin-1") or "latin-1" for term in terms)


def decode(value: bytes, encodings: Sequence[str]) -> str:
    """Decode text; what the declared repertoires cannot decode is read as UTF-8, and failing that as Latin-1."""
    if _ESCAPE in value:
        return decode_bytes(value, list(encodings), set()).replace(_GB2312_ESCAPE, "")
    for encoding in (encodings[0], "utf-8"):
        try:
            return value.decode("latin-1" if encoding == "iso8859" else encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return value.decode("latin-1")


def _stored(dataset: Dataset, keyword: str) -> RawDataElement | None:
    """Give the element as it was read; pydicom leaves it so until somebody asks for its value."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return None
    element: object = dataset.get_item(tag)
    return element if isinstance(element, RawDataElement) else None


def _unpack(value: bytes, letter: str, little: bool) -> tuple[float, ...]:
    count = len(value) // struct.calcsize(letter)
    return struct.unpack(f"{'<' if little else '>'}{count}{letter}", value[: count * struct.calcsize(letter)])


def _parse(value: bytes) -> tuple[float, ...]:
    parts = value.strip(b"\x00 ").decode("ascii", "replace").split("\\")
    return tuple(float(part) for part in parts if part.strip())
