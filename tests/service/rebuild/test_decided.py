"""What people decided or were told stands in a case book made anew; what they did not decide is not made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from service.records import Actor, AuditEvent, Judged, State, Verdict, VerdictKind, VerdictRefused
from service.verdicts import judge
from tests.service.rebuild.conftest import Clinic, empty
from tests.service.series import flair_series


def test_a_correction_that_nobody_looked_at_waits_again(clinic_on: Clinic) -> None:
    clinic = clinic_on
    case = clinic.done(flair_series(14))
    clinic.intake.corrections.take(case.id, b"a mask", "A", "a vessel")
    clinic.intake.corrections.take(case.id, b"another", "B", revision=1)
    before = clinic.book.pending_corrections(case.id)
    empty(clinic)
    tally = clinic.rebuild()
    again = clinic.book.pending_corrections(case.id)
    same = ("reader", "comment", "revision", "path", "digest", "seen", "model", "said", "state")
    assert [[getattr(one, name) for name in same] for one in again] == [[getattr(one, name) for name in same] for one in before]
    assert all(abs((one.at - was.at).total_seconds()) < 5 for one, was in zip(again, before, strict=True)), "when it was said"
    assert (tally.counts["verdicts"], tally.counts["orphans"], tally.is_sound) == (2, 0, True)
    assert clinic.book.due_corrections() == [case.id], "the sweep asks for a worker"
    assert clinic.rebuild().counts["verdicts"] == 0
    assert clinic.book.take_correction(again[0])
    clinic.submitted.append(case.id)
    clinic.work(corrected=True)
    empty(clinic)
    clinic.rebuild()
    assert [one.made for one in clinic.book.verdicts_of([case.id])[case.id]] == [2], "used once, by the record of what was made from it"
    assert clinic.book.pending_corrections(case.id) == []


def test_what_was_refused_when_it_was_said_is_not_taken_later(clinic: Clinic) -> None:
    series = flair_series(14)
    clinic.send(series)
    case_id = clinic.case_of(series).id
    with pytest.raises(VerdictRefused):
        judge(clinic.book, clinic.store, case_id, VerdictKind.REJECT, "A", "", None)
    with pytest.raises(VerdictRefused):
        clinic.intake.corrections.take(case_id, b"a mask", "A")
    clinic.work()
    clinic.lose_book()
    assert clinic.rebuild().counts["verdicts"] == 0
    assert clinic.book.verdicts_of([case_id])[case_id] == []


def test_a_mask_that_is_gone_is_no_correction(clinic: Clinic) -> None:
    case = clinic.done(flair_series(14))
    clinic.store.path_of(clinic.intake.corrections.take(case.id, b"a mask", "A").path or "").unlink()
    clinic.lose_book()
    assert clinic.rebuild().counts["verdicts"] == 0
    assert clinic.book.pending_corrections(case.id) == []


@pytest.mark.parametrize("compared", [False, True])
def test_other_pixels_stay_apart(clinic: Clinic, compared: bool) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    expected = clinic.book.instance_paths(case.id)
    other = Dataset()
    other.update(series[3])
    other.file_meta = series[3].file_meta
    other.PixelData = np.zeros((other.Rows, other.Columns), "<u2").tobytes()
    clinic.send([other])
    if compared:
        clinic.book.judge_resends(case.id, [Judged(one, Verdict.OTHER_PIXELS, ()) for one in clinic.book.uncompared(case.id)])
    clinic.lose_book()
    assert clinic.rebuild().counts["aside"] == 1
    assert clinic.book.instance_paths(case.id) == expected
    assert clinic.case_of(series).state is State.DONE
    assert len(clinic.book.uncompared(case.id)) == 1, "a worker compares it, and says so in the case"


def test_who_did_what_comes_back(clinic: Clinic) -> None:
    case = clinic.done(flair_series(14))
    clinic.book.audit(AuditEvent.EXPORT, "given over REST: report.pdf", Actor("token", "planning", "10.0.0.9"), case_id=case.id)
    clinic.book.write_audit()
    before = [replace(one, id=0) for one in clinic.book.audit_trail().items]
    assert {one.event for one in before} == {"Export", "DICOM Instances Transferred"}
    clinic.lose_book()
    assert clinic.rebuild().counts["audit"] == 2
    assert [replace(one, id=0) for one in clinic.book.audit_trail().items] == before
    assert clinic.rebuild().counts["audit"] == 0
