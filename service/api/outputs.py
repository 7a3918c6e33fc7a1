"""What a case gave: each output of its current revision, with ETag, ranges and HEAD."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from service.api.desk import CASE_ID, Desk
from service.api.problems import Problem, problem_responses
from service.api.security import Scope as Permission
from service.api.status import FACES, Face
from service.records import AuditEvent, Case, OutputRow, State, VerdictKind, standing_verdict
from service.records.kept import DICOM

VERDICT: Final = "Leukoscope-Verdict"
"""The header that marks an output of a result that a reader has rejected."""


def output_routes(desk: Desk) -> APIRouter:
    """One route per kind of output, so that the OpenAPI document names each with its media type."""
    router = APIRouter(tags=["outputs"], dependencies=[Depends(desk.guard.needs(Permission.READ))])
    for face in FACES:
        _add(router, desk, face)
    return router


def _add(router: APIRouter, desk: Desk, face: Face) -> None:
    async def give(request: Request, case_id: Annotated[str, Path(pattern=CASE_ID)]) -> Response:
        case = await desk.case(case_id)
        output = await desk.look(partial(find_output, desk, case, face.name))
        said = standing_verdict((await desk.look(partial(desk.book.verdicts_of, [case.id])))[case.id])
        event = AuditEvent.INSTANCES_TRANSFERRED if face.media_type == DICOM else AuditEvent.EXPORT
        desk.audit(request, event, f"given over REST: {face.name}", case_id=case_id, study_uid=case.study_uid)
        answer = answer_output(request, desk, face, output)
        if said is not None and said.kind is VerdictKind.REJECT and said.revision == case.revision:
            answer.headers[VERDICT] = VerdictKind.REJECT.value
        return answer

    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {face.media_type: {} if face.media_type == "application/json" else binary}
    router.add_api_route(
        "/cases/{case_id}/" + face.name,
        give,
        methods=["GET"],
        summary=face.about,
        operation_id="get_" + face.name.replace(".", "_").replace("-", "_"),
        response_class=Response,
        responses=problem_responses(401, 403, 404, 416)
        | {
            200: {"description": face.about, "content": content},
            206: {"description": "The range asked for", "content": content},
            304: {"description": "The copy at hand is current"},
        },
    )


def find_output(desk: Desk, case: Case, kind: str) -> OutputRow:
    """
    The output of the case's current revision.

    Raises
    ------
    Problem
        404 with the case's state while there is none.
    """
    if case.state is State.DONE:
        for row in desk.book.outputs(case.id):
            if row.kind == kind and row.revision == case.revision:
                return row
    reason = f": {case.reason}" if case.reason else ""
    detail = f"The case is {case.state}{reason}."
    raise Problem("output-not-found", detail, state=case.state.value, reason=case.reason)


def answer_output(request: Request, desk: Desk, face: Face, output: OutputRow) -> Response:
    """The file, or 304 where the client has it: the ETag is the content's SHA-256."""
    etag = f'"{output.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if _has_copy(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    path = desk.store.path_of(output.path)
    if not path.is_file():
        raise Problem("output-not-found", "The file was cleaned away.", state=State.DONE.value, reason=None)
    disposition = "inline" if face.inline else "attachment"
    return RangedFile(path, headers=headers, media_type=face.media_type, filename=face.filename, content_disposition_type=disposition)


class RangedFile(FileResponse):
    """Starlette's, but an unreadable Range is ignored (RFC 9110 14.2) and one outside the file is answered with a problem detail."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file or the part of it that was asked for."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"range" or _is_range(value)]
        refused: Problem | None = None

        async def watching(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] == 416:
                whole = Headers(raw=message["headers"]).get("content-range", "bytes */*")
                refused = Problem("range-not-satisfiable", "The file ends before the range begins.", headers={"Content-Range": whole})
            if refused is None:
                await send(message)

        await super().__call__({**scope, "headers": headers}, receive, watching)
        if refused is not None:
            await refused.response()(scope, receive, send)


def _is_range(value: bytes) -> bool:
    text = value.decode("latin-1").replace(" ", "")
    if not re.fullmatch(r"bytes=(\d{1,15}-\d{0,15}|-\d{1,15})(,(\d{1,15}-\d{0,15}|-\d{1,15})){0,99}", text):
        return False
    spans = [span.split("-") for span in text.removeprefix("bytes=").split(",")]
    return all(not first or not last or int(first) <= int(last) for first, last in spans)


def _has_copy(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    held = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in held or etag in held
