"""What a reader says of a result: accepted, rejected, or corrected by a mask that comes along."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.api.bodies import JSON, read_json, understand
from service.api.cases import CaseId, status_of
from service.api.desk import Desk
from service.api.problems import Problem, problem_responses
from service.api.receiving import held_whole, take_upload
from service.api.security import Scope
from service.api.status import CaseStatus
from service.api.uploads import FORM_DATA, spool_upload
from service.corrections import LONGEST_READER
from service.multipart import Part, size_text
from service.records import AuditEvent, ReaderVerdict, UnknownCase, VerdictKind, VerdictRefused
from service.settings import HEADER_BYTES
from service.verdicts import judge

LARGEST_FIELD: Final = 16 << 10
_FIELDS: Final = ("verdict", "reader", "comment", "revision")
_GZIP, _NIFTI = b"\x1f\x8b", b"n+1\x00"


def _speakable(text: str) -> str:
    if not text.replace("\n", "").isprintable():
        raise ValueError("holds a control character")
    return text


# What DICOM takes as one component group of a person's name (PS3.5 6.2, PN).
Reader = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_READER, pattern=r"^[^\\=]+$"),
    AfterValidator(_speakable),
    Field(description="Who says so", examples=["A. Reader"]),
]
Comment = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=2000),
    AfterValidator(_speakable),
    Field(description="Why; must be there to reject", examples=["motion"]),
]
Revision = Annotated[int, Field(ge=1, description="The one that was read; without it, the current one")]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reader: Reader
    comment: Comment = ""
    revision: Revision | None = None


class Judgement(_Said):
    """A verdict without a mask."""

    verdict: Literal["accept", "reject"]

    @model_validator(mode="after")
    def _demand_why(self) -> Self:
        if self.verdict == "reject" and not self.comment:
            raise PydanticCustomError("comment_missing", "comment: say why the result is rejected")
        return self


class Corrected(_Said):
    """What comes beside a corrected mask."""

    verdict: Literal["correct"] = "correct"


def _body() -> dict[str, Any]:
    judgement, corrected = Judgement.model_json_schema(), Corrected.model_json_schema()
    mask = {"type": "string", "format": "binary", "description": "DICOM SEG, or NIfTI on the grid of the series"}
    corrected["properties"]["file"] = mask
    corrected["required"] = ["file", "reader"]
    return {"requestBody": {"required": True, "content": {JSON: {"schema": judgement}, FORM_DATA: {"schema": corrected}}}}


def verdict_routes(desk: Desk) -> APIRouter:
    """A verdict needs `submit`."""
    router = APIRouter(tags=["cases"])

    @router.post(
        "/cases/{case_id}/verdict",
        summary="Accept, reject or correct the current result",
        description=(
            "As JSON: accept or reject. As a form with a DICOM SEG, or NIfTI on the grid of the series: correct; a worker checks the mask "
            "and makes a new revision from it, or says in `correction` why not. A rejection needs a comment. What is rejected stays "
            "readable, is not delivered any more and cannot be accepted; to undo a rejection send the revision's own mask, unchanged, as "
            "a correction. The same verdict again changes nothing."
        ),
        dependencies=[Depends(desk.guard.needs(Scope.SUBMIT))],
        responses=problem_responses(400, 401, 403, 404, 408, 409, 413, 415, 507)
        | {202: {"model": CaseStatus, "description": "The correction is kept; a worker looks at it next"}},
        openapi_extra=_body(),
    )
    async def judge_result(request: Request, response: Response, case_id: CaseId) -> CaseStatus:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == FORM_DATA:
            response.status_code = 202
            hand_over = partial(_answering, desk, request, case_id, partial(_correct, desk, case_id))
            await desk.case(case_id)
            await take_upload(desk, request, partial(_spool, desk, request), hand_over)
        elif kind == JSON:
            said = await read_json(request, Judgement)
            await desk.look(partial(_answering, desk, request, case_id, partial(_judge, desk, case_id), said))
        else:
            raise Problem("unsupported-media-type", f"Send {JSON} or {FORM_DATA}.")
        return await desk.look(partial(status_of, desk, await desk.case(case_id)))

    return router


def _judge(desk: Desk, case_id: str, said: Judgement) -> ReaderVerdict:
    return judge(desk.book, desk.store, case_id, VerdictKind(said.verdict), said.reader, said.comment, said.revision)


def _correct(desk: Desk, case_id: str, parts: Sequence[Part]) -> ReaderVerdict:
    said = understand(Corrected.model_validate, {part.field: _field(part) for part in parts if part.field in _FIELDS})
    files = [part for part in parts if part.field not in _FIELDS]
    if len(files) != 1:
        raise Problem("invalid-request", f"{len(files)} files: send one, a DICOM SEG or NIfTI on the grid of the series.")
    cap = desk.settings.maximum_series_bytes + HEADER_BYTES
    if files[0].size_bytes > cap:
        raise Problem("upload-too-large", f"At most {size_text(cap)} are taken at once.", limit_bytes=cap)
    with held_whole(desk, files[0]):
        with files[0].open() as file:
            data = file.read()
        if not (data[128:132] == b"DICM" or data.startswith(_GZIP) or data[344:348] == _NIFTI):
            raise Problem("invalid-request", "file: neither a DICOM file nor NIfTI.")
        return desk.intake.corrections.take(case_id, data, said.reader, said.comment, revision=said.revision)


def _answering(desk: Desk, request: Request, case_id: str, call: Callable[[Any], ReaderVerdict], said: Any) -> ReaderVerdict:
    """Call, and translate what the case book raises."""
    try:
        verdict = call(said)
        what = f"verdict on revision {verdict.revision}: {verdict.kind.value}, by {verdict.reader}"
        desk.audit(request, AuditEvent.PROCEDURE_RECORD, what, case_id=case_id)
        return verdict
    except UnknownCase:
        raise Problem("case-not-found", "No case has this identifier.") from None
    except VerdictRefused as error:
        case = desk.book.case(case_id)
        about: dict[str, Any] = {"state": case.state.value, "revision": case.revision} if case is not None else {}
        raise Problem("verdict-refused", f"{str(error)[:1].upper()}{str(error)[1:]}.", **about) from None


def _spool(desk: Desk, request: Request, body: AsyncIterator[bytes], folder: Path) -> Awaitable[list[Part]]:
    return spool_upload(request.headers, body, folder, desk.limits, desk.work)


def _field(part: Part) -> str:
    with part.open() as file:
        value = file.read(LARGEST_FIELD + 1)
    if len(value) > LARGEST_FIELD:
        raise Problem("upload-too-large", f"At most {LARGEST_FIELD} bytes are taken in a field of the form.", limit_bytes=LARGEST_FIELD)
    return value.decode("utf-8", "replace").replace("\r\n", "\n")  # as browsers end the lines of a field
