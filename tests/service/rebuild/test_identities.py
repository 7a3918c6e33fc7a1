"""Whose series it is, said by hand, outlives the case book; so does that somebody said otherwise later."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from service.identity_file import KIND, SaidIdentity
from service.presence import Counts
from service.records import Book, State, utc_now
from service.retention import apply_plan, make_plan
from service.settings import Settings
from tests.service.key_objects import key_objects
from tests.service.rebuild.conftest import Clinic, empty
from tests.service.rebuild.correcting import RIGHT, correct, files, run_again, take_copies, whose
from tests.service.series import flair_series


def test_the_right_patient_comes_back_and_nothing_runs_again(clinic_on: Clinic) -> None:
    clinic = clinic_on
    series = flair_series(14)
    correct(clinic, clinic.done(series), PatientID="FIRST")
    correct(clinic, clinic.case_of(series))
    run_again(clinic)
    before, said = clinic.facts(), clinic.book.identity_corrections(clinic.case_of(series).id)
    assert clinic.case_of(series).revision == 2
    empty(clinic)
    tally = clinic.rebuild()
    assert (tally.counts["identities"], tally.counts["restored"], tally.is_sound) == (2, 1, True)
    assert tally.counts["orphans"] == 3, "the results of the wrong patient"
    assert clinic.facts() == before
    assert whose(clinic, series) == ("RIGHT 7", "Zhāng^Wěi")
    assert clinic.book.identity_corrections(clinic.case_of(series).id) == said
    assert clinic.book.due() == [], "nothing runs again"
    assert {one.revision for one in clinic.book.due_deliveries()} == {2}
    assert clinic.rebuild().counts["identities"] == 0, "said once"


def test_what_was_said_after_the_last_results_makes_the_next_and_those_are_not_sent(clinic: Clinic) -> None:
    series, never_done = flair_series(14), flair_series(14)
    correct(clinic, clinic.done(series))
    clinic.send(never_done[:9], association="a2")
    correct(clinic, clinic.case_of(never_done))
    clinic.lose_book()
    clinic.rebuild()
    case = clinic.case_of(series)
    assert (case.state, case.revision, case.patient_id) == (State.RECEIVING, 2, "RIGHT 7")
    assert clinic.book.due_deliveries() == [], "they name the wrong patient"
    assert whose(clinic, never_done) == ("RIGHT 7", "Zhāng^Wěi")
    run_again(clinic)
    assert (clinic.case_of(series).state, clinic.case_of(series).revision) == (State.DONE, 2)
    assert {(one.case_id, one.revision) for one in clinic.book.due_deliveries()} == {(case.id, 2)}


def test_what_the_sender_corrected_later_stays_the_last_word(clinic: Clinic) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    correct(clinic, case)
    run_again(clinic)
    for dataset in series:
        dataset.PatientID = "SENT"
    clinic.send(series)
    take_copies(clinic, case)
    run_again(clinic)
    before = clinic.facts()
    assert (clinic.case_of(series).revision, clinic.case_of(series).patient_id) == (3, "SENT")
    clinic.lose_book()
    assert clinic.rebuild().counts["identities"] == 1
    assert clinic.facts() == before
    assert clinic.book.corrected_identity(case.id) == {}
    assert len(clinic.book.identity_corrections(case.id)) == 1, "written down all the same"


def test_what_was_said_by_hand_after_the_sender_corrected_stays_the_last_word(clinic: Clinic) -> None:
    """Lost before the new revision was made: the sender's copies are compared once more, after the identity is said again."""
    series = flair_series(14)
    case = clinic.done(series)
    for dataset in series:
        dataset.PatientID, dataset.SeriesDescription = "SENT", "FLAIR corrected"
    clinic.send(series)
    take_copies(clinic, case)
    assert clinic.case_of(series).patient_id == "SENT"
    correct(clinic, case)
    clinic.lose_book()
    clinic.rebuild()
    assert take_copies(clinic, case) == 14
    assert whose(clinic, series) == ("RIGHT 7", "Zhāng^Wěi")
    run_again(clinic)
    done = clinic.case_of(series)
    assert (done.state, done.patient_id, done.series_description) == (State.DONE, "RIGHT 7", "FLAIR corrected")


def test_after_a_withdrawal_it_is_said_of_what_was_taken_and_of_nothing_that_came_later(clinic: Clinic) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    correct(clinic, case)
    clinic.send([key_objects(series)], association="n1")
    clinic.lose_book()
    clinic.rebuild()
    assert (clinic.case_of(series).state, clinic.case_of(series).patient_id) == (State.REJECTED, "RIGHT 7")
    later = flair_series(14, study_uid=series[0].StudyInstanceUID, SeriesInstanceUID=series[0].SeriesInstanceUID, PatientID="LATER")
    clinic.send(later, association="a3")
    assert whose(clinic, series) == ("LATER", "Test^Ünï")
    clinic.lose_book()
    clinic.rebuild()
    assert whose(clinic, series) == ("LATER", "Test^Ünï")


