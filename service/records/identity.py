"""Identities corrected by hand: what was and what is stay in the case book, and the results are made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from service.filed import named_digest
from service.records.database import Ledger
from service.records.moves import lock_case, plain, utc_now
from service.records.noting import demand_secret, forget_correction, patient_key, reopen
from service.records.primary import settle_study
from service.records.rows import CorrectedIdentity
from service.records.schema import cases, identities
from service.records.states import Event, State

_REASON: Final = "identity corrected by hand"


class Identities(Ledger):
    """Whose series it is, where somebody said that its headers are wrong."""

    def correct_identity(
        self,
        case_id: str,
        before: Mapping[str, str],
        after: Mapping[str, str],
        *,
        by: str,
        reason: str,
        at: datetime | None = None,
        path: str | None = None,
    ) -> None:
        """
        Keep a correction, and take the case back to receiving, as a new revision if it was submitted; a refused one stays refused.

        Parameters
        ----------
        before, after : the whole identity, by DICOM keyword
        at, path : when it was said, and the file that says so too

        Raises
        ------
        UnknownCase, Unavailable
        """
        now = utc_now()
        said = {"by": by, "reason": reason, "at": at or now, "path": path}
        with self._writing() as connection:
            case = lock_case(connection, case_id)
            whose = self._write(connection, case, before, after, in_force=True, **said)
            if State(case["state"]) is State.REJECTED:
                connection.execute(update(cases).where(cases.c.id == case_id).values(**whose))
                return
            reopen(connection, case, now, Event.CORRECT, _REASON, last_received_at=now, **whose)
            settle_study(connection, case["study_uid"], self._destinations, now)

    def restore_identity(self, case_id: str, before: Mapping[str, str], after: Mapping[str, str], *, in_force: bool, **said: Any) -> None:
        """
        Write down a correction that the results there are were made after, and with it where it is in force; nothing runs again.

        Raises
        ------
        UnknownCase, Unavailable
        """
        with self._writing() as connection:
            whose = self._write(connection, lock_case(connection, case_id), before, after, in_force=in_force, **said)
            if in_force:
                connection.execute(update(cases).where(cases.c.id == case_id).values(**whose))

    def _write(
        self,
        connection: Connection,
        case: dict[str, Any],
        before: Mapping[str, str],
        after: Mapping[str, str],
        *,
        in_force: bool,
        **said: Any,
    ) -> dict[str, str]:
        """Write the row of a correction; gives whose case it is by it."""
        if in_force:
            forget_correction(connection, case["id"])
        words = {name: plain(said.pop(name)) for name in ("by", "reason")}
        values = {"before": dict(before), "after": dict(after), "active": in_force}
        connection.execute(insert(identities).values(case_id=case["id"], **words, **said, **values))
        patient_id, issuer = plain(after["PatientID"]), plain(after["IssuerOfPatientID"])
        key = patient_key(demand_secret(self._secret), patient_id, issuer, case["study_uid"])
        return {"patient_id": patient_id, "patient_issuer": issuer, "patient_key": key}

    def corrected_identity(self, case_id: str) -> dict[str, str]:
        """Give the identity that was corrected by hand and that no sender has corrected since, by DICOM keyword; empty where none was."""
        return self.identities_of([case_id]).get(case_id, {})

    def identities_of(self, case_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Give those of many cases in one read, the one that was corrected last at the end; a case without one is not there."""
        chosen = select(identities.c.case_id, identities.c.after).where(identities.c.case_id.in_(list(case_ids)), identities.c.active)
        with self._reading() as connection:
            return {row.case_id: dict(row.after) for row in connection.execute(chosen.order_by(identities.c.id))}

    def identity_corrections(self, case_id: str) -> list[tuple[datetime, str, str, dict[str, str], dict[str, str]]]:
        """Give every correction of a case, oldest first: when, by whom, why, what was, what is."""
        chosen = select(identities).where(identities.c.case_id == case_id).order_by(identities.c.id)
        with self._reading() as connection:
            return [(row.at, row.by, row.reason, dict(row.before), dict(row.after)) for row in connection.execute(chosen)]

    def corrected_identities(self) -> list[CorrectedIdentity]:
        """Give every correction of every case, in the order in which they were written down."""
        with self._reading() as connection:
            return [CorrectedIdentity(**row) for row in connection.execute(select(identities).order_by(identities.c.id)).mappings()]

    def file_identity(self, known: CorrectedIdentity, path: str) -> bool:
        """Write down which file a correction has; False: it has another one, or is gone. Raises Unavailable."""
        mine = (identities.c.id == known.id, identities.c.path.is_not_distinct_from(known.path))
        with self._writing() as connection:
            return connection.execute(update(identities).where(*mine).values(path=path)).rowcount == 1

    def told_identities(self, case_id: str) -> dict[str, bool]:
        """Give what the record of a result keeps of the corrections known: digest of the file → is it in force?"""
        chosen = select(identities.c.path, identities.c.active).where(identities.c.case_id == case_id, identities.c.path.is_not(None))
        with self._reading() as connection:
            return {named_digest(row.path): row.active for row in connection.execute(chosen)}
