"""Two versions of one instance: is the later one the same, the same picture under corrected attributes, or another picture?

What an archive may change without changing the instance does not count (deploy/decisions/0007-instances-that-come-again.md).
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName

from service.errors import Rejected
from service.records import Verdict
from worker.frames import MALFORMED, Frame, Limits, is_of_the_disk
from worker.pixels import decode, decoded_bytes, demand_grey, frame_count

_UNREADABLE: Final = (InvalidDicomError, zlib.error, *MALFORMED)

# The values of these follow from the encoding or from the pixels, or tell of the way the object took.
ENCODING: Final = frozenset(
    {
        "SpecificCharacterSet", "BitsAllocated", "BitsStored", "HighBit", "PlanarConfiguration", "SmallestImagePixelValue",
        "LargestImagePixelValue", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
        "DerivationDescription", "DerivationCodeSequence", "DataSetTrailingPadding", "LengthToEnd", "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths", "EncapsulatedPixelDataValueTotalLength", "IconImageSequence",
    }
)  # fmt: skip
TRANSPORT: Final = frozenset(
    {
        "RetrieveAETitle", "StationAETitle", "InstanceAvailability", "RetrieveURL", "RetrieveURI", "StorageMediaFileSetID",
        "StorageMediaFileSetUID", "OriginalAttributesSequence", "ContributingEquipmentSequence", "InstanceCoercionDateTime",
        "MACParametersSequence", "DigitalSignaturesSequence", "InstanceOriginStatus", "SOPInstanceStatus", "SOPAuthorizationDateTime",
        "SOPAuthorizationComment", "AuthorizationEquipmentCertificationNumber",
    }
)  # fmt: skip
# What turns stored values into a picture, with the functional group that holds it in an Enhanced object.
PICTURE: Final = {
    "SOPClassUID": None,
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
GEOMETRY: Final = {
    "FrameOfReferenceUID": None,
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}
_UNITS: Final = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}  # what an absent one means (PS3.3 C.11.1.1.2)
_WIDTHS: Final = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_CLOSE: Final = 1e-6  # decimal strings are cut to 16 characters by some writers


@dataclass(frozen=True)
class Comparison:
    """What the later version is to the one in the series; `changed` are keywords (never values) where that is "corrected"."""

    verdict: Verdict
    changed: tuple[str, ...] = ()


def compare(kept: Path, copy: Path, limits: Limits = Limits()) -> Comparison:
    """Compare two files of one SOP Instance UID, decoding both.

    Parameters
    ----------
    kept : the version in the series
    copy : the version that came later
    limits : what is larger once decoded is not decoded, so that nobody can read it

    Raises
    ------
    OSError
        The disk fails; to be tried again.
    """
    later = _read(copy, limits)
    if later is None:
        return Comparison(Verdict.UNREADABLE)
    earlier = _read(kept, limits)
    if earlier is None:
        # Nothing can have been made of a version that nobody can read: one that can be read takes its place.
        return Comparison(Verdict.CORRECTED, ("PixelData",))
    if later.digest != earlier.digest or not _alike(later.picture, earlier.picture):
        return Comparison(Verdict.OTHER_PIXELS)
    if not _alike(later.geometry, earlier.geometry):
        return Comparison(Verdict.OTHER_GEOMETRY)
    changed = changed_attributes(earlier.dataset, later.dataset)
    return Comparison(Verdict.CORRECTED if changed else Verdict.SAME, changed)


def _read(path: Path, limits: Limits) -> _Version | None:
    """Give None for what is not there, or cannot be read by anybody."""
    try:
        return _Version(path, limits)
    except (FileNotFoundError, IsADirectoryError):  # the case book names no file for what was discarded: then this is the store's root
        return None
    except (Rejected, *_UNREADABLE) as error:
        if is_of_the_disk(error):
            raise
        return None


class _Version:
    """One file: its decoded values as a digest, what makes a picture of them, its geometry, and its attributes."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.dataset = pydicom.dcmread(path)
        self.digest = _digest(self.dataset, limits)
        self.dataset.pop(0x7FE00010, None)
        frames = tuple(_frames(self.dataset))
        inverted = str(self.dataset.get("PhotometricInterpretation")) == "MONOCHROME1"
        self.picture = [inverted, *(_stated(frame, PICTURE) for frame in frames)]
        self.geometry = [_stated(frame, GEOMETRY) for frame in frames]


def _frames(dataset: Dataset) -> Iterator[Frame]:
    """Every frame's own view of the headers; without its pixels."""
    none = np.empty((0, 0), dtype=np.uint8)
    shared = tuple(dataset.get("SharedFunctionalGroupsSequence") or ())
    own = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    for number, groups in enumerate(own, start=1):
        yield Frame(dataset, number, (groups, *shared), none)
    if not own:
        yield Frame(dataset, None, shared, none)


