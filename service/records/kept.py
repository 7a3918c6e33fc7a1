"""What came in and is kept, series by series and instance by instance; what is set aside or discarded is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, or_, select, union

from service.records.database import Ledger
from service.records.schema import cases, instances, outputs
from service.records.states import State


@dataclass(frozen=True)
class KeptSeries:
    """A series that came in; `path` is one of its files, relative to the store, and the same one every time."""

    case_id: str
    study_uid: str
    series_uid: str
    patient_id: str
    state: State
    revision: int
    path: str


@dataclass(frozen=True)
class KeptInstance:
    """One instance of a series that came in; `path` relative to the store, `size` of the file in bytes."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size: int


DICOM: Final = "application/dicom"
"""The media type of a result that is a DICOM object."""

_KEPT = (instances.c.aside.is_(False), instances.c.path != "")


class Kept(Ledger):
    """Series and instances whose files are in the store."""

    def kept_series(self, study_uids: Sequence[str] | None = None) -> list[KeptSeries]:
        """Give the series of these studies, or of all, that have at least one file; newest first."""
        first = select(instances.c.path).where(instances.c.case_id == cases.c.id, *_KEPT).order_by(instances.c.id).limit(1)
        path = first.correlate(cases).scalar_subquery().label("path")
        columns = (cases.c.id, cases.c.study_uid, cases.c.series_uid, cases.c.patient_id, cases.c.state, cases.c.revision, path)
        chosen = select(*columns).order_by(cases.c.received_at.desc(), cases.c.id)
        if study_uids is not None:
            chosen = chosen.where(cases.c.study_uid.in_(list(study_uids)))
        with self._reading() as connection:
            rows = connection.execute(chosen).all()
        return [KeptSeries(*row[:4], State(row[4]), row[5], row[6]) for row in rows if row[6]]

    def studies_with(self, sop_instance_uids: Sequence[str]) -> list[str]:
        """Give the studies in which one of these instances may be: among what came in, or among the results."""
        came_in = instances.c.sop_instance_uid.in_(list(sop_instance_uids))
        went_out = or_(outputs.c.sop_instance_uid.in_(list(sop_instance_uids)), outputs.c.sop_instance_uid.is_(None))
        case_ids = union(
            select(instances.c.case_id).where(came_in), select(outputs.c.case_id).where(went_out, outputs.c.media_type == DICOM)
        )
        with self._reading() as connection:
            return list(connection.execute(select(cases.c.study_uid).where(cases.c.id.in_(case_ids)).distinct()).scalars())

    def kept_instances(self, case_id: str, sop_instance_uids: Sequence[str] | None = None) -> list[KeptInstance]:
        """Give the instances of a series, or those of these UIDs, by Instance Number, and in the order they came where they have none."""
        columns = (getattr(instances.c, name) for name in KeptInstance.__dataclass_fields__)
        number = instances.c.header["instance_number"].as_float()  # PostgreSQL fails at an integer of more than 32 bits
        chosen = select(*columns).where(instances.c.case_id == case_id, *_KEPT).order_by(number, instances.c.id)
        if sop_instance_uids is not None:
            chosen = chosen.where(instances.c.sop_instance_uid.in_(list(sop_instance_uids)))
        with self._reading() as connection:
            return [KeptInstance(*row) for row in connection.execute(chosen)]

    def count_kept(self, case_ids: Sequence[str]) -> dict[str, int]:
        """Count the files of each series."""
        chosen = select(instances.c.case_id, func.count()).where(instances.c.case_id.in_(list(case_ids)), *_KEPT)
        with self._reading() as connection:
            found = {case_id: int(count) for case_id, count in connection.execute(chosen.group_by(instances.c.case_id))}
        return dict.fromkeys(case_ids, 0) | found
