"""Verdicts of readers: which are taken, what they do to deliveries, and which correction the next results are made from."""

from __future__ import annotations

import pytest

from service.records import Book, Correction, DeliveryState, State, UnknownCase, VerdictKind, VerdictRefused, VerdictState
from service.records.removal import Cutoff
from tests.service.casebook import instance, queue, run

ACCEPT, REJECT = VerdictKind.ACCEPT, VerdictKind.REJECT
MASK = Correction("outputs/x/correction-1", "1" * 64)
OTHER = Correction("outputs/x/correction-2", "2" * 64)


def finished(book: Book, **fields: object) -> str:
    case_id = queue(book, **fields)  # type: ignore[arg-type]
    run(book, case_id)
    return case_id


def states(book: Book, case_id: str, revision: int = 1) -> set[DeliveryState]:
    return {one.state for one in book.deliveries(case_id) if one.revision == revision}


def corrected(book: Book, case_id: str, mask: Correction = MASK, reader: str = "A") -> int:
    """A correction taken, and the revision it made."""
    verdict = book.note_correction(case_id, reader, mask)
    assert book.take_correction(verdict)
    run(book, case_id)
    case = book.case(case_id)
    assert case is not None
    return case.revision


def test_accepting_changes_nothing_and_saying_it_twice_is_once(sqlite_book: Book) -> None:
    book = sqlite_book
    case_id = finished(book)
    before = book.deliveries(case_id)
    first = book.judge(case_id, ACCEPT, "A", "seen", revision=1)
    assert book.judge(case_id, ACCEPT, "A", "seen") == first
    assert (first.revision, first.state, first.made) == (1, VerdictState.STANDS, None)
    assert book.deliveries(case_id) == before
    assert len(book.verdicts_of([case_id])[case_id]) == 1
    assert len({first.id, book.judge(case_id, ACCEPT, "B").id}) == 2, "another reader's is another"


def test_rejecting_withholds_what_is_undelivered_for_good(book: Book) -> None:
    case_id = finished(book)
    sent, dead = book.due_deliveries()[0], None
    book.delivered(sent.id)
    book.judge(case_id, REJECT, "A")
    assert states(book, case_id) <= {DeliveryState.SENT, DeliveryState.WITHHELD}
    dead = finished(book, study="1.9", series="1.9.1")
    for one in book.due_deliveries():
        book.delivery_dead(one.id, "unreachable")
    book.judge(dead, REJECT, "A")
    assert book.resend() == 0, "what was given up is not sent later either"
    # Another series of the study is settled: the primary's withheld deliveries used to be revived by that.
    run(book, queue(book, series="1.2.4", rank=(0,)))
    assert states(book, case_id) <= {DeliveryState.SENT, DeliveryState.WITHHELD}
    assert book.outputs(case_id), "outputs stay readable"


def test_a_verdict_on_what_is_not_there_or_not_current_is_refused(sqlite_book: Book) -> None:
    book = sqlite_book
    case_id = queue(book)
    with pytest.raises(VerdictRefused, match="the case is queued"):
        book.judge(case_id, ACCEPT, "A")
    run(book, case_id)
    with pytest.raises(VerdictRefused, match="revision 7 is not the current one: revision 1"):
        book.judge(case_id, ACCEPT, "A", revision=7)
    with pytest.raises(UnknownCase):
        book.judge("nobody", ACCEPT, "A")
    book.judge(case_id, REJECT, "A")
    with pytest.raises(VerdictRefused, match="revision 1 was rejected by A"):
        book.judge(case_id, ACCEPT, "B")
    with pytest.raises(VerdictRefused, match="there is no revision 9"):
        book.note_correction(case_id, "A", MASK, revision=9)


def test_a_correction_makes_one_revision_however_often_it_comes(book: Book) -> None:
    case_id = finished(book)
    pending = book.note_correction(case_id, "A", MASK, revision=1)
    assert pending.seen == tuple(f"1.2.3.{number}" for number in (1, 2, 3))
    assert book.note_correction(case_id, "A", MASK) == pending
    case = book.case(case_id)
    assert case is not None
    assert (case.state, case.revision) == (State.DONE, 1), "until a worker has looked at it"
    assert book.due_corrections() == [case_id]
    book.correction_submitted(case_id)
    assert book.due_corrections() == []
    assert book.take_correction(pending)
    assert not book.take_correction(pending), "a message that came twice"
    run(book, case_id)
    again = book.note_correction(case_id, "A", MASK, revision=1)
    assert (again.state, again.made) == (VerdictState.STANDS, 2)
    assert states(book, case_id) == {DeliveryState.WITHHELD}
    assert states(book, case_id, 2) == {DeliveryState.PENDING}


