"""Answers that come from the disk a block at a time: one body, or several parts in multipart/related (PS3.18 8.6.1.2)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from starlette.responses import StreamingResponse

from service.api.desk import Desk

BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Part:
    """One part of an answer: how it is labelled, its size where that is known before it is read, and what reads it."""

    media_type: str
    location: str
    size_bytes: int | None
    blocks: Callable[[], Iterator[bytes]]


def file_blocks(path: Path) -> Iterator[bytes]:
    """A file, a block at a time."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def single_answer(desk: Desk, part: Part) -> StreamingResponse:
    """One part as the whole body."""
    headers = {"content-location": part.location}
    if part.size_bytes is not None:
        headers["content-length"] = str(part.size_bytes)
    return StreamingResponse(_in_threads(desk, part.blocks()), media_type=part.media_type, headers=headers)


def stream_answer(desk: Desk, blocks: Iterator[bytes], media_type: str) -> StreamingResponse:
    """A body whose length nobody knows before it is made."""
    return StreamingResponse(_in_threads(desk, blocks), media_type=media_type)


def multipart_answer(desk: Desk, parts: Sequence[Part], kind: str, *, status: int = 200) -> StreamingResponse:
    """Several parts of one media type; the length is told where every part's is known."""
    boundary = uuid.uuid4().hex
    heads = [_head(part, boundary) for part in parts]
    tail = f"--{boundary}--\r\n".encode()
    sizes = [part.size_bytes for part in parts]
    headers = {}
    if all(size is not None for size in sizes):
        whole = sum(len(head) + (size or 0) + 2 for head, size in zip(heads, sizes, strict=True)) + len(tail)
        headers["content-length"] = str(whole)
    body = _joined(parts, heads, tail)
    media_type = f'multipart/related; type="{kind}"; boundary={boundary}'
    return StreamingResponse(_in_threads(desk, body), status, headers=headers, media_type=media_type)


def _head(part: Part, boundary: str) -> bytes:
    length = f"Content-Length: {part.size_bytes}\r\n" if part.size_bytes is not None else ""
    return f"--{boundary}\r\nContent-Type: {part.media_type}\r\n{length}Content-Location: {part.location}\r\n\r\n".encode()


def _joined(parts: Sequence[Part], heads: Sequence[bytes], tail: bytes) -> Iterator[bytes]:
    for part, head in zip(parts, heads, strict=True):
        pending = head
        for block in part.blocks():
            yield pending + block
            pending = b""
        yield pending + b"\r\n"
    yield tail


async def _in_threads(desk: Desk, blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Each block is read in a thread, when the client has taken the one before."""
    with closing(blocks) as open_blocks:  # type: ignore[type-var]  # generators all
        while (block := await desk.read(partial(next, open_blocks, None))) is not None:
            yield block
