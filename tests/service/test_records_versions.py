"""Which of several versions of an instance is the series': the last word in whatever order they came, and another picture never."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from service.records import Book, Judged, State, Verdict, utc_now
from tests.service.casebook import START, instance, queue
from tests.service.resent import A, B, C, D, current, judge, rows, version


def test_the_last_sent_of_several_corrections_is_taken(book: Book) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    book.note_instances([version(digest=B, name="P/2")])
    book.note_instances([version(digest=C, name="P/3")])
    judge(book, case_id, Verdict.CORRECTED)
    assert current(book, case_id) == {C}
    assert rows(book, case_id) == {A: (True, "superseded"), B: (True, "superseded"), C: (False, None)}


def test_the_first_version_sent_again_is_the_last_sent(book: Book) -> None:
    case_id = book.note_instances([version(digest=A, name="P/1")])[0].case_id
    book.note_instances([version(digest=B, name="P/2")])
    judge(book, case_id, Verdict.CORRECTED, "PatientID")
    assert [one.outcome for one in book.note_instances([version(digest=A, name="P/1")])] == ["conflict"]
    judge(book, case_id, Verdict.CORRECTED, "PatientID")
    assert current(book, case_id) == {A}
    assert book.case(case_id).patient_id == "P/1"


def test_a_first_version_sent_again_before_the_comparison_stays(book: Book) -> None:
    case_id = queue(book, 1)
    (first,) = current(book, case_id)
    book.note_instances([version(digest=B, name="P/2")])
    book.note_instances([instance(1)])
    judge(book, case_id, Verdict.CORRECTED, "PatientID")
    assert current(book, case_id) == {first}
    assert book.case(case_id).state is State.QUEUED
    assert rows(book, case_id)[B] == (True, "superseded")


def test_a_clock_that_was_set_back_does_not_change_which_came_last(book: Book) -> None:
    late = utc_now() + timedelta(days=300)
    case_id = book.note_instances([version(digest=A, received_at=late)])[0].case_id
    book.note_instances([version(digest=B, name="P/2", received_at=START)])
    judge(book, case_id, Verdict.CORRECTED)
    assert current(book, case_id) == {B}


def test_of_each_uid_one_version_is_the_series_whatever_comes_in_which_order(book: Book) -> None:
    """Attributes by version: A and C say the same, B and D say the same; the last word is the series' in every order."""
    says = {A: "P/1", C: "P/1", B: "P/2", D: "P/2"}
    rng = random.Random(4)
    case_id = book.note_instances([version(digest=A)])[0].case_id
    for _ in range(30):
        digest = rng.choice([A, B, C, D])
        book.note_instances([version(digest=digest, name=says[digest])])
        if rng.random() < 0.5:
            continue
        while waiting := book.uncompared(case_id):
            word = {one.number: says[one.path.split("/")[-1][:64]] for one in waiting}
            same = {one.number: word[one.number] == says[one.kept_digest] for one in waiting}
            book.judge_resends(case_id, [Judged(one, Verdict.SAME if same[one.number] else Verdict.CORRECTED) for one in waiting])
        (kept,) = current(book, case_id)
        assert says[kept] == says[digest]
        assert book.case(case_id).patient_id == says[digest]
    assert book.case(case_id).instances == 1


def test_what_was_unreadable_is_looked_at_again_when_it_is_sent_again(book: Book) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    book.note_instances([version(digest=B)])
    judge(book, case_id, Verdict.UNREADABLE)
    book.note_instances([version(digest=B)])
    judge(book, case_id, Verdict.SAME)
    assert book.case(case_id).quality == ()


@pytest.mark.parametrize("verdict", [Verdict.OTHER_PIXELS, Verdict.OTHER_GEOMETRY])
def test_what_is_another_picture_is_not_compared_again(book: Book, verdict: Verdict) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    book.note_instances([version(digest=B)])
    judge(book, case_id, verdict)
    book.note_instances([version(digest=B)])
    assert book.uncompared(case_id) == []


def test_a_verdict_counts_once_and_only_against_what_it_was_found_against(book: Book) -> None:
    case_id = queue(book, 1)
    book.note_instances([version(digest=B, name="P/2")])
    found = [Judged(one, Verdict.CORRECTED, ("PatientID",)) for one in book.uncompared(case_id)]
    assert book.judge_resends(case_id, found) == 1
    book.queue_case(case_id, "flair", rank=(1,))
    assert book.judge_resends(case_id, found) == 0, "a second worker did the same"
    assert (book.case(case_id).state, book.case(case_id).revision) == (State.QUEUED, 2)

    book.note_instances([version(digest=C, name="P/3"), version(digest=D, name="P/4")])
    against_b = {one.path[-68:-4]: one for one in book.uncompared(case_id)}
    book.judge_resends(case_id, [Judged(against_b[C], Verdict.CORRECTED)])
    assert book.judge_resends(case_id, [Judged(against_b[D], Verdict.SAME)]) == 0, "B is not the series' any more"
    assert [one.kept_digest for one in book.uncompared(case_id)] == [C]


def test_a_verdict_that_stands_is_not_changed_by_one_that_comes_late(book: Book) -> None:
    case_id = book.note_instances([version(digest=A)])[0].case_id
    book.note_instances([version(digest=B)])
    found = book.uncompared(case_id)
    judge(book, case_id, Verdict.OTHER_PIXELS)
    assert book.judge_resends(case_id, [Judged(one, Verdict.CORRECTED) for one in found]) == 0
    assert rows(book, case_id) == {A: (False, None), B: (True, "other pixels")}


def test_swaps_of_many_instances_keep_one_of_each_in_the_series(book: Book) -> None:
    numbers: Sequence[int] = range(1, 41)
    case_id = book.note_instances([version(n, digest=f"{n:064x}") for n in numbers])[0].case_id
    for turn in itertools.count(1):
        book.note_instances([version(n, digest=f"{n + 100 * turn:064x}", name=f"P/{turn}") for n in numbers])
        judge(book, case_id, Verdict.CORRECTED, "PatientID")
        assert current(book, case_id) == {f"{n + 100 * turn:064x}" for n in numbers}
        if turn == 3:
            break
