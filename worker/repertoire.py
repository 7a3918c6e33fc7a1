"""The text of a result in its source's Specific Character Set, for a destination that wants it so: transcoded as it is sent.

References
----------
PS3.3 C.12.1.1.2, PS3.5 6.1.2 (repertoires and code extensions)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

from pydicom import dcmread, dcmwrite
from pydicom.charset import STAND_ALONE_ENCODINGS, encode_string, python_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from service.errors import Rejected
from service.headers import read_file
from service.headers.elements import decode

UNICODE: Final = ("ISO_IR 192",)
"""What results are kept in."""

_CHARACTER_SET: Final = Tag("SpecificCharacterSet")
_DEFAULT: Final = "iso8859"  # pydicom's word for the default repertoire, which it takes for Latin-1
_MULTI_BYTE: Final = frozenset({"iso2022_jp", "iso2022_jp_2", "euc_kr", "iso_ir_58"})
_ESCAPE: Final = b"\x1b"
_PATIENT: Final = 0x0010
# PS3.5 6.1.2.5.3: a code extension ends before these delimiters, so each piece between them is encoded by itself.
_LINES: Final = re.compile(r"[\r\n\t\f]+|[^\r\n\t\f]+")
_NAME_PARTS: Final = re.compile(r"[\^=]+|[^\^=]+")
_GB2312: Final = "iso_ir_58", b"\x1b$)A"  # pydicom writes its text without the escape
# Signs that our own text may hold, as plain ASCII. What is the patient's is never spelled in another way.
_SPELLINGS: Final = str.maketrans(
    {"²": "2", "³": "3", "×": "x", "·": "-", "≥": ">=", "≤": "<=", "–": "-", "−": "-", "…": "...", "µ": "u", "±": "+/-"}
)


def read_repertoire(path: Path) -> tuple[str, ...]:
    """Give the Specific Character Set of an instance; nothing is the default repertoire, ISO 646. Raises OSError, Rejected (Unreadable)."""
    with path.open("rb") as stream:
        return read_file(stream)[0].character_set


def transcode(file: IO[bytes], repertoire: Sequence[str], *, implicit: bool = False, to_pixels: bool = False) -> bytes:
    """
    Encode the text of an object in another repertoire; what is no text stays as it is, the SOP Instance UID too.

    Parameters
    ----------
    file : a Part-10 file in Explicit or Implicit VR Little Endian
    repertoire : defined terms of Specific Character Set, as the source has them
    implicit : write it in Implicit VR Little Endian, else in Explicit
    to_pixels : leave the pixels out; enough to see whether it can be done

    Raises
    ------
    Rejected
        The terms are none of the standard's, or do not go together; or they cannot hold some text: nothing is replaced by "?".
    """
    dataset = dcmread(file, stop_before_pixels=to_pixels)
    lost = list(dict.fromkeys(_encode(dataset, _encodings(repertoire))))
    if lost:
        raise Rejected(f"text that {_name(repertoire)} cannot hold: {', '.join(lost)}")
    del dataset[_CHARACTER_SET]
    if any(repertoire):
        dataset[_CHARACTER_SET] = _raw(_CHARACTER_SET, "CS", "\\".join(repertoire).encode("ascii"))
    _write_as_encoded(dataset, implicit=implicit)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _write_as_encoded(dataset: Dataset, *, implicit: bool) -> None:
    """Keep pydicom from decoding and encoding once more what is encoded: it does so where it thinks that the encoding has changed."""
    dataset.set_original_encoding(implicit, True, dataset._character_set)  # noqa: SLF001  # what pydicom compares with
    for element in (dataset.get_item(tag) for tag in dataset.keys()):  # noqa: SIM118  (elements stay raw)
        for item in element.value if element.VR == "SQ" else ():
            _write_as_encoded(item, implicit=implicit)


def _raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    padded = value + b" " * (len(value) % 2)
    return RawDataElement(tag, vr, len(padded), padded, 0, False, True)


def _encodings(repertoire: Sequence[str]) -> tuple[str, ...]:
    """Name them as Python does; the first is what text begins in."""
    terms = tuple(repertoire) or ("",)
    alone = len(terms) > 1 and any(term in STAND_ALONE_ENCODINGS for term in terms)
    extended = len(terms) > 1 and any(term.startswith("ISO_IR") for term in terms)
    if alone or extended or not all(term in python_encoding for term in terms):
        raise Rejected(f"the source's Specific Character Set is none of the standard's: {_name(terms)}")
    found = tuple(python_encoding[term] for term in terms)
    return (_DEFAULT, *found) if found[0] in _MULTI_BYTE else found


def _name(repertoire: Sequence[str]) -> str:
    return "\\".join(repertoire) or "the default repertoire (ISO 646)"


def _encode(dataset: Dataset, encodings: Sequence[str]) -> Iterator[str]:
    """Put encoded text in the place of text, in the items of sequences too; gives the keywords of what cannot be encoded."""
    for tag in list(dataset.keys()):
        element = dataset[tag]  # decoded by what it is kept in; none but encoded text stays raw
        if element.VR == "SQ":
            for item in element.value:
                yield from _encode(item, encodings)
        elif element.VR in CUSTOMIZABLE_CHARSET_VR:
            value = _value(element, encodings)
            if value is None:
                yield element.keyword or str(tag)
            else:
                dataset[tag] = _raw(tag, element.VR, value)


def _value(element: DataElement, encodings: Sequence[str]) -> bytes | None:
    encoded = _join(element, [str(one) for one in _values(element)], encodings)
    if encoded is None and element.VR != "PN" and element.tag.group != _PATIENT:
        encoded = _join(element, [str(one).translate(_SPELLINGS) for one in _values(element)], encodings)
    return encoded


def _values(element: DataElement) -> Sequence[Any]:
    if element.is_empty:
        return []
    return element.value if isinstance(element.value, MultiValue) else [element.value]


def _join(element: DataElement, values: Sequence[str], encodings: Sequence[str]) -> bytes | None:
    encoded = [_text(value, str(element.VR), encodings) for value in values]
    return None if None in encoded else b"\\".join(one for one in encoded if one is not None)


def _text(text: str, vr: str, encodings: Sequence[str]) -> bytes | None:
    """Encode one value, with the escapes that it needs; None where that does not give the same text back."""
    if not all(any(_holds(encoding, character) for encoding in encodings) for character in text):
        return None
    # pydicom would write Latin-1 for the default repertoire, and needs its own name for it to end Japanese text with
    plain = tuple("ascii" if one == _DEFAULT else one for one in encodings) if not _japanese(encodings) else tuple(encodings)
    encoded = b"".join(_piece(piece, plain) for piece in (_NAME_PARTS if vr == "PN" else _LINES).findall(text))
    bare = encodings[0] != _DEFAULT or encoded.partition(_ESCAPE)[0].isascii()
    return encoded if bare and decode(encoded, encodings) == text else None


def _piece(text: str, encodings: Sequence[str]) -> bytes:
    encoding, escape = _GB2312
    simplified = encoding in encodings and not text.isascii()
    return escape + text.encode(encoding) if simplified and all(_holds(encoding, one) for one in text) else encode_string(text, encodings)


def _japanese(encodings: Sequence[str]) -> bool:
    return any(encoding.startswith("iso2022_jp") for encoding in encodings)


def _holds(encoding: str, character: str) -> bool:
    if encoding == _DEFAULT or character.isascii():
        return character.isascii()
    try:
        encoded = character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return encoding != "shift_jis" or len(encoded) == 1  # JIS X 0201 only: pydicom names it so
