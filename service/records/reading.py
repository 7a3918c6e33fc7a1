"""What the faces read from the case book."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, func, or_, select, text

from service.records.cursors import decode_cursor, encode_cursor
from service.records.database import Ledger
from service.records.notes import NO_NOTE_OUTPUT
from service.records.result_record import RECORD
from service.records.rows import Case, DeliveryState, HistoryRow, OutputRow, Page
from service.records.schema import cases, deliveries, history, instances, outputs
from service.records.states import State


@dataclass(frozen=True)
class StudyFacts:
    """What an instance of a series says of its study: Study Date as YYYYMMDD, Accession Number; blank where it does not say."""

    date: str = ""
    accession_number: str = ""


class Reading(Ledger):
    """Cases, lists, results, counts."""

    def ping(self) -> None:
        """Make sure that the database answers. Raises Unavailable."""
        with self._reading() as connection:
            connection.execute(text("SELECT 1"))

    def case(self, case_id: str) -> Case | None:
        """Give a case with its history, or None."""
        with self._reading() as connection:
            row = connection.execute(select(cases).where(cases.c.id == case_id)).mappings().first()
            if row is None:
                return None
            lines = connection.execute(select(history).where(history.c.case_id == case_id).order_by(history.c.id)).mappings()
            return _case(row, tuple(_history_row(line) for line in lines))

    def ids_beginning(self, beginning: str, limit: int = 2) -> list[str]:
        """Give the ids of cases that begin so, at most `limit`."""
        chosen = select(cases.c.id).where(cases.c.id.startswith(beginning, autoescape=True)).order_by(cases.c.id)
        with self._reading() as connection:
            return list(connection.execute(chosen.limit(limit)).scalars())

    def find_cases(
        self,
        *,
        series_uid: str | None = None,
        study_uid: str | None = None,
        patient_id: str | None = None,
        patient_key: str | None = None,
        state: State | str | None = None,
        delivery_state: DeliveryState | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Give a page of cases, newest first; cases that arrive meanwhile never shift the following pages.

        Parameters
        ----------
        delivery_state : of any of the deliveries of the current revision

        Raises
        ------
        ValueError
            Not a cursor of ours, an unknown state, or a limit below 1.
        """
        if limit < 1:
            raise ValueError("limit below 1")
        chosen = select(cases)
        exact = {"series_uid": series_uid, "study_uid": study_uid, "patient_id": patient_id, "patient_key": patient_key}
        for name, value in exact.items():
            if value is not None:
                chosen = chosen.where(cases.c[name] == value)
        if state is not None:
            chosen = chosen.where(cases.c.state == State(state).value)
        if delivery_state is not None:
            newest = and_(deliveries.c.case_id == cases.c.id, deliveries.c.revision == cases.c.revision)
            chosen = chosen.where(exists().where(newest, deliveries.c.state == DeliveryState(delivery_state).value))
        if cursor is not None:
            at, case_id = decode_cursor(cursor)
            chosen = chosen.where(or_(cases.c.received_at < at, and_(cases.c.received_at == at, cases.c.id < case_id)))
        with self._reading() as connection:
            rows = connection.execute(chosen.order_by(cases.c.received_at.desc(), cases.c.id.desc()).limit(limit + 1)).mappings().all()
        items = tuple(_case(row, ()) for row in rows[:limit])
        return Page(items, encode_cursor(items[-1].received_at, items[-1].id) if len(rows) > limit else None)

    def studies_of(self, case_ids: Sequence[str]) -> dict[str, StudyFacts]:
        """Give what the series of cases say of their studies, in one read."""
        mine = (instances.c.case_id == cases.c.id, instances.c.aside.is_(False))
        first = select(func.min(instances.c.sop_instance_uid)).where(*mine).correlate(cases).scalar_subquery()
        said = [instances.c.header[name].as_string() for name in ("studied_at", "accession_number")]
        chosen = select(cases.c.id, *said).join(instances, and_(*mine, instances.c.sop_instance_uid == first))
        found = dict.fromkeys(case_ids, StudyFacts())
        with self._reading() as connection:
            for case_id, studied_at, accession_number in connection.execute(chosen.where(cases.c.id.in_(list(case_ids)))):
                found[case_id] = StudyFacts((studied_at or "")[:8], accession_number or "")
        return found

    def outputs(self, case_id: str) -> list[OutputRow]:
        """Give the results of the newest revision that has any; compare `revision` with the case's to see if they are current."""
        return self.outputs_of([case_id])[case_id]

    def outputs_of(self, case_ids: Sequence[str]) -> dict[str, list[OutputRow]]:
        """Give `outputs` for many cases in one read."""
        mine = outputs.c.case_id == cases.c.id
        newest = select(func.max(outputs.c.revision)).where(mine, NO_NOTE_OUTPUT).correlate(cases).scalar_subquery()
        chosen = (
            select(outputs)
            .join(cases, cases.c.id == outputs.c.case_id)
            .where(cases.c.id.in_(list(case_ids)), outputs.c.revision == newest, outputs.c.kind != RECORD, NO_NOTE_OUTPUT)
        )
        found: dict[str, list[OutputRow]] = defaultdict(list, {case_id: [] for case_id in case_ids})
        with self._reading() as connection:
            for row in connection.execute(chosen.order_by(outputs.c.id)).mappings():
                found[row["case_id"]].append(OutputRow(**{name: row[name] for name in OutputRow.__dataclass_fields__}))
        return dict(found)

    def count_cases(self) -> dict[State, int]:
        """Count the cases by state; every state is there."""
        with self._reading() as connection:
            found = connection.execute(select(cases.c.state, func.count()).group_by(cases.c.state)).all()
        return dict.fromkeys(State, 0) | {State(state): int(count) for state, count in found}

    def count_deliveries(self) -> dict[str, int]:
        """Count the outbox by state; every state is there."""
        with self._reading() as connection:
            found = connection.execute(select(deliveries.c.state, func.count()).group_by(deliveries.c.state)).all()
        return dict.fromkeys((state.value for state in DeliveryState), 0) | {str(state): int(count) for state, count in found}

    def count_dead_deliveries(self) -> dict[str, int]:
        """Count what was given up by destination; those of the settings are there in any case."""
        chosen = select(deliveries.c.destination, func.count()).where(deliveries.c.state == DeliveryState.DEAD.value)
        with self._reading() as connection:
            found = connection.execute(chosen.group_by(deliveries.c.destination)).all()
        return dict.fromkeys((one.name for one in self._destinations), 0) | {str(name): int(count) for name, count in found}

    def oldest_queued_at(self) -> datetime | None:
        """Tell since when the case that waits longest in the queue has been there."""
        with self._reading() as connection:
            return connection.execute(
                select(cases.c.changed_at).where(cases.c.state == State.QUEUED.value).order_by(cases.c.changed_at).limit(1)
            ).scalar()


def _case(row: Any, lines: tuple[HistoryRow, ...]) -> Case:
    values = {name: row[name] for name in Case.__dataclass_fields__ if name != "history"}
    rank = row["rank"]
    return Case(
        **{
            **values,
            "state": State(row["state"]),
            "quality": tuple(row["quality"]),
            "rank": tuple(rank) if rank is not None else None,
            "history": lines,
        }
    )


def _history_row(row: Any) -> HistoryRow:
    previous = State(row["previous"]) if row["previous"] else None
    return HistoryRow(row["at"], row["event"], previous, State(row["state"]), row["revision"], row["reason"])
