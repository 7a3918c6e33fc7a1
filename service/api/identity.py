"""A patient's identity corrected over HTTP, for those with the scope `admin`."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.bodies import JSON, read_json
from service.api.cases import CaseId, status_of
from service.api.desk import Desk
from service.api.security import Scope, caller
from service.api.status import CaseStatus
from service.identity import BadIdentity, correct_identity
from service.problems import Problem, problem_responses
from service.records import Case

LARGEST_BODY: Final = 16 << 10


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
        given = {
            "PatientID": self.patient_id,
            "PatientName": self.name,
            "PatientBirthDate": self.birth_date,
            "PatientSex": self.sex,
            "IssuerOfPatientID": self.issuer,
        }
        return {keyword: value for keyword, value in given.items() if value is not None}


BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": Correction.model_json_schema()}}},
}


def identity_routes(desk: Desk) -> APIRouter:
    """Correcting needs `admin`."""
    router = APIRouter(tags=["cases"])

    @router.post(
        "/cases/{case_id}/identity",
        status_code=202,
        summary="Correct the patient's identity: every result is made again under new UIDs",
        dependencies=[Depends(desk.guard.needs(Scope.ADMIN))],
        responses=problem_responses(401, 403, 404, 408, 413),
        openapi_extra=BODY,
    )
    async def correct(request: Request, case_id: CaseId) -> CaseStatus:
        wanted = await read_json(request, Correction, LARGEST_BODY)
        case = await desk.case(case_id)
        await desk.look(partial(_correct, desk, request, case, wanted))
        return await desk.look(partial(status_of, desk, await desk.case(case_id)))

    return router


def _correct(desk: Desk, request: Request, case: Case, wanted: Correction) -> None:
    try:
        correct_identity(desk.book, desk.store, [case], wanted.values(), wanted.by, wanted.reason, caller(request))
    except BadIdentity as error:
        raise Problem("invalid-request", f"{error.reason}.") from None
