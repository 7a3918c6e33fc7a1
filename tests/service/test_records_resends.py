"""Instances that came again with other bytes, in the case book: what follows for the case, its results and its flags."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from service.records import Book, Judged, LeaseLost, State, Verdict, utc_now
from tests.service.casebook import FINDINGS, SECRET, instance, output, queue, receive, run
from tests.service.resent import A, B, C, current, judge, rows, version


def test_other_bytes_wait_to_be_compared_with_the_one_in_the_series(book: Book) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    assert book.uncompared(case_id) == []
    (noted,) = book.note_instances([version(digest=B, path="instances/b.dcm")])
    assert noted.outcome == "conflict"
    (one,) = book.uncompared(case_id)
    assert (one.path, one.kept_path, one.kept_digest) == ("instances/b.dcm", f"instances/1.2.3/{A}.dcm", A)
    assert book.standing(case_id).uncompared


def test_what_is_the_same_changes_nothing_and_is_known_from_then_on(book: Book) -> None:
    case_id = queue(book, 1)
    run(book, case_id)
    before = book.case(case_id)
    book.note_instances([version(digest=B)])
    assert judge(book, case_id, Verdict.SAME) == 1
    after = book.case(case_id)
    assert replace(after, last_received_at=before.last_received_at) == before
    assert [one.outcome for one in book.note_instances([version(digest=B)])] == ["repeat"]
    assert not book.standing(case_id).uncompared


@pytest.mark.parametrize("way", ["done", "running", "queued", "failed"])
def test_a_correction_of_submitted_instances_makes_one_revision(book: Book, way: str) -> None:
    case_id = book.note_instances([version(n, digest=f"{n:064x}") for n in (1, 2, 3)])[0].case_id
    book.queue_case(case_id, "flair", rank=(1,))
    lease = book.claim(case_id, "w") if way != "queued" else None
    if lease and way == "done":
        book.finish(lease, outputs=[output()], findings=FINDINGS)
    while lease and way == "failed" and book.fail(lease, "boom") is not State.FAILED:
        lease = book.claim(case_id, "w")
    old_key = book.case(case_id).patient_key
    book.note_instances([version(n, digest=f"{n + 10:064x}", name="P/2") for n in (1, 2, 3)])
    assert judge(book, case_id, Verdict.CORRECTED, "PatientName", "PatientID") == 3
    case = book.case(case_id)
    assert (case.state, case.revision, case.instances, case.attempts) == (State.RECEIVING, 2, 3, 0)
    assert (case.patient_id, case.patient_issuer, case.series_description) == ("P/2", "HOSPITAL", "FLAIR P/2")
    assert case.patient_key != old_key
    assert current(book, case_id) == {f"{n + 10:064x}" for n in (1, 2, 3)}
    assert (case.history[-1].event, case.history[-1].reason) == ("correct", "corrected attributes: PatientID, PatientName")
    assert [line.event for line in case.history].count("correct") == 1
    if lease and way == "running":
        with pytest.raises(LeaseLost):
            book.finish(lease, outputs=[output()], findings=FINDINGS)


@pytest.mark.parametrize("way", ["receiving", "held", "rejected"])
def test_a_correction_of_what_was_not_submitted_is_judged_again_without_a_revision(book: Book, way: str) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    if way == "held":
        book.hold(case_id, "gap")
    if way == "rejected":
        book.refuse(case_id, "localizer")
    book.note_instances([version(digest=B, name="P/2")])
    judge(book, case_id, Verdict.CORRECTED, "PatientID")
    case = book.case(case_id)
    assert (case.state, case.revision, case.patient_id) == (State.RECEIVING, 1, "P/2")


@pytest.mark.parametrize(
    ("verdict", "flag"),
    [
        (Verdict.OTHER_PIXELS, "other-pixels: 2 instances came again with other pixels, the first were used"),
        (Verdict.OTHER_GEOMETRY, "other-geometry: 2 instances came again at another place, the first were used"),
        (Verdict.UNREADABLE, "unreadable-copy: 2 instances came again and could not be compared, the first were used"),
    ],
)
def test_what_is_kept_apart_is_a_flag_that_lasts(book: Book, verdict: Verdict, flag: str) -> None:
    case_id = queue(book, 3)
    run(book, case_id)
    book.note_instances([version(n, digest=f"{n + 10:064x}", name="P/2") for n in (1, 2)])
    before = book.case(case_id)
    judge(book, case_id, verdict)
    case = book.case(case_id)
    assert case.quality == (*before.quality, flag)
    assert (case.state, case.revision, case.patient_id) == (State.DONE, 1, "P/1")
    assert len(rows(book, case_id)) == 5, "kept"
    book.note_instances([instance(9)])
    assert book.queue_case(case_id, "flair", ("thick slices",), rank=(1,))
    run(book, case_id)
    assert book.case(case_id).quality == ("thick slices", flag, "after contrast")
    book.note_instances([version(3, digest=C)])
    judge(book, case_id, verdict)
    assert sum("came again" in one for one in book.case(case_id).quality) == 1


def test_a_flag_is_one_for_each_uid_however_many_versions_came(book: Book) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    book.note_instances([version(digest=B), version(digest=C)])
    judge(book, case_id, Verdict.OTHER_PIXELS)
    assert book.case(case_id).quality == ("other-pixels: 1 instance came again with other pixels, the first was used",)


def test_two_comparisons_a_finish_and_a_late_slice_at_once_make_one_revision_each(book_url: str) -> None:
    books = [Book(book_url, secret=SECRET) for _ in range(4)]
    try:
        for turn in range(5):
            series = f"1.9.{turn}"
            case_id = books[0].note_instances([version(n, digest=f"{n:064x}", series=series) for n in (1, 2)])[0].case_id
            books[0].queue_case(case_id, "flair", rank=(1,))
            lease = books[0].claim(case_id, "w")
            assert lease is not None
            books[0].note_instances([version(n, digest=f"{n + 10:064x}", series=series, name="P/2") for n in (1, 2)])
            found = [Judged(one, Verdict.CORRECTED, ("PatientID",)) for one in books[0].uncompared(case_id)]
            calls = [
                lambda book, found=found, case_id=case_id: book.judge_resends(case_id, found),
                lambda book, found=found, case_id=case_id: book.judge_resends(case_id, found),
                lambda book, lease=lease: book.finish(lease, outputs=[output()], findings=FINDINGS),
                lambda book, series=series: book.note_instances([version(3, digest=C, series=series)]),
            ]
            with ThreadPoolExecutor(4) as pool:
                done = [pool.submit(call, book) for call, book in zip(calls, books, strict=True)]
            assert sorted([done[0].result(), done[1].result()]) == [0, 2]
            assert done[2].exception() is None or isinstance(done[2].exception(), LeaseLost)
            case = books[0].case(case_id)
            assert case is not None
            assert (case.state, case.revision, case.instances, case.patient_id) == (State.RECEIVING, 2, 3, "P/2")
            assert [line.event for line in case.history].count("correct") == 1
            assert current(books[0], case_id) == {f"{11:064x}", f"{12:064x}", C}
            assert len(books[0].outputs(case_id)) == (done[2].exception() is None)
    finally:
        for book in books:
            book.close()


def test_verdicts_on_a_case_that_is_gone_are_nothing(book: Book) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    book.note_instances([version(digest=B)])
    found = [Judged(one, Verdict.CORRECTED) for one in book.uncompared(case_id)]
    assert book.judge_resends("nobody", found) == 0


def test_a_decision_made_before_a_correction_is_void(book: Book) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    standing = book.standing(case_id)
    book.note_instances([version(digest=B, name="P/2")])
    judge(book, case_id, Verdict.CORRECTED)
    assert book.hold(case_id, "more than one patient", seen=1, fence=standing.fence) is False
    assert book.queue_case(case_id, "flair", seen=1, fence=standing.fence) is False
    assert book.queue_case(case_id, "flair", seen=1, fence=book.standing(case_id).fence) is True


def test_what_was_not_delivered_of_the_old_revision_is_withheld(book: Book) -> None:
    case_id = queue(book, 1)
    run(book, case_id)
    assert book.due_deliveries()
    book.note_instances([version(digest=B, name="P/2")])
    judge(book, case_id, Verdict.CORRECTED)
    assert book.due_deliveries() == []


def test_the_sweep_finds_what_waits_once_it_has_been_quiet(book: Book) -> None:
    case_id = receive(book)
    assert book.cases_to_compare(0.0) == []
    book.note_instances([version(digest=B)])
    assert book.cases_to_compare(30.0) == []
    assert book.cases_to_compare(30.0, now=utc_now() + timedelta(seconds=31)) == [case_id]
    assert book.cases_to_compare(30.0, now=utc_now() - timedelta(days=1)) == [case_id], "the clock was set back"
    judge(book, case_id, Verdict.SAME)
    assert book.cases_to_compare(0.0, now=utc_now() + timedelta(seconds=31)) == []


def test_what_is_not_kept_is_not_compared(book: Book) -> None:
    case_id = book.note_instances([version(digest=A, path="")])[0].case_id
    book.note_instances([version(digest=B, path="")])
    assert book.uncompared(case_id) == []
    assert not book.standing(case_id).uncompared
    assert rows(book, case_id)[B] == (True, "discarded")


def test_the_sweeps_look_uses_the_index_of_what_waits(sqlite_book: Book) -> None:
    statements: list[str] = []
    from sqlalchemy import event

    event.listen(sqlite_book._engine, "before_cursor_execute", lambda *args: statements.append((args[2], args[3])))
    sqlite_book.cases_to_compare(1.0)
    sqlite_book.uncompared("x")
    asked = [one for one in statements if "FROM instances" in one[0]]
    with sqlite_book._reading() as connection:
        for statement, values in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            assert any("ix_instances_unjudged" in str(line) for line in plan), plan
