"""What becomes of instances that arrive: the case they belong to, and whether they are new, known or in conflict."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from service.records.moves import lock_studies, move, note_history, plain
from service.records.rows import InstanceRow, Noted, Verdict
from service.records.schema import cases, identities, instances
from service.records.states import SUBMITTED, Event, State

CasesOfSeries = dict[tuple[str, str], dict[str, Any]]
"""Rows of `cases`, by Study and Series Instance UID."""

# Built once: making a statement costs more here than running it.
_INSERT = insert(instances)
_COUNT = (
    update(cases)
    .where(cases.c.id == bindparam("b_id"))
    .values(instances=bindparam("b_instances"), last_received_at=bindparam("b_last"), changed_at=bindparam("b_now"))
)
_SENT_AGAIN = (
    update(instances)
    .where(instances.c.case_id == bindparam("b_case"), instances.c.digest == bindparam("b_digest"))
    .where(instances.c.sop_instance_uid == bindparam("b_uid"))
    .values(received_at=bindparam("b_at"), verdict=bindparam("b_verdict"))
)
_KEPT = (
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "digest",
    "path",
    "size",
    "header",
    "association",
    "received_at",
)


def patient_key(secret: bytes, patient_id: str, issuer: str = "", study_uid: str = "") -> str:
    """Give the opaque, stable key of a patient: 192 bits, safe in a URL.

    Keyed with the installation's secret: a plain digest of a short PatientID is found by trying them all.
    A blank PatientID identifies nobody: such a study is a patient of its own.
    """
    patient_id, issuer = plain(patient_id), plain(issuer)
    name = ("id", issuer.strip(), patient_id.strip()) if patient_id.strip() else ("study", "", study_uid)
    return base64.urlsafe_b64encode(_keyed(secret, "patient", *name)[:24]).decode("ascii")


def name_case(secret: bytes, study_uid: str, series_uid: str) -> str:
    """Give the id of a new case: opaque, and the same again when the case book is made anew from the files."""
    return _keyed(secret, "case", study_uid, series_uid).hex()[:32]  # never a leading "-": it is an argument of the command line


def demand_secret(secret: bytes | None) -> bytes:
    """Raise ValueError where a case book that was opened for reading should name a case or a patient."""
    if secret is None:
        raise ValueError("a case book opened without the installation's secret cannot name cases and patients")
    return secret


def _keyed(secret: bytes, *parts: str) -> bytes:
    return hmac.new(secret, "\x1f".join(parts).encode("utf-8", "surrogateescape"), hashlib.sha256).digest()


def open_cases(connection: Connection, rows: Sequence[InstanceRow], now: datetime, secret: bytes | None) -> CasesOfSeries:
    """Make the cases that are missing, lock all of them, and give them by study and series."""
    wanted = {(row.study_uid, row.series_uid): row for row in rows}
    found = {(row["study_uid"], row["series_uid"]): row for row in lock_studies(connection, (study for study, _ in wanted))}
    missing = [wanted[key] for key in sorted(wanted.keys() - found.keys())]
    _identify(connection, [(found[key], row) for key, row in wanted.items() if key in found and not found[key]["instances"]], secret)
    if not missing:
        return found
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for row in missing:
        made = (
            dialect.insert(cases)
            .values(_new_case(row, now, demand_secret(secret)))
            .on_conflict_do_nothing(index_elements=["study_uid", "series_uid"])
        )
        made_id = connection.execute(made.returning(cases.c.id)).scalar()
        if made_id is not None:
            note_history(connection, made_id, Event.RECEIVE, None, State.RECEIVING, 1, None, now)
    return {(row["study_uid"], row["series_uid"]): row for row in lock_studies(connection, (study for study, _ in wanted))}


def _identify(connection: Connection, first: Sequence[tuple[dict[str, Any], InstanceRow]], secret: bytes | None) -> None:
    """Say whose cases are of which nothing is there: made before anything of them came, or withdrawn."""
    for case, row in first:
        values = _identity(row, demand_secret(secret))
        forget_correction(connection, case["id"])
        connection.execute(update(cases).where(cases.c.id == case["id"]).values(values))
        case.update(values)


def forget_correction(connection: Connection, case_id: str, until: datetime | None = None) -> bool:
    """A later word on the identity, by hand or by the sender's instances, takes the place of what was said by hand.

    Parameters
    ----------
    until : when the sender's instances came: what was said after that is the later word, and stays; None: nothing stays

    Returns
    -------
    bool
        Whether something stays in force.
    """
    mine = (identities.c.case_id == case_id, identities.c.active)
    earlier = () if until is None else (identities.c.at <= until,)
    connection.execute(update(identities).where(*mine, *earlier).values(active=False))
    return until is not None and connection.execute(select(identities.c.id).where(*mine)).first() is not None


def _new_case(row: InstanceRow, now: datetime, secret: bytes) -> dict[str, Any]:
    return blank_case(row.study_uid, row.series_uid, row.received_at, secret) | _identity(row, secret) | {"changed_at": now, "due_at": now}


def _identity(row: InstanceRow, secret: bytes) -> dict[str, Any]:
    return {
        "patient_id": plain(row.patient_id),
        "patient_issuer": plain(row.patient_issuer),
        "patient_key": patient_key(secret, row.patient_id, row.patient_issuer, row.study_uid),
        "series_description": plain(row.series_description),
    }


def blank_case(study_uid: str, series_uid: str, at: datetime, secret: bytes) -> dict[str, Any]:
    """Give the row of a case of which no instance is there yet: whose it is, its first instance tells."""
    return {
        "id": name_case(secret, study_uid, series_uid),
        "study_uid": study_uid,
        "series_uid": series_uid,
        "patient_id": "",
        "patient_issuer": "",
        "patient_key": patient_key(secret, "", "", study_uid),
        "series_description": "",
        "state": State.RECEIVING.value,
        "revision": 1,
        "attempts": 0,
        "lapses": 0,
        "instances": 0,
        "received_at": at,
        "last_received_at": at,
        "changed_at": at,
        "due_at": at,
        "fence": 0,
        "primary": False,
        "stages": {},
        "quality": [],
    }


@dataclass
class _Version:
    """One of the files that came under one SOP Instance UID: the one in the series, or one set aside."""

    aside: bool
    verdict: str | None
    received_at: datetime


Versions = dict[tuple[str, str], dict[str, _Version]]

# Bytes that were sent under these verdicts before are looked at again when they are sent again: which version is the series' has
# changed since, or what kept them from being read may be over.
_LOOK_AGAIN = frozenset({Verdict.SUPERSEDED.value, Verdict.UNREADABLE.value})
_TICK = timedelta(microseconds=1)
# What is written in the history whatever state the case was in.
_SAID = frozenset({Event.CORRECT, Event.REJECT})


def _known_versions(connection: Connection, case_of: CasesOfSeries, rows: Sequence[InstanceRow]) -> Versions:
    """Give, by case and SOP Instance UID, the versions already there, by their digests."""
    case_ids = {case_of[row.study_uid, row.series_uid]["id"] for row in rows}
    uids = {row.sop_instance_uid for row in rows}
    found = instances.c
    chosen = select(found.case_id, found.sop_instance_uid, found.digest, found.aside, found.verdict, found.received_at).where(
        found.case_id.in_(case_ids), found.sop_instance_uid.in_(uids)
    )
    known: Versions = defaultdict(dict)
    for case_id, uid, digest, aside, verdict, received_at in connection.execute(chosen):
        known[case_id, uid][digest] = _Version(aside, verdict, received_at)
    return known


def note_all(connection: Connection, case_of: CasesOfSeries, rows: Sequence[InstanceRow], now: datetime) -> list[Noted]:
    """Index instances under their locked cases, in one statement, and say what each was."""
    known = _known_versions(connection, case_of, rows)
    fresh: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    noted = []
    for row in rows:
        case = case_of[row.study_uid, row.series_uid]
        versions = known[case["id"], row.sop_instance_uid]
        if row.digest in versions:
            noted.append(_note_again(case, row, versions, again))
        else:
            noted.append(_note_fresh(connection, case, row, versions, fresh, now))
    if fresh:
        connection.execute(_INSERT, fresh)
    if again:
        connection.execute(_SENT_AGAIN, again)
    return noted


def _note_again(case: dict[str, Any], row: InstanceRow, versions: dict[str, _Version], again: list[dict[str, Any]]) -> Noted:
    """Bytes that are known. Where others came under the UID too, it counts which were sent last."""
    version = versions[row.digest]
    if version.aside and version.verdict in _LOOK_AGAIN:
        version.verdict = None
    if len(versions) > 1:
        version.received_at = _after_all(row, versions)
        again.append(
            {
                "b_case": case["id"],
                "b_uid": row.sop_instance_uid,
                "b_digest": row.digest,
                "b_at": version.received_at,
                "b_verdict": version.verdict,
            }
        )
    known = not version.aside or version.verdict in {Verdict.SAME.value, Verdict.REJECTED.value}
    return Noted(case["id"], "repeat" if known else "conflict", State(case["state"]))


def _note_fresh(
    connection: Connection,
    case: dict[str, Any],
    row: InstanceRow,
    versions: dict[str, _Version],
    fresh: list[dict[str, Any]],
    now: datetime,
) -> Noted:
    aside = bool(versions)
    verdict = Verdict.DISCARDED.value if aside and not row.path else None
    if versions and all(version.verdict == Verdict.REJECTED.value for version in versions.values()):
        verdict = Verdict.REJECTED.value
    version = _Version(aside, verdict, _after_all(row, versions))
    versions[row.digest] = version
    values = {name: getattr(row, name) for name in _KEPT} | {"received_at": version.received_at, "verdict": verdict}
    fresh.append(values | {"case_id": case["id"], "source": plain(row.source), "aside": aside})
    if aside:
        return Noted(case["id"], "conflict", State(case["state"]))
    if State(case["state"]) is not State.RECEIVING:
        reopen(connection, case, now, Event.RECEIVE, "a late slice")
    return Noted(case["id"], "new", State.RECEIVING)


def _after_all(row: InstanceRow, versions: dict[str, _Version]) -> datetime:
    """The time of arrival, later than that of every other version even where the clock was set back."""
    return max([row.received_at, *(version.received_at + _TICK for version in versions.values())])


def reopen(connection: Connection, case: dict[str, Any], now: datetime, event: Event, reason: str, **values: Any) -> None:
    """Take a locked case back to receiving; its worker, if any, finds its fence void.

    The reason is written where work was submitted, and for a correction or a rejection.
    """
    submitted = State(case["state"]) in SUBMITTED
    values |= {"fence": case["fence"] + 1, "lease_owner": None, "lease_until": None, "attempts": 0}
    if submitted:
        values |= {"revision": case["revision"] + 1, "findings": None, "model": None, "stages": {}}
    move(connection, case, event, now, reason=reason if submitted or event in _SAID else None, **values)
    case["reopened"] = True


def count_arrivals(
    connection: Connection, case_of: CasesOfSeries, rows: Sequence[InstanceRow], noted: Sequence[Noted], now: datetime
) -> None:
    """Bring counts and the time of the last arrival up to date, once per case and not once per instance."""
    new: dict[str, int] = defaultdict(int)
    last: dict[str, datetime] = {}
    for row, one in zip(rows, noted, strict=True):
        new[one.case_id] += one.outcome == "new"
        last[one.case_id] = max(last.get(one.case_id, row.received_at), row.received_at)
    for case in case_of.values():
        case_id = case["id"]
        if case_id in last:
            case["instances"] += new[case_id]
            changed = new[case_id] or case["state"] == State.RECEIVING.value
            values = {
                "b_instances": case["instances"],
                "b_last": max(case["last_received_at"], last[case_id]),
                "b_now": now if changed else case["changed_at"],
                "b_id": case_id,
            }
            connection.execute(_COUNT, values)  # what came again too: the retention does not take it away the next moment
