"""Deflated data sets: the header is inflated and kept, what is behind it is only counted, and a bomb stops at a limit."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import BinaryIO, Final

HEAD_BYTES: Final = 64 << 20  # kept in memory; a header is far smaller
INFLATE_LIMIT: Final = 576 << 20  # the largest decoded series, and its header
_STEP: Final = 4 << 20


class Bomb(Exception):
    """The data set inflates to more than any instance may have."""


def inflate(stream: BinaryIO) -> tuple[BytesIO, int]:
    """
    Inflate a raw deflate stream (PS3.5 A.5).

    Returns
    -------
    its first HEAD_BYTES, and how many bytes come after them

    Raises
    ------
    zlib.error
        Damaged.
    Bomb
        More than INFLATE_LIMIT bytes.
    """
    packed = stream.read()
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    head = inflater.decompress(packed, HEAD_BYTES)
    beyond = 0
    while not inflater.eof and inflater.unconsumed_tail:
        beyond += len(inflater.decompress(inflater.unconsumed_tail, _STEP))
        if len(head) + beyond > INFLATE_LIMIT:
            raise Bomb
    return BytesIO(head), beyond
