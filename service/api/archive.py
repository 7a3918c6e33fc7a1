"""A zip in an upload: judged by its directory before anything in it is inflated, then inflated entry by entry as it is read."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO, Final, cast

from service.api.problems import Problem
from service.multipart import Limits, Part, printable, size_text

MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")
DIRECTORY_BYTES: Final = 4 << 20
"""Largest zip directory read: zipfile makes an object of each entry, wanted or not."""

DAMAGED: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
"""What reading an entry of a damaged zip raises; the fault of that file alone."""


@contextmanager
def unpacked(parts: list[Part], limits: Limits) -> Iterator[list[Part]]:
    """
    The files of an upload: its parts, or the entries of its one zip, each inflated only while it is read.

    Raises
    ------
    Problem
        422 the zip is damaged, unsafe (a path out of the folder, a link, encrypted) or too good to be true; 413 over a limit.
    """
    if len(parts) != 1 or not is_zip(parts[0]):
        yield parts
        return
    with _Bounded(parts[0].open()) as source, _opened(source) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        check_archive(archive.infolist(), limits)
        yield [
            Part(number, printable(entry.filename), entry.file_size, partial(_entry, archive, entry))
            for number, entry in enumerate(entries, start=1)
        ]


def is_zip(part: Part) -> bool:
    """Tell a zip by its first bytes."""
    with part.open() as file:
        return file.read(4) in MAGIC


def check_archive(entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    """
    Judge a zip by its directory; zipfile never inflates an entry beyond the size declared there.

    Raises
    ------
    Problem
        The whole archive is refused: 422 unsafe, 413 over a limit.
    """
    files = [entry for entry in entries if not entry.is_dir()]
    if len(files) > limits.files:
        raise Problem("too-many-files", f"At most {limits.files} files are taken at once.")
    for number, entry in enumerate(entries, start=1):
        fault = _fault(entry)
        if fault:
            raise Problem("unsafe-archive", f"Entry {number} of the zip {fault}.", entry=number)
    inflated = sum(entry.file_size for entry in files)
    packed = max(1, sum(entry.compress_size for entry in files))
    if inflated > limits.total_bytes:
        raise Problem(
            "upload-too-large",
            f"The zip would inflate to more than {size_text(limits.total_bytes)}.",
            limit_bytes=limits.total_bytes,
        )
    if inflated > limits.ratio_from_bytes and inflated / packed > limits.ratio:
        raise Problem("unsafe-archive", f"The zip would inflate to more than {limits.ratio:g} times its size.")


def _fault(entry: zipfile.ZipInfo) -> str | None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "names a place outside the archive"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed by a method other than deflate"
    return None


class _Bounded:
    """A file that refuses huge reads: zipfile reads the whole directory at once, however large it says it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_BYTES:
            raise zipfile.BadZipFile("directory too large")
        return self._file.read(size)

    def seekable(self) -> bool:
        return True

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()


@contextmanager
def _opened(source: _Bounded) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(source)  # it needs read, seek and tell only
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, OverflowError, UnicodeDecodeError):
        raise Problem("unsafe-archive", "The zip is damaged, or its directory is too large.") from None
    with archive:
        yield archive


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> BinaryIO:
    return cast(BinaryIO, archive.open(entry))
