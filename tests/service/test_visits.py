"""Of two FLAIR series in a study the one acquired like the earlier visit is primary, until something of it is delivered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from service.headers import Frame, Header
from service.headers.acquisition import likeness
from service.records import Book, Correction, VerdictKind, utc_now
from service.records.removal import Cutoff
from tests.service.casebook import instance, queue, run
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


def flair(
    book: Book, series: str, header: Header, *, study: str, at: str, done: bool = True, rank: tuple[int, ...] = (), **fields: str
) -> str:
    """Queue a series with a header, ranked as admission does (3D first), and work on it."""
    told = replace(header, studied_at=at).as_json()
    ranked = rank or (int(header.acquisition_type == "3D"),)
    case_id = queue(book, series=series, study=study, rank=ranked, header=told, **fields)
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
        queued = {}
        for name in order:
            header, study, at = series[name]
            mine = {"patient_id": f"P{number}"}
            queued[name] = flair(sqlite_book, f"{number}.{name}", header, study=f"{number}.{study}", at=at, done=False, **mine)
        for _, case_id in sorted(queued.items()):
            run(sqlite_book, case_id, kinds=("segmentation",))
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


def changes(book: Book) -> list[str]:
    """What the histories say of primaries that changed."""
    lines = [line for found in book.find_cases(limit=500).items if (case := book.case(found.id)) for line in case.history]
    return sorted(str(line.reason) for line in lines if line.event == "choose")


def two_visits(book: Book) -> tuple[str, str]:
    """The first visit, and the series of the second that is like it and was delivered; there is another, 3D."""
    first = flair(book, "1", THICK, study="1", at=FIRST)
    like = flair(book, "2", THICK, study="2", at=SECOND)
    flair(book, "3", THIN, study="2", at=SECOND)
    assert send_all(book) == [first, like]
    return first, like


def test_an_earlier_visit_that_comes_late_changes_nothing_that_was_delivered(book: Book) -> None:
    thin, thick = flair(book, "3", THIN, study="2", at=SECOND), flair(book, "2", THICK, study="2", at=SECOND)
    assert send_all(book) == [thin]
    first = flair(book, "1", THICK, study="1", at=FIRST)
    flair(book, "9", THICK, study="2", at=SECOND)
    book.judge(thin, VerdictKind.REJECT, "dr who")
    last = flair(book, "5", THIN, study="3", at=THIRD), flair(book, "4", THICK, study="3", at=THIRD)
    assert primaries(book) == {"1": "1", "2": "3", "3": "5"}, "the third is compared with the second"
    assert send_all(book) == [first, last[0]]
    assert book.deliveries(thick) == []
    assert changes(book) == []


@pytest.mark.parametrize("judged", [False, True])
def test_what_is_just_being_sent_or_was_judged_keeps_its_place(sqlite_book: Book, judged: bool) -> None:
    case_id = flair(sqlite_book, "3", THIN, study="2", at=SECOND)
    (due,) = sqlite_book.due_deliveries()
    if judged:
        sqlite_book.judge(case_id, VerdictKind.REJECT, "dr who")
    else:
        assert sqlite_book.claim_delivery(due.id, "s")
    flair(sqlite_book, "1", THICK, study="1", at=FIRST)
    flair(sqlite_book, "2", THICK, study="2", at=SECOND)
    assert primaries(sqlite_book) == {"1": "1", "2": "3"}


def test_an_earlier_visit_that_comes_before_anything_is_delivered_counts(book: Book) -> None:
    flair(book, "3", THIN, study="2", at=SECOND)
    flair(book, "1", THICK, study="1", at=FIRST)
    flair(book, "2", THICK, study="2", at=SECOND)
    assert primaries(book) == {"1": "1", "2": "2"}
    assert deliveries(book) == {"1": "pending", "2": "pending", "3": "withheld"}
    assert changes(book) == [
        "series 2 is the study's result",
        "the study's result in place of series 3, acquired more like the earlier visit",
    ]


def test_an_earlier_visit_that_the_retention_took_changes_nothing_that_was_delivered(book: Book) -> None:
    first, like = two_visits(book)
    later = utc_now() + timedelta(days=400)
    assert [one.case_id for one in book.remove("1", [first], Cutoff(later, later, later))] == [first]
    flair(book, "5", THIN, study="3", at=THIRD, done=False)
    book.judge(like, VerdictKind.ACCEPT, "dr who")
    flair(book, "6", THIN, study="2", at=SECOND)
    assert primaries(book)["2"] == "2"
    assert send_all(book) == []
    assert changes(book) == []


def test_a_better_series_takes_the_place_after_delivery_where_it_is_as_much_like_the_earlier_visit(book: Book) -> None:
    two_visits(book)
    flair(book, "7", THIN, study="2", at=SECOND, rank=(9,))
    assert primaries(book)["2"] == "2"
    better = flair(book, "8", THICK, study="2", at=SECOND, rank=(1,))
    assert primaries(book)["2"] == "8"
    assert send_all(book) == [better]
    assert changes(book) == ["series 8 is the study's result", "the study's result in place of series 2, better in itself"]


@pytest.mark.parametrize("corrected", [False, True])
def test_what_a_reader_accepted_or_corrected_gives_way_to_a_rejection_only(book: Book, corrected: bool) -> None:
    mine, other = flair(book, "3", THICK, study="2", at=SECOND), flair(book, "2", THIN, study="2", at=SECOND, done=False)
    assert primaries(book) == {"2": "2"}
    run(book, other, kinds=("segmentation",))
    if corrected:
        assert book.take_correction(book.note_correction(mine, "dr who", Correction("outputs/x/correction-1", "1" * 64)))
        assert primaries(book) == {"2": "3"}
        run(book, mine, kinds=("segmentation",))
    else:
        book.judge(mine, VerdictKind.ACCEPT, "dr who")
    assert primaries(book) == {"2": "3"}
    flair(book, "1", THIN, study="1", at=FIRST)
    flair(book, "4", THIN, study="2", at=SECOND, rank=(9,))
    assert primaries(book)["2"] == "3"
    if corrected:
        book.note_instances([instance(4, series="3", study="2")])
        assert book.queue_case(mine, "flair", rank=(0,))
        run(book, mine, kinds=("segmentation",))
        assert primaries(book)["2"] == "3", "the next results are made from the correction too"
    assert {one.revision for one in book.due_deliveries(case_id=mine)} == {3 if corrected else 1}
    book.judge(mine, VerdictKind.REJECT, "dr who")
    assert primaries(book)["2"] == "4"
    assert "the study's result in place of series 2, by a reader's word" in changes(book)


def test_an_identity_corrected_by_hand_takes_the_visit_to_the_other_patient(book: Book) -> None:
    first = flair(book, "1", THICK, study="1", at=FIRST, patient_id="A")
    waiting = []
    for patient in "AB":
        flair(book, f"{patient}3", THIN, study=patient, at=SECOND, patient_id=patient)
        waiting.append(flair(book, f"{patient}2", THICK, study=patient, at=SECOND, patient_id=patient, done=False))
    assert primaries(book) == {"1": "1", "A": "A2", "B": "B3"}
    before, after = ({"PatientID": one, "IssuerOfPatientID": "HOSPITAL"} for one in "AB")
    book.correct_identity(first, before, after, by="dr who", reason="mix-up")
    for case_id in waiting:
        run(book, case_id, kinds=("segmentation",))
    assert primaries(book) == {"1": "1", "A": "A3", "B": "B2"}


def test_a_visit_that_a_note_withdraws_is_none(book: Book) -> None:
    flair(book, "1", THICK, study="1", at=FIRST)
    waiting = flair(book, "3", THIN, study="2", at=SECOND, done=False)
    flair(book, "2", THICK, study="2", at=SECOND)
    assert primaries(book)["2"] == "2"
    book.reject_instances("1.9.9", "113037", "Rejected for Patient Safety Reasons", [("1", "1", f"1.{one}") for one in (1, 2, 3)])
    run(book, waiting, kinds=("segmentation",))
    assert primaries(book) == {"2": "3"}


def test_a_patient_with_many_studies_costs_no_more_than_one_with_few(sqlite_book: Book) -> None:
    """A PatientID that a hundred patients share (ANON, UNKNOWN): each study reads one other, by the index, and writes none."""
    said: list[tuple[str, Any]] = []
    event.listen(sqlite_book._engine, "before_cursor_execute", lambda _, __, statement, values, *___: said.append((statement, values)))
    counts = []
    for number in range(40):
        at = f"2024{1 + number // 20:02}{1 + number % 20:02}090000"
        flair(sqlite_book, f"{number}.1", THICK, study=str(number), at=at, done=False)
        said.clear()
        flair(sqlite_book, f"{number}.2", THIN, study=str(number), at=at)
        counts.append(len(said))
    assert len(set(counts[1:])) == 1
    earlier, values = next(one for one in said if "ORDER BY cases.studied_at DESC" in one[0])
    with sqlite_book._reading() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {earlier}", values)]
    assert plan[0].startswith("SEARCH cases USING INDEX ix_cases_patient_key_studied_at (patient_key=? AND studied_at>? AND studied_at<?)")


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
