"""Stored pixel values of one object, decoded from whatever transfer syntax it came in."""

from __future__ import annotations

import re
import struct
from typing import cast

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from service.errors import Rejected
from worker.jpeg_extended import plugin_for

Stored = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

_LITTLE_ENDIAN = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
_DECODED = frozenset(
    {
        ExplicitVRBigEndian,
        RLELossless,
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000Lossless,
        JPEG2000,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        HTJ2K,
    }
)
_LOSSY_ALWAYS = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
_LOSSY_PERHAPS = frozenset({JPEG2000, HTJ2K})
# What the decoders raise on damaged data; nothing else is taken for the data's fault.
_DAMAGE = (ValueError, RuntimeError, AttributeError, TypeError, IndexError, KeyError, EOFError, OSError, struct.error)
# What pydicom raises on an element that does not hold what its representation says.
_MALFORMED = (BytesLengthException, TypeError, ValueError, AttributeError, NotImplementedError, struct.error)
# pydicom turns what its plugins raise into text; a MemoryError often has none.
_SHORT_OF_MEMORY = re.compile(
    r"unable to allocate|cannot allocate|bad_alloc|out of memory|MemoryError|^\s*[\w-]+:\s*$", re.IGNORECASE | re.MULTILINE
)
_PIXEL_DATA = 0x7FE00010
_FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)


def decoded_bytes(dataset: Dataset) -> int:
    """What the object's pixels take once decoded, by its headers."""
    return int(dataset.Rows) * int(dataset.Columns) * frame_count(dataset) * int(dataset.BitsAllocated) // 8


def frame_count(dataset: Dataset) -> int:
    """NumberOfFrames, 1 where there is none."""
    return int(dataset.get("NumberOfFrames") or 1)


def is_lossy(dataset: Dataset) -> bool:
    """Whether the values were compressed with loss, now (transfer syntax) or at any time before (PS3.3 C.7.6.1.1.5)."""
    try:
        declared = str(dataset.get("LossyImageCompression", ""))
    except _MALFORMED:
        declared = ""
    syntax = transfer_syntax(dataset)
    return declared == "01" or syntax in _LOSSY_ALWAYS or (syntax in _LOSSY_PERHAPS and declared != "00")


def transfer_syntax(dataset: Dataset) -> UID:
    """The syntax the object was read in.

    Raises
    ------
    Rejected
        It has none, or one that is not decoded here.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Rejected("no transfer syntax in the file meta information")
    if syntax not in _LITTLE_ENDIAN and syntax not in _DECODED:
        raise Rejected(f"unsupported transfer syntax: {syntax.name}")
    return cast("UID", syntax)


def demand_grey(dataset: Dataset, name: str) -> None:
    """Refuse what is not one grey value per pixel in 8, 16 or 32 bits.

    Raises
    ------
    Rejected
    """
    if any(tag in dataset for tag in _FLOAT_PIXEL_DATA):
        raise Rejected(f"floating-point pixels in {name}: only whole numbers are taken")
    if _PIXEL_DATA not in dataset:
        raise Rejected(f"no pixels in {name}")
    missing = [word for word in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation") if dataset.get(word) is None]
    if missing:
        raise Rejected(f"no {missing[0]} in {name}")
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise Rejected(f"colour image ({photometric}), expected grey values")
    if dataset.BitsAllocated not in (8, 16, 32) or not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise Rejected(f"unsupported pixel layout: {dataset.BitsStored} of {dataset.BitsAllocated} bits")
    if int(dataset.get("HighBit") or dataset.BitsStored - 1) != dataset.BitsStored - 1:
        raise Rejected(f"unsupported pixel layout: high bit {dataset.HighBit} of {dataset.BitsStored} stored bits")


def decode(dataset: Dataset, name: str) -> Stored:
    """Decode the stored values of all frames.

    Parameters
    ----------
    dataset : read by `demand_grey` before
    name : how the object is called in a reason

    Returns
    -------
    integer, shape (frames, rows, columns), without rescaling

    Raises
    ------
    Rejected
        Truncated or damaged pixel data, or a transfer syntax not decoded here.
    MemoryError
        No fault of the data.
    """
    return decode_with_padding(dataset, name)[0]


def decode_with_padding(dataset: Dataset, name: str) -> tuple[Stored, Mask | None]:
    """Decode as `decode` does, and tell which pixels are padding (PS3.3 C.7.5.1.1.2), None where none is."""
    frames, rows, columns = frame_count(dataset), int(dataset.Rows), int(dataset.Columns)
    if min(frames, rows, columns) < 1:
        raise Rejected(f"no pixels in {name}: {frames} frames of {columns} × {rows}")
    if transfer_syntax(dataset) in _LITTLE_ENDIAN:
        values = _view(dataset, name)
    else:
        try:
            values = pixel_array(dataset, raw=True, decoding_plugin=plugin_for(dataset))
        except _DAMAGE as error:
            if _SHORT_OF_MEMORY.search(str(error)):
                raise MemoryError(_first_line(error)) from error
            raise Rejected(f"pixel data of {name} cannot be decoded: {_first_line(error)}") from error
    if values.size != frames * rows * columns:
        raise Rejected(f"pixel data of {name} decodes to {values.size} values, expected {frames * rows * columns}")
    values = values.reshape(frames, rows, columns)
    # Told before the unused bits go: padding is often a value the stored bits cannot hold.
    padding = _padding(values, dataset)
    return _within_bits(values, dataset), padding


def _padding(values: Stored, dataset: Dataset) -> Mask | None:
    ends = [_integer(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return None
    low, high = sorted((ends[0], ends[0] if ends[1] is None else ends[1]))
    found = (values >= low) & (values <= high)
    return found if found.any() else None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    """The value of an element that may be US or SS; its sign follows Pixel Representation whatever it was written as."""
    try:
        value = int(dataset.get(keyword))
    except _MALFORMED:
        return None
    width = 1 << int(dataset.BitsAllocated)
    value %= width
    return value - width if dataset.PixelRepresentation and value >= width // 2 else value


def _view(dataset: Dataset, name: str) -> Stored:
    """Uncompressed little-endian values, without a copy."""
    try:
        raw = memoryview(dataset.PixelData)
    except _MALFORMED as error:
        raise Rejected(f"pixel data of {name} is no pixel data") from error
    expected = decoded_bytes(dataset)
    if len(raw) < expected:
        raise Rejected(f"pixel data of {name} is truncated: {len(raw)} bytes, expected {expected}")
    kind = "i" if dataset.PixelRepresentation else "u"
    width = int(dataset.BitsAllocated) // 8
    return np.frombuffer(raw, dtype=f"<{kind}{width}", count=expected // width)


def _within_bits(values: Stored, dataset: Dataset) -> Stored:
    """Drop what older writers kept beside the stored bits (overlays), and extend the sign (PS3.5 8.1.1)."""
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if stored == allocated:
        return values
    if values.dtype.kind == "u" and int(values.max()) < 1 << stored:
        return values
    shift = values.dtype.itemsize * 8 - stored
    return cast("Stored", (values << shift) >> shift)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:160] or type(error).__name__
