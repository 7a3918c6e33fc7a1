"""The installation's living processes, and what they counted: sums over all of them and over restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from service.records.database import Ledger
from service.records.finished import SETTLED
from service.records.moves import utc_now
from service.records.schema import counters, deliveries, history, parts
from service.records.states import Event

GONE_AFTER = timedelta(seconds=30)
_FORGOTTEN_AFTER = timedelta(hours=1)
_SEPARATOR = "\x1f"

Counted = Mapping[tuple[str, tuple[str, ...]], int]
"""(name of the counter, values of its labels) → how many."""


@dataclass(frozen=True)
class Part:
    """One part of the service in one process, as it last told; `detail` is its own kind's."""

    name: str
    kind: str
    started_at: datetime
    seen_at: datetime
    detail: Mapping[str, Any]


class Upkeep(Ledger):
    """Who lives, and how much was done."""

    def beat(self, living: Sequence[Part], counted: Counted) -> None:
        """
        Note that parts live and add what they counted, in one transaction.

        Should the database go away just when it commits, the caller cannot know, repeats, and these few seconds count twice.

        Raises
        ------
        Unavailable
            The caller keeps its counts and repeats.
        """
        now = utc_now()
        with self._writing() as connection:
            self._add(connection, counted)
            for part in living:
                values = {"kind": part.kind, "started_at": part.started_at, "seen_at": part.seen_at, "detail": dict(part.detail)}
                made = _dialect(connection).insert(parts).values(name=part.name, **values)
                connection.execute(made.on_conflict_do_update(index_elements=["name"], set_=values))
            connection.execute(delete(parts).where(or_(parts.c.seen_at < now - _FORGOTTEN_AFTER, parts.c.seen_at > now + _FORGOTTEN_AFTER)))

    def leave(self, names: Sequence[str], counted: Counted) -> None:
        """Add the last counts of a process that ends in good order, and forget its parts. Raises Unavailable."""
        with self._writing() as connection:
            self._add(connection, counted)
            connection.execute(delete(parts).where(parts.c.name.in_(list(names))))

    def living_parts(self, now: datetime | None = None) -> list[Part]:
        """Give the parts that told of themselves within the last `GONE_AFTER`, by name."""
        now = now or utc_now()
        chosen = select(parts).where(parts.c.seen_at > now - GONE_AFTER, parts.c.seen_at < now + GONE_AFTER).order_by(parts.c.name)
        with self._reading() as connection:
            return [Part(**row) for row in connection.execute(chosen).mappings()]

    def counters(self) -> dict[tuple[str, tuple[str, ...]], int]:
        """Give every sum."""
        with self._reading() as connection:
            rows = connection.execute(select(counters).order_by(counters.c.name, counters.c.label)).all()
        return {(row.name, tuple(row.label.split(_SEPARATOR)) if row.label else ()): int(row.value) for row in rows}

    def events_after(self, line: int) -> tuple[int, dict[Event, int]]:
        """Count the transitions of all cases in the history after `line`; gives also the line to go on from."""
        settled = utc_now() - SETTLED
        # Numbers are given before a transaction commits: nothing is counted from the first line on that is still young.
        young = select(func.min(history.c.id)).where(history.c.id > line, history.c.at >= settled).scalar_subquery()
        chosen = (
            select(history.c.event, func.count(), func.max(history.c.id))
            .where(history.c.id > line, history.c.id < func.coalesce(young, 2**62))
            .group_by(history.c.event)
        )
        with self._reading() as connection:
            rows = connection.execute(chosen).all()
        return max((int(last) for _, _, last in rows), default=line), {Event(event): int(count) for event, count, _ in rows}

    def oldest_pending_at(self) -> datetime | None:
        """Tell since when the delivery that waits longest has been there."""
        chosen = select(func.min(deliveries.c.created_at)).where(deliveries.c.state == "pending")
        with self._reading() as connection:
            return connection.execute(chosen).scalar()

    def _add(self, connection: Connection, counted: Counted) -> None:
        for (name, labels), number in sorted(counted.items()):  # one order for all: two that add never wait for each other in a ring
            made = _dialect(connection).insert(counters).values(name=name, label=_SEPARATOR.join(labels), value=number)
            more = {"value": counters.c.value + made.excluded.value}
            connection.execute(made.on_conflict_do_update(index_elements=["name", "label"], set_=more))


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite
