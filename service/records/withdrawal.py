"""Instances that a rejection note takes out of their series, and what becomes of the case (IHE RAD, IOCM)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, distinct, func, insert, select, update

from service.records.database import Ledger
from service.records.moves import lock_studies, move, utc_now
from service.records.notes import owe_notes
from service.records.noting import reopen
from service.records.primary import settle_study
from service.records.rows import Verdict
from service.records.schema import cases, instances, rejections
from service.records.states import SUBMITTED, Event, State

_AT_ONCE: Final = 500  # variables in a statement


@dataclass(frozen=True)
class Withdrawn:
    """A case that lost instances to a rejection note; `left` is how many it still has."""

    case_id: str
    study_uid: str
    series_uid: str
    taken: int
    left: int


class Withdrawal(Ledger):
    """Rejection notes carried out."""

    def reject_instances(self, note_uid: str, code: str, title: str, references: Sequence[tuple[str, str, str]]) -> list[Withdrawn]:
        """
        Take the instances that a rejection note names out of their series, in one transaction; gives the cases that had some.

        A series of which nothing is left is rejected, with the note as its reason; one of which something is left is judged again, as a
        new revision if it was submitted. What destinations were sent of it is withdrawn there, where they take notes. An instance that
        was rejected stays out however often it is sent again; the note again changes nothing.

        Parameters
        ----------
        code, title : of the note; the latter as people read it
        references : (Study, Series, SOP Instance UID)
        """
        wanted: dict[tuple[str, str], set[str]] = defaultdict(set)
        for study_uid, series_uid, sop_instance_uid in references:
            wanted[study_uid, series_uid].add(sop_instance_uid)
        now = utc_now()
        with self._writing() as connection:
            found = []
            for case in lock_studies(connection, {study_uid for study_uid, _ in wanted}):
                uids = wanted.get((case["study_uid"], case["series_uid"]), set())
                taken = _take(connection, case["id"], sorted(uids))
                if taken:
                    found.append(self._carry_out(connection, case, taken, f"rejection note {note_uid}: {title}", now))
                    values = {"case_id": case["id"], "revision": case["revision"], "note_uid": note_uid, "code": code}
                    connection.execute(insert(rejections).values(**values, instances=taken, at=now))
            for study_uid in {one.study_uid for one in found}:
                settle_study(connection, study_uid, self._destinations, now)
        return found

    def named_instances(self, references: Sequence[tuple[str, str, str]]) -> dict[str, int]:
        """Give how many of these instances, by (Study, Series, SOP Instance UID), are in each case, or were until a note took them."""
        wanted: dict[tuple[str, str], list[str]] = defaultdict(list)
        for study_uid, series_uid, sop_instance_uid in dict.fromkeys(references):
            wanted[study_uid, series_uid].append(sop_instance_uid)
        found: Counter[str] = Counter()
        with self._reading() as connection:
            for (study_uid, series_uid), uids in wanted.items():
                mine = select(cases.c.id, func.count(distinct(instances.c.sop_instance_uid))).join(cases, cases.c.id == instances.c.case_id)
                mine = mine.where(cases.c.study_uid == study_uid, cases.c.series_uid == series_uid, instances.c.path != "")
                for start in range(0, len(uids), _AT_ONCE):
                    chosen = mine.where(instances.c.sop_instance_uid.in_(uids[start : start + _AT_ONCE])).group_by(cases.c.id)
                    for case_id, count in connection.execute(chosen):
                        found[case_id] += count
        return dict(found)

    def _carry_out(self, connection: Connection, case: dict[str, Any], taken: int, why: str, now: datetime) -> Withdrawn:
        counted = select(func.count()).where(instances.c.case_id == case["id"], instances.c.aside.is_(False))
        left = int(connection.execute(counted).scalar_one())
        values: dict[str, Any] = {"instances": left, "last_received_at": now}
        if left:
            reopen(connection, case, now, Event.REJECT, f"{taken} instances rejected by {why}", **values)
            owe_notes(connection, case, self._destinations, now)  # at once: the result was made from what is rejected
        else:
            values |= {"fence": case["fence"] + 1, "lease_owner": None, "lease_until": None, "rank": None}
            if State(case["state"]) in SUBMITTED:
                values |= {"revision": case["revision"] + 1, "findings": None, "model": None, "stages": {}}
            move(connection, case, Event.WITHDRAW, now, reason=f"withdrawn by {why}", **values)
        return Withdrawn(case["id"], case["study_uid"], case["series_uid"], taken, left)


def _take(connection: Connection, case_id: str, uids: Sequence[str]) -> int:
    """Set every version of the instances aside; gives how many were in the series."""
    taken = 0
    for start in range(0, len(uids), _AT_ONCE):
        mine = (instances.c.case_id == case_id, instances.c.sop_instance_uid.in_(uids[start : start + _AT_ONCE]), instances.c.path != "")
        in_series = select(func.count()).select_from(instances).where(*mine, instances.c.aside.is_(False))
        taken += int(connection.execute(in_series).scalar_one())
        connection.execute(update(instances).where(*mine).values(aside=True, verdict=Verdict.REJECTED.value))
    return taken
