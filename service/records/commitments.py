"""Storage Commitment in the outbox: what was sent is asked for, and is committed, sent again, or dead after the week. PS3.4 J."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, select, update

from service.records.database import Ledger
from service.records.moves import UnknownCase, lock_case, utc_now
from service.records.notes import is_note
from service.records.outbox import COMMIT_WITHIN, GIVE_UP_AFTER, pause_after
from service.records.primary import is_rejected
from service.records.rows import Delivery, DeliveryState, LeaseLost
from service.records.schema import deliveries

REASONS: Final = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class and instance do not fit",
    0x0122: "class not supported",
    0x0131: "duplicate transaction",
    0x0213: "resource limitation",
}
"""Failure Reason (0008,1197) of a commitment; PS3.3 C.14.1.1."""

_ASKING: Final = "storage commitment"


@dataclass(frozen=True)
class Reported:
    """How many outputs of a case a report committed, and how many it sent back."""

    case_id: str
    destination: str
    committed: int
    failed: int


class Commitments(Ledger):
    """Transactions of Storage Commitment, one for a case and a destination each time it is asked."""

    def ask_in(self, transaction_uid: str, asked: Sequence[tuple[Delivery, Sequence[str]]]) -> None:
        """Note in which transaction claimed deliveries are about to be asked for, each with its SOP Instance UIDs. Raises LeaseLost.

        Written before the destination is called: its report may come sooner than its answer.
        """
        now = utc_now()
        with self._writing() as connection:
            for delivery, instances in asked:
                mine = update(deliveries).where(deliveries.c.id == delivery.id, deliveries.c.fence == delivery.fence)
                values = {"transaction_uid": transaction_uid, "asked_instances": list(instances), "changed_at": now}
                if connection.execute(mine.values(**values)).rowcount != 1:
                    raise LeaseLost(f"delivery {delivery.id}")

    def report_awaited(self, asked: Collection[Delivery]) -> None:
        """The destination took the request: it has `COMMIT_WITHIN` to report. What it has reported already stays as it is."""
        self._set(asked, {"next_attempt_at": utc_now() + COMMIT_WITHIN})

    def asking_failed(self, asked: Collection[Delivery], why: str, next_ask_at: datetime) -> None:
        """The destination could not be asked: again at that time."""
        self._set(asked, {"next_attempt_at": next_ask_at, "last_error": f"{_ASKING} not asked for: {why}"})

    def commitment_refused(self, asked: Collection[Delivery], why: str) -> None:
        """The destination has no such service: what was sent stays sent, and it is not asked again."""
        self._set(asked, {"next_attempt_at": None, "last_error": f"{_ASKING} not offered: {why}"})

    def never_committed(self, asked: Collection[Delivery]) -> None:
        """The week is over."""
        why = f"{_ASKING} was asked for and not confirmed within {GIVE_UP_AFTER.days} days"
        self._set(asked, {"state": DeliveryState.DEAD.value, "next_attempt_at": None, "last_error": why})

    def take_report(
        self, transaction_uid: str, destinations: Collection[str], committed: Collection[str], failed: Mapping[str, int]
    ) -> Reported | None:
        """
        Enter a destination's report: an output all of whose instances are committed is committed, one with a failure is due again.

        Parameters
        ----------
        destinations : whose report it may be
        committed, failed : SOP Instance UIDs, the failed ones with their Failure Reason

        Returns
        -------
        None where no such transaction is known; the same report again changes nothing
        """
        now = utc_now()
        mine = (deliveries.c.transaction_uid == transaction_uid, deliveries.c.destination.in_(list(destinations)))
        with self._writing() as connection:
            found = connection.execute(select(deliveries.c.case_id, deliveries.c.destination).where(*mine).limit(1)).one_or_none()
            if found is None:
                return None
            case_id, destination = found
            try:
                case = lock_case(connection, case_id)
            except UnknownCase:
                return None
            waiting = select(deliveries).where(*mine, deliveries.c.state == DeliveryState.SENT.value).with_for_update()
            rows = [dict(row) for row in connection.execute(waiting).mappings()]
            states = [_enter(connection, row, case, set(committed), failed, now) for row in rows]
        committed_now = states.count(DeliveryState.COMMITTED)
        return Reported(case_id, destination, committed_now, len(states) - committed_now - states.count(None))

    def _set(self, asked: Collection[Delivery], values: Mapping[str, Any]) -> None:
        """Write on those that are still ours and still wait for a report, and let them go."""
        let_go = {**values, "lease_owner": None, "lease_until": None, "changed_at": utc_now()}
        with self._writing() as connection:
            for delivery in asked:
                mine = (deliveries.c.id == delivery.id, deliveries.c.fence == delivery.fence)
                connection.execute(update(deliveries).where(*mine, deliveries.c.state == DeliveryState.SENT.value).values(**let_go))


def _enter(
    connection: Connection,
    row: Mapping[str, Any],
    case: Mapping[str, Any],
    committed: Collection[str],
    failed: Mapping[str, int],
    now: datetime,
) -> DeliveryState | None:
    """Write what a report says of one delivery; None where it says too little."""
    asked = row["asked_instances"] or []
    reasons = [failed[uid] for uid in asked if uid in failed]
    values: dict[str, Any]
    if reasons:
        state = _after_failure(connection, row, case, now)
        due = now + timedelta(seconds=pause_after(row["attempts"])) if state is DeliveryState.PENDING else None
        values = {"last_error": f"not committed: {_describe(reasons[0])}", "next_attempt_at": due}
    elif asked and set(asked) <= set(committed):
        state = DeliveryState.COMMITTED
        old = row["last_error"] or ""
        values = {"last_error": None if old.startswith(_ASKING) else row["last_error"], "next_attempt_at": None}
    else:
        return None
    let_go = {"lease_owner": None, "lease_until": None, "fence": row["fence"] + 1, "changed_at": now}
    connection.execute(update(deliveries).where(deliveries.c.id == row["id"]).values(state=state.value, **values, **let_go))
    return state


def _after_failure(connection: Connection, row: Mapping[str, Any], case: Mapping[str, Any], now: datetime) -> DeliveryState:
    """Say what becomes of an output that was not kept: it is sent again where it still stands; a note always does."""
    replaced = not case["primary"] or case["revision"] != row["revision"]
    if not is_note(row["output"]) and (replaced or is_rejected(connection, row["case_id"], row["revision"])):
        return DeliveryState.WITHHELD
    return DeliveryState.DEAD if now - row["created_at"] >= GIVE_UP_AFTER else DeliveryState.PENDING


def _describe(reason: int) -> str:
    return f"failure reason 0x{reason:04X}" + (f" ({REASONS[reason]})" if reason in REASONS else "")
