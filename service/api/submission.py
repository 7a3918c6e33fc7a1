"""POST /cases: DICOM files, or one zip of them, or a series that is named, become cases; durable before the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Depends, Request, Response
from python_multipart.multipart import parse_options_header

from service.api.archive import DAMAGED, MAGIC, unpacked
from service.api.asking import FetchRequest, ask
from service.api.bodies import JSON
from service.api.cases import statuses_of
from service.api.desk import Desk
from service.api.problems import Problem, problem_responses
from service.api.receiving import give_to_intake, receive_part, take_upload
from service.api.security import Scope
from service.api.status import Accepted, FileProblem
from service.api.uploads import FORM_DATA, spool_upload
from service.errors import Rejected
from service.intake.handover import Receipt, Source
from service.multipart import Part

MOST_PROBLEMS: Final = 100
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM_DATA: {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["files"],
                },
                "encoding": {"files": {"contentType": "application/dicom, application/zip, application/octet-stream"}},
            },
            JSON: {"schema": FetchRequest.model_json_schema()},
        },
    }
}


def submission_routes(desk: Desk) -> APIRouter:
    """Sending needs `submit`."""
    router = APIRouter(tags=["cases"])

    @router.post(
        "/cases",
        status_code=202,
        summary="Send series: DICOM files, or one zip of them; or name one to be fetched",
        description=(
            "Every part of the multipart body is one DICOM file, or the only part is a zip. The answer comes when everything in it is "
            "durable; the same series again gives the same case. Files that are no usable DICOM are named in `problems`. Or JSON names a "
            "series and the source to fetch it from: its case receives, and is held with the reason where it cannot be fetched."
        ),
        dependencies=[Depends(desk.guard.needs(Scope.SUBMIT))],
        responses=problem_responses(400, 401, 403, 404, 408, 413, 415, 507)
        | {202: {"headers": {"Location": {"schema": {"type": "string"}, "description": "The case, where there is exactly one"}}}},
        openapi_extra=BODY,
    )
    async def submit(request: Request, response: Response) -> Accepted:
        def spool(body: AsyncIterator[bytes], folder: Path) -> Awaitable[list[Part]]:
            return spool_upload(request.headers, body, folder, desk.limits, desk.work)

        kind = parse_options_header(request.headers.get("content-type"))[0].decode("latin-1").lower()
        if kind == JSON:
            accepted = await ask(desk, request)
        elif kind != FORM_DATA:
            raise Problem(
                "unsupported-media-type", f"Send {FORM_DATA} with DICOM files or one zip, or {JSON} that names a series to fetch."
            )
        else:
            accepted = await take_upload(desk, request, spool, partial(_hand_over, desk, request))
        if len(accepted.items) == 1:
            response.headers["Location"] = f"/cases/{accepted.items[0].id}"
        return accepted

    return router


def _hand_over(desk: Desk, request: Request, parts: list[Part]) -> Accepted:
    """
    Give every file to the intake.

    Raises
    ------
    Problem
        Nothing in it was of use, or the zip is refused as a whole.
    """
    with unpacked(parts, desk.limits) as files:
        outcomes = give_to_intake(desk, files, request, partial(_hand_over_one, desk))
    problems = [outcome for outcome in outcomes if isinstance(outcome, FileProblem)]
    case_ids = list(dict.fromkeys(outcome.case_id for outcome in outcomes if isinstance(outcome, Receipt) and outcome.case_id))
    if not case_ids:
        detail = "None of its files is a DICOM instance that can be taken." if files else "It holds no files."
        raise Problem("nothing-usable", detail, problems=[problem.model_dump() for problem in problems[:MOST_PROBLEMS]])
    found = [case for case in map(desk.book.case, case_ids) if case is not None]
    return Accepted(items=statuses_of(desk, found), problems=problems)


def _hand_over_one(desk: Desk, part: Part, sender: Source) -> Receipt | FileProblem:
    try:
        receipt = receive_part(desk, part, sender, _demand_no_zip)
    except Rejected as error:
        return FileProblem(file=part.number, name=part.name, detail=error.reason)
    except DAMAGED:
        return FileProblem(file=part.number, name=part.name, detail="damaged in the zip")
    if receipt.case_id is None:
        return FileProblem(file=part.number, name=part.name, detail="a result of Leukoscope: nothing is made of it")
    return receipt


def _demand_no_zip(data: bytes) -> None:
    if data.startswith(MAGIC):
        raise Rejected("a zip is taken only alone, and not inside another")
