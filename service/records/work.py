"""The worker's side of the case book: leases with fencing, attempts, results, and what the sweep looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from service.records.database import Ledger
from service.records.lapses import suspect
from service.records.moves import UnknownCase, lock_case, lock_studies, move, utc_now
from service.records.primary import settle_study
from service.records.rows import Lease, LeaseLost, OutputRow
from service.records.schema import cases, deliveries, fetches, instances, outputs, turns
from service.records.states import MAXIMUM_ATTEMPTS, Event, State
from service.series_numbers import choose_shift

Stages = Mapping[str, "Mapping[str, float] | Sequence[float]"]


class Work(Ledger):
    """Cases from queued to done, rejected or failed."""

    def claim(self, case_id: str, owner: str) -> Lease | None:
        """Take the lease of a queued case, or of a running one whose lease ran out; None when there is nothing to do."""
        now = utc_now()
        with self._writing() as connection:
            try:
                row = lock_case(connection, case_id)
            except UnknownCase:  # a message from before a restored back-up
                return None
            if row["state"] == State.RUNNING.value and self._is_lapsed(row["lease_until"], now):
                self._lapse(connection, row, now)
            if row["state"] != State.QUEUED.value:
                return None
            until = now + self._lease
            move(connection, row, Event.CLAIM, now, fence=row["fence"] + 1, lease_owner=owner, lease_until=until, stages={}, due_at=now)
            return Lease(case_id, owner, row["fence"], row["revision"], row["attempts"], until)

    def lease_of(self, case_id: str) -> Lease | None:
        """Give the lease of a running case: the worker's parent fails it when its child died under it."""
        with self._reading() as connection:
            row = connection.execute(select(cases).where(cases.c.id == case_id, cases.c.state == State.RUNNING.value)).mappings().first()
        if row is None:
            return None
        return Lease(case_id, row["lease_owner"] or "", row["fence"], row["revision"], row["attempts"], row["lease_until"])

    def renew(self, lease: Lease) -> Lease:
        """Prolong the lease. Raises LeaseLost."""
        until = utc_now() + self._lease
        with self._writing() as connection:
            held = update(cases).where(cases.c.id == lease.case_id, cases.c.fence == lease.fence, cases.c.state == State.RUNNING.value)
            if connection.execute(held.values(lease_until=until)).rowcount != 1:
                raise LeaseLost(lease.case_id)
        return Lease(lease.case_id, lease.owner, lease.fence, lease.revision, lease.attempts, until)

    def number_series(self, lease: Lease) -> int:
        """Tell how far the Series Numbers of this case's results are moved on, and keep it for the case.

        It depends on the Series Numbers of the study's series that came in until now (discarded ones too, our own results not), on which
        of the study's cases were worked on before this one, and on nothing else: the same input in the same order gives the same numbers.

        Raises
        ------
        LeaseLost, Unavailable
        """
        with self._writing() as connection:
            row = _fenced(connection, lease)
            siblings = lock_studies(connection, [row["study_uid"]])
            given = [one["series_shift"] for one in siblings if one["id"] != row["id"] and one["series_shift"] is not None]
            shift = choose_shift(_series_numbers(connection, row["study_uid"]), given, row["series_shift"])
            connection.execute(update(cases).where(cases.c.id == row["id"]).values(series_shift=shift))
        return shift

    def settle(self, lease: Lease) -> None:
        """Choose the study's primary by what is known now: the record of the results tells what their series was compared with.

        Raises
        ------
        LeaseLost, Unavailable
        """
        with self._writing() as connection:
            settle_study(connection, _fenced(connection, lease)["study_uid"], self._destinations, utc_now())

    def finish(
        self,
        lease: Lease,
        *,
        outputs: Sequence[OutputRow],
        findings: Mapping[str, Any],
        quality: Sequence[str] = (),
        model: Mapping[str, Any] | None = None,
        stages: Stages | None = None,
    ) -> None:
        """Commit the results of the leased revision, its outbox rows and the state, in one transaction.

        Every file of `outputs` is in the store already.

        Raises
        ------
        LeaseLost
            Nothing was written: another worker has the case, or a late slice made a newer revision.
        """
        now = utc_now()
        with self._writing() as connection:
            row = _fenced(connection, lease)
            _insert_outputs(connection, lease, outputs)
            move(
                connection,
                row,
                Event.FINISH,
                now,
                findings=dict(findings),
                quality=list(dict.fromkeys([*row["quality"], *quality])),
                model=dict(model) if model is not None else None,
                stages={**row["stages"], **_plain_stages(stages or {})},
                lease_owner=None,
                lease_until=None,
            )
            settle_study(connection, row["study_uid"], self._destinations, now)

    def reject(self, lease: Lease, reason: str) -> None:
        """Record that the input can never be processed. Raises LeaseLost."""
        self._give_up(lease, Event.REFUSE, reason, rank=None)

    def fail(self, lease: Lease, reason: str) -> State:
        """Count an attempt against the case: queued again, or failed after the third. Raises LeaseLost."""
        attempts = lease.attempts + 1
        event = Event.FAIL if attempts >= MAXIMUM_ATTEMPTS else Event.STUMBLE
        return self._give_up(lease, event, reason, attempts=attempts, due_at=utc_now())

    def put_back(self, lease: Lease, reason: str, delay_s: float = 5.0) -> None:
        """Queue the case again, because a part the worker needs is away; not an attempt. Raises LeaseLost."""
        self._give_up(lease, Event.PUT_BACK, reason, due_at=utc_now() + timedelta(seconds=delay_s))

    def retry(self, case_id: str) -> State:
        """Run a failed case again (queued), or look at a held one again (receiving). Raises InvalidTransition, UnknownCase."""
        now = utc_now()
        with self._writing() as connection:
            row = lock_case(connection, case_id)
            state = move(connection, row, Event.RETRY, now, reason="asked for", attempts=0, due_at=now)
            settle_study(connection, row["study_uid"], self._destinations, now)
        return state

    def submitted(self, case_id: str) -> None:
        """Note that a message for the case is on its way; the sweep waits before it sends another."""
        with self._writing() as connection:
            connection.execute(update(cases).where(cases.c.id == case_id).values(due_at=utc_now() + self._lease))

    def due(self, now: datetime | None = None, *, messages: int = 0, limit: int = 500) -> list[str]:
        """Give the cases that need a message: running under a lease that ran out, or queued without a message for as long as a lease.

        Parameters
        ----------
        messages
            How many wait at the broker. While there are as many as queued cases, most likely none was lost, and a long queue is not sent
            twice. Doubled ones and those of other tasks count too: a lost message may have to wait until they are worked off. Too many
            do no harm: the second finds nothing to claim.
        """
        now = now or utc_now()
        lapsed = and_(cases.c.state == State.RUNNING.value, or_(cases.c.lease_until < now, cases.c.lease_until > now + 2 * self._lease))
        waiting = cases.c.state == State.QUEUED.value
        # A due time further off than we ever set comes from a clock that was set back.
        soon = or_(cases.c.due_at <= now, cases.c.due_at > now + timedelta(hours=1))
        with self._reading() as connection:
            queued = int(connection.execute(select(func.count()).select_from(cases).where(waiting)).scalar_one())
            needy = or_(lapsed, waiting) if messages < queued else lapsed
            return list(connection.execute(select(cases.c.id).where(needy, soon).order_by(cases.c.due_at).limit(limit)).scalars())

    def reclaim(self, owner_prefix: str) -> list[str]:
        """End the leases of workers that are known to be dead, and give their cases; one that lapsed too often is held.

        Whatever is queued is due at once: the message a dead worker had in hand is gone with it.
        """
        now = utc_now()
        with self._writing() as connection:
            mine = cases.c.lease_owner.startswith(owner_prefix, autoescape=True)
            studies = connection.execute(select(cases.c.study_uid).where(cases.c.state == State.RUNNING.value, mine)).scalars().all()
            dead = [
                row
                for row in lock_studies(connection, studies)
                if row["state"] == State.RUNNING.value and (row["lease_owner"] or "").startswith(owner_prefix)
            ]
            for row in dead:
                self._lapse(connection, row, now)
            connection.execute(update(cases).where(cases.c.state == State.QUEUED.value).values(due_at=now))
            held = deliveries.c.lease_owner.startswith(owner_prefix, autoescape=True)
            connection.execute(update(deliveries).where(held).values(lease_owner=None, lease_until=None))
            fetching = fetches.c.lease_owner.startswith(owner_prefix, autoescape=True)
            connection.execute(update(fetches).where(fetching).values(lease_owner=None, lease_until=None))
        return [row["id"] for row in dead]

    def take_turn(self, name: str, owner: str, seconds: float) -> bool:
        """Tell whether `owner` has the office `name` (the sweep) for the next seconds; one of many processes has it."""
        now = utc_now()
        until = now + timedelta(seconds=seconds)
        with self._writing() as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            first = dialect.insert(turns).values(name=name, owner=owner, until=until).on_conflict_do_nothing(index_elements=["name"])
            if connection.execute(first).rowcount == 1:
                return True
            row = connection.execute(select(turns).where(turns.c.name == name).with_for_update()).one()
            if row.owner != owner and now < row.until <= now + timedelta(seconds=10 * seconds):
                return False
            connection.execute(update(turns).where(turns.c.name == name).values(owner=owner, until=until))
            return True

    def _give_up(self, lease: Lease, event: Event, reason: str, **values: Any) -> State:
        now = utc_now()
        with self._writing() as connection:
            row = _fenced(connection, lease)
            state = move(connection, row, event, now, reason=reason, lease_owner=None, lease_until=None, **values)
            settle_study(connection, row["study_uid"], self._destinations, now)
        return state

    def _is_lapsed(self, until: datetime | None, now: datetime) -> bool:
        # A lease longer than any we give means that the clock was set back since.
        return until is None or until < now or until > now + 2 * self._lease

    def _lapse(self, connection: Connection, row: dict[str, Any], now: datetime) -> None:
        why = suspect(connection, row, now)
        event, reason = (Event.SET_ASIDE, why) if why else (Event.LAPSE, "the worker was killed")
        move(connection, row, event, now, reason=reason, lapses=row["lapses"] + 1, lease_owner=None, lease_until=None, due_at=now)
        if why:
            settle_study(connection, row["study_uid"], self._destinations, now)


