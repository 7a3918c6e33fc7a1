"""The intake's side of the case book: instances arrive, series are admitted, held or refused."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from service.records.database import Ledger
from service.records.moves import lock_case, lock_studies, move, note_history, utc_now
from service.records.primary import settle_study
from service.records.rows import InstanceRow, Noted, Receiving
from service.records.schema import arrivals, cases, instances
from service.records.states import SUBMITTED, Event, State
from service.settings import Destination

# The sweep leaves a case that was queued a moment ago to the one who queued it and is about to submit it.
SUBMIT_GRACE = timedelta(seconds=2)


def patient_key(patient_id: str, issuer: str = "", study_uid: str = "") -> str:
    """Give the opaque, stable key of a patient: 192 bits, safe in a URL.

    A blank PatientID identifies nobody: such a study is a patient of its own.
    """
    name = ("id", issuer.strip(), patient_id.strip()) if patient_id.strip() else ("study", "", study_uid)
    digest = hashlib.sha256("\x1f".join(name).encode("utf-8", "surrogateescape")).digest()
    return base64.urlsafe_b64encode(digest[:24]).decode("ascii")


class Arrivals(Ledger):
    """Instances in; cases from receiving to queued, held or rejected."""

    _destinations: tuple[Destination, ...] = ()

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
            books = _open_cases(connection, rows, now)
            known = _known_digests(connection, books, rows)
            noted = [_note(connection, books[row.study_uid, row.series_uid], row, known, now) for row in rows]
            _count(connection, books, rows, noted, now)
            for study_uid in {case["study_uid"] for case in books.values() if case.get("reopened")}:
                settle_study(connection, study_uid, self._destinations, now)
            # The state after the whole batch: one answer for all its rows.
            return [
                Noted(one.case_id, one.outcome, State(books[row.study_uid, row.series_uid]["state"]))
                for one, row in zip(noted, rows, strict=True)
            ]

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
            .where(instances.c.case_id == case_id, instances.c.aside.is_(False))
            .order_by(instances.c.sop_instance_uid)
        )
        with self._reading() as connection:
            return list(connection.execute(chosen).scalars())

    def receiving(self) -> list[Receiving]:
        """Give every case that still receives, the one that waits longest first."""
        with self._reading() as connection:
            found = (
                connection.execute(select(cases).where(cases.c.state == State.RECEIVING.value).order_by(cases.c.last_received_at))
                .mappings()
                .all()
            )
            senders = defaultdict(list)
            open_ones = select(arrivals).join(cases, cases.c.id == arrivals.c.case_id).where(cases.c.state == State.RECEIVING.value)
            for arrival in connection.execute(open_ones.order_by(arrivals.c.first_at)).mappings():
                senders[arrival["case_id"]].append(arrival["association"])
        return [
            Receiving(
                row["id"],
                row["study_uid"],
                row["series_uid"],
                row["received_at"],
                row["last_received_at"],
                row["instances"],
                tuple(senders[row["id"]]),
            )
            for row in found
        ]

    def touched(self, association: str) -> list[str]:
        """Give the cases in receiving to which this association sent something."""
        chosen = (
            select(arrivals.c.case_id)
            .join(cases, cases.c.id == arrivals.c.case_id)
            .where(arrivals.c.association == association, cases.c.state == State.RECEIVING.value)
            .order_by(arrivals.c.first_at, arrivals.c.case_id)
        )
        with self._reading() as connection:
            return list(connection.execute(chosen).scalars())

    def close_association(self, association: str) -> None:
        """Note that nothing more comes from this association."""
        with self._writing() as connection:
            connection.execute(delete(arrivals).where(arrivals.c.association == association))

    def queue_case(
        self, case_id: str, rule: str | None, quality: Sequence[str] = (), *, rank: Sequence[Any] | None = None, seen: int | None = None
    ) -> bool:
        """Admit a complete series; the caller submits it next (the sweep does if the caller dies).

        Parameters
        ----------
        rank
            Compared among the accepted series of a study; the greatest is the primary, the earlier one on a tie.
        seen
            How many instances the decision was made on. If it has more by now nothing happens, and False is given.

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
            rule=rule,
            quality=list(quality),
            rank=list(rank) if rank is not None else [],
            attempts=0,
            due_at=utc_now() + SUBMIT_GRACE,
        )

    def hold(self, case_id: str, reason: str, *, rule: str | None = None, seen: int | None = None) -> bool:
        """Hold a wanted series that is not complete; a later instance or a retry takes it back to receiving."""
        return self._decide(case_id, Event.HOLD, reason, seen, rule=rule, rank=None)

    def refuse(self, case_id: str, reason: str, rule: str | None = None, *, seen: int | None = None) -> bool:
        """Record that the series is not wanted, and why."""
        return self._decide(case_id, Event.REFUSE, reason, seen, rule=rule, rank=None)

    def choose_primary(self, study_uid: str) -> str | None:
        """Choose the study's result anew among its accepted series, settle its deliveries, and give its case id."""
        with self._writing() as connection:
            return settle_study(connection, study_uid, self._destinations, utc_now())

    def _decide(self, case_id: str, event: Event, reason: str | None, seen: int | None, **values: Any) -> bool:
        now = utc_now()
        with self._writing() as connection:
            row = lock_case(connection, case_id)
            if seen is not None and row["instances"] != seen:
                return False
            move(connection, row, event, now, reason=reason, **values)
            settle_study(connection, row["study_uid"], self._destinations, now)
        return True


