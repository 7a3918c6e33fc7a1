"""Series that somebody asked to be fetched: at most one fetch a case, under a lease, until it came or was given up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, and_, insert, or_, select, update

from service.records.database import Ledger
from service.records.moves import UnknownCase, lock_case, lock_studies, move, note_history, plain, utc_now
from service.records.noting import blank_case, demand_secret
from service.records.primary import settle_study
from service.records.rows import LeaseLost
from service.records.schema import cases, fetches, instances
from service.records.states import Event, State

FETCH_LEASE: Final = timedelta(seconds=30)
OVER_OURS: Final = "fetch-"
"""How the associations begin over which a fetch brings instances itself."""


class FetchState(StrEnum):
    """Where a fetch is."""

    PENDING = "pending"  # to be done, or under way
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Fetch:
    """One fetch that is ours to do: the series, where from, how often it was begun, and the owner of its lease."""

    case_id: str
    study_uid: str
    series_uid: str
    source: str
    attempts: int
    owner: str
    last_error: str | None = None


class Fetches(Ledger):
    """From a request to a series that came, or a reason why it did not."""

    def ask_fetch(self, study_uid: str, series_uid: str, source: str) -> str:
        """
        Note that a series is to be fetched, and give its case; the case is made where there is none.

        While a fetch of the series is under way nothing changes. Else it is fetched (again): a held case receives again, any other
        keeps its state until an instance comes that it does not have.
        """
        now = utc_now()
        with self._writing() as connection:
            row = self._open_case(connection, study_uid, series_uid, now)
            if _is_pending(connection, row["id"]):
                return str(row["id"])
            values = {"source": source, "attempts": 0, "asked_at": now, "next_attempt_at": now, "last_error": None}
            _begin(connection, row["id"], values)
            reason = f"to be fetched from {source}"
            if row["state"] == State.HELD.value:
                move(connection, row, Event.RETRY, now, reason=reason)
                settle_study(connection, study_uid, self._destinations, now)
            else:
                _say(connection, row, reason, now)
            return str(row["id"])

    def repeat_fetch(self, case_id: str) -> bool:
        """Have a fetch done again that was given up; False where there is none. For a case that was just put back to receiving."""
        now = utc_now()
        with self._writing() as connection:
            given_up = update(fetches).where(fetches.c.case_id == case_id, fetches.c.state == FetchState.FAILED.value)
            values = {"state": FetchState.PENDING.value, "attempts": 0, "next_attempt_at": now}
            return connection.execute(given_up.values(values)).rowcount == 1

    def claim_fetch(self, owner: str) -> Fetch | None:
        """Take the fetch that is due longest; None when none is. A lease that ran out counts as an attempt: its process died of it."""
        now = utc_now()
        due = select(fetches.c.case_id).where(_is_due(now)).order_by(fetches.c.next_attempt_at).limit(1)
        with self._reading() as connection:  # asked four times a second: SQLite's one writer is not kept waiting for nothing
            if connection.execute(due).scalar() is None:
                return None
        with self._writing() as connection:
            case_id = connection.execute(due).scalar()
            if case_id is None:
                return None
            try:
                case = lock_case(connection, case_id)  # first, as everywhere: two that lock in another order wait for each other
            except UnknownCase:
                return None
            held = {"attempts": fetches.c.attempts + 1, "lease_owner": owner, "lease_until": now + FETCH_LEASE}
            mine = update(fetches).where(fetches.c.case_id == case_id, _is_due(now)).values(held).returning(fetches)
            row = connection.execute(mine).mappings().first()
            if row is None:
                return None
            _say(connection, case, f"being fetched from {row['source']}", now)
        return Fetch(case_id, case["study_uid"], case["series_uid"], row["source"], row["attempts"], owner, row["last_error"])

    def renew_fetch(self, fetch: Fetch) -> None:
        """Prolong the lease. Raises LeaseLost."""
        with self._writing() as connection:
            _write(connection, fetch, lease_until=utc_now() + FETCH_LEASE)

    def fetch_done(self, fetch: Fetch) -> None:
        """Everything came: the series may be judged from now on. Raises LeaseLost."""
        with self._writing() as connection:
            case = _settle(connection, fetch, state=FetchState.DONE.value, last_error=None)
            _say(connection, case, None, utc_now())

    def put_off_fetch(self, fetch: Fetch, reason: str, at: datetime, *, counted: bool = True) -> None:
        """Have it tried again later; `counted`: the try was one. Raises LeaseLost."""
        attempts = fetch.attempts if counted else fetch.attempts - 1
        with self._writing() as connection:
            case = _settle(connection, fetch, attempts=attempts, next_attempt_at=at, last_error=plain(reason))
            _say(connection, case, f"to be fetched from {fetch.source} again: {reason}", utc_now())

    def fetch_failed(self, fetch: Fetch, reason: str, title: str | None = None) -> None:
        """
        Give it up: a case that receives is held with the reason, unless what came last came from somebody else.

        Then it is judged as any series is that was sent, when it has been quiet: somebody else sent it meanwhile, or had before.

        Parameters
        ----------
        title : whose instances are the fetch's too: the PACS's AE title, where it may have been asked to move them here

        Raises
        ------
        LeaseLost
        """
        now = utc_now()
        why = plain(f"not fetched from {fetch.source}: {reason}")
        with self._writing() as connection:
            case = _settle(connection, fetch, state=FetchState.FAILED.value, last_error=plain(reason))
            if case["state"] != State.RECEIVING.value:
                return
            if _is_sent_by_another(connection, fetch.case_id, title):
                note_history(connection, fetch.case_id, Event.RECEIVE, State.RECEIVING, State.RECEIVING, case["revision"], why, now)
                _say(connection, case, why, now)
                return
            move(connection, case, Event.HOLD, now, reason=why, rule=None, rank=None)
            settle_study(connection, fetch.study_uid, self._destinations, now)

    def _open_case(self, connection: Connection, study_uid: str, series_uid: str, now: datetime) -> dict[str, Any]:
        for row in lock_studies(connection, [study_uid]):
            if row["series_uid"] == series_uid:
                return row
        made = blank_case(study_uid, series_uid, now, demand_secret(self._secret))
        connection.execute(insert(cases).values(made))
        note_history(connection, made["id"], Event.RECEIVE, None, State.RECEIVING, 1, "asked for", now)
        return made


def _is_pending(connection: Connection, case_id: str) -> bool:
    return connection.execute(select(fetches.c.state).where(fetches.c.case_id == case_id)).scalar() == FetchState.PENDING.value


def _is_sent_by_another(connection: Connection, case_id: str, title: str | None) -> bool:
    """Tell whether the newest instance of a case is of a sender other than a fetch; of what a fetch brought last more may be missing."""
    ours = instances.c.case_id == case_id, instances.c.aside.is_(False)
    newest = (
        select(instances.c.association, instances.c.source).where(*ours).order_by(instances.c.received_at.desc(), instances.c.id.desc())
    )
    row = connection.execute(newest.limit(1)).first()
    return row is not None and not row.association.startswith(OVER_OURS) and row.source != title


def _begin(connection: Connection, case_id: str, values: dict[str, Any]) -> None:
    values |= {"state": FetchState.PENDING.value, "lease_owner": None, "lease_until": None}
    if connection.execute(update(fetches).where(fetches.c.case_id == case_id).values(values)).rowcount == 0:
        connection.execute(insert(fetches).values(case_id=case_id, **values))


def _is_due(now: datetime) -> Any:
    # A lease longer than any we give comes from a clock that was set back since.
    free = or_(fetches.c.lease_until.is_(None), fetches.c.lease_until < now, fetches.c.lease_until > now + 2 * FETCH_LEASE)
    soon = or_(fetches.c.next_attempt_at <= now, fetches.c.next_attempt_at > now + timedelta(hours=1))
    return and_(fetches.c.state == FetchState.PENDING.value, soon, free)


def _settle(connection: Connection, fetch: Fetch, **values: Any) -> dict[str, Any]:
    """Write the outcome of a try, while the lease is ours, and give the locked case."""
    try:
        case = lock_case(connection, fetch.case_id)
    except UnknownCase:
        raise LeaseLost(fetch.case_id) from None
    _write(connection, fetch, lease_owner=None, lease_until=None, **values)
    return case


def _write(connection: Connection, fetch: Fetch, **values: Any) -> None:
    mine = update(fetches).where(
        fetches.c.case_id == fetch.case_id, fetches.c.lease_owner == fetch.owner, fetches.c.state == FetchState.PENDING.value
    )
    if connection.execute(mine.values(values)).rowcount != 1:
        raise LeaseLost(fetch.case_id)


def _say(connection: Connection, case: dict[str, Any], reason: str | None, now: datetime) -> None:
    """Show the progress in a case that receives; others have reasons of their own."""
    if case["state"] == State.RECEIVING.value:
        told = None if reason is None else plain(reason)
        connection.execute(update(cases).where(cases.c.id == case["id"]).values(reason=told, changed_at=now))
