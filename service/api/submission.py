"""POST /cases: DICOM files, or one zip of them, become cases; durable before the answer."""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import nullcontext
from functools import partial
from typing import Any, Final

import anyio
from fastapi import APIRouter, Depends, Request, Response
from starlette.requests import ClientDisconnect

from service.api.cases import statuses_of
from service.api.desk import Desk
from service.api.status import Accepted, FileProblem
from service.archive import DAMAGED, MAGIC, unpacked
from service.errors import Rejected
from service.intake import Receipt, Source
from service.problems import Problem, problem_responses
from service.security import Scope
from service.uploads import Part, check_room, check_size, size_text, spool_folder, spool_upload

UPLOADS_AT_ONCE: Final = 8
SILENCE_S: Final = 60.0
SLOWEST_BYTES_PER_S: Final = 4096
LARGE_BYTES: Final = 32 << 20
HEADER_BYTES: Final = 64 << 20
MOST_PROBLEMS: Final = 100
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["files"],
                },
                "encoding": {"files": {"contentType": "application/dicom, application/zip, application/octet-stream"}},
            }
        },
    }
}


def submission_routes(desk: Desk) -> APIRouter:
    """Sending needs `submit`."""
    router = APIRouter(tags=["cases"])
    places = anyio.Semaphore(UPLOADS_AT_ONCE)

    @router.post(
        "/cases",
        status_code=202,
        summary="Send series: DICOM files, or one zip of them",
        description=(
            "Every part of the multipart body is one DICOM file, or the only part is a zip. The answer comes when everything in it is "
            "durable; the same series again gives the same case. Files that are no usable DICOM are named in `problems`."
        ),
        dependencies=[Depends(desk.guard.needs(Scope.SUBMIT))],
        responses=problem_responses(400, 401, 403, 408, 413, 415, 507)
        | {202: {"headers": {"Location": {"schema": {"type": "string"}, "description": "The case, where there is exactly one"}}}},
        openapi_extra=BODY,
    )
    async def submit(request: Request, response: Response) -> Accepted:
        try:
            places.acquire_nowait()
        except anyio.WouldBlock:
            raise Problem("too-many-uploads", f"At most {UPLOADS_AT_ONCE} uploads are taken at once.") from None
        try:
            accepted = await _take(desk, request)
        except OSError as error:
            raise _disk_problem(error) from error
        finally:
            places.release()
        if len(accepted.items) == 1:
            response.headers["Location"] = f"/cases/{accepted.items[0].id}"
        return accepted

    return router


async def _take(desk: Desk, request: Request) -> Accepted:
    declared = request.headers.get("content-length", "0")
    declared_bytes = int(declared) if re.fullmatch(r"[0-9]{1,18}", declared) else 0
    check_size(declared_bytes, desk.limits)
    await desk.look(partial(check_room, desk.store, declared_bytes, desk.limits))
    async with spool_folder(desk.store, desk.work) as folder:
        parts = await spool_upload(request.headers, _blocks(request), folder, desk.limits, desk.work)
        result: Accepted = await desk.work(partial(_hand_over, desk, parts, request.client.host if request.client else ""))
        return result


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


def _hand_over(desk: Desk, parts: list[Part], address: str) -> Accepted:
    """
    Give every file to the intake, then close the upload as an association is closed: what is complete starts at once.

    Raises
    ------
    Problem
        Nothing in it was of use, or the zip is refused as a whole.
    Unavailable
        A part is away; what was taken until then is kept, and sending the same again completes it.
    """
    sender = Source(f"rest-{uuid.uuid4().hex}", "rest", address)
    clean = False
    with unpacked(parts, desk.limits) as files:
        check_room(desk.store, sum(part.size_bytes for part in files), desk.limits)
        try:
            outcomes = list(desk.hands.map(partial(_hand_over_one, desk, sender), files))
            clean = True
        finally:
            desk.intake.close_source(sender.association, clean)
    problems = [outcome for outcome in outcomes if isinstance(outcome, FileProblem)]
    case_ids = list(dict.fromkeys(outcome.case_id for outcome in outcomes if isinstance(outcome, Receipt)))
    if not case_ids:
        detail = "None of its files is a DICOM instance that can be taken." if files else "It holds no files."
        raise Problem("nothing-usable", detail, problems=[problem.model_dump() for problem in problems[:MOST_PROBLEMS]])
    found = [case for case in map(desk.book.case, case_ids) if case is not None]
    return Accepted(items=statuses_of(desk, found), problems=problems)


def _hand_over_one(desk: Desk, sender: Source, part: Part) -> Receipt | FileProblem:
    cap = desk.settings.maximum_series_bytes + HEADER_BYTES
    if part.size_bytes > cap:
        return FileProblem(file=part.number, name=part.name, detail=f"larger than {size_text(cap)}")
    # The intake holds a file whole while it writes it: large ones go one at a time.
    with desk.large if part.size_bytes > LARGE_BYTES else nullcontext():
        try:
            with part.open() as file:
                data = file.read()
            if data.startswith(MAGIC):
                return FileProblem(file=part.number, name=part.name, detail="a zip is taken only alone, and not inside another")
            return desk.intake.receive(data, sender)
        except Rejected as error:
            return FileProblem(file=part.number, name=part.name, detail=error.reason)
        except DAMAGED:
            return FileProblem(file=part.number, name=part.name, detail="damaged in the zip")


def _disk_problem(error: OSError) -> Problem:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Problem("insufficient-storage", "The disk is full; nothing of this upload was kept.")
    return Problem("unavailable", "The upload could not be written to disk.")
