"""Uploads: a multipart body streamed to a spool folder on disk, never held in memory, gone when the request is."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from anyio import CancelScope
from python_multipart.multipart import parse_options_header

from service.api.problems import Problem
from service.multipart import BLOCK, Intray, Limits, Malformed, Part, TooManyBytes, TooManyFiles
from service.store import Store

FORM_DATA: Final = "multipart/form-data"

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


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
    with _as_problems():
        tray = Intray(folder, options[b"boundary"], limits)
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
    return [Part.in_file(path)]


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
    with _as_problems():
        limits.check_bytes(size_bytes)


@contextmanager
def _as_problems() -> Iterator[None]:
    try:
        yield
    except TooManyBytes as error:
        raise Problem("upload-too-large", error.reason, limit_bytes=error.limit_bytes) from None
    except TooManyFiles as error:
        raise Problem("too-many-files", error.reason) from None
    except Malformed as error:
        raise Problem("malformed-upload", error.reason) from None