def test_a_reader_may_go_back_to_an_earlier_mask(sqlite_book: Book) -> None:
    book = sqlite_book
    case_id = finished(book)
    assert (corrected(book, case_id, MASK), corrected(book, case_id, OTHER, "B")) == (2, 3)
    assert book.note_correction(case_id, "B", OTHER).made == 3, "that is in force"
    assert corrected(book, case_id, MASK) == 4
    standing = book.correction_of(case_id)
    assert standing is not None
    assert (standing.made, standing.digest) == (4, MASK.digest)
    book.judge(case_id, REJECT, "B")
    assert corrected(book, case_id, MASK) == 5, "a reader may insist on what another rejected"


def test_the_second_of_two_readers_at_once_is_told(sqlite_book: Book) -> None:
    book = sqlite_book
    case_id = finished(book)
    one, other = book.note_correction(case_id, "A", MASK), book.note_correction(case_id, "B", OTHER)
    assert book.take_correction(one)
    assert not book.take_correction(other)
    (refused,) = [said for said in book.verdicts_of([case_id])[case_id] if said.state is VerdictState.REFUSED]
    assert (refused.reader, refused.reason) == ("B", "revision 1 is not the current one: revision 2 took its place")


def test_a_correction_stands_for_later_revisions_until_what_came_of_it_is_rejected(book: Book) -> None:
    case_id = finished(book)
    verdict = book.note_correction(case_id, "A", MASK)
    book.judge(case_id, REJECT, "A")  # of the model's result, while the correction waits
    assert book.correction_of(case_id) is None
    assert book.take_correction(verdict)
    run(book, case_id)
    book.note_instances([instance(9)])
    book.queue_case(case_id, "flair", rank=(1,))
    run(book, case_id)
    standing = book.correction_of(case_id)
    assert standing is not None
    assert (standing.id, standing.made) == (verdict.id, 2)
    book.judge(case_id, REJECT, "B", revision=3)
    assert book.correction_of(case_id) is None
    assert corrected(book, case_id, OTHER) == 4
    standing = book.correction_of(case_id)
    assert standing is not None
    assert standing.digest == OTHER.digest


def test_a_failed_corrected_revision_that_is_retried_is_still_corrected(sqlite_book: Book) -> None:
    book = sqlite_book
    case_id = finished(book)
    assert book.take_correction(book.note_correction(case_id, "A", MASK))
    for _ in range(3):
        lease = book.claim(case_id, "w")
        assert lease is not None
        book.fail(lease, "defect")
    assert book.retry(case_id) is State.QUEUED
    standing = book.correction_of(case_id)
    assert standing is not None
    assert standing.made == 2


def test_a_correction_over_which_the_worker_dies_is_refused_after_the_third_time(sqlite_book: Book) -> None:
    book = sqlite_book
    case_id = finished(book)
    book.note_correction(case_id, "A", MASK)
    for left in (1, 1, 0):
        book.correction_lost(case_id)
        assert len(book.pending_corrections(case_id)) == left
    (refused,) = book.verdicts_of([case_id])[case_id]
    assert refused.reason == "the worker failed over it three times; the log has the details"
    assert book.note_correction(case_id, "A", MASK).state is VerdictState.PENDING, "a reader may insist"


def test_the_file_of_a_correction_goes_with_its_case_and_a_pending_one_keeps_it(book: Book) -> None:
    case_id = finished(book)
    for one in book.due_deliveries():
        book.delivered(one.id)
    book.note_correction(case_id, "A", MASK)
    case = book.case(case_id)
    assert case is not None
    cutoff = Cutoff(*(3 * [case.changed_at.replace(year=case.changed_at.year + 1)]))
    (candidate,) = book.candidates(case.study_uid, cutoff)
    assert candidate.kept == "a reader's correction is not looked at yet"
    for _ in range(3):
        book.correction_lost(case_id)
    assert MASK.path in book.files_of_cases([case_id])
    assert MASK.path in book.named_outputs([MASK.path, "else"])
    (removed,) = book.remove(case.study_uid, [case_id], cutoff)
    assert MASK.path in removed.outputs
