"""Uploads: a multipart body streamed to a spool folder on disk, never held in memory, gone when the request is."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from anyio import CancelScope
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from service.problems import Problem
from service.settings import Settings
from service.store import Store

BLOCK: Final = 1 << 20
FORM_DATA: Final = "multipart/form-data"

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


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


class Intray:
    """The callbacks of the multipart parser: every part becomes a file in `folder`, nothing stays in memory."""

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
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the body. Raises Problem: too large, too many files, malformed."""
        self._bytes += len(block)
        check_size(self._bytes, self._limits)
        try:
            self._parser.write(block)
        except FormParserError:
            raise Problem("malformed-upload", "The multipart body breaks its own format.") from None

    def finish(self) -> None:
        """The body is over. Raises Problem where its last boundary is missing."""
        if self._parser.state != MultipartState.END:
            raise Problem("malformed-upload", "The multipart body ends before its last boundary.")

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
            raise Problem("too-many-files", f"At most {self._limits.files} files are taken at once.")
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
        self.parts.append(Part(len(self.parts) + 1, self._name, self._path.stat().st_size, partial(_open, self._path), self._form_field))


async def spool_upload(
    headers: Mapping[str, str], body: AsyncIterator[bytes], folder: Path, limits: Limits, in_thread: InThread, *, kind: str = FORM_DATA
) -> list[Part]:
    """
    Write the parts of a multipart body to `folder` as they arrive.

    Parameters
    ----------
    kind : the multipart type that is taken here

    Raises
    ------
    Problem
        415 another content type, 400 malformed, 413 over a limit (told before the body is read where its length is declared).
    OSError
        The disk did not take it.
    """
    given, options = parse_options_header(headers.get("content-type"))
    if given.decode("latin-1").lower() != kind:
        raise Problem("unsupported-media-type", f"Send {kind}.")
    if not options.get(b"boundary"):
        raise Problem("malformed-upload", "The content type names no boundary.")
    _check_declared(headers, limits)
    try:
        tray = Intray(folder, options[b"boundary"], limits)
    except FormParserError:
        raise Problem("malformed-upload", "The boundary is too long.") from None
    try:
        async for block in _gather(body):
            await in_thread(partial(tray.feed, block))
        tray.finish()
    finally:
        tray.close()
    return tray.parts


async def spool_file(
    headers: Mapping[str, str], body: AsyncIterator[bytes], folder: Path, limits: Limits, in_thread: InThread
) -> list[Part]:
    """Write a body that is one file to `folder` as it arrives. Raises Problem (413 over a limit) and OSError."""
    _check_declared(headers, limits)
    path, size = folder / "000001", 0
    with path.open("wb", buffering=0) as file:
        async for block in _gather(body):
            size += len(block)
            check_size(size, limits)
            await in_thread(partial(_write_whole, file, block))
    return [Part(1, "", size, partial(_open, path))]


def _check_declared(headers: Mapping[str, str], limits: Limits) -> None:
    length = headers.get("content-length", "")
    if length.isdecimal():
        check_size(int(length), limits)


def _write_whole(file: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


async def _gather(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks of at least BLOCK bytes, but for the last: fewer hops to the writing thread."""
    pending = bytearray()
    async for chunk in body:
        pending += chunk
        if len(pending) >= BLOCK:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


@asynccontextmanager
async def spool_folder(store: Store, in_thread: InThread) -> AsyncIterator[Path]:
    """A folder for one upload on the store's disk; what a killed process leaves of it, `Store.clean_leftovers` removes."""
    folder = store.upload_file()
    await in_thread(folder.mkdir)
    try:
        yield folder
    finally:
        with CancelScope(shield=True):
            await in_thread(partial(shutil.rmtree, folder, ignore_errors=True))


def check_room(store: Store, expected_bytes: int, limits: Limits) -> None:
    """Raise a 507 problem where the disk has no room for so much beside its reserve."""
    if store.free_bytes() < expected_bytes + limits.free_bytes:
        raise Problem("insufficient-storage", "The disk has no room for this upload.")


def check_size(size_bytes: int, limits: Limits) -> None:
    """Raise a 413 problem where `size_bytes` is over the cap of an upload."""
    if size_bytes > limits.total_bytes:
        raise Problem("upload-too-large", f"At most {size_text(limits.total_bytes)} are taken at once.", limit_bytes=limits.total_bytes)


def printable(name: str) -> str:
    """A file name fit for an answer: at most 200 characters, none of them a control."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[-200:]


def size_text(size_bytes: int) -> str:
    """A size for a person."""
    return f"{size_bytes / (1 << 30):g} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):g} MiB"


def _open(path: Path) -> BinaryIO:
    return path.open("rb")
