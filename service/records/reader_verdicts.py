"""What readers say of results: accepted, rejected, or corrected by another mask (decision 0013)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, insert, or_, select, update

from service.records.database import Ledger
from service.records.moves import lock_case, plain, utc_now
from service.records.noting import reopen
from service.records.primary import settle_study
from service.records.rows import Correction, ReaderVerdict, VerdictKind, VerdictRefused, VerdictState
from service.records.schema import cases, instances, outputs, reader_verdicts
from service.records.states import Event, State

MAXIMUM_LOSSES: Final = 3
_ASK_AGAIN: Final = timedelta(seconds=60)


class ReaderVerdicts(Ledger):
    """Verdicts in, and corrections from pending to a revision of their own or refused."""

    def judge(
        self,
        case_id: str,
        kind: VerdictKind,
        reader: str,
        comment: str = "",
        *,
        revision: int | None = None,
        at: datetime | None = None,
        path: str | None = None,
    ) -> ReaderVerdict:
        """
        Accept or reject the current result; said again by the same reader in the same words, nothing happens.

        A rejection withholds what is undelivered, and is final for its revision: only a correction makes a new result, and the mask
        that was rejected is one too.

        Parameters
        ----------
        revision : the one the reader saw; None: the current one
        at, path : when it was said, and the file that says so too

        Raises
        ------
        UnknownCase, VerdictRefused, Unavailable
        """
        now = utc_now()
        with self._writing() as connection:
            row = lock_case(connection, case_id)
            _demand_current(row, revision)
            said = [one for one in _standing(connection, case_id) if one.revision == row["revision"] and one.made is None]
            if said and (said[-1].kind, said[-1].reader, said[-1].comment) == (kind, plain(reader), plain(comment)):
                return said[-1]
            rejected = next((one for one in said if one.kind is VerdictKind.REJECT), None)
            if rejected is not None and kind is VerdictKind.ACCEPT:
                said_by = f"revision {rejected.revision} was rejected by {rejected.reader}"
                raise VerdictRefused(f"{said_by}; send a correction instead: its own mask, sent back unchanged, makes a new revision too")
            values = {"revision": row["revision"], "reader": reader, "comment": comment, "path": path}
            verdict = _write(connection, case_id, at or now, kind, VerdictState.STANDS, **values)
            settle_study(connection, row["study_uid"], self._destinations, now)
        return verdict

    def note_correction(
        self,
        case_id: str,
        reader: str,
        correction: Correction,
        comment: str = "",
        *,
        revision: int | None = None,
        at: datetime | None = None,
    ) -> ReaderVerdict:
        """
        Take a correction of the current result, for a worker to look at.

        The same file by the same reader again is the same correction while it waits, or the next results are made from it.

        Raises
        ------
        UnknownCase, VerdictRefused, Unavailable
        """
        now = utc_now()
        with self._writing() as connection:
            row = lock_case(connection, case_id)
            said = _of_case(connection, case_id)
            used = _correction_in(said)
            for one in said:
                in_force = one.state is VerdictState.PENDING or one == used
                if in_force and (one.digest, one.reader) == (correction.digest, plain(reader)):
                    return one
            _demand_current(row, revision)
            seen = select(instances.c.sop_instance_uid).where(instances.c.case_id == case_id, instances.c.aside.is_(False))
            values = {"revision": row["revision"], "reader": reader, "comment": comment, "due_at": now, "model": row["model"]}
            values |= {"path": correction.path, "digest": correction.digest, "said": correction.said}
            values["seen"] = sorted(connection.execute(seen).scalars())
            return _write(connection, case_id, at or now, VerdictKind.CORRECT, VerdictState.PENDING, **values)

    def note_refused_correction(self, case_id: str, reader: str, correction: Correction, reason: str) -> None:
        """Record once a correction that came over DICOM and cannot be taken: its sender hears of no reason there. Raises UnknownCase."""
        with self._writing() as connection:
            row = lock_case(connection, case_id)
            known = ((one.digest, one.reason, one.revision) for one in _of_case(connection, case_id))
            if (correction.digest, plain(reason), row["revision"]) in known:
                return
            values = {"revision": row["revision"], "reader": reader, "comment": "", "path": correction.path, "digest": correction.digest}
            _write(connection, case_id, utc_now(), VerdictKind.CORRECT, VerdictState.REFUSED, reason=plain(reason), **values)

    def take_correction(self, verdict: ReaderVerdict, stale_flag: str = "") -> bool:
        """
        Queue the case for a new revision made from a pending correction, as the current revision is still the one that was corrected.

        Gives False, and refuses the correction with the reason, where it is not.

        Parameters
        ----------
        stale_flag : the code of quality flags that go: they are of an earlier correction
        """
        now = utc_now()
        with self._writing() as connection:
            row = lock_case(connection, verdict.case_id)
            if not _is_pending(connection, verdict.id):
                return False
            try:
                _demand_current(row, verdict.revision)
            except VerdictRefused as error:
                _refuse(connection, verdict.id, str(error))
                return False
            quality = [flag for flag in row["quality"] if flag.partition(":")[0] != stale_flag]
            reopen(connection, row, now, Event.REVISE, "corrected by a reader", quality=quality, due_at=now)
            taken = {"state": VerdictState.STANDS.value, "made": row["revision"], "due_at": None}
            connection.execute(update(reader_verdicts).where(reader_verdicts.c.id == verdict.id).values(**taken))
            settle_study(connection, row["study_uid"], self._destinations, now)
        return True

    def refuse_correction(self, verdict_id: int, reason: str) -> None:
        """Write down why a pending correction is not taken; the case and its results stay as they are."""
        with self._writing() as connection:
            _refuse(connection, verdict_id, reason)

    def correction_lost(self, case_id: str) -> None:
        """Count a failure of the worker over the pending corrections of a case; after the third they are refused."""
        mine = (reader_verdicts.c.case_id == case_id, reader_verdicts.c.state == VerdictState.PENDING.value)
        with self._writing() as connection:
            connection.execute(update(reader_verdicts).where(*mine).values(losses=reader_verdicts.c.losses + 1))
            poison = select(reader_verdicts.c.id).where(*mine, reader_verdicts.c.losses >= MAXIMUM_LOSSES)
            for verdict_id in connection.execute(poison).scalars().all():
                _refuse(connection, verdict_id, "the worker failed over it three times; the log has the details")

    def pending_corrections(self, case_id: str) -> list[ReaderVerdict]:
        """Give the corrections of a case that wait for a worker, oldest first."""
        with self._reading() as connection:
            return [one for one in _of_case(connection, case_id) if one.state is VerdictState.PENDING]

    def due_corrections(self, now: datetime | None = None, limit: int = 500) -> list[str]:
        """Give the cases with a pending correction for which no message is on its way."""
        now = now or utc_now()
        # A due time further off than we ever set comes from a clock that was set back.
        soon = or_(reader_verdicts.c.due_at <= now, reader_verdicts.c.due_at > now + 2 * _ASK_AGAIN)
        due = select(reader_verdicts.c.case_id).where(reader_verdicts.c.state == VerdictState.PENDING.value, soon)
        with self._reading() as connection:
            return list(connection.execute(due.distinct().limit(limit)).scalars())

    def correction_submitted(self, case_id: str) -> None:
        """Note that a message for the corrections of a case is on its way; the sweep waits before it sends another."""
        mine = (reader_verdicts.c.case_id == case_id, reader_verdicts.c.state == VerdictState.PENDING.value)
        with self._writing() as connection:
            connection.execute(update(reader_verdicts).where(*mine).values(due_at=utc_now() + _ASK_AGAIN))

    def correction_of(self, case_id: str) -> ReaderVerdict | None:
        """Give the correction that the next results of a case are made from: the last one, unless what came of it was rejected."""
        with self._reading() as connection:
            return _correction_in(_of_case(connection, case_id))

    def verdicts_of(self, case_ids: Sequence[str]) -> dict[str, list[ReaderVerdict]]:
        """Give every verdict on many cases in one read, oldest first."""
        found: dict[str, list[ReaderVerdict]] = {case_id: [] for case_id in case_ids}
        chosen = select(reader_verdicts).where(reader_verdicts.c.case_id.in_(list(case_ids))).order_by(reader_verdicts.c.id)
        with self._reading() as connection:
            for row in connection.execute(chosen).mappings():
                found[row["case_id"]].append(_verdict(row))
        return found

    def is_result(self, sop_instance_uid: str) -> bool:
        """Tell whether we made an object ourselves: it is no correction, whoever sends it back."""
        with self._reading() as connection:
            return connection.execute(select(outputs.c.id).where(outputs.c.sop_instance_uid == sop_instance_uid)).first() is not None

    def find_source(self, series_uids: Sequence[str], sop_instance_uids: Sequence[str]) -> str | None:
        """Give the case of a series that an object is about, by its series or else its images; None where it is not here."""
        by_series = select(cases.c.id).where(cases.c.series_uid.in_(list(series_uids))).order_by(cases.c.received_at.desc())
        by_image = (
            select(instances.c.case_id)
            .where(instances.c.sop_instance_uid.in_(list(sop_instance_uids)), instances.c.path != "")
            .order_by(instances.c.id.desc())
        )
        with self._reading() as connection:
            for chosen in (by_series, by_image):
                if (case_id := connection.execute(chosen.limit(1)).scalar()) is not None:
                    return str(case_id)
        return None

    def corrected_cases(self) -> list[str]:
        """Give the cases whose results are made from a correction, the first one first."""
        chosen = (
            select(reader_verdicts.c.case_id)
            .join(cases, cases.c.id == reader_verdicts.c.case_id)
            .where(reader_verdicts.c.made.is_not(None), cases.c.state == State.DONE.value)
            .order_by(reader_verdicts.c.id)
        )
        with self._reading() as connection:
            return list(dict.fromkeys(connection.execute(chosen).scalars()))


_TOLD: Final = ("revision", "made", "reader", "comment", "path", "digest", "seen", "model", "said")


def told_correction(verdict: ReaderVerdict) -> dict[str, Any]:
    """Give what a result's record keeps of the correction it was made from."""
    return {name: getattr(verdict, name) for name in _TOLD} | {"at": verdict.at.isoformat()}


