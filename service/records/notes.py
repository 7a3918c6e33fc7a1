"""Rejection notes that destinations are owed: an outbox row first, then the object, which a delivery worker writes (worker.withdraw).

A note of revision N withdraws what the destination was sent of earlier revisions and no note of which it was sent yet; where a reader
rejects revision N, another withdraws what was sent of N itself. The outbox row is made where a revision is superseded or rejected or a
series is refused or withdrawn; without the object it is not due.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, or_, select
from sqlalchemy import case as sql_case

from service.records.database import Ledger
from service.records.moves import utc_now
from service.records.rows import DeliveryState, OutputRow
from service.records.schema import cases, deliveries, outputs, rejections
from service.sections import Recipient

NOTE: Final = "rejection-note"
_OF_READER: Final = f"{NOTE}-rejected."
IS_NOTE: Final = deliveries.c.output.startswith(NOTE)
NO_NOTE_OUTPUT: Final = outputs.c.kind.not_like(f"{NOTE}%")
HAS_IT: Final = (DeliveryState.SENT.value, DeliveryState.COMMITTED.value)
LONGEST_WAIT: Final = timedelta(hours=1)  # back-off is capped far below
_LONGEST_NAME: Final = 40  # of a kind: 64 letters


@dataclass(frozen=True)
class OwedNote:
    """A note that is to be written.

    Attributes
    ----------
    patient_id : whose case it is now
    source_title : code of the title under which instances of the source were rejected, if that is why
    paths : of the results it withdraws, relative to the store
    waits : one of them is just being sent, and may be sent after all
    attempts, fence : of the delivery
    """

    delivery_id: int
    case_id: str
    revision: int
    kind: str
    patient_id: str
    source_title: str | None
    paths: tuple[str, ...]
    waits: bool
    attempts: int
    fence: int


def note_kind(destination: str, *, of_reader: bool = False) -> str:
    """Name the note for a destination among a revision's outputs: each was sent others. `of_reader`: it rejects the revision itself."""
    name = destination
    if len(name) > _LONGEST_NAME:
        name = f"{name[:31]}-{hashlib.sha256(destination.encode()).hexdigest()[:8]}"
    return f"{_OF_READER if of_reader else f'{NOTE}.'}{name}"


def is_note(kind: str) -> bool:
    """Tell whether an output is a rejection note."""
    return kind.startswith(NOTE)


def is_due(state: DeliveryState, now: datetime, longest: timedelta = LONGEST_WAIT) -> ColumnElement[bool]:
    """Say when a delivery in that state may be worked on. Times further off than we ever set come from a clock that was set back."""
    at = deliveries.c.next_attempt_at
    return and_(deliveries.c.state == state.value, or_(at <= now, at > now + longest))


def owe_notes(
    connection: Connection, case: dict[str, Any], destinations: Sequence[Recipient], now: datetime, *, of_reader: bool = False
) -> None:
    """Make the outbox rows of notes for what destinations were sent of earlier revisions of a locked case, or of a rejected one itself."""
    for destination in destinations:
        kind = note_kind(destination.name, of_reader=of_reader)
        if not destination.rejection_notes or not _sent(connection, case["id"], case["revision"], destination.name, kind, now):
            continue
        mine = and_(deliveries.c.case_id == case["id"], deliveries.c.revision == case["revision"], deliveries.c.output == kind)
        if connection.execute(select(exists().where(mine))).scalar():
            continue
        values = {"case_id": case["id"], "revision": case["revision"], "destination": destination.name, "output": kind}
        state = {"state": DeliveryState.PENDING.value, "attempts": 0, "fence": 0}
        connection.execute(insert(deliveries).values(**values, **state, created_at=now, changed_at=now, next_attempt_at=now))


def _sent(connection: Connection, case_id: str, revision: int, destination: str, kind: str, now: datetime) -> list[tuple[str, bool]]:
    """Give (path, is it just being sent) of what the destination has, or may have in a moment, and the note is to withdraw."""
    mine = and_(deliveries.c.case_id == case_id, deliveries.c.destination == destination)
    if kind.startswith(_OF_READER):
        first, last = revision, revision
    else:
        next_after = sql_case((deliveries.c.output.startswith(_OF_READER), deliveries.c.revision + 1), else_=deliveries.c.revision)
        noted = select(func.max(next_after)).where(mine, IS_NOTE, deliveries.c.state.in_(HAS_IT), deliveries.c.revision <= revision)
        first, last = connection.execute(noted).scalar() or 0, revision - 1
    same = and_(
        outputs.c.case_id == deliveries.c.case_id, outputs.c.revision == deliveries.c.revision, outputs.c.kind == deliveries.c.output
    )
    # One that was asked for in a transaction was sent, whatever became of the commitment.
    has_it = or_(deliveries.c.state.in_(HAS_IT), deliveries.c.transaction_uid.is_not(None))
    at_it = and_(~has_it, deliveries.c.lease_until > now)
    chosen = (
        select(outputs.c.path, at_it.label("at_it"))
        .join(outputs, same)
        .where(mine, ~IS_NOTE, deliveries.c.revision.between(first, last))
        .where(or_(has_it, at_it))
        .order_by(deliveries.c.id)
    )
    return [(row.path, bool(row.at_it)) for row in connection.execute(chosen)]


class Notes(Ledger):
    """Notes from owed to due."""

    def owed_notes(self, case_id: str | None = None) -> list[OwedNote]:
        """Give the notes without an object, of one case or all; one that could not be written waits for its next attempt."""
        now = utc_now()
        there = exists().where(
            outputs.c.case_id == deliveries.c.case_id, outputs.c.revision == deliveries.c.revision, outputs.c.kind == deliveries.c.output
        )
        title = (
            select(rejections.c.code)
            .where(rejections.c.case_id == cases.c.id, rejections.c.revision == deliveries.c.revision)
            .order_by(rejections.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        chosen = (
            select(deliveries, cases.c.patient_id, title.label("title"))
            .join(cases, cases.c.id == deliveries.c.case_id)
            .where(is_due(DeliveryState.PENDING, now), IS_NOTE, ~there)
            .order_by(deliveries.c.id)
        )
        if case_id is not None:
            chosen = chosen.where(deliveries.c.case_id == case_id)
        found = []
        with self._reading() as connection:
            for row in connection.execute(chosen).all():
                sent = _sent(connection, row.case_id, row.revision, row.destination, row.output, now)
                paths, waits = tuple(path for path, at_it in sent if not at_it), any(at_it for _, at_it in sent)
                rejected_as = None if row.output.startswith(_OF_READER) else row.title
                whose = (row.id, row.case_id, row.revision, row.output, row.patient_id)
                found.append(OwedNote(*whose, rejected_as, paths, waits, row.attempts, row.fence))
        return found

    def write_note(self, owed: OwedNote, output: OutputRow | None) -> None:
        """Enter the object of a note, which is due from then on; None: the destination was sent nothing, and is owed nothing."""
        with self._writing() as connection:
            mine = deliveries.c.id == owed.delivery_id
            if output is None:
                connection.execute(delete(deliveries).where(mine))
                return
            same = and_(outputs.c.case_id == owed.case_id, outputs.c.revision == owed.revision, outputs.c.kind == owed.kind)
            # locked, so that of two workers one enters it; gone where the retention was faster
            if connection.execute(select(deliveries.c.id).where(mine).with_for_update()).scalar() is None:
                return
            if not connection.execute(select(exists().where(same))).scalar():
                values = {name: getattr(output, name) for name in OutputRow.__dataclass_fields__}
                connection.execute(insert(outputs).values(case_id=owed.case_id, **values))
