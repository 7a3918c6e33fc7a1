"""POST /cases with JSON: a series that is named, to be fetched from a PACS of the settings."""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api.bodies import read_json
from service.api.cases import statuses_of
from service.api.desk import Desk
from service.api.problems import Problem
from service.api.status import Accepted
from service.errors import Misconfigured, Rejected, Unavailable
from service.records import AuditEvent
from service.rule import Name

LOG = logging.getLogger(__name__)
Uid = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9]+(\.[0-9]+)*$")]  # PS3.5 9.1


class FetchRequest(BaseModel):
    """Which series, and where from."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"series_uid": "1.2.826.0.1.3680043.8.498.1.4", "from": "pacs"}}
    )

    series_uid: Uid
    study_uid: Uid | None = Field(None, description="Left out, the PACS is asked for it")
    source: Name = Field(alias="from", description="The name of one of the installation's sources")


async def ask(desk: Desk, request: Request) -> Accepted:
    """
    Note that a series is to be fetched; it is in the case book before the answer.

    Raises
    ------
    Problem
        422 malformed, or a source that is not in the settings; 404 and 503 where the PACS was asked for the study and has none or is away.
    """
    wanted = await read_json(request, FetchRequest)
    names = [source.name for source in desk.settings.sources]
    if wanted.source not in names:
        known = f"is none of: {', '.join(names)}" if names else "the settings have no [[sources]]"
        raise Problem("invalid-request", f"body.from: {known}", sources=names)
    study_uid = wanted.study_uid
    if study_uid is None:
        study_uid = await anyio.to_thread.run_sync(partial(_find_study, desk, wanted), limiter=desk.finders)
    accepted = await desk.look(partial(_note, desk, study_uid, wanted))
    for item in accepted.items:
        what = f"fetch asked for, from {wanted.source}"
        desk.audit(request, AuditEvent.PROCEDURE_RECORD, what, case_id=item.id, study_uid=study_uid)
    return accepted


def _note(desk: Desk, study_uid: str, wanted: FetchRequest) -> Accepted:
    case_id = desk.book.ask_fetch(study_uid, wanted.series_uid, wanted.source)
    LOG.info("a fetch was asked for", extra={"case_id": case_id, "series_uid": wanted.series_uid})
    case = desk.book.case(case_id)
    return Accepted(items=statuses_of(desk, [case] if case is not None else []))


def _find_study(desk: Desk, wanted: FetchRequest) -> str:
    from service.fetching.finding import find_study
    from service.fetching.node import NotThere

    known = {case.study_uid for case in desk.book.find_cases(series_uid=wanted.series_uid, limit=10).items}
    if len(known) == 1:
        return known.pop()
    (source,) = (source for source in desk.settings.sources if source.name == wanted.source)
    try:
        return find_study(desk.settings, source, wanted.series_uid)
    except NotThere as error:
        raise Problem("series-not-found", f"{error.reason}.") from None
    except Rejected as error:
        raise Problem("invalid-request", f"body.study_uid: {error.reason}") from None
    except Unavailable as error:
        raise Problem("source-unavailable", f"{error.reason}. With study_uid the series is fetched when it is back.") from None
    except Misconfigured as error:
        raise Problem("source-unavailable", str(error)) from None
