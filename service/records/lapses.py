"""Leases that lapsed: whether a case is most likely what takes its workers down (deploy/decisions/0020-cases-that-kill-their-worker.md)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, select

from service.records.schema import history
from service.records.states import Event, State

ALONE: Final = 5
ALONE_FOR: Final = timedelta(minutes=10)
AMONG_OTHERS: Final = 50
_ROW: Final = frozenset({Event.LAPSE.value, Event.CLAIM.value})
_ENDS: Final = [event.value for event in (Event.FINISH, Event.REFUSE, Event.STUMBLE, Event.FAIL)]


def suspect(connection: Connection, case: Mapping[str, Any], now: datetime) -> str | None:
    """
    Give the reason why a case whose lease lapsed now is set aside; None where it is tried again.

    Only lapses in a row count, with nothing between them but its being claimed: of one revision, since it was queued or asked for last.
    """
    chosen = select(history).where(history.c.case_id == case["id"]).order_by(history.c.id.desc()).limit(2 * AMONG_OTHERS)
    earlier: list[tuple[int, datetime]] = []
    for line in connection.execute(chosen).mappings():
        if line["event"] not in _ROW or line["revision"] != case["revision"]:
            break
        if line["event"] == Event.LAPSE.value:
            earlier.append((line["id"], line["at"]))
    if len(earlier) + 1 < ALONE:
        return None
    last = _last_end(connection, earlier[-1][0])
    alone = [at for number, at in earlier if number > last]
    if len(earlier) + 1 < AMONG_OTHERS and (len(alone) + 1 < ALONE or now - alone[-1] < ALONE_FOR):
        return None
    return (
        f"its worker was killed {len(earlier) + 1} times in a row while it had this case: look in the worker's log and at its memory limit"
        " (a container that is short of memory is killed whole), then run the case again"
    )


def _last_end(connection: Connection, after: int) -> int:
    """Give the number of the last line by which a worker brought any case to an end, or to an attempt's; 0 where there is none."""
    ended = (history.c.id > after, history.c.previous == State.RUNNING.value, history.c.event.in_(_ENDS))
    return int(connection.execute(select(func.max(history.c.id)).where(*ended)).scalar() or 0)
