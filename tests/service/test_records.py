"""The case book's surface: what arrives, lists and counts, on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.records import (
    Book,
    State,
    StudyFacts,
    patient_key,
)
from service.records import work as work_module
from tests.service.casebook import SECRET, START, instance, queue, receive, run

MEANT = {"close": ["Audit", "Ledger"]}  # the last entries of the trail are written first


def test_no_part_of_the_book_hides_what_another_defines() -> None:
    owners: dict[str, list[str]] = {}
    for part in Book.__mro__[:-1]:
        for name in vars(part):
            if not name.startswith("__"):
                owners.setdefault(name, []).append(part.__name__)
    assert {name: parts for name, parts in owners.items() if len(parts) > 1} == MEANT


def test_a_series_becomes_one_case_in_receiving(book: Book) -> None:
    noted = book.note_instances([instance(n) for n in (1, 2, 3)])
    assert [one.outcome for one in noted] == ["new"] * 3
    assert len({one.case_id for one in noted}) == 1
    case = book.case(noted[0].case_id)
    assert case is not None
    assert (case.state, case.revision, case.instances, case.attempts) == (State.RECEIVING, 1, 3, 0)
    assert (case.patient_id, case.study_uid, case.series_uid) == ("P/1", "1.2", "1.2.3")
    assert case.received_at == START
    assert [(line.event, line.previous, line.state) for line in case.history] == [("receive", None, State.RECEIVING)]


def test_repeats_change_nothing_and_other_bytes_are_kept_aside(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    before = book.case(case_id)
    noted = book.note_instances([instance(1), instance(2), instance(2, digest="x"), instance(2, digest="x")])
    assert [one.outcome for one in noted] == ["repeat", "repeat", "conflict", "conflict"]
    assert {one.state for one in noted} == {State.DONE}
    assert book.case(case_id) == before
    assert len(book.headers(case_id)) == 3
    assert "instances/1.2.3/x.dcm" not in book.instance_paths(case_id)


def test_series_of_the_same_uid_in_two_studies_are_two_cases(book: Book) -> None:
    first, second = book.note_instances([instance(1, study="1"), instance(1, study="2")])
    assert first.case_id != second.case_id
    assert len(book.find_cases(series_uid="1.2.3").items) == 2


def test_headers_come_back_as_they_went_in(book: Book) -> None:
    rows = [instance(n, header={"name": "é≥", "position": [1.5, None], "n": n}) for n in (2, 1, 3)]
    case_id = book.note_instances(rows)[0].case_id
    assert book.headers(case_id) == rows
    assert book.instance_paths(case_id) == [f"instances/1.2.3/{n}.dcm" for n in (1, 2, 3)]


def test_a_class_nobody_wants_has_a_row_but_no_file(book: Book) -> None:
    case_id = book.note_instances([instance(1), instance(2, path="", size=0)])[0].case_id
    assert len(book.headers(case_id)) == 2
    assert book.instance_paths(case_id) == ["instances/1.2.3/1.dcm"]


def test_text_no_database_takes_does_not_stop_a_series(book: Book) -> None:
    row = instance(
        1, patient_id="a\x00b", patient_issuer="\udc80", series_description="FL\x00AIR", source="S\x00", header={"x": "\x00\udc80"}
    )
    case_id = book.note_instances([row])[0].case_id
    case = book.case(case_id)
    assert case is not None
    assert (case.patient_id, case.series_description) == ("ab", "FLAIR")
    assert book.headers(case_id)[0].header == {"x": "\x00\udc80"}
    book.refuse(case_id, "no \x00 brain")
    assert "no  brain" in str(book.case(case_id))


def test_receiving_tells_when_the_last_instance_came(book: Book) -> None:
    receive(book, 1)
    later = START + timedelta(seconds=7)
    book.note_instances([instance(2, received_at=later)])
    assert (book.receiving()[0].last_received_at, book.receiving()[0].instances) == (later, 2)
    again = later + timedelta(seconds=7)
    book.note_instances([instance(2, received_at=again)])
    assert (book.receiving()[0].last_received_at, book.receiving()[0].instances) == (again, 2)


def test_a_decision_made_on_fewer_instances_is_not_taken(book: Book) -> None:
    case_id = receive(book, 3)
    assert not book.queue_case(case_id, "flair", seen=2)
    assert not book.hold(case_id, "gap", seen=2)
    assert not book.refuse(case_id, "T1", "not-flair", seen=2)
    assert book.case(case_id).state is State.RECEIVING  # type: ignore[union-attr]
    assert book.refuse(case_id, "T1", "not-flair", seen=3)
    case = book.case(case_id)
    assert (case.state, case.reason, case.rule, case.primary) == (State.REJECTED, "T1", "not-flair", False)  # type: ignore[union-attr]


def test_lists_are_newest_first_and_stable_while_cases_arrive(book: Book) -> None:
    made = [receive(book, 1, series=f"1.{n}", received_at=START + timedelta(seconds=n // 2)) for n in range(7)]
    first = book.find_cases(limit=3)
    receive(book, 1, series="8", received_at=START + timedelta(seconds=60))
    second = book.find_cases(limit=3, cursor=first.next)
    third = book.find_cases(limit=3, cursor=second.next)
    seen = [case.id for page in (first, second, third) for case in page.items]
    assert sorted(seen) == sorted(made)
    assert [case.received_at for page in (first, second, third) for case in page.items] == sorted(
        (START + timedelta(seconds=n // 2) for n in range(7)), reverse=True
    )
    assert third.next is None
    assert book.find_cases(limit=8).next is None


def test_lists_are_filtered(book: Book) -> None:
    done = queue(book)
    run(book, done)
    receive(book, series="2", study="2", patient_id="other")
    assert [case.id for case in book.find_cases(state="done").items] == [done]
    assert [case.id for case in book.find_cases(patient_id="P/1", series_uid="1.2.3", study_uid="1.2").items] == [done]
    assert book.find_cases(patient_id="nobody").items == ()
    assert len(book.find_cases(patient_key=patient_key(SECRET, "P/1", "HOSPITAL")).items) == 1
    with pytest.raises(ValueError, match="sleeping"):
        book.find_cases(state="sleeping")


@pytest.mark.parametrize("cursor", ["", "x", "é", "bnVsbA", "W10", "WzEsIDJd", "e30", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwgImEiXQ", "a" * 5000])
def test_a_bad_cursor_is_a_value_error(sqlite_book: Book, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        sqlite_book.find_cases(cursor=cursor)


def test_counts_for_the_metrics(book: Book) -> None:
    run(book, queue(book))
    queue(book, series="2", study="2")
    counts = book.count_cases()
    assert (counts[State.DONE], counts[State.QUEUED], counts[State.FAILED]) == (1, 1, 0)
    assert book.count_deliveries()["pending"] == 1
    assert book.oldest_queued_at() is not None
    book.ping()


def test_one_of_many_has_the_turn(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    assert book.take_turn("sweep", "a", 15)
    assert not book.take_turn("sweep", "b", 15)
    assert book.take_turn("sweep", "a", 15)
    later = datetime.now(UTC) + timedelta(seconds=16)
    monkeypatch.setattr(work_module, "utc_now", lambda: later)
    assert book.take_turn("sweep", "b", 15)
    assert not book.take_turn("sweep", "a", 15)


def test_patient_keys_are_stable_opaque_and_apart() -> None:
    key = patient_key(SECRET, "P/1", "HOSPITAL")
    assert key == patient_key(SECRET, " P/1 ", "HOSPITAL", "any study")
    assert len(key) == 32
    assert "P/1" not in key
    others = {patient_key(SECRET, *one) for one in (("P/1",), ("P/1HOSPITAL",), ("HOSPITAL", "P/1"), ("", "HOSPITAL"))}
    assert len({key, *others}) == 5
    assert patient_key(SECRET, "", "", "1.2") != patient_key(SECRET, " ", "", "1.3")
    assert patient_key(bytes(32), "P/1", "HOSPITAL") != key, "whoever has not the secret cannot try PatientIDs"


def test_what_a_series_says_of_its_study_is_read_of_one_of_its_instances(book: Book) -> None:
    said = receive(book, header={"studied_at": "20260301101500", "accession_number": "A-1"})
    silent = receive(book, study="1.3", series="1.3.1")
    assert book.studies_of([said, silent, "nobody"]) == {said: StudyFacts("20260301", "A-1"), silent: StudyFacts(), "nobody": StudyFacts()}
