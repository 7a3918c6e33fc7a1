"""All studies of a patient settled, after a transaction in which the primary of one may have changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from sqlalchemy import delete, select

from service.records.database import Ledger
from service.records.moves import lock_studies, utc_now
from service.records.primary import settle_alone
from service.records.schema import cases, unsettled
from service.records.visits import in_order


class Patients(Ledger):
    """Each marked patient in a transaction of its own."""

    def settle_patients(self) -> int:
        """
        Choose the primaries of every marked patient's studies anew, in the order of the visits; gives how many patients that were.

        Where another series is a study's primary by that, its results are due for delivery, as they are for a better series that
        comes later; what was delivered already stays where it is and is not sent again.
        """
        marked: dict[str, list[int]] = defaultdict(list)
        with self._reading() as connection:
            for row in connection.execute(select(unsettled).order_by(unsettled.c.id)):
                marked[row.patient_key].append(row.id)
        for key, marks in marked.items():
            self._settle_patient(key, marks)
        return len(marked)

    def in_order_of_visits(self, study_uids: Collection[str]) -> list[str]:
        """Sort studies as the visits were, those without a date or a series first."""
        with self._reading() as connection:
            found = connection.execute(select(cases.c.id, cases.c.study_uid)).all()
            known = in_order(connection, {row.id: row.study_uid for row in found if row.study_uid in study_uids})
        return [*sorted(set(study_uids) - set(known)), *known]

    def _settle_patient(self, key: str, marks: Sequence[int]) -> None:
        now = utc_now()
        with self._writing() as connection:
            studies = set(connection.execute(select(cases.c.study_uid).where(cases.c.patient_key == key)).scalars())
            rows = lock_studies(connection, studies)
            # only the marks that were read: a transaction that was not seen here wrote one of its own
            connection.execute(delete(unsettled).where(unsettled.c.id.in_(marks)))
            for study_uid in in_order(connection, {row["id"]: row["study_uid"] for row in rows if row["patient_key"] == key}):
                settle_alone(connection, study_uid, self._destinations, now)
