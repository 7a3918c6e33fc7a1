"""What is wrong with bytes that are no instance, told apart from what is wrong with the disk."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydicom.errors import BytesLengthException, InvalidDicomError

from service.errors import Rejected

# What pydicom raises on bytes that are no data set; sequences nested without end exhaust the stack.
_DAMAGE: Final = (
    BytesLengthException,
    InvalidDicomError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    NotImplementedError,
    RecursionError,
    struct.error,
)


class Unreadable(Rejected):
    """The bytes are no DICOM object, or end too early. Answered with 0xC000 or 422 and never kept."""


@contextmanager
def unreadable(reason: str) -> Iterator[None]:
    """Raise Unreadable for whatever pydicom raises in the block; what is cut short says so itself."""
    try:
        yield
    except _DAMAGE as error:
        raise Unreadable(str(error) if isinstance(error, EOFError) and str(error).startswith("cut short") else reason) from error
    except OSError as error:
        if error.errno is not None:  # the disk's; pydicom raises it without one for what ends too early
            raise
        raise Unreadable(reason) from error
