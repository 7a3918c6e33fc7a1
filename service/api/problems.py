"""Every error of the HTTP face as a problem detail (RFC 9457), and none with patient data in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from service.errors import Unavailable
from service.log import request_id

LOG = logging.getLogger("service.http")

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:leukoscope:problem:"

KINDS: Final[dict[str, tuple[int, str]]] = {
    "bad-request": (400, "The request could not be read"),
    "invalid-query": (400, "The search could not be understood"),
    "malformed-upload": (400, "The multipart body could not be read"),
    "unauthenticated": (401, "A bearer token is needed"),
    "forbidden": (403, "The token does not allow this"),
    "not-found": (404, "There is nothing at this address"),
    "case-not-found": (404, "There is no such case"),
    "output-not-found": (404, "The case has no such output now"),
    "series-not-found": (404, "The source has no such series"),
    "instance-not-found": (404, "There is no such object"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "instance-gone": (410, "The object was withdrawn"),
    "not-acceptable": (406, "What is there is of no kind that is accepted"),
    "upload-timed-out": (408, "The upload stopped coming"),
    "not-retryable": (409, "The case cannot be run again in this state"),
    "not-resendable": (409, "The case has no result that was given up"),
    "verdict-refused": (409, "The verdict cannot be taken"),
    "upload-too-large": (413, "The upload is too large"),
    "too-many-files": (413, "The upload has too many files"),
    "unsupported-media-type": (415, "The body is not of a kind taken here"),
    "range-not-satisfiable": (416, "The range lies outside the file"),
    "invalid-request": (422, "A value in the request is not valid"),
    "unsafe-archive": (422, "The zip archive is refused"),
    "nothing-usable": (422, "The upload holds no DICOM instance that can be taken"),
    "internal-error": (500, "Something went wrong inside"),
    "unavailable": (503, "A part of the service is away; the same call may succeed later"),
    "source-unavailable": (503, "The source does not answer"),
    "too-many-uploads": (503, "Too many uploads at once"),
    "insufficient-storage": (507, "There is no room for the upload"),
}
"""Kind, the last part of the stable ``type`` URI → status and title."""

RETRY_AFTER_S: Final = 10


class Problem(Exception):
    """An answer that is not a success; `detail` is for a person, `members` for a program."""

    def __init__(self, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members
        if KINDS[kind][0] == HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))

    @property
    def status(self) -> int:
        """The HTTP status of its kind."""
        return KINDS[self.kind][0]

    def response(self) -> JSONResponse:
        """The problem as a response; `instance` is the request, so that a person can find the log lines."""
        body: dict[str, Any] = {
            "type": TYPE_PREFIX + self.kind,
            "title": KINDS[self.kind][1],
            "status": self.status,
            "detail": self.detail,
        }
        if (current := request_id.get()) is not None:
            body["instance"] = f"urn:leukoscope:request:{current}"
        return JSONResponse(body | self.members, self.status, self.headers, MEDIA_TYPE)


class ProblemDetails(BaseModel):
    """RFC 9457. Some kinds carry more members, such as `state` or `problems`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": TYPE_PREFIX + "output-not-found",
                "title": "The case has no such output now",
                "status": 404,
                "detail": "The case is running; its outputs come when it is done.",
                "instance": "urn:leukoscope:request:5f0c7b1e2a934d58",
                "state": "running",
            }
        },
    )

    type: str = Field(description="Stable URI of the kind of problem")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str | None = Field(None, description="The request, as the log names it")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says about the given error statuses (422, 500 and 503 can come from every call)."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*statuses, 422, 500, 503})
    }


def answer_problems(app: FastAPI, allowed: Callable[[str], str]) -> None:
    """Register the handlers: what the routes raise becomes a problem detail; `allowed` names the methods of a path."""

    @app.exception_handler(Problem)
    async def told(_request: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = allowed(request.url.path)
        return problem_of_status(error.status_code, headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_of_validation(error).response()

    @app.exception_handler(Unavailable)
    async def away(_request: Request, error: Unavailable) -> JSONResponse:
        LOG.warning("unavailable: %s", error.reason)
        return Problem("unavailable", error.reason).response()


def problem_of_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem for what Starlette raises by itself: no route, a wrong method, a body it cannot read."""
    kinds = {404: "not-found", 405: "method-not-allowed", 413: "upload-too-large", 415: "unsupported-media-type"}
    kind = kinds.get(status, "bad-request" if status < 500 else "internal-error")
    return Problem(kind, KINDS[kind][1] + ".", headers=headers)


def problem_of_validation(error: RequestValidationError) -> Problem:
    """Which parameter is wrong and why, without repeating its value."""
    errors = [{"where": ".".join(str(step) for step in item["loc"]), "why": item["msg"]} for item in error.errors()]
    detail = "; ".join(f"{item['where']}: {item['why']}" for item in errors)
    return Problem("invalid-request", detail, errors=errors)


def problem_of_defect(error: Exception) -> Problem:
    """The last resort: the log keeps type and frames, the client learns the request's id."""
    LOG.error("unhandled %s", type(error).__name__, exc_info=error)
    return Problem("internal-error", "The service failed to answer; its log has more under this request's identifier.")
