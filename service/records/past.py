"""What stands no more: results that another revision replaced or a reader rejected, and instances that a rejection note took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import select

from service.records.database import Ledger
from service.records.kept import DICOM
from service.records.notes import NO_NOTE_OUTPUT
from service.records.primary import rejecting
from service.records.rows import Verdict
from service.records.schema import cases, instances, outputs, reader_verdicts
from service.records.states import State


@dataclass(frozen=True)
class AnyResult:
    """
    A DICOM result of a case, of whatever revision.

    Attributes
    ----------
    state, current_revision, reason : of the case now
    revision, kind, path : of the result
    is_rejected : a reader has rejected its revision
    """

    case_id: str
    state: State
    current_revision: int
    reason: str | None
    revision: int
    kind: str
    path: str
    is_rejected: bool

    @property
    def stands(self) -> bool:
        """Tell whether it is offered."""
        return self.state is State.DONE and self.revision == self.current_revision and not self.is_rejected


class Past(Ledger):
    """For those who ask for what was withdrawn."""

    def every_result(self, study_uid: str) -> list[AnyResult]:
        """Give the DICOM results of a study, the newest first; rejection notes for destinations are none."""
        of_case = (cases.c.id, cases.c.state, cases.c.revision, cases.c.reason)
        of_result = (outputs.c.revision, outputs.c.kind, outputs.c.path, rejecting(outputs.c.case_id, outputs.c.revision))
        chosen = select(*of_case, *of_result).join(outputs, outputs.c.case_id == cases.c.id)
        chosen = chosen.where(cases.c.study_uid == study_uid, outputs.c.media_type == DICOM, NO_NOTE_OUTPUT).order_by(outputs.c.id.desc())
        names = [field.name for field in fields(AnyResult)]
        with self._reading() as connection:
            found = [dict(zip(names, row, strict=True)) for row in connection.execute(chosen)]
        return [AnyResult(**{**one, "state": State(one["state"]), "is_rejected": bool(one["is_rejected"])}) for one in found]

    def rejected_revisions(self, case_ids: Sequence[str]) -> set[tuple[str, int]]:
        """Give (case, revision) of what readers have rejected of these cases."""
        named = (reader_verdicts.c.case_id, reader_verdicts.c.revision)
        mine = (reader_verdicts.c.case_id.in_(list(case_ids)), reader_verdicts.c.kind == "reject")
        with self._reading() as connection:
            return {(row.case_id, row.revision) for row in connection.execute(select(*named).where(*mine))}

    def was_withdrawn(self, study_uid: str, series_uid: str | None = None, sop_instance_uid: str | None = None) -> bool:
        """Tell whether a rejection note took something of a study, of a series, or an instance."""
        chosen = select(instances.c.id).join(cases, cases.c.id == instances.c.case_id)
        chosen = chosen.where(cases.c.study_uid == study_uid, instances.c.verdict == Verdict.REJECTED.value)
        for column, uid in ((cases.c.series_uid, series_uid), (instances.c.sop_instance_uid, sop_instance_uid)):
            chosen = chosen if uid is None else chosen.where(column == uid)
        with self._reading() as connection:
            return connection.execute(chosen.limit(1)).first() is not None
