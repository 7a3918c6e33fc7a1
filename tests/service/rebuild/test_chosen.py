"""The study's result is the same after the case book was made anew, and what was never sent is not said to be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydicom.dataset import Dataset

from service.identity import correct_identity
from service.records import Actor, VerdictKind
from service.records.result_record import ResultRecord
from service.verdicts import judge
from tests.service.rebuild.conftest import Clinic
from tests.service.series import flair_series

FIRST: dict[str, Any] = {"study_uid": "1.3", "StudyDate": "20240101", "PatientID": "P"}
SECOND: dict[str, Any] = {"study_uid": "1.2", "StudyDate": "20240601", "PatientID": "P"}
THIN = {"MRAcquisitionType": "3D", "SliceThickness": "1"}


def thick(**changes: Any) -> list[Dataset]:
    return flair_series(14, **SECOND | changes)


def thin() -> list[Dataset]:
    return flair_series(14, **SECOND, **THIN)


def send_all(clinic: Clinic) -> None:
    for due in clinic.book.due_deliveries():
        assert clinic.book.claim_delivery(due.id, "s")
        clinic.book.delivered(due.id)


def told(clinic: Clinic) -> dict[str, Any]:
    """Of each series: is it its study's result, what was it compared with, and what was sent of it?"""
    found = clinic.book.find_cases(limit=50).items
    sent = {case.id: [(one.output, one.revision) for one in clinic.book.deliveries(case.id) if one.state == "sent"] for case in found}
    return {case.series_uid: (case.primary, case.likeness, case.likened_to, sent[case.id]) for case in found}


def rebuild(clinic: Clinic) -> dict[str, Any]:
    clinic.lose_book()
    clinic.rebuild(delivered=True)
    assert clinic.book.due_deliveries() == []
    return told(clinic)


def test_the_earlier_visit_of_an_identity_that_was_corrected_by_hand(clinic: Clinic) -> None:
    first = clinic.done(flair_series(13, **FIRST | {"PatientID": "WRONG"}))
    correct_identity(clinic.book, clinic.store, [first], {"PatientID": "P"}, "dr who", "mix-up", Actor("command", "root"))
    clinic.wait(40)
    clinic.work()
    for series in (thick(), thin()):
        clinic.done(series)
    send_all(clinic)
    before = told(clinic)
    assert sorted(one[:2] for one in before.values()) == [(False, 0), (True, 0), (True, 2)]
    after = rebuild(clinic)
    # the first visit's results of the wrong patient are not there any more: nothing says that they were sent
    assert {uid: one for uid, one in after.items() if uid != first.series_uid} == {
        uid: one for uid, one in before.items() if uid != first.series_uid
    }


def test_an_earlier_visit_that_came_after_the_delivery_by_a_version_that_knew_of_none(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ResultRecord.as_bytes
    monkeypatch.setattr(ResultRecord, "as_bytes", lambda self: whole(replace(self, likeness=None, likened_to=None)))
    for series in (thick(), thin()):
        clinic.done(series)
    send_all(clinic)
    clinic.done(flair_series(13, **FIRST))
    send_all(clinic)
    before = told(clinic)
    assert rebuild(clinic) == before
    clinic.done(thick(SeriesDescription="FLAIR again"))
    assert {uid: one[0] for uid, one in told(clinic).items() if uid in before} == {uid: one[0] for uid, one in before.items()}


def test_a_result_that_a_reader_accepted_before_a_better_one_came(clinic: Clinic) -> None:
    case = clinic.done(thick())
    send_all(clinic)
    judge(clinic.book, clinic.store, case.id, VerdictKind.ACCEPT, "dr who", "", None)
    clinic.done(thin())
    before = told(clinic)
    assert before[case.series_uid][0]
    assert rebuild(clinic) == before


def test_a_visit_that_came_while_a_series_waited_is_in_its_record(clinic: Clinic) -> None:
    like = thick()
    for number, series in enumerate((like, flair_series(13, **FIRST))):
        clinic.send(series, association=f"a{number}")
    clinic.wait(40)
    clinic.work()
    send_all(clinic)
    before = told(clinic)
    assert rebuild(clinic) == before
    clinic.done(thin())
    assert {uid: one for uid, one in told(clinic).items() if uid in before} == before
