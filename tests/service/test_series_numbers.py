"""Series Numbers of results: nobody else's in the study, the same for the same input, kept for the case."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.records import Book, LeaseLost
from service.series_numbers import BLOCK, FIRST, choose_shift
from tests.service.casebook import FINDINGS, instance, output, queue, run

SHIFTS = st.integers(0, 9).map(lambda block: block * BLOCK)


@given(taken=st.sets(st.integers(FIRST - 30, FIRST + 90)), others=st.sets(SHIFTS), own=st.none() | SHIFTS)
def test_the_block_is_free_and_the_first_or_the_own(taken: set[int], others: set[int], own: int | None) -> None:
    def free(shift: int) -> bool:
        return shift not in others and not taken & set(range(FIRST + shift, FIRST + shift + BLOCK))

    shift = choose_shift(taken, others, own)
    assert shift >= 0
    assert shift % BLOCK == 0
    assert free(shift)
    if own is not None and free(own):
        assert shift == own
    else:
        assert not any(map(free, range(0, shift, BLOCK)))


def series(number: int | None, uid: str, **fields: object) -> dict[str, object]:
    header = {} if number is None else {"series_number": number}
    return {"series": uid, "header": header, **fields}


def test_numbers_move_on_where_the_study_uses_them(book: Book) -> None:
    book.note_instances([instance(1, **series(9112, "1.2.30"))])
    book.note_instances([instance(1, **series(9101, "1.2.31", path="", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34"))])
    book.note_instances([instance(1, **series(9123, "1.9.30", study="1.9"))])  # another study
    first, second = (queue(book, 2, **series(7, uid)) for uid in ("1.2.3", "1.2.4"))
    shifts = {}
    for case_id in (second, first):  # in the order they are worked on, whichever came first
        lease = book.claim(case_id, "w")
        assert lease is not None
        shifts[case_id] = book.number_series(lease)
        assert book.number_series(lease) == shifts[case_id], "the same again"
        book.put_back(lease, "again", 0)
    assert shifts == {second: 20, first: 30}
    case = book.case(first)
    assert case is not None
    assert case.series_shift == 30


def test_a_number_no_integer_holds_is_nobody_elses_trouble(book: Book) -> None:
    book.note_instances([instance(1, **series(202611281151, "1.2.30"))])  # an earlier version kept it
    book.note_instances([instance(1, **series(9101, "1.2.31"))])
    lease = book.claim(queue(book, 2, **series(None, "1.2.3")), "w")
    assert lease is not None
    assert book.number_series(lease) == 10


def test_our_own_results_that_come_back_move_nothing_on(book: Book) -> None:
    case_id = queue(book, 2, **series(None, "1.2.3"))
    lease = book.claim(case_id, "w")
    assert lease is not None
    assert book.number_series(lease) == 0
    book.finish(lease, outputs=[dataclasses.replace(output(), sop_instance_uid="1.2.99.1")], findings=FINDINGS)
    book.note_instances([instance(1, **series(9100, "1.2.99", path=""))])
    book.note_instances([instance(9, **series(None, "1.2.3"))])  # a late slice: another revision
    book.queue_case(case_id, "flair", rank=(1,))
    again = book.claim(case_id, "w")
    assert again is not None
    assert (again.revision, book.number_series(again)) == (2, 0)
    with pytest.raises(LeaseLost):
        book.number_series(lease)
    book.note_instances([instance(2, **series(9105, "1.2.77"))])
    assert book.number_series(again) == 10, "somebody else's"
    run(book, queue(book, 2, **series(None, "1.2.5")))
