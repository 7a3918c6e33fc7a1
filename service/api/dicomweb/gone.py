"""
What is asked for and was withdrawn, with the reason (IHE RAD, IOCM).

A result of ours is 410, and names what took its place (PS3.18 8.5). An instance that a rejection note took is 404, as IHE asks of whoever
gives instances (RAD TF, WADO Retrieve).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.api.dicomweb.addresses import PREFIX, instance_url
from service.api.dicomweb.holdings import Holdings
from service.api.problems import Problem
from service.records import AnyResult, Book, State


def find_gone(
    book: Book, holdings: Holdings, study_uid: str, series_uid: str | None = None, sop_instance_uid: str | None = None
) -> Problem:
    """Give the answer for an address where nothing is offered: 410 where a result was that was withdrawn, else 404."""
    every = book.every_result(study_uid)
    for one in every:
        found = None if one.stands else holdings.identify(study_uid, one.path)
        if found and series_uid in (None, found.series_uid) and sop_instance_uid in (None, found.sop_instance_uid):
            return _withdrawn(holdings, study_uid, one, every)
    if book.was_withdrawn(study_uid, series_uid, sop_instance_uid):
        return Problem("instance-not-found", "A rejection note that came in took it out of its series.")
    return Problem("instance-not-found", "No object of this address is kept here.")


def _withdrawn(holdings: Holdings, study_uid: str, one: AnyResult, every: Sequence[AnyResult]) -> Problem:
    next_one = next((other for other in every if other.stands and (other.case_id, other.kind) == (one.case_id, one.kind)), None)
    found = holdings.identify(study_uid, next_one.path) if next_one is not None else None
    successor = None if found is None else instance_url(PREFIX, study_uid, found.series_uid, found.sop_instance_uid)
    about: dict[str, Any] = {
        "case": one.case_id,
        "revision": one.revision,
        "state": one.state.value,
        "current_revision": one.current_revision,
    }
    return Problem("instance-gone", _why(one), successor=successor, **about)


def _why(one: AnyResult) -> str:
    if one.is_rejected:
        return f"A reader rejected revision {one.revision} of the case."
    if one.state is State.REJECTED:
        return f"The case was rejected after it: {one.reason}."
    if one.state is State.DONE:
        return f"Revision {one.current_revision} of the case took its place."
    return f"Revision {one.current_revision} of the case takes its place; the case is {one.state}."
