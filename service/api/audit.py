"""The audit trail over HTTP, for those with the scope `admin`; that it was read is in it too."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, Field

from service.api.cases import Cursor
from service.api.desk import CASE_ID, Desk
from service.api.problems import Problem, problem_responses
from service.api.security import Scope
from service.records import AuditEvent


class AuditItem(BaseModel):
    """Something that was done."""

    at: datetime = Field(description="When, or when for the first time")
    event: str = Field(description="By PS3.15 A.5.3")
    what: str = Field(description="What exactly, in words")
    actor_kind: str = Field(description="ae, token, command or service")
    actor: str = Field(description="AE title, name of the token (none where there are no tokens) or user")
    address: str
    case_id: str | None
    study_uid: str | None
    patient_key: str | None
    outcome: str = Field(description="success or failure")
    count: int = Field(description="How many instances, or how often", ge=0)


class AuditList(BaseModel):
    """A page of the audit trail, newest first; `next` is the cursor of the page after it."""

    items: list[AuditItem]
    next: str | None


def audit_routes(desk: Desk) -> APIRouter:
    """Reading the trail needs `admin`."""
    router = APIRouter(tags=["operations"])

    @router.get(
        "/audit",
        summary="Who did what, newest first",
        dependencies=[Depends(desk.guard.needs(Scope.ADMIN))],
        responses=problem_responses(401, 403),
    )
    async def read_audit(
        request: Request,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        event: AuditEvent | None = None,
        actor: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
        case: Annotated[str | None, Query(pattern=CASE_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        cursor: Cursor | None = None,
    ) -> AuditList:
        filters = {"since": since, "until": until, "event": event, "actor": actor, "case_id": case}
        page = await desk.look(partial(_page, desk, filters, limit, cursor))
        desk.audit(request, AuditEvent.AUDIT_LOG_USED, "audit trail read over REST")
        return page

    return router


def _page(desk: Desk, filters: dict[str, Any], limit: int, cursor: str | None) -> AuditList:
    try:
        page = desk.book.audit_trail(**filters, limit=limit, cursor=cursor)
    except ValueError:
        raise Problem("invalid-request", "query.cursor: is not one that a list gave") from None
    return AuditList(items=[AuditItem.model_validate(asdict(item)) for item in page.items], next=page.next)
