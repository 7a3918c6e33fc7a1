"""Cases that may go, and how their rows go. The order and its reasons are in service.retention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, Connection, Select, Table, and_, delete, func, insert, or_, select, text

from service.records.database import Ledger
from service.records.moves import lock_studies
from service.records.rows import DeliveryState
from service.records.schema import cases, deliveries, identities, instances, outputs, reader_verdicts, removals, turns
from service.records.states import FINAL, State

YOUNG: Final = "young"
_PAGE: Final = 1000
_WORDS: Final = (reader_verdicts.c.path, reader_verdicts.c.said, identities.c.path)
"""Files of what people said."""
_UNDELIVERED: Final = (DeliveryState.PENDING.value, DeliveryState.DEAD.value)


@dataclass(frozen=True)
class Cutoff:
    """Only what was last touched before these moments may go, by the kind of its end; None: never."""

    finished: datetime | None
    refused: datetime | None
    held: datetime | None

    def of(self, state: State) -> datetime | None:
        """Give the one for a final state."""
        return self.refused if state is State.REJECTED else self.held if state is State.HELD else self.finished


@dataclass(frozen=True)
class Candidate:
    """A case before the retention: `kept` says why it stays, or is empty."""

    case_id: str
    study_uid: str
    state: State
    received_at: datetime
    size_bytes: int
    kept: str


@dataclass(frozen=True)
class Removed:
    """A case whose rows are gone; its files, relative to the store, are not yet, and the case book remembers them until they are."""

    case_id: str
    study_uid: str
    instances: tuple[str, ...]
    outputs: tuple[str, ...]


class Removal(Ledger):
    """Rows out."""

    def studies_before(self, moment: datetime) -> list[str]:
        """Give the studies whose first series came before `moment`, the oldest first."""
        first = func.min(cases.c.received_at)
        chosen = select(cases.c.study_uid).group_by(cases.c.study_uid).having(first < moment).order_by(first, cases.c.study_uid)
        with self._reading() as connection:
            return list(connection.execute(chosen).scalars())

    def candidates(self, study_uid: str, cutoff: Cutoff) -> list[Candidate]:
        """Judge every case of a study."""
        with self._reading() as connection:
            rows = [dict(row) for row in connection.execute(select(cases).where(cases.c.study_uid == study_uid)).mappings()]
            kept = _judge(connection, rows, cutoff)
            sizes = _sizes(connection, [row["id"] for row in rows])
        return [Candidate(row["id"], study_uid, State(row["state"]), row["received_at"], sizes[row["id"]], kept[row["id"]]) for row in rows]

    def remove(self, study_uid: str, case_ids: Collection[str], cutoff: Cutoff) -> list[Removed]:
        """Delete the rows of those of the cases that may still go, judged again under the lock of their study, in one transaction."""
        with self._writing() as connection:
            rows = lock_studies(connection, [study_uid])
            kept = _judge(connection, rows, cutoff)
            going = [row for row in rows if row["id"] in case_ids and not kept[row["id"]]]
            if _breaks_up(rows, going):
                going = [row for row in going if row["state"] == State.REJECTED.value]
            removed = [_removed(connection, row) for row in going]
            for one in removed:
                values = {"case_id": one.case_id, "study_uid": study_uid, "instances": one.instances, "outputs": one.outputs}
                connection.execute(insert(removals).values(values))
            connection.execute(delete(cases).where(cases.c.id.in_([row["id"] for row in going])))
        return removed

    def unfinished_removals(self) -> list[Removed]:
        """Give the cases whose rows went and whose files may still be there: a process was killed, or is at it."""
        with self._reading() as connection:
            rows = connection.execute(select(removals).order_by(removals.c.case_id)).all()
        return [Removed(row.case_id, row.study_uid, tuple(row.instances), tuple(row.outputs)) for row in rows]

    def end_removal(self, case_id: str) -> None:
        """The files of a removed case are gone, or stay because a row names them again."""
        with self._writing() as connection:
            connection.execute(delete(removals).where(removals.c.case_id == case_id))

    def without_rows(self, study_uid: str | None, paths: Sequence[str], remove: Callable[[list[str]], object]) -> None:
        """Have those instance files removed that no row names, while none can come: none of their study, or (None) none at all."""
        with self._writing() as connection:
            _lock(connection, study_uid, instances)
            taken = set(connection.execute(_naming(instances.c.path, paths, study_uid)).scalars())
            remove([path for path in paths if path not in taken])

    def without_output_rows(self, case_id: str, study_uid: str | None, paths: Sequence[str], remove: Callable[[list[str]], object]) -> bool:
        """Have those result files of a case removed that no row names, while no worker can claim it.

        Gives False, and removes nothing, where one has it: it may have found a file in its place, and name it in a moment.
        """
        with self._writing() as connection:
            _lock(connection, study_uid, cases)
            if connection.execute(select(cases.c.state).where(cases.c.id == case_id)).scalar() == State.RUNNING.value:
                return False
            taken = _named_results(connection, paths, study_uid)
            remove([path for path in paths if path not in taken])
        return True

    def every_series(self) -> Iterator[tuple[str, str]]:
        """Give (case id, Series Instance UID) of all cases."""
        last = ""
        while True:
            chosen = select(cases.c.id, cases.c.series_uid).where(cases.c.id > last).order_by(cases.c.id).limit(_PAGE)
            with self._reading() as connection:
                rows = connection.execute(chosen).all()
            yield from ((row.id, row.series_uid) for row in rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1].id

    def named_outputs(self, paths: Sequence[str]) -> set[str]:
        """Give those of the paths that rows name, of whatever case: one indexed anew may have its results under an older id."""
        with self._reading() as connection:
            return _named_results(connection, paths, None)

    def give_turn(self, name: str, owner: str) -> None:
        """Let somebody else have the office `name` at once, if `owner` still has it."""
        with self._writing() as connection:
            connection.execute(delete(turns).where(turns.c.name == name, turns.c.owner == owner))

    def files_of_cases(self, case_ids: Sequence[str]) -> set[str]:
        """Give the paths of the instances and results that rows of these cases name."""
        with self._reading() as connection:
            return {
                path
                for column in (instances.c.path, outputs.c.path, *_WORDS)
                for path in connection.execute(select(column).where(column.table.c.case_id.in_(list(case_ids)))).scalars()
                if path
            }


def _lock(connection: Connection, study_uid: str | None, table: Table) -> None:
    """Let nobody write the rows of a study, those that are about to be made too; None: any row of the table."""
    if study_uid is not None:
        lock_studies(connection, [study_uid])
    elif connection.dialect.name == "postgresql":  # SQLite has one writer: this one
        connection.execute(text(f"LOCK TABLE {table.name} IN SHARE MODE"))


def _naming(column: Column[Any], paths: Sequence[str], study_uid: str | None) -> Select[tuple[Any]]:
    """Ask which of the paths are named. No index has them: where the study is known, only its rows are looked at."""
    named = select(column).where(column.in_(list(paths)))
    return named if study_uid is None else named.join(cases, cases.c.id == column.table.c.case_id).where(cases.c.study_uid == study_uid)


def _named_results(connection: Connection, paths: Sequence[str], study_uid: str | None) -> set[str]:
    """Give those of the paths among the results that rows name: results, and what people said of them."""
    return {path for column in (outputs.c.path, *_WORDS) for path in connection.execute(_naming(column, paths, study_uid)).scalars()}


def _removed(connection: Connection, row: dict[str, Any]) -> Removed:
    stored = select(instances.c.path).where(instances.c.case_id == row["id"], instances.c.path != "")
    results = select(outputs.c.path).where(outputs.c.case_id == row["id"])
    words = [select(column).where(column.table.c.case_id == row["id"], column.is_not(None)).distinct() for column in _WORDS]
    found = [path for chosen in (results, *words) for path in connection.execute(chosen).scalars()]
    return Removed(row["id"], row["study_uid"], tuple(connection.execute(stored).scalars()), tuple(found))


def _judge(connection: Connection, rows: Sequence[dict[str, Any]], cutoff: Cutoff) -> dict[str, str]:
    """Say for each case of one study why it stays, or nothing.

    What is not refused goes only together: were the study's result removed alone, another series would take its place and be sent.
    """
    case_ids = [row["id"] for row in rows]
    of_newest = and_(deliveries.c.case_id == cases.c.id, deliveries.c.revision == cases.c.revision)
    # What is sent and has a next attempt is still to be committed.
    to_commit = and_(deliveries.c.state == DeliveryState.SENT.value, deliveries.c.next_attempt_at.is_not(None))
    open_ = or_(deliveries.c.state.in_(_UNDELIVERED), to_commit)
    waiting = select(cases.c.id, deliveries.c.state).join(deliveries, of_newest).where(cases.c.id.in_(case_ids), open_)
    unsettled: dict[str, set[str]] = defaultdict(set)
    for case_id, state in connection.execute(waiting):
        unsettled[case_id].add(state)
    aside = and_(instances.c.aside, instances.c.verdict.is_(None), instances.c.path != "")  # without a file nobody compares it, ever
    compared = set(connection.execute(select(instances.c.case_id).where(instances.c.case_id.in_(case_ids), aside)).scalars())
    pending = (reader_verdicts.c.case_id.in_(case_ids), reader_verdicts.c.state == "pending")
    corrected = set(connection.execute(select(reader_verdicts.c.case_id).where(*pending)).scalars())
    sent = {DeliveryState.SENT.value}
    waiting_for = {
        "results not delivered": {case_id for case_id, states in unsettled.items() if states != sent},
        "results not committed": unsettled,
        "an instance that came again is not compared yet": compared,
        "a reader's correction is not looked at yet": corrected,
    }
    kept = {row["id"]: _why_kept(row, cutoff, waiting_for) for row in rows}
    whole = [row["id"] for row in rows if row["state"] != State.REJECTED.value]
    staying = [kept[case_id] for case_id in whole if kept[case_id]]
    for case_id in whole:
        if staying and not kept[case_id]:
            kept[case_id] = YOUNG if set(staying) == {YOUNG} else "another series of its study stays"
    return kept


def _why_kept(row: dict[str, Any], cutoff: Cutoff, waiting_for: Mapping[str, Collection[str]]) -> str:
    state = State(row["state"])
    if state not in FINAL:
        return f"is {state}"
    for reason, case_ids in waiting_for.items():
        if row["id"] in case_ids:
            return reason
    before = cutoff.of(state)
    return "" if before is not None and max(row["changed_at"], row["last_received_at"]) < before else YOUNG


def _breaks_up(rows: Sequence[dict[str, Any]], going: Sequence[dict[str, Any]]) -> bool:
    """Tell whether of the series that are not refused some would go and some stay (one came since the plan was made)."""
    whole = {row["id"] for row in rows if row["state"] != State.REJECTED.value}
    return bool(whole & {row["id"] for row in going}) and not whole <= {row["id"] for row in going}


def _sizes(connection: Connection, case_ids: Sequence[str]) -> dict[str, int]:
    sizes = dict.fromkeys(case_ids, 0)
    for table in (instances, outputs):
        chosen = select(table.c.case_id, func.sum(table.c.size)).where(table.c.case_id.in_(list(case_ids)))
        if table is instances:
            chosen = chosen.where(instances.c.path != "")
        for case_id, size in connection.execute(chosen.group_by(table.c.case_id)):
            sizes[case_id] += int(size or 0)
    return sizes
