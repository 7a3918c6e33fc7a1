"""The visits of a patient: which series of a study was acquired like that of the visit before, and what hangs on it.

A study's primary depends on those of earlier studies, and those on studies earlier still. A transaction chooses for its own study, by
what the others are then, and marks the patient; a later one settles all studies of the patient, in the order of the visits. So the
choice is the same whichever study came first, and two transactions that did not see each other are both followed by one that sees both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from pydicom.uid import MRImageStorage
from sqlalchemy import ColumnElement, Connection, and_, func, insert, null, select

from service.headers import ENHANCED, Header
from service.headers.acquisition import likeness
from service.records.schema import cases, instances, unsettled

_IMAGES: Final = (MRImageStorage, *ENHANCED)
_STUDIED_AT: Final = instances.c.header["studied_at"].as_string()
_AT_ONCE: Final = 500  # variables in a statement


def liken(connection: Connection, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """
    Tell how much each accepted case of a study was acquired like the earlier visit of its patient.

    The earlier visit is the patient's latest study before this one, by Study Date and Study Time, that has a primary; whether that
    is done yet, and what a reader said of it, does not change how it was acquired. A study without a date is before and after none.

    Returns
    -------
    `service.headers.acquisition.likeness` by case; 0 where there is no choice, or no earlier visit
    """
    alike = dict.fromkeys((row["id"] for row in rows), 0)
    if len(rows) < 2:
        return alike
    mine = cases.c.patient_key.in_({row["patient_key"] for row in rows})
    others = select(cases.c.id, cases.c.patient_key, cases.c.study_uid).where(mine, cases.c.study_uid != rows[0]["study_uid"])
    primaries = connection.execute(others.where(cases.c.primary)).all()
    if not primaries:
        return alike
    at = _of_images(connection, [*(row.id for row in primaries), *alike], _STUDIED_AT)
    visits = sorted((at[row.id], row.study_uid, row.patient_key, row.id) for row in primaries if row.id in at)
    before = {row["id"]: [visit for visit in visits if visit[2] == row["patient_key"] and visit[0] < at.get(row["id"], "")] for row in rows}
    compared = {case_id: earlier[-1][3] for case_id, earlier in before.items() if earlier}
    headers = _of_images(connection, [*compared, *compared.values()], instances.c.header)
    for case_id, earlier_id in compared.items():
        alike[case_id] = likeness(Header.from_json(headers[case_id]), Header.from_json(headers[earlier_id]))
    return alike


def mark_patients(connection: Connection, keys: Collection[str]) -> None:
    """Have the studies of these patients settled, where one of them has a choice."""
    choice = select(cases.c.patient_key).where(cases.c.patient_key.in_(keys), cases.c.rank.is_not(null()))
    choice = choice.group_by(cases.c.patient_key, cases.c.study_uid).having(func.count() > 1)
    for key in set(connection.execute(choice).scalars()):
        connection.execute(insert(unsettled).values(patient_key=key))


def mark_patients_of(connection: Connection, study_uid: str) -> None:
    """Have the other studies of a study's patients settled, where one has a choice."""
    mark_patients(connection, set(connection.execute(select(cases.c.patient_key).where(cases.c.study_uid == study_uid)).scalars()))


def in_order(connection: Connection, study_of: Mapping[str, str]) -> list[str]:
    """Sort the studies of cases as the visits were, those without a date first."""
    at = dict.fromkeys(study_of.values(), "")
    for case_id, studied_at in _of_images(connection, list(study_of), _STUDIED_AT).items():
        at[study_of[case_id]] = max(at[study_of[case_id]], studied_at)
    return sorted(at, key=lambda study_uid: (at[study_uid], study_uid))


def _of_images(connection: Connection, case_ids: Sequence[str], what: ColumnElement[Any]) -> dict[str, Any]:
    """Read something of one image of each case, always the same one; a case of which it says nothing is left out."""
    found: dict[str, Any] = {}
    for start in range(0, len(case_ids), _AT_ONCE):
        some = case_ids[start : start + _AT_ONCE]
        mine = and_(instances.c.case_id.in_(some), instances.c.aside.is_(False), instances.c.sop_class_uid.in_(_IMAGES))
        first = select(instances.c.case_id, func.min(instances.c.sop_instance_uid).label("uid")).where(mine).group_by(instances.c.case_id)
        one = first.subquery()
        chosen = select(instances.c.case_id, what.label("what")).where(mine)
        chosen = chosen.join(one, and_(one.c.case_id == instances.c.case_id, one.c.uid == instances.c.sop_instance_uid))
        found |= {row.case_id: row.what for row in connection.execute(chosen) if row.what}
    return found
