"""One way to change a case's state: locked, by the table, with its line of history."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, RowMapping, cast, func, insert, select, update

from service.records.schema import cases, history
from service.records.states import Event, State, next_state


class UnknownCase(LookupError):
    """No case has this id."""


def utc_now() -> datetime:
    """Tell the time, aware and in UTC."""
    return datetime.now(UTC)


def plain(value: str) -> str:
    """Give text that every database takes: PostgreSQL knows no NUL, UTF-8 no lone surrogate."""
    return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def lock_studies(connection: Connection, study_uids: Iterable[str]) -> list[dict[str, Any]]:
    """
    Lock every case of the studies, those that are about to be made too, and give them.

    The first call of a transaction names all studies it will need.
    """
    wanted = sorted(set(study_uids))
    if connection.dialect.name == "postgresql":
        # Rows alone are no order to lock in: a case made meanwhile sorts in anywhere, and two writers deadlock.
        for key in sorted(map(_lock_key, wanted)):
            connection.execute(select(func.pg_advisory_xact_lock(cast(key, BigInteger))))
    chosen = select(cases).where(cases.c.study_uid.in_(wanted)).order_by(cases.c.id).with_for_update()
    return [dict(row) for row in connection.execute(chosen).mappings()]


def _lock_key(study_uid: str) -> int:
    return int.from_bytes(hashlib.sha256(study_uid.encode("utf-8", "replace")).digest()[:8], "big", signed=True)


def lock_case(connection: Connection, case_id: str) -> dict[str, Any]:
    """Lock a case and its siblings in the study (the primary is chosen among them), and give the case."""
    study_uid = connection.execute(select(cases.c.study_uid).where(cases.c.id == case_id)).scalar()
    if study_uid is None:
        raise UnknownCase(case_id)
    for row in lock_studies(connection, [study_uid]):
        if row["id"] == case_id:
            return row
    raise UnknownCase(case_id)


def move(
    connection: Connection, row: dict[str, Any] | RowMapping, event: Event, now: datetime, *, reason: str | None = None, **values: Any
) -> State:
    """Take a locked case through one transition, and write it into the history. Raises InvalidTransition."""
    previous = State(row["state"])
    state = next_state(previous, event)
    reason = plain(reason) if reason is not None else None
    values = {"state": state.value, "reason": reason, "changed_at": now, **values}
    connection.execute(update(cases).where(cases.c.id == row["id"]).values(**values))
    revision = values.get("revision", row["revision"])
    if not (event is Event.RECEIVE and state is previous):  # every slice is not a line of history
        note_history(connection, row["id"], event, previous, state, revision, reason, now)
    if isinstance(row, dict):
        row.update(values)
    return state


def note_history(
    connection: Connection,
    case_id: str,
    event: Event,
    previous: State | None,
    state: State,
    revision: int,
    reason: str | None,
    now: datetime,
) -> None:
    """Write one line of history."""
    connection.execute(
        insert(history).values(
            case_id=case_id,
            at=now,
            event=event.value,
            previous=previous.value if previous else None,
            state=state.value,
            revision=revision,
            reason=reason,
        )
    )
