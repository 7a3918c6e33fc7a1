"""Is all of Pixel Data there? Only lengths are looked at; nothing is decoded."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Final

from pydicom.dataset import Dataset

from service.headers.elements import whole

UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = (0xFFFE, 0xE000)
_SEQUENCE_END: Final = (0xFFFE, 0xE0DD)


def check_pixel_data(stream: BinaryIO, dataset: Dataset, *, implicit: bool, little: bool, beyond: int = 0) -> bool:
    """
    Check the element the stream stands at, which is Pixel Data or the end.

    Parameters
    ----------
    beyond : bytes known to come after the end of the stream (of a deflated data set only the beginning is kept)

    Returns
    -------
    whether there is Pixel Data

    Raises
    ------
    EOFError
        The element is longer than the stream, or shorter than the image it should hold.

    References
    ----------
    PS3.5 8.2, A.4
    """
    start = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    if end - start < 8:
        return False
    length = _read_length(stream, implicit=implicit, little=little)
    here = stream.tell()
    if length == UNDEFINED:
        _walk_fragments(stream, end)
        return True
    if here + length > end + beyond:
        raise EOFError(f"cut short: {length} bytes of pixel data announced, {end + beyond - here} there")
    wanted = _native_bytes(dataset)
    if length < wanted:
        raise EOFError(f"cut short: {length} bytes of pixel data for an image of {wanted}")
    return length > 0


def _read_length(stream: BinaryIO, *, implicit: bool, little: bool) -> int:
    order = "<" if little else ">"
    head = stream.read(8)
    if implicit:
        return int(struct.unpack(order + "I", head[4:8])[0])
    if head[4:6] in (b"OB", b"OW", b"UN", b"OF", b"OD", b"OL", b"OV"):
        return int(struct.unpack(order + "I", _exactly(stream, 4))[0])
    return int(struct.unpack(order + "H", head[6:8])[0])


def _walk_fragments(stream: BinaryIO, end: int) -> None:
    """Encapsulated data are items up to a sequence delimiter; some writers leave the delimiter out at the end of the file."""
    fragments = 0
    while stream.tell() < end:
        group, element, length = struct.unpack("<HHI", _exactly(stream, 8))
        if (group, element) == _SEQUENCE_END:
            break
        if (group, element) != _ITEM or stream.tell() + length > end:
            raise EOFError("cut short: a fragment of compressed pixel data ends too early")
        stream.seek(length, os.SEEK_CUR)
        fragments += length > 0
    if not fragments:
        raise EOFError("cut short: compressed pixel data without a fragment")


def _native_bytes(dataset: Dataset) -> int:
    names = (("Rows", "US"), ("Columns", "US"), ("SamplesPerPixel", "US"), ("BitsAllocated", "US"))
    rows, columns, samples, bits = (whole(dataset, name, vr) or 0 for name, vr in names)
    frames = whole(dataset, "NumberOfFrames", "IS") or 1
    photometric = dataset.get_item("PhotometricInterpretation") if "PhotometricInterpretation" in dataset else None
    subsampled = photometric is not None and b"422" in (photometric.value or b"")
    return 0 if subsampled else rows * columns * samples * frames * bits // 8


def _exactly(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise EOFError("cut short inside pixel data")
    return found
