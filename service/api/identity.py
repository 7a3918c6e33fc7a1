"""A patient's identity corrected over HTTP, and what was corrected before, for those with the scope `admin`."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.bodies import JSON, read_json
from service.api.cases import CaseId, status_of
from service.api.desk import Desk
from service.api.problems import Problem, problem_responses
from service.api.security import Scope, caller
from service.api.status import CaseStatus
from service.identity import BadIdentity, correct_identity
from service.records import AuditEvent, Case

LARGEST_BODY: Final = 16 << 10
KEYWORDS: Final = {
    "patient_id": "PatientID",
    "name": "PatientName",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "issuer": "IssuerOfPatientID",
}
"""Name in our JSON → DICOM keyword."""


class Correction(BaseModel):
    """What the identity is in truth; what is left out stays, an empty text blanks it (not the PatientID)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    patient_id: str = Field(min_length=1, max_length=64)
    name: str | None = Field(None, max_length=324, description="As Patient's Name is written: Family^Given^Middle^Prefix^Suffix")
    birth_date: str | None = Field(None, max_length=8, description="YYYYMMDD")
    sex: str | None = Field(None, max_length=1, description="M, F or O")
    issuer: str | None = Field(None, max_length=64)
    by: str = Field(min_length=1, max_length=200, description="Who says so; goes into the audit trail")
    reason: str = Field(min_length=1, max_length=200, description="Why; goes into the audit trail, and must not repeat the identity")

    def values(self) -> dict[str, str]:
        """The attributes that were given, by DICOM keyword."""
        given = {keyword: getattr(self, name) for name, keyword in KEYWORDS.items()}
        return {keyword: value for keyword, value in given.items() if value is not None}


class Identity(BaseModel):
    """Whose a series is; an empty text where nothing is said."""

    patient_id: str
    name: str
    birth_date: str
    sex: str
    issuer: str


class Corrected(BaseModel):
    """A correction that was made."""

    at: datetime
    by: str
    reason: str
    before: Identity
    after: Identity


class CorrectedList(BaseModel):
    """Every correction of a case, oldest first."""

    items: list[Corrected]


BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": Correction.model_json_schema()}}},
}


def identity_routes(desk: Desk) -> APIRouter:
    """Correcting, and reading what was corrected, need `admin`."""
    router = APIRouter(tags=["cases"])
    may_correct = [Depends(desk.guard.needs(Scope.ADMIN))]

    @router.get(
        "/cases/{case_id}/identity",
        summary="Every correction of the patient's identity: what was, what is, who said so, why and when",
        dependencies=may_correct,
        responses=problem_responses(401, 403, 404),
    )
    async def corrections(request: Request, case_id: CaseId) -> CorrectedList:
        case = await desk.case(case_id)
        what = "corrected identities read over REST"
        desk.audit_reading(request, AuditEvent.PATIENT_RECORD, what, case_id, case_id=case_id, study_uid=case.study_uid)
        return await desk.look(partial(_corrections, desk, case_id))

    @router.post(
        "/cases/{case_id}/identity",
        status_code=202,
        summary="Correct the patient's identity: every result is made again under new UIDs",
        dependencies=may_correct,
        responses=problem_responses(401, 403, 404, 408, 413),
        openapi_extra=BODY,
    )
    async def correct(request: Request, case_id: CaseId) -> CaseStatus:
        wanted = await read_json(request, Correction, LARGEST_BODY)
        case = await desk.case(case_id)
        await desk.look(partial(_correct, desk, request, case, wanted))
        return await desk.look(partial(status_of, desk, await desk.case(case_id)))

    return router


def _corrections(desk: Desk, case_id: str) -> CorrectedList:
    said = desk.book.identity_corrections(case_id)
    return CorrectedList(
        items=[Corrected(at=at, by=by, reason=why, before=_identity(was), after=_identity(now)) for at, by, why, was, now in said]
    )


def _identity(values: dict[str, str]) -> Identity:
    return Identity(**{name: values.get(keyword, "") for name, keyword in KEYWORDS.items()})


def _correct(desk: Desk, request: Request, case: Case, wanted: Correction) -> None:
    try:
        correct_identity(desk.book, desk.store, [case], wanted.values(), wanted.by, wanted.reason, caller(request))
    except BadIdentity as error:
        raise Problem("invalid-request", f"{error.reason}.") from None