def _stated(frame: Frame, wanted: dict[str, str | None]) -> list[Any]:
    found = [frame.find(keyword, sequence) for keyword, sequence in wanted.items()]
    return [_UNITS.get(keyword) if value is None else _plain(value) for keyword, value in zip(wanted, found, strict=True)]


def _digest(dataset: Dataset, limits: Limits) -> str:
    """Digest the values of all frames once decoded, and their layout."""
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise Rejected("floating-point pixels are not decoded here")
    digest = hashlib.sha256()
    if "PixelData" in dataset:
        for frame in _decode(dataset, limits):
            digest.update(repr(frame.shape).encode())
            digest.update(frame.astype("<i8").tobytes())
    return digest.hexdigest()


def _decode(dataset: Dataset, limits: Limits) -> Any:
    """Decode to (frames, rows, columns), or with a last axis of three where it is a colour image."""
    if decoded_bytes(dataset) * int(dataset.get("SamplesPerPixel") or 1) > limits.decoded_bytes:
        raise Rejected("too large to be decoded")
    if int(dataset.get("SamplesPerPixel") or 1) == 1 and "PALETTE" not in str(dataset.get("PhotometricInterpretation")):
        demand_grey(dataset, "an instance")
        return decode(dataset, "an instance")
    try:
        values = pixel_array(dataset)
    except (RuntimeError, OSError, *MALFORMED) as error:
        raise Rejected("pixel data cannot be decoded") from error
    return values if frame_count(dataset) > 1 else values[np.newaxis]


def changed_attributes(earlier: Dataset, later: Dataset) -> tuple[str, ...]:
    """Give the keywords of top-level attributes whose values differ, in the order of their tags.

    Private elements and what only an encoding, an archive or a transport sets are passed over, an empty element is as an absent one.
    """
    tags = sorted({tag for dataset in (earlier, later) for tag in dataset.keys() if _counts(tag)})  # noqa: SIM118  (elements stay raw)
    swap = [dataset.original_encoding[1] is False for dataset in (earlier, later)]
    differing = [tag for tag in tags if not _alike(_value(earlier, tag, swap[0]), _value(later, tag, swap[1]))]
    return tuple(keyword_for_tag(tag) or f"({tag.group:04X},{tag.element:04X})" for tag in differing)


def _counts(tag: BaseTag) -> bool:
    return not tag.is_private and tag.element != 0 and tag.group > 2 and tag not in _PASSED_OVER


_PASSED_OVER: Final = frozenset({Tag(tag_for_keyword(word) or 0xFFFCFFFC) for word in ENCODING | TRANSPORT | PICTURE.keys()}) | _PIXELS


def _value(dataset: Dataset, tag: BaseTag, swap: bool) -> Any:
    """Give an element's value in a form that two encodings of it share (`swap`: it is big endian); None for one that is empty."""
    if tag not in dataset:
        return None
    try:
        element = dataset[tag]
        return _sequence(element.value, swap) if element.VR == "SQ" else _plain(_swapped(element) if swap else element.value)
    except MALFORMED:
        raw = dataset.get_item(tag)
        return bytes(getattr(raw, "value", None) or b"").strip(b" \x00") or None


def _sequence(items: Sequence[Dataset], swap: bool) -> Any:
    return [
        {tag: found for tag in item.keys() if _counts(tag) and (found := _value(item, tag, swap)) is not None}  # noqa: SIM118
        for item in items
    ] or None


def _swapped(element: DataElement) -> Any:
    """Words in the order of a little endian encoding; pydicom leaves those of a big endian one as they are."""
    width = _WIDTHS.get(element.VR)
    if width is None or not isinstance(element.value, bytes):
        return element.value
    whole = element.value[: len(element.value) // width * width]
    return np.frombuffer(whole, dtype=f">u{width}").astype(f"<u{width}").tobytes()


def _plain(value: Any) -> Any:
    """Numbers as numbers, text without padding, lists of one as their value."""
    if isinstance(value, bytes):
        return value.rstrip(b"\x00 ") or None
    if isinstance(value, PersonName):
        return "=".join(part.rstrip("^ ") for part in str(value).split("=")).rstrip("= ").strip() or None
    if isinstance(value, str):
        return value.strip(" \x00\r\n\t") or None
    if isinstance(value, int | float):
        return value
    if value is None or not hasattr(value, "__iter__"):
        return None if value is None else _number(value)
    several = [_plain(one) for one in value]
    return several if len(several) > 1 else (several[0] if several else None)


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _alike(one: Any, other: Any) -> bool:
    """Compare what `_value` gives; numbers may differ by what rounding to 16 characters does."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return bool(one == other)