def test_it_is_on_the_disk_before_the_call_answers(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is file, file and folder synchronised, row: killed after any of them, a correction that was answered is there."""
    case = clinic.done(flair_series(14))
    steps: list[str] = []
    put, correct_row, fsync = clinic.store.put_output, Book.correct_identity, os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (fsync(descriptor), steps.append("fsync"))[0])
    monkeypatch.setattr(clinic.store, "put_output", lambda *said: (put(*said), steps.append("file"))[0])
    monkeypatch.setattr(Book, "correct_identity", lambda *said, **more: (steps.append("row"), correct_row(*said, **more))[1])
    correct(clinic, case)
    assert steps[:2] == ["fsync", "fsync"], "the file, and its name in the folder"
    assert steps[steps.index("file") :][:2] == ["file", "row"]


def test_files_that_are_none_are_told_and_change_nothing(clinic: Clinic) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    correct(clinic, case)
    run_again(clinic)
    (whole,) = files(clinic)
    bad = {
        "cut": whole.read_bytes()[:-9],
        "of a later version": json.dumps(json.loads(whole.read_bytes()) | {"form": 2}).encode(),
        "without a PatientID": json.dumps(json.loads(whole.read_bytes()) | {"after": {"PatientName": "X"}}).encode(),
        "without a zone": json.dumps(json.loads(whole.read_bytes()) | {"at": "2026-01-01T00:00:00"}).encode(),
        "a number for a name": whole.read_bytes().replace(b'"Zh\\u0101ng^W\\u011bi"', b"7"),
        "a NUL": whole.read_bytes().replace(b"mix-up", b"mix\\u0000up"),
        "no object": b"[]",
        "nothing": b"",
    }
    for data in bad.values():
        clinic.store.put_output(case.id, KIND, data)
    rotten = whole.with_name(f"{KIND}-{'0' * 64}")
    rotten.write_bytes(whole.read_bytes())
    before = clinic.facts()
    clinic.lose_book()
    tally = clinic.rebuild()
    names = {Path(path).name: why for path, why in tally.damaged.items()}
    assert names == {f"{KIND}-{hashlib.sha256(data).hexdigest()}": "damaged" for data in bad.values()} | {
        f"{KIND}-{hashlib.sha256(bad['of a later version']).hexdigest()}": "an identity of another version",
        rotten.name: "not what its name says",
    }
    assert clinic.facts() == before


def test_one_of_another_installation_is_of_no_series_here(clinic: Clinic) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    strange = SaidIdentity("9.9", "9.9.9", case.received_at, "b", "r", {}, RIGHT | {"IssuerOfPatientID": ""}, ("9.9.9.1",))
    clinic.store.put_output("f" * 32, KIND, strange.as_bytes())
    clinic.lose_book()
    tally = clinic.rebuild()
    assert (tally.counts["identities"], tally.counts["orphans"]) == (0, 1)
    assert clinic.case_of(series).patient_id == "P1"


def test_a_work_that_a_correction_overtook_is_not_taken_for_the_right_patients(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its results and record lie on the disk, its lease is lost: they were made before the correction was said."""
    series = flair_series(14)
    clinic.send(series)
    (case_id,) = clinic.submitted
    keep = clinic.store.put_output

    def put(case: str, kind: str, data: bytes) -> str:
        if kind == "record":
            correct(clinic, clinic.case_of(series))
        return keep(case, kind, data)

    monkeypatch.setattr(clinic.store, "put_output", put)
    with pytest.raises(Exception, match=case_id):
        clinic.work()
    monkeypatch.undo()
    clinic.submitted.clear()
    clinic.lose_book()
    clinic.rebuild()
    assert (clinic.case_of(series).state, clinic.case_of(series).revision, clinic.case_of(series).patient_id) == (
        State.RECEIVING,
        2,
        "RIGHT 7",
    )


def test_the_file_goes_with_its_case(clinic: Clinic) -> None:
    series = flair_series(14)
    correct(clinic, clinic.done(series))
    run_again(clinic)
    for delivery in clinic.book.due_deliveries():
        clinic.book.delivered(delivery.id)
    assert len(files(clinic)) == 1
    settings = Settings(data_dir=clinic.store.root, retention={"keep_days": 1})
    apply_plan(make_plan(settings, clinic.book, clinic.store, utc_now() + timedelta(days=2)), clinic.book, clinic.store, Counts())
    assert clinic.cases == []
    assert files(clinic) == []
    clinic.lose_book()
    assert clinic.rebuild().counts["identities"] == 0
