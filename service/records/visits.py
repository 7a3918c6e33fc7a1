"""The visits of a patient: which series of a study was acquired like that of the visit before. Always inside a transaction.

That is found out anew whenever the study is settled, until something of it is out of our hands. From then on each series keeps what was
found, also when the visit before is removed or an earlier one is loaded; a series that comes later is compared with what the others were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydicom.uid import MRImageStorage
from sqlalchemy import ColumnElement, Connection, exists, or_, select, update

from service.headers import ENHANCED, Header
from service.headers.acquisition import likeness
from service.records.notes import HAS_IT, IS_NOTE
from service.records.rows import VerdictState
from service.records.schema import cases, deliveries, history, instances, reader_verdicts
from service.records.states import Event

_IMAGES: Final = (MRImageStorage, *ENHANCED)


def liken(connection: Connection, study: Sequence[dict[str, Any]], accepted: Sequence[dict[str, Any]]) -> None:
    """
    Bring up to date, in the rows and in the case book, what the accepted series of a locked study are compared with, and how alike.

    The earlier visit is the patient's latest study before this one, by Study Date and Study Time, that has a primary; whether that
    is done yet, and what a reader said of it, does not change how it was acquired. A study without a date is before and after none.

    Parameters
    ----------
    study : all cases of the study; `accepted` is some of them. `likeness` is as `service.headers.acquisition.likeness` says, and 0
        where there is no earlier visit
    """
    fixed = _is_fixed(connection, study)
    first = sorted((row for row in accepted if row["likeness"] is not None), key=lambda row: not row["primary"])
    compared_with = first[0]["likened_to"] if first else None
    for row in accepted:
        header = _header(connection, cases.c.id == row["id"])
        values: dict[str, Any] = {"studied_at": header.get("studied_at", "")}
        if not fixed or row["likeness"] is None:
            earlier = compared_with if fixed else _earlier_visit(connection, row, values["studied_at"])
            values |= {"likened_to": earlier, "likeness": _compare(connection, header, earlier)}
        if any(row[name] != value for name, value in values.items()):
            connection.execute(update(cases).where(cases.c.id == row["id"]).values(**values))
            row.update(values)


def _is_fixed(connection: Connection, study: Sequence[dict[str, Any]]) -> bool:
    """Tell whether something of a study was sent or is just being sent, a reader judged it, or its results came back from the files."""
    mine = [row["id"] for row in study]
    there = or_(deliveries.c.state.in_(HAS_IT), deliveries.c.lease_owner.is_not(None))
    sent = exists().where(deliveries.c.case_id.in_(mine), there, ~IS_NOTE)
    judged = exists().where(reader_verdicts.c.case_id.in_(mine), reader_verdicts.c.state == VerdictState.STANDS.value)
    rebuilt = exists().where(history.c.case_id.in_(mine), history.c.event == Event.REBUILD.value)
    return bool(connection.execute(select(or_(sent, judged, rebuilt))).scalar())


def _earlier_visit(connection: Connection, row: dict[str, Any], studied_at: str) -> str | None:
    """Give the series that was the primary of the visit before."""
    others = (cases.c.patient_key == row["patient_key"], cases.c.study_uid != row["study_uid"], cases.c.primary)
    before = (cases.c.studied_at > "", cases.c.studied_at < studied_at)
    latest = select(cases.c.series_uid).where(*others, *before).order_by(cases.c.studied_at.desc(), cases.c.study_uid.desc())
    found: str | None = connection.execute(latest.limit(1)).scalar()
    return found


def _compare(connection: Connection, header: dict[str, Any], series_uid: str | None) -> int:
    other = {} if series_uid is None else _header(connection, cases.c.series_uid == series_uid)
    return likeness(Header.from_json(header), Header.from_json(other)) if header and other else 0


def _header(connection: Connection, which: ColumnElement[bool]) -> dict[str, Any]:
    """Give the header of one image of a series, always the same one; nothing where it has none."""
    images = (instances.c.aside.is_(False), instances.c.sop_class_uid.in_(_IMAGES))
    chosen = select(instances.c.header).join(cases, cases.c.id == instances.c.case_id).where(which, *images)
    return connection.execute(chosen.order_by(instances.c.sop_instance_uid).limit(1)).scalar() or {}
