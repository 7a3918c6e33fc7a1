"""Requests that send instances: read to disk under the limits of an upload, then given to the intake as one sender's."""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.desk import UPLOADS_AT_ONCE, Desk
from service.api.problems import Problem
from service.api.security import caller
from service.api.uploads import check_room, check_size, spool_folder
from service.errors import Rejected
from service.intake.handover import Receipt, Source
from service.multipart import Part, size_text
from service.settings import HEADER_BYTES

SILENCE_S: Final = 60.0
SLOWEST_BYTES_PER_S: Final = 4096
LARGE_BYTES: Final = 32 << 20

T = TypeVar("T")
Spool = Callable[[AsyncIterator[bytes], Path], Awaitable[list[Part]]]


class TooLarge(Rejected):
    """One file is larger than any instance may be."""


async def take_upload(desk: Desk, request: Request, spool: Spool, hand_over: Callable[[list[Part]], T]) -> T:
    """
    Read the body to disk with `spool`, then call `hand_over` in a thread with the files; they are gone when this returns.

    Raises
    ------
    Problem
        503 too many at once, 408 too slow, 413 too large, 507 no room, and what `spool` and `hand_over` raise.
    """
    try:
        desk.uploads.acquire_nowait()
    except anyio.WouldBlock:
        raise Problem("too-many-uploads", f"At most {UPLOADS_AT_ONCE} uploads are taken at once.") from None
    try:
        declared = request.headers.get("content-length", "0")
        declared_bytes = int(declared) if re.fullmatch(r"[0-9]{1,18}", declared) else 0
        check_size(declared_bytes, desk.limits)
        await desk.look(partial(check_room, desk.store, declared_bytes, desk.limits))
        async with spool_folder(desk.store, desk.work) as folder:
            parts = await spool(_blocks(request), folder)
            taken: T = await desk.work(partial(hand_over, parts))
            return taken
    except OSError as error:
        raise _disk_problem(error) from error
    finally:
        desk.uploads.release()


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; a sender that falls silent, drips or leaves ends the upload."""
    stream = request.stream()
    began, taken_bytes = anyio.current_time(), 0
    while True:
        try:
            with anyio.fail_after(SILENCE_S):
                block = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Problem("upload-timed-out", f"Nothing came for {SILENCE_S:g} s.") from None
        except ClientDisconnect:
            raise Problem("malformed-upload", "The sender left before the end.") from None
        taken_bytes += len(block)
        if taken_bytes < SLOWEST_BYTES_PER_S * (anyio.current_time() - began - SILENCE_S):
            raise Problem("upload-timed-out", f"Slower than {SLOWEST_BYTES_PER_S} bytes a second.")
        yield block


def give_to_intake(
    desk: Desk,
    files: Sequence[Part],
    request: Request,
    one: Callable[[Part, Source], T],
    clean: Callable[[Sequence[T]], bool] = lambda _: True,
) -> list[T]:
    """
    Call `one` for every file, some at a time, then close the upload as an association is closed: what is complete starts at once.

    Parameters
    ----------
    clean : tells by the outcomes whether the sender brought all it had to bring; if not, its series wait for the quiet time

    Raises
    ------
    Unavailable
        A part is away; what was taken until then is kept, and sending the same again completes it.
    """
    actor = caller(request)
    sender = Source(f"rest-{uuid.uuid4().hex}", "rest", actor.address, actor.name)
    check_room(desk.store, sum(part.size_bytes for part in files), desk.limits)
    ended_well = False
    try:
        outcomes = list(desk.hands.map(partial(_call, one, sender), files))
        ended_well = clean(outcomes)
    finally:
        desk.intake.close_source(sender.association, ended_well)
    return outcomes


def receive_part(desk: Desk, part: Part, sender: Source, check: Callable[[bytes], None] = lambda _: None) -> Receipt:
    """
    Give one file to the intake.

    Parameters
    ----------
    check : what this door demands of its bytes first; raises Rejected

    Raises
    ------
    TooLarge, Rejected
        It is not taken; the reason says why.
    Unavailable
        It may be sent again.
    """
    cap = desk.settings.maximum_series_bytes + HEADER_BYTES
    if part.size_bytes > cap:
        raise TooLarge(f"larger than {size_text(cap)}")
    with held_whole(desk, part):
        with part.open() as file:
            data = file.read()
        check(data)
        return desk.intake.receive(data, sender)


def held_whole(desk: Desk, part: Part) -> AbstractContextManager[object]:
    """Of files that are large and in memory whole while the block runs, one goes at a time."""
    return desk.large if part.size_bytes > LARGE_BYTES else nullcontext()


def _call(one: Callable[[Part, Source], T], sender: Source, part: Part) -> T:
    return one(part, sender)


def _disk_problem(error: OSError) -> Problem:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Problem("insufficient-storage", "The disk is full; nothing of this upload was kept.")
    return Problem("unavailable", "The upload could not be written to disk.")