def restore_correction(connection: Connection, case_id: str, told: Mapping[str, Any]) -> None:
    """Write a correction that a record tells of, where the case book does not know it."""
    if any(one.digest == told["digest"] and one.made == told["made"] for one in _of_case(connection, case_id)):
        return
    values = {name: told.get(name) for name in _TOLD} | {"seen": list(told["seen"])}
    _write(connection, case_id, datetime.fromisoformat(told["at"]), VerdictKind.CORRECT, VerdictState.STANDS, **values)


def _demand_current(row: Mapping[str, Any], revision: int | None) -> None:
    """Raise VerdictRefused unless the case is done and its revision the one that was judged."""
    current = row["revision"]
    if revision is not None and revision != current:
        why = "took its place" if revision < current else f"is, there is no revision {revision}"
        raise VerdictRefused(f"revision {revision} is not the current one: revision {current} {why}")
    if row["state"] != State.DONE.value:
        raise VerdictRefused(f"the case is {row['state']}: there is no result to judge now")


def _of_case(connection: Connection, case_id: str) -> list[ReaderVerdict]:
    chosen = select(reader_verdicts).where(reader_verdicts.c.case_id == case_id).order_by(reader_verdicts.c.id)
    return [_verdict(row) for row in connection.execute(chosen).mappings()]


