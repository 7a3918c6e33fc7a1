"""The intake's side of the case book: instances arrive, series are admitted, held or refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from service.records.database import Ledger
from service.records.moves import lock_case, move, utc_now
from service.records.noting import count_arrivals, note_all, open_cases
from service.records.primary import settle_study
from service.records.resends import resend_flags
from service.records.rows import InstanceRow, Noted, Receiving
from service.records.schema import cases, instances
from service.records.states import Event, State

# The sweep leaves a case that was queued a moment ago to the one who queued it and is about to submit it.
SUBMIT_GRACE = timedelta(seconds=2)


class Arrivals(Ledger):
    """Instances in; cases from receiving to queued, held or rejected."""

    def note_instances(self, rows: Sequence[InstanceRow]) -> list[Noted]:
        """Index stored instances, in one transaction; each is durable on disk already.

        A new instance of a case that was submitted or decided takes the case back to receiving; where it was submitted
        (queued, running, done, failed) that is a new revision, and a worker on the old one loses its lease.

        Raises
        ------
        Unavailable
            Nothing was noted; the sender may repeat.
        """
        if not rows:
            return []
        now = utc_now()
        with self._writing() as connection:
            case_of = open_cases(connection, rows, now, self._secret)
            noted = note_all(connection, case_of, rows, now)
            count_arrivals(connection, case_of, rows, noted, now)
            for study_uid in {case["study_uid"] for case in case_of.values() if case.get("reopened")}:
                settle_study(connection, study_uid, self._destinations, now)
            # The state after the whole batch: one answer for all its rows.
            states = {case["id"]: State(case["state"]) for case in case_of.values()}
        return [Noted(one.case_id, one.outcome, states[one.case_id]) for one in noted]

    def headers(self, case_id: str) -> list[InstanceRow]:
        """Give the instances of a case (not those set aside), in the order they came."""
        chosen = (
            select(instances, cases.c.study_uid, cases.c.series_uid, cases.c.patient_id, cases.c.patient_issuer, cases.c.series_description)
            .join(cases, cases.c.id == instances.c.case_id)
            .where(instances.c.case_id == case_id, instances.c.aside.is_(False))
            .order_by(instances.c.id)
        )
        with self._reading() as connection:
            return [
                InstanceRow(**{name: row[name] for name in InstanceRow.__dataclass_fields__})
                for row in connection.execute(chosen).mappings()
            ]

    def instance_paths(self, case_id: str) -> list[str]:
        """Give the stored files of a case (not those set aside), by SOP Instance UID: any order of arrival gives the same."""
        chosen = (
            select(instances.c.path)
            .where(instances.c.case_id == case_id, instances.c.aside.is_(False), instances.c.path != "")
            .order_by(instances.c.sop_instance_uid)
        )
        with self._reading() as connection:
            return list(connection.execute(chosen).scalars())

    def source_path(self, case_id: str) -> str | None:
        """Give the stored file of one instance of a case, always the same one; of one set aside only where no other is there."""
        chosen = select(instances.c.path).where(instances.c.case_id == case_id, instances.c.path != "")
        with self._reading() as connection:
            return connection.execute(chosen.order_by(instances.c.aside, instances.c.sop_instance_uid, instances.c.id).limit(1)).scalar()

    def receiving(self) -> list[Receiving]:
        """Give every case that still receives, the one that waits longest first."""
        with self._reading() as connection:
            found = (
                connection.execute(select(cases).where(cases.c.state == State.RECEIVING.value).order_by(cases.c.last_received_at))
                .mappings()
                .all()
            )
        return [
            Receiving(
                row["id"],
                row["study_uid"],
                row["series_uid"],
                row["last_received_at"],
                row["instances"],
            )
            for row in found
        ]

    def queue_case(
        self,
        case_id: str,
        rule: str | None,
        quality: Sequence[str] = (),
        *,
        rank: Sequence[Any] | None = None,
        seen: int | None = None,
        fence: int | None = None,
    ) -> bool:
        """Admit a complete series; the caller submits it next (the sweep does if the caller dies).

        Parameters
        ----------
        rank
            Compared among the accepted series of a study; the greatest is the primary, the earlier one on a tie.
        seen
            How many instances the decision was made on. If it has more by now nothing happens, and False is given.
        fence
            What `standing` gave before the decision was made; likewise, if an instance was corrected since.

        Raises
        ------
        InvalidTransition
            The case is not receiving.
        """
        return self._decide(
            case_id,
            Event.ADMIT,
            None,
            seen,
            fence,
            rule=rule,
            quality=list(quality),
            rank=list(rank) if rank is not None else [],
            attempts=0,
            due_at=utc_now() + SUBMIT_GRACE,
        )

    def hold(self, case_id: str, reason: str, *, rule: str | None = None, seen: int | None = None, fence: int | None = None) -> bool:
        """Hold a wanted series that is not complete; a later instance or a retry takes it back to receiving."""
        return self._decide(case_id, Event.HOLD, reason, seen, fence, rule=rule, rank=None)

    def refuse(self, case_id: str, reason: str, rule: str | None = None, *, seen: int | None = None, fence: int | None = None) -> bool:
        """Record that the series is not wanted, and why."""
        return self._decide(case_id, Event.REFUSE, reason, seen, fence, rule=rule, rank=None)

    def _decide(self, case_id: str, event: Event, reason: str | None, seen: int | None, fence: int | None, **values: Any) -> bool:
        now = utc_now()
        with self._writing() as connection:
            row = lock_case(connection, case_id)
            if (seen is not None and row["instances"] != seen) or (fence is not None and row["fence"] != fence):
                return False
            if "quality" in values:
                values["quality"] += resend_flags(connection, case_id)
            move(connection, row, event, now, reason=reason, **values)
            settle_study(connection, row["study_uid"], self._destinations, now)
        return True