def _open_cases(connection: Connection, rows: Sequence[InstanceRow], now: datetime) -> dict[tuple[str, str], dict[str, Any]]:
    """Make the cases that are missing, lock all of them, and give them by study and series."""
    wanted = {(row.study_uid, row.series_uid): row for row in rows}
    found = {(row["study_uid"], row["series_uid"]): row for row in lock_studies(connection, (study for study, _ in wanted))}
    missing = [wanted[key] for key in sorted(wanted.keys() - found.keys())]
    if not missing:
        return found
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for row in missing:
        made = dialect.insert(cases).values(_new_case(row, now)).on_conflict_do_nothing(index_elements=["study_uid", "series_uid"])
        case_id = connection.execute(made.returning(cases.c.id)).scalar()
        if case_id is not None:
            note_history(connection, case_id, Event.RECEIVE, None, State.RECEIVING, 1, None, now)
    return {(row["study_uid"], row["series_uid"]): row for row in lock_studies(connection, (study for study, _ in wanted))}


def _new_case(row: InstanceRow, now: datetime) -> dict[str, Any]:
    return {
        "id": secrets.token_urlsafe(16),
        "study_uid": row.study_uid,
        "series_uid": row.series_uid,
        "patient_id": row.patient_id,
        "patient_issuer": row.patient_issuer,
        "patient_key": patient_key(row.patient_id, row.patient_issuer, row.study_uid),
        "series_description": row.series_description,
        "state": State.RECEIVING.value,
        "revision": 1,
        "attempts": 0,
        "lapses": 0,
        "instances": 0,
        "received_at": row.received_at,
        "last_received_at": row.received_at,
        "changed_at": now,
        "due_at": now,
        "fence": 0,
        "primary": False,
        "stages": {},
        "quality": [],
    }


def _known_digests(
    connection: Connection, books: dict[tuple[str, str], dict[str, Any]], rows: Sequence[InstanceRow]
) -> dict[tuple[str, str], dict[str, bool]]:
    """Give, by case and SOP Instance UID, the digests already there and whether each is set aside."""
    case_ids = {books[row.study_uid, row.series_uid]["id"] for row in rows}
    uids = {row.sop_instance_uid for row in rows}
    chosen = select(instances.c.case_id, instances.c.sop_instance_uid, instances.c.digest, instances.c.aside).where(
        instances.c.case_id.in_(case_ids), instances.c.sop_instance_uid.in_(uids)
    )
    known: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for case_id, uid, digest, aside in connection.execute(chosen):
        known[case_id, uid][digest] = aside
    return known


def _note(
    connection: Connection, case: dict[str, Any], row: InstanceRow, known: dict[tuple[str, str], dict[str, bool]], now: datetime
) -> Noted:
    digests = known[case["id"], row.sop_instance_uid]
    if row.digest in digests:
        return Noted(case["id"], "conflict" if digests[row.digest] else "repeat", State(case["state"]))
    aside = bool(digests)
    digests[row.digest] = aside
    connection.execute(
        insert(instances).values(
            case_id=case["id"],
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            digest=row.digest,
            path=row.path,
            size=row.size,
            header=row.header,
            source=row.source,
            association=row.association,
            received_at=row.received_at,
            aside=aside,
        )
    )
    if aside:
        return Noted(case["id"], "conflict", State(case["state"]))
    if State(case["state"]) is not State.RECEIVING:
        _reopen(connection, case, now)
    return Noted(case["id"], "new", State.RECEIVING)


def _reopen(connection: Connection, case: dict[str, Any], now: datetime) -> None:
    """Take a case back to receiving; its worker, if any, finds its fence void."""
    submitted = State(case["state"]) in SUBMITTED
    values: dict[str, Any] = {"fence": case["fence"] + 1, "lease_owner": None, "lease_until": None, "attempts": 0}
    if submitted:
        values["revision"] = case["revision"] + 1
    move(connection, case, Event.RECEIVE, now, reason="a late slice" if submitted else None, **values)
    case["reopened"] = True


def _count(
    connection: Connection,
    books: dict[tuple[str, str], dict[str, Any]],
    rows: Sequence[InstanceRow],
    noted: Sequence[Noted],
    now: datetime,
) -> None:
    """Bring counts, last arrival and senders up to date, once per case and not once per instance."""
    new: dict[str, int] = defaultdict(int)
    last: dict[str, datetime] = {}
    senders = {}
    for row, one in zip(rows, noted, strict=True):
        new[one.case_id] += one.outcome == "new"
        last[one.case_id] = max(last.get(one.case_id, row.received_at), row.received_at)
        senders[row.association, one.case_id] = row.received_at
    for case in books.values():
        if case["id"] in last and (new[case["id"]] or case["state"] == State.RECEIVING.value):
            case["instances"] += new[case["id"]]
            moment = max(case["last_received_at"], last[case["id"]])
            connection.execute(
                update(cases).where(cases.c.id == case["id"]).values(instances=case["instances"], last_received_at=moment, changed_at=now)
            )
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for (association, case_id), moment in senders.items():
        arrival = dialect.insert(arrivals).values(association=association, case_id=case_id, first_at=moment, last_at=moment)
        connection.execute(arrival.on_conflict_do_update(index_elements=["association", "case_id"], set_={"last_at": moment}))
