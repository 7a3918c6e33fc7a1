"""The outbox: one row per output and destination, due until a destination has it, or dead after a week."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, exists, or_, select, update

from service.records.database import Ledger
from service.records.moves import utc_now
from service.records.notes import IS_NOTE, is_due
from service.records.primary import BY_READER, rejecting
from service.records.rows import Delivery, DeliveryState, LeaseLost
from service.records.schema import cases, deliveries, outputs

DELIVERY_LEASE = timedelta(seconds=60)
GIVE_UP_AFTER = timedelta(days=7)
COMMIT_WITHIN = timedelta(hours=24)  # after so long without a report a destination is asked again
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 15 * 60.0


def _chosen(*, unwritten: bool = False) -> Select[Any]:
    """Choose deliveries with their outputs; `unwritten`: also those that have none, which are rejection notes."""
    same = and_(
        outputs.c.case_id == deliveries.c.case_id, outputs.c.revision == deliveries.c.revision, outputs.c.kind == deliveries.c.output
    )
    return select(deliveries, outputs.c.path, outputs.c.sha256, outputs.c.sop_class_uid, outputs.c.sop_instance_uid).join(
        outputs, same, isouter=unwritten
    )


class Outbox(Ledger):
    """Deliveries from pending to sent, committed or dead."""

    def deliveries(self, case_id: str) -> list[Delivery]:
        """Give every delivery of a case, oldest first; of a rejection note that is not written only that it was given up."""
        return self.deliveries_of([case_id])[case_id]

    def deliveries_of(self, case_ids: Sequence[str]) -> dict[str, list[Delivery]]:
        """Give `deliveries` for many cases in one read."""
        found: dict[str, list[Delivery]] = {case_id: [] for case_id in case_ids}
        shown = or_(outputs.c.path.is_not(None), deliveries.c.state == DeliveryState.DEAD.value)
        chosen = _chosen(unwritten=True).where(deliveries.c.case_id.in_(list(case_ids)), shown).order_by(deliveries.c.id)
        with self._reading() as connection:
            for row in connection.execute(chosen).mappings():
                found[row["case_id"]].append(_delivery(row))
        return found

    def due_deliveries(self, now: datetime | None = None, case_id: str | None = None, limit: int = 500) -> list[Delivery]:
        """Give what should be sent, or asked to be committed, now and is in nobody's hands, the longest due first."""
        now = now or utc_now()
        chosen = _chosen().where(*_due(now))
        if case_id is not None:
            chosen = chosen.where(deliveries.c.case_id == case_id)
        with self._reading() as connection:
            return [
                _delivery(row)
                for row in connection.execute(chosen.order_by(deliveries.c.next_attempt_at, deliveries.c.id).limit(limit)).mappings()
            ]

    def claim_delivery(self, delivery_id: int, owner: str, state: DeliveryState = DeliveryState.PENDING) -> Delivery | None:
        """Take the lease of a delivery that is due in that state; None when it is not any more or somebody else has it."""
        now = utc_now()
        mine = update(deliveries).where(deliveries.c.id == delivery_id, deliveries.c.state == state.value, *_due(now))
        with self._writing() as connection:
            taken = mine.values(fence=deliveries.c.fence + 1, lease_owner=owner, lease_until=now + DELIVERY_LEASE)
            if connection.execute(taken).rowcount != 1:
                return None
            return _delivery(connection.execute(_chosen().where(deliveries.c.id == delivery_id)).mappings().one())

    def renew_delivery(self, delivery: Delivery) -> None:
        """Prolong the lease of a slow sending. Raises LeaseLost, Unavailable."""
        self._settle(delivery.id, delivery.fence, {"lease_until": utc_now() + DELIVERY_LEASE})

    def delivered(
        self,
        delivery_id: int,
        state: DeliveryState | str = DeliveryState.SENT,
        *,
        warning: str | None = None,
        ask_at: datetime | None = None,
        fence: int | None = None,
    ) -> None:
        """Record that the destination has it ("sent"), or has committed to keep it ("committed"). Raises LeaseLost.

        Parameters
        ----------
        ask_at : when the destination is to be asked to commit; None: never
        """
        state = DeliveryState(state)
        if state not in {DeliveryState.SENT, DeliveryState.COMMITTED}:
            raise ValueError(f"{state} is not a delivery's success")
        # Commitment comes later, and is not another sending.
        attempts = deliveries.c.attempts + case((deliveries.c.state == DeliveryState.SENT.value, 0), else_=1)
        values = {"state": state.value, "last_error": warning, "next_attempt_at": ask_at, "attempts": attempts}
        self._settle(delivery_id, fence, {**values, "lease_owner": None, "lease_until": None})

    def delivery_failed(self, delivery_id: int, error: str, next_attempt_at: datetime, *, fence: int | None = None) -> DeliveryState:
        """Record a failed sending: tried again at `next_attempt_at`, or dead a week after it was due first. Raises LeaseLost."""
        now = utc_now()
        with self._writing() as connection:
            row = connection.execute(select(deliveries).where(deliveries.c.id == delivery_id).with_for_update()).one_or_none()
            if row is None or (fence is not None and row.fence != fence):
                raise LeaseLost(f"delivery {delivery_id}")
            state = DeliveryState(row.state)
            values: dict[str, Any] = {"attempts": row.attempts + 1, "last_error": error}
            if state is DeliveryState.PENDING:  # one that was withheld meanwhile stays so
                state = DeliveryState.DEAD if now - row.created_at >= GIVE_UP_AFTER else state
                values["next_attempt_at"] = None if state is DeliveryState.DEAD else next_attempt_at
            values.update(state=state.value, changed_at=now, lease_owner=None, lease_until=None)
            connection.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(**values))
        return state

    def delivery_dead(self, delivery_id: int, error: str, *, fence: int | None = None) -> None:
        """Give a delivery up at once (its destination is no longer in the settings). Raises LeaseLost."""
        values = {"state": DeliveryState.DEAD.value, "last_error": error, "next_attempt_at": None, "lease_owner": None, "lease_until": None}
        self._settle(delivery_id, fence, values)

    def resend(self, case_id: str | None = None, now: datetime | None = None, *, destinations: Sequence[str] | None = None) -> int:
        """Make dead deliveries (of one case or all, to some destinations or all) due again, with a week of their own; gives how many.

        Those in whose place there is another result now are withheld, and those that a reader rejected.
        """
        now = now or utc_now()
        anew = {"state": DeliveryState.PENDING.value, "next_attempt_at": now, "created_at": now, "changed_at": now, "transaction_uid": None}
        dead = update(deliveries).where(deliveries.c.state == DeliveryState.DEAD.value)
        if case_id is not None:
            dead = dead.where(deliveries.c.case_id == case_id)
        if destinations is not None:
            dead = dead.where(deliveries.c.destination.in_(list(destinations)))
        mine = and_(cases.c.id == deliveries.c.case_id, cases.c.revision == deliveries.c.revision, cases.c.primary)
        standing = or_(IS_NOTE, exists().where(mine))  # what a note withdraws has been replaced, and is still there
        withheld = {"state": DeliveryState.WITHHELD.value, "changed_at": now}
        rejected = and_(~IS_NOTE, rejecting(deliveries.c.case_id, deliveries.c.revision))
        with self._writing() as connection:
            connection.execute(dead.where(rejected).values(**withheld, last_error=BY_READER))
            connection.execute(dead.where(~standing).values(**withheld, last_error="another result took its place"))
            return connection.execute(dead.where(standing).values(**anew)).rowcount

    def _settle(self, delivery_id: int, fence: int | None, values: dict[str, Any]) -> None:
        mine = update(deliveries).where(deliveries.c.id == delivery_id)
        if fence is not None:
            mine = mine.where(deliveries.c.fence == fence)
        with self._writing() as connection:
            if connection.execute(mine.values(changed_at=utc_now(), **values)).rowcount != 1:
                raise LeaseLost(f"delivery {delivery_id}")


def pause_after(attempts: int) -> float:
    """Give the seconds to wait after that many earlier attempts: doubling, at most 15 minutes, with jitter of a half."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts, 20))
    return longest * random.uniform(0.5, 1.0)


def _due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Say when a delivery is due and in nobody's hands."""
    free = or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now, deliveries.c.lease_until > now + 2 * DELIVERY_LEASE)
    return or_(is_due(DeliveryState.PENDING, now), is_due(DeliveryState.SENT, now, 2 * COMMIT_WITHIN)), free


def _delivery(row: Any) -> Delivery:
    values = {name: row[name] for name in Delivery.__dataclass_fields__}
    return Delivery(**{**values, "state": DeliveryState(row["state"])})
