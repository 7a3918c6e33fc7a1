"""Of two FLAIR series in a study the one acquired like the earlier visit is primary, whichever study came first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from service.headers import Frame, Header
from service.headers.acquisition import likeness
from service.records import Book
from service.records import patients as patients_module
from service.records.moves import lock_studies
from service.records.schema import unsettled
from tests.service.casebook import queue, run
from tests.service.house import House
from tests.service.series import flair_series

AXIAL, SAGITTAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
THICK = Header(
    *("1.2.840.10008.5.1.4.1.1.4", "1", "1", "1", "1.2.840.10008.1.2.1"),
    protocol_name="BRAIN ROUTINE",
    series_description="AX FLAIR",
    sequence_name="*tir2d1",
    acquisition_type="2D",
    slice_thickness_mm=5.0,
    frames=(Frame(orientation_lps=AXIAL, spacing_mm=(0.5, 0.5)),),
)
THIN = replace(
    THICK,
    series_description="SAG FLAIR 3D",
    sequence_name="*spcir",
    acquisition_type="3D",
    slice_thickness_mm=1.0,
    frames=(Frame(orientation_lps=SAGITTAL, spacing_mm=(1.0, 1.0)),),
)
FIRST, SECOND, THIRD = "20240101090000", "20240601090000", "20241201090000"


def flair(book: Book, series: str, header: Header, *, study: str, at: str, done: bool = True, **fields: str) -> str:
    """Queue a series with a header, ranked as admission does (3D first), and work on it."""
    told = replace(header, studied_at=at).as_json()
    case_id = queue(book, series=series, study=study, rank=(int(header.acquisition_type == "3D"),), header=told, **fields)
    if done:
        run(book, case_id, kinds=("segmentation",))
    return case_id


def primaries(book: Book) -> dict[str, str]:
    """The series of each study's primary."""
    return {case.study_uid: case.series_uid for case in book.find_cases(limit=500).items if case.primary}


def deliveries(book: Book) -> dict[str, str]:
    found = book.deliveries_of([case.id for case in book.find_cases(limit=500).items])
    series = {case.id: case.series_uid for case in book.find_cases(limit=500).items}
    return {series[case_id]: one.state.value for case_id, these in found.items() for one in these}


def send_all(book: Book) -> list[str]:
    """Deliver what is due, and tell of which cases."""
    sent = []
    for due in book.due_deliveries():
        assert book.claim_delivery(due.id, "s")
        book.delivered(due.id)
        sent.append(due.case_id)
    return sent


@pytest.mark.parametrize(
    ("other", "like"),
    [
        ({}, 4),
        ({"protocol_name": "Brain-Routine ", "series_description": "T2 FLAIR axial"}, 3),
        ({"protocol_name": "", "sequence_name": ""}, 2),
        ({"slice_thickness_mm": 5.5}, 4),
        ({"slice_thickness_mm": 3.0}, 0),
        ({"slice_thickness_mm": None}, 0),
        ({"acquisition_type": "3D"}, 0),
        ({"contrast_agent": "Gadovist"}, 0),
        ({"image_type": ("DERIVED", "PRIMARY", "MPR")}, 0),
        ({"frames": (Frame(orientation_lps=SAGITTAL, spacing_mm=(0.5, 0.5)),)}, 0),
        ({"frames": (Frame(orientation_lps=AXIAL, spacing_mm=(0.9, 0.9)),)}, 0),
        ({"frames": ()}, 0),
        ({"repetition_time_ms": 8000.0, "manufacturer": "another"}, 4),
    ],
)
def test_what_makes_two_acquisitions_alike(other: dict[str, object], like: int) -> None:
    changed = replace(THICK, **other)  # type: ignore[arg-type]
    assert likeness(THICK, changed) == likeness(changed, THICK) == like


def test_in_whatever_order_the_studies_come_the_protocol_of_the_earlier_visit_is_preferred(sqlite_book: Book) -> None:
    series = {
        "1.1": (THICK, "1", FIRST),
        "2.1": (THIN, "2", SECOND),
        "2.2": (THICK, "2", SECOND),
        "3.1": (THIN, "3", THIRD),
        "3.2": (THICK, "3", THIRD),
    }
    for number, order in enumerate(list(permutations(series))[::13]):
        for name in order:
            header, study, at = series[name]
            mine = {"patient_id": f"P{number}"}
            flair(sqlite_book, f"{number}.{name}", header, study=f"{number}.{study}", at=at, done=False, **mine)
        sqlite_book.settle_patients()
        assert primaries(sqlite_book).items() >= {
            (f"{number}.{study}", f"{number}.{study}.{2 if study > '1' else 1}") for study in "123"
        }, order


