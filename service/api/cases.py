"""The case book over HTTP: one case, lists of cases, waiting for a case, running one again, sending its dead letters again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator

from service.api.desk import CASE_ID, Desk
from service.api.problems import Problem, problem_responses
from service.api.security import Scope
from service.api.status import FACES, CaseList, CaseStatus, DeliveryStatus, OpenCorrection, Stage, Verdict
from service.api.waiting import Waiters, is_final
from service.records import (
    AuditEvent,
    Case,
    Delivery,
    DeliveryState,
    InvalidTransition,
    OutputRow,
    ReaderVerdict,
    State,
    StudyFacts,
    UnknownCase,
    VerdictKind,
    VerdictState,
    standing_verdict,
)

LONGEST_WAIT_S = 300.0


def _no_control(text: str) -> str:
    if any(not letter.isprintable() for letter in text):
        raise ValueError("holds a control character")
    return text


Uid = Annotated[str, Query(max_length=64, pattern=r"^[0-9.]+$", examples=["1.2.826.0.1.3680043.8.498.1.4"])]
PatientId = Annotated[str, Query(min_length=1, max_length=256), AfterValidator(_no_control)]
Cursor = Annotated[str, Query(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.:=-]+$", description="`next` of the page before")]
CaseId = Annotated[str, Path(pattern=CASE_ID)]


def case_routes(desk: Desk, waiters: Waiters) -> APIRouter:
    """List, read and wait need `read`; running a case again, or sending again what was given up, needs `submit`."""
    router = APIRouter(tags=["cases"])
    may_read = [Depends(desk.guard.needs(Scope.READ))]

    @router.get("/cases", summary="Cases, newest first", dependencies=may_read, responses=problem_responses(401, 403))
    async def list_cases(
        request: Request,
        series_uid: Uid | None = None,
        study_uid: Uid | None = None,
        patient_id: PatientId | None = None,
        state: State | None = None,
        delivery_state: Annotated[DeliveryState | None, Query(description="Of any of the case's deliveries")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        cursor: Cursor | None = None,
    ) -> CaseList:
        filters = {"series_uid": series_uid, "study_uid": study_uid, "patient_id": patient_id, "state": state}
        filters["delivery_state"] = delivery_state
        page = await desk.look(partial(_page, desk, filters, limit, cursor))
        keys = {item.patient_key for item in page.items}
        about = {"study_uid": study_uid, "patient_key": keys.pop() if patient_id is not None and len(keys) == 1 else None}
        asked = (*filters.values(), limit, cursor)
        desk.audit_reading(request, AuditEvent.QUERY, f"searched over REST: cases, {len(page.items)} given", asked, **about)
        return page

    @router.get(
        "/cases/{case_id}",
        summary="One case; waits until it is final where asked to",
        dependencies=may_read,
        responses=problem_responses(401, 403, 404),
    )
    async def read_case(
        request: Request,
        case_id: CaseId,
        wait: Annotated[
            float, Query(ge=0, le=86400, description=f"Seconds to wait for done, rejected, failed or held; at most {LONGEST_WAIT_S:g}")
        ] = 0,
    ) -> CaseStatus:
        case = await desk.case(case_id)
        if wait > 0 and not is_final(case):
            await waiters.until_final(case_id, min(wait, LONGEST_WAIT_S), partial(_disconnected, request))
            case = await desk.case(case_id)
        desk.audit_reading(request, AuditEvent.PROCEDURE_RECORD, "case read over REST", case_id, case_id=case_id, study_uid=case.study_uid)
        return await desk.look(partial(status_of, desk, case))

    @router.post(
        "/cases/{case_id}/retry",
        summary="Run a failed or held case again",
        status_code=202,
        dependencies=[Depends(desk.guard.needs(Scope.SUBMIT))],
        responses=problem_responses(401, 403, 404, 409),
    )
    async def retry_case(request: Request, case_id: CaseId) -> CaseStatus:
        try:
            await desk.look(partial(desk.intake.retry, case_id))
        except UnknownCase:
            raise Problem("case-not-found", "No case has this identifier.") from None
        except InvalidTransition as error:
            detail = f"The case is {error.state}; failed and held cases can be run again."
            raise Problem("not-retryable", detail, state=error.state.value) from None
        desk.audit(request, AuditEvent.PROCEDURE_RECORD, "case run again", case_id=case_id)
        return await desk.look(partial(status_of, desk, await desk.case(case_id)))

    _add_resending(router, desk)
    return router


def _add_resending(router: APIRouter, desk: Desk) -> None:
    @router.post(
        "/cases/{case_id}/resend",
        summary="Send again what was given up of a case",
        status_code=202,
        dependencies=[Depends(desk.guard.needs(Scope.SUBMIT))],
        responses=problem_responses(401, 403, 404, 409),
    )
    async def resend_case(request: Request, case_id: CaseId) -> CaseStatus:
        await desk.case(case_id)
        names = [one.name for one in desk.settings.destinations]
        number = await desk.look(partial(desk.book.resend, case_id, destinations=names))
        if not number:
            raise Problem("not-resendable", "No result of the case was given up, or its destination is no longer in the settings.")
        desk.audit(request, AuditEvent.PROCEDURE_RECORD, f"{number} given-up deliveries due again", case_id=case_id)
        return await desk.look(partial(status_of, desk, await desk.case(case_id)))


def _page(desk: Desk, filters: dict[str, Any], limit: int, cursor: str | None) -> CaseList:
    try:
        page = desk.book.find_cases(**filters, limit=limit, cursor=cursor)
    except ValueError:
        raise Problem("invalid-request", "query.cursor: is not one that a list gave") from None
    return CaseList(items=statuses_of(desk, page.items), next=page.next)


def statuses_of(desk: Desk, cases: Sequence[Case]) -> list[CaseStatus]:
    """Build the status resources of cases, with outputs and deliveries of the current revision, in few reads."""
    outputs = desk.book.outputs_of([case.id for case in cases if case.state is State.DONE])
    deliveries = desk.book.deliveries_of([case.id for case in cases])
    verdicts = desk.book.verdicts_of([case.id for case in cases])
    studies = desk.book.studies_of([case.id for case in cases])
    return [
        render_status(
            case,
            [row for row in outputs.get(case.id, ()) if row.revision == case.revision],
            [row for row in deliveries[case.id] if row.revision == case.revision],
            verdicts[case.id],
            studies[case.id],
        )
        for case in cases
    ]


def status_of(desk: Desk, case: Case) -> CaseStatus:
    """Build the status resource of one case."""
    return statuses_of(desk, [case])[0]


def render_status(
    case: Case, outputs: list[OutputRow], deliveries: list[Delivery], verdicts: list[ReaderVerdict], study: StudyFacts
) -> CaseStatus:
    """Turn the book's values into the status resource."""
    known = {face.name for face in FACES}
    return CaseStatus(
        id=case.id,
        patient_id=case.patient_id,
        patient_key=case.patient_key,
        study_uid=case.study_uid,
        series_uid=case.series_uid,
        series_description=case.series_description,
        study_date=study.date or None,
        accession_number=study.accession_number or None,
        state=case.state,
        reason=case.reason,
        revision=case.revision,
        attempts=case.attempts,
        instances=case.instances,
        received_at=case.received_at,
        stages={
            name: Stage(start=datetime.fromtimestamp(times["start"], UTC), seconds=times["seconds"]) for name, times in case.stages.items()
        },
        model=dict(case.model) if case.model else None,  # type: ignore[arg-type]  # pydantic reads it
        quality=list(case.quality),
        findings=dict(case.findings) if case.findings is not None else None,
        primary=case.primary,
        outputs={row.kind: f"/cases/{case.id}/{row.kind}" for row in outputs if row.kind in known},
        deliveries=[
            DeliveryStatus(
                destination=delivery.destination,
                output=delivery.output,
                state=delivery.state,
                attempts=delivery.attempts,
                next_attempt_at=delivery.next_attempt_at,
                last_error=delivery.last_error,
            )
            for delivery in deliveries
        ],
        verdict=_verdict(standing_verdict(verdicts)),
        correction=_open_correction(verdicts),
    )


def _verdict(said: ReaderVerdict | None) -> Verdict | None:
    if said is None:
        return None
    return Verdict(verdict=said.kind, reader=said.reader, at=said.at, revision=said.revision, comment=said.comment, made=said.made)


def _open_correction(verdicts: Sequence[ReaderVerdict]) -> OpenCorrection | None:
    last = next((one for one in reversed(verdicts) if one.kind is VerdictKind.CORRECT), None)
    if last is None or last.state is VerdictState.STANDS:
        return None
    return OpenCorrection(
        reader=last.reader, at=last.at, revision=last.revision, comment=last.comment, state=last.state, reason=last.reason
    )


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
