"""When certificates and certificate revocation lists in PEM end; Python's ssl module tells it of neither without a connection.

References
----------
RFC 5280 4.1 (Validity), 5.1 (nextUpdate); RFC 7468 (PEM)
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?(?:CERTIFICATE|CRL)-----([^-]+)-----END", re.DOTALL)
_UTC_TIME, _GENERALIZED_TIME, _SEQUENCE = 0x17, 0x18, 0x30


def first_end(path: Path) -> datetime | None:
    """
    Give the earliest end of what is in a file; None where nothing in it ends.

    Raises
    ------
    OSError
    ValueError
        What it holds is neither.
    """
    ends = [end for block in _BLOCK.findall(path.read_bytes()) if (end := _end_of(base64.b64decode(block)))]
    return min(ends, default=None)


def _end_of(encoded: bytes) -> datetime | None:
    """Read the second date: a TBSCertificate has them in a sequence, a TBSCertList side by side, and it may lack that one."""
    (_, signed), *_ = _elements(encoded)
    (_, content), *_ = _elements(signed)
    before = 0
    for tag, value in _elements(content):
        if tag == _SEQUENCE and value[:1] in {b"\x17", b"\x18"}:
            _, end = _elements(value)
            return _time(*end)
        if tag in {_UTC_TIME, _GENERALIZED_TIME}:
            before += 1
            if before > 1:
                return _time(tag, value)
        elif before:
            return None
    return None


def _elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Give tag and content of each element of DER, one after the other."""
    at = 0
    while at < len(encoded):
        if at + 2 > len(encoded):
            raise ValueError("cut short")
        tag, length, at = encoded[at], encoded[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(encoded[at : at + size], "big"), at + size
        if at + length > len(encoded):
            raise ValueError("cut short")
        yield tag, encoded[at : at + length]
        at += length


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280 4.1.2.5.1: years from 50 are of the twentieth century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