def test_it_is_chosen_at_once_where_the_earlier_visit_is_there_and_nothing_else_is_delivered(book: Book) -> None:
    flair(book, "1", THICK, study="1", at=FIRST)
    flair(book, "2", THICK, study="2", at=SECOND)
    flair(book, "3", THIN, study="2", at=SECOND)
    flair(book, "4", THIN, study="4", at=SECOND, patient_id="another")
    flair(book, "5", THICK, study="4", at=SECOND, patient_id="another")
    flair(book, "6", THIN, study="6", at="")
    flair(book, "7", THICK, study="6", at="")
    assert primaries(book) == {"1": "1", "2": "2", "4": "4", "6": "6"}, "another patient, and a study without a date, have no earlier visit"
    assert deliveries(book) == {"1": "pending", "2": "pending", "4": "pending", "6": "pending"}


def test_an_earlier_visit_that_comes_late_gives_the_place_away_once_and_sends_nothing_twice(book: Book) -> None:
    thin, thick = flair(book, "3", THIN, study="2", at=SECOND), flair(book, "2", THICK, study="2", at=SECOND)
    later = flair(book, "4", THIN, study="3", at=THIRD), flair(book, "5", THICK, study="3", at=THIRD)
    assert send_all(book) == [thin, later[0]]
    first = flair(book, "1", THICK, study="1", at=FIRST)
    assert primaries(book)["2"] == "3", "another study is not touched in the same transaction"
    book.settle_patients()
    assert primaries(book) == {"1": "1", "2": "2", "3": "5"}, "and what hangs on the second hangs on the first"
    assert sorted(send_all(book)) == sorted([first, thick, later[1]])
    assert book.settle_patients() == 0
    assert send_all(book) == []
    assert set(deliveries(book).values()) == {"sent"}


def test_an_identity_corrected_by_hand_takes_the_visit_to_the_other_patient(book: Book) -> None:
    first = flair(book, "1", THICK, study="1", at=FIRST, patient_id="A")
    for patient in "AB":
        flair(book, f"{patient}3", THIN, study=patient, at=SECOND, patient_id=patient)
        flair(book, f"{patient}2", THICK, study=patient, at=SECOND, patient_id=patient)
    assert primaries(book) == {"1": "1", "A": "A2", "B": "B3"}
    before, after = ({"PatientID": one, "IssuerOfPatientID": "HOSPITAL"} for one in "AB")
    book.correct_identity(first, before, after, by="dr who", reason="mix-up")
    book.settle_patients()
    assert primaries(book) == {"1": "1", "A": "A3", "B": "B2"}


def test_a_visit_that_a_note_withdraws_is_none(book: Book) -> None:
    flair(book, "1", THICK, study="1", at=FIRST)
    flair(book, "3", THIN, study="2", at=SECOND)
    flair(book, "2", THICK, study="2", at=SECOND)
    assert primaries(book)["2"] == "2"
    book.reject_instances("1.9.9", "113037", "Rejected for Patient Safety Reasons", [("1", "1", f"1.{one}") for one in (1, 2, 3)])
    book.settle_patients()
    assert primaries(book) == {"2": "3"}


def test_a_mark_that_is_written_meanwhile_is_not_lost(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    flair(book, "3", THIN, study="2", at=SECOND)
    flair(book, "2", THICK, study="2", at=SECOND)

    def mark(connection: Connection, studies: Iterable[str]) -> list[dict[str, Any]]:
        connection.execute(insert(unsettled).values(patient_key=book.find_cases().items[0].patient_key))
        return lock_studies(connection, studies)

    monkeypatch.setattr(patients_module, "lock_studies", mark)
    assert [book.settle_patients() for _ in range(2)] == [1, 1]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data", minimum_free_mb=0)
    yield made
    made.book.close()


def test_the_sweep_settles_what_real_headers_tell(house: House) -> None:
    thin = {"MRAcquisitionType": "3D", "SliceThickness": "1"}
    sent = (("2", "2024.06.01", "1030", thin), ("2", "20240601", "1030", {}), ("1", "20240601", "08:15:00.12", {}))
    for number, (name, date, time, changes) in enumerate(sent):
        series = flair_series(14 if name == "2" else 13, study_uid=f"1.2.{name}", StudyDate=date, StudyTime=time, **changes)
        house.send(series, f"a{number}")
    house.wait(6)
    chosen = {case.study_uid: case for case in house.cases if case.primary}
    (header, *_) = [row.header for row in house.book.headers(chosen["1.2.2"].id)]
    assert (header["acquisition_type"], header["studied_at"]) == ("2D", "20240601103000")
    assert chosen["1.2.1"].instances == 13
