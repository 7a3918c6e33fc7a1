"""A multipart body in pieces, read into files: what a sender uploads, and what a PACS answers; never held in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from service.errors import Rejected
from service.settings import Settings

BLOCK: Final = 1 << 20


class Malformed(Rejected):
    """The body breaks its own format."""


class TooManyFiles(Rejected):
    """More parts than are taken at once."""


class TooManyBytes(Rejected):
    """More than is taken at once."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"At most {size_text(limit_bytes)} are taken at once.")
        self.limit_bytes = limit_bytes


@dataclass(frozen=True)
class Limits:
    """
    Caps of one upload.

    total_bytes holds for the body as sent, and again for what a zip in it inflates to; ratio (inflated to packed) counts from
    ratio_from_bytes on, because a small file may pack very well; free_bytes is left free on the disk.
    """

    total_bytes: int = 2 << 30
    files: int = 5000
    ratio: float = 200.0
    ratio_from_bytes: int = 64 << 20
    free_bytes: int = 512 << 20

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """The caps an installation chose."""
        return cls(settings.maximum_upload_bytes, settings.maximum_upload_files, free_bytes=settings.minimum_free_mb << 20)

    def check_bytes(self, size_bytes: int) -> None:
        """Raise TooManyBytes where it is over the cap of an upload."""
        if size_bytes > self.total_bytes:
            raise TooManyBytes(self.total_bytes)


@dataclass(frozen=True)
class Part:
    """
    One part of an upload: its place in it from 1, the name its sender gave it (shown to the sender only), and how to open it.

    `field` is the form's name of it, where it came in a form.
    """

    number: int
    name: str
    size_bytes: int
    open: Callable[[], BinaryIO]
    field: str = ""

    @classmethod
    def in_file(cls, path: Path, number: int = 1, name: str = "", field: str = "") -> Part:
        """One that is in a file as a whole."""
        return cls(number, name, path.stat().st_size, partial(_open, path), field)


class Intray:
    """The callbacks of the multipart parser: every part becomes a file in `folder`. Raises Malformed for a boundary that is too long."""

    def __init__(self, folder: Path, boundary: bytes, limits: Limits) -> None:
        self.parts: list[Part] = []
        self._folder, self._limits = folder, limits
        self._bytes = 0
        self._file: BinaryIO | None = None
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._path, self._name, self._form_field = folder, "", ""
        # `Any`: the parser's own callback type names private aliases.
        callbacks: Any = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._begin,
            "on_part_data": self._write,
            "on_part_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            raise Malformed("The boundary is too long.") from None

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the body. Raises TooManyBytes, TooManyFiles, Malformed."""
        self._bytes += len(block)
        self._limits.check_bytes(self._bytes)
        try:
            self._parser.write(block)
        except FormParserError:
            raise Malformed("The multipart body breaks its own format.") from None

    def finish(self) -> None:
        """The body is over. Raises Malformed where its last boundary is missing."""
        if self._parser.state != MultipartState.END:
            raise Malformed("The multipart body ends before its last boundary.")

    def close(self) -> None:
        """Close the file that is open, if one is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _begin(self) -> None:
        if len(self.parts) >= self._limits.files:
            raise TooManyFiles(f"At most {self._limits.files} files are taken at once.")
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"filename") or options.get(b"name") or b""
        self._path = self._folder / f"{len(self.parts) + 1:06d}"
        self._name = printable(name.decode("utf-8", "replace"))
        self._form_field = printable((options.get(b"name") or b"").decode("utf-8", "replace"))
        self._file = self._path.open("wb", buffering=BLOCK // 4)

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self.close()
        self.parts.append(Part.in_file(self._path, len(self.parts) + 1, self._name, self._form_field))


def printable(name: str) -> str:
    """A file name fit for an answer: at most 200 characters, none of them a control."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[-200:]


def size_text(size_bytes: int) -> str:
    """A size for a person."""
    return f"{size_bytes / (1 << 30):g} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):g} MiB"


def _open(path: Path) -> BinaryIO:
    return path.open("rb")
