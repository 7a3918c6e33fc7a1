"""JPEG Extended of 12 bits (process 4), a plug-in of pydicom's decoders: GDCM decodes it, but pydicom does not ask GDCM to.

References
----------
PS3.5 8.2.1 and A.4.1 (1.2.840.10008.1.2.4.51), ISO/IEC 10918-1 (process 4)
"""

from __future__ import annotations

from typing import Final

import gdcm
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import DecodeRunner, JPEGExtended12BitDecoder
from pydicom.uid import JPEGExtended12Bit

_NAME: Final = "gdcm, 12 bits"
_BITS: Final = 12


def is_available(uid: str) -> bool:
    """Tell pydicom that this plug-in decodes the syntax."""
    return uid == JPEGExtended12Bit


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    """
    Decode one frame of one sample a pixel.

    Returns
    -------
    12 bits in 16, little endian, as they are in the code stream; a sign is not extended

    Raises
    ------
    ValueError
        Damaged, or not of 12 bits.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    # Bits Allocated as the code stream has it: with 16 GDCM tries its decoder of 16 bits first, and complains on stderr.
    image.SetPixelFormat(gdcm.PixelFormat(1, _BITS, _BITS, _BITS - 1, 0))
    decoded = image.GetBuffer()
    if decoded is None:
        raise ValueError("GDCM cannot decode it as JPEG of 12 bits")
    values: bytes = decoded.encode("utf-8", "surrogateescape")
    if len(values) != 2 * runner.rows * runner.columns:
        raise ValueError(f"{len(values)} bytes, expected {2 * runner.rows * runner.columns}")
    return values


def plugin_for(dataset: Dataset) -> str:
    """Name the plug-in that pydicom is to use for an object: this one, or nothing where its own do."""
    mine = dataset.file_meta.get("TransferSyntaxUID") == JPEGExtended12Bit and int(dataset.BitsStored) > 8
    return _NAME if mine and int(dataset.get("SamplesPerPixel") or 1) == 1 else ""


if _NAME not in JPEGExtended12BitDecoder.available_plugins:
    JPEGExtended12BitDecoder.add_plugin(_NAME, (__name__, decode_frame.__name__))