def _fenced(connection: Connection, lease: Lease) -> dict[str, Any]:
    """Lock the case and make sure that the lease is still the one that counts."""
    try:
        row = lock_case(connection, lease.case_id)
    except UnknownCase:  # removed meanwhile
        raise LeaseLost(lease.case_id) from None
    if row["fence"] != lease.fence or row["state"] != State.RUNNING.value:
        raise LeaseLost(lease.case_id)
    return row


def _series_numbers(connection: Connection, study_uid: str) -> set[int]:
    """Read the Series Number of every series of a study that is no result of ours, from its first instance."""
    first = select(func.min(instances.c.id)).join(cases).where(cases.c.study_uid == study_uid).group_by(instances.c.case_id)
    ours = select(outputs.c.sop_instance_uid).join(cases).where(cases.c.study_uid == study_uid, outputs.c.sop_instance_uid.is_not(None))
    # not cast in the database: PostgreSQL fails at a number that does not fit, and one header would hold up its whole study
    number = instances.c.header["series_number"]
    chosen = select(number).where(instances.c.id.in_(first), instances.c.sop_instance_uid.not_in(ours))
    return {found for found in connection.execute(chosen).scalars() if found is not None}


def _insert_outputs(connection: Connection, lease: Lease, rows: Sequence[OutputRow]) -> None:
    for row in rows:
        if row.revision != lease.revision:
            raise ValueError(f"an output of revision {row.revision} under a lease of revision {lease.revision}")
        connection.execute(
            insert(outputs).values(
                case_id=lease.case_id,
                revision=row.revision,
                kind=row.kind,
                media_type=row.media_type,
                path=row.path,
                sha256=row.sha256,
                size=row.size,
                sop_class_uid=row.sop_class_uid,
                sop_instance_uid=row.sop_instance_uid,
            )
        )


def _plain_stages(stages: Stages) -> dict[str, dict[str, float]]:
    plain = {}
    for name, value in stages.items():
        start, seconds = (value["start"], value["seconds"]) if isinstance(value, Mapping) else value
        plain[name] = {"start": float(start), "seconds": float(seconds)}
    return plain