def _standing(connection: Connection, case_id: str) -> list[ReaderVerdict]:
    return [one for one in _of_case(connection, case_id) if one.state is VerdictState.STANDS]


def _correction_in(verdicts: Sequence[ReaderVerdict]) -> ReaderVerdict | None:
    said = [one for one in verdicts if one.state is VerdictState.STANDS]
    made, last = max(((one.made, one) for one in said if one.made is not None), key=lambda pair: pair[0], default=(0, None))
    rejected = any(one.kind is VerdictKind.REJECT and one.revision >= made for one in said)
    return None if rejected else last


def standing_verdict(verdicts: Sequence[ReaderVerdict]) -> ReaderVerdict | None:
    """Give the one that counts: on the newest revision, and the last on that; a correction is about the revision it made."""
    standing = (one for one in verdicts if one.state is VerdictState.STANDS)
    return max(standing, key=lambda one: (one.made or one.revision, one.id), default=None)


def _is_pending(connection: Connection, verdict_id: int) -> bool:
    state = connection.execute(select(reader_verdicts.c.state).where(reader_verdicts.c.id == verdict_id)).scalar()
    return bool(state == VerdictState.PENDING.value)


def _refuse(connection: Connection, verdict_id: int, reason: str) -> None:
    pending = (reader_verdicts.c.id == verdict_id, reader_verdicts.c.state == VerdictState.PENDING.value)
    refused = {"state": VerdictState.REFUSED.value, "reason": plain(reason), "due_at": None}
    connection.execute(update(reader_verdicts).where(*pending).values(**refused))


def _write(
    connection: Connection, case_id: str, now: datetime, kind: VerdictKind, state: VerdictState, *, reader: str, comment: str, **values: Any
) -> ReaderVerdict:
    said = {"kind": kind.value, "state": state.value, "reader": plain(reader), "comment": plain(comment), "at": now, "losses": 0}
    made = insert(reader_verdicts).values(case_id=case_id, **said, **values).returning(reader_verdicts.c.id)
    chosen = select(reader_verdicts).where(reader_verdicts.c.id == connection.execute(made).scalar_one())
    return _verdict(connection.execute(chosen).mappings().one())


def _verdict(row: Mapping[Any, Any]) -> ReaderVerdict:
    values = {name: row[name] for name in ReaderVerdict.__dataclass_fields__}
    plain_values = {"kind": VerdictKind(row["kind"]), "state": VerdictState(row["state"]), "seen": tuple(row["seen"] or ())}
    return ReaderVerdict(**{**values, **plain_values})
