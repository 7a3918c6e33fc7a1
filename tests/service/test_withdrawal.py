"""Results that are withdrawn: by a rejection note of their source, by a reader, by their successor; each where it was sent, and once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.records import Book, Case, DeliveryState, LeaseLost, State, VerdictKind, utc_now
from service.sections import Destination
from tests.service.casebook import SECRET, instance, output, queue, run

TITLE = "Rejected for Patient Safety Reasons (113037 DCM)"
TAKING = Destination(name="taking", ae_title="PACS", host="127.0.0.1", port=104, rejection_notes=True)
PLAIN = Destination(name="plain", ae_title="PACS", host="127.0.0.1", port=105)


@pytest.fixture
def book(book_url: str) -> Iterator[Book]:
    made = Book(book_url, secret=SECRET, destinations=[TAKING, PLAIN])
    yield made
    made.close()


def case_of(book: Book, case_id: str) -> Case:
    found = book.case(case_id)
    assert found is not None
    return found


def reject(book: Book, *numbers: int, series: str = "1.2.3", study: str = "1.2", code: str = "113037") -> int:
    references = [(study, series, f"{series}.{number}") for number in numbers]
    return sum(one.taken for one in book.reject_instances("1.9.9", code, TITLE, references))


def sent(book: Book, case_id: str) -> None:
    for delivery in book.deliveries(case_id):
        book.delivered(delivery.id)


def states(book: Book, case_id: str) -> set[tuple[str, int, str]]:
    return {(one.destination, one.revision, one.state.value) for one in book.deliveries(case_id)}


def test_a_series_that_is_rejected_whole_rejects_its_case_and_withholds_its_results(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    assert reject(book, 1, 2, 3) == 3
    case = case_of(book, case_id)
    assert (case.state, case.reason) == (State.REJECTED, f"withdrawn by rejection note 1.9.9: {TITLE}")
    assert (case.revision, case.instances, case.primary, case.findings) == (2, 0, False, None)
    assert states(book, case_id) == {("taking", 1, "withheld"), ("plain", 1, "withheld")}
    assert {one.last_error for one in book.deliveries(case_id)} == {"the series was rejected"}
    assert book.owed_notes() == [], "nothing was sent"
    assert book.instance_paths(case_id) == []
    assert reject(book, 1, 2, 3) == 0, "the note again"
    assert case_of(book, case_id) == case


def test_what_was_delivered_is_to_be_withdrawn_where_notes_are_taken(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    reject(book, 1, 2, 3)
    (owed,) = book.owed_notes(case_id)
    assert (owed.kind, owed.revision, owed.source_title, owed.paths, owed.waits) == (
        "rejection-note.taking",
        2,
        "113037",
        ("outputs/segmentation-1",),
        False,
    )
    assert book.due_deliveries() == [], "not before the note is written"
    book.write_note(owed, output(2, owed.kind))
    book.write_note(owed, output(2, owed.kind))
    (due,) = book.due_deliveries()
    assert (due.destination, due.output, due.revision) == ("taking", "rejection-note.taking", 2)
    reject(book, 1)
    assert book.due_deliveries() == [due], "a rejected case keeps its note"
    assert book.outputs(case_id)[0].revision == 1
    assert all(row.kind != owed.kind for row in book.outputs(case_id)), "a note is no result"


def test_the_worker_on_a_withdrawn_case_loses_it(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    reject(book, 1, 2, 3)
    with pytest.raises(LeaseLost):
        book.finish(lease, outputs=[output()], findings={})


def test_rejected_instances_stay_out_however_they_come_again(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    assert reject(book, 2) == 1
    case = case_of(book, case_id)
    assert (case.state, case.revision, case.instances) == (State.RECEIVING, 2, 2)
    assert case.history[-1].reason == f"1 instances rejected by rejection note 1.9.9: {TITLE}"
    assert [owed.paths for owed in book.owed_notes()] == [("outputs/segmentation-1",)], "at once: it was made from what is rejected"
    (same, other) = book.note_instances([instance(2), instance(2, digest="f" * 64)])
    assert (same.outcome, other.outcome) == ("repeat", "conflict")
    assert not book.standing(case_id).uncompared
    assert case_of(book, case_id).instances == 2
    assert [row.sop_instance_uid for row in book.headers(case_id)] == ["1.2.3.1", "1.2.3.3"]
    assert book.queue_case(case_id, "flair", rank=(1,), seen=2)
    run(book, case_id)
    assert len(book.owed_notes()) == 1, "one note for one revision"


def test_new_instances_of_a_withdrawn_series_begin_a_revision_of_their_own(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    reject(book, 1, 2, 3)
    (owed,) = book.owed_notes()
    book.write_note(owed, output(2, owed.kind))
    sent_note = next(one for one in book.deliveries(case_id) if one.output == owed.kind)
    book.delivered(sent_note.id)
    book.note_instances([instance(number) for number in (11, 12)])
    assert book.queue_case(case_id, "flair", rank=(1,))
    run(book, case_id)
    case = case_of(book, case_id)
    assert (case.state, case.revision, case.instances) == (State.DONE, 2, 2)
    assert book.owed_notes() == [], "what was withdrawn once is not withdrawn again"
    assert {(one.destination, one.state) for one in book.deliveries(case_id) if one.output == "segmentation" and one.revision == 2} == {
        ("taking", DeliveryState.PENDING),
        ("plain", DeliveryState.PENDING),
    }


def renew(book: Book, case_id: str) -> None:
    """A late slice, and the results of all."""
    book.note_instances([instance(4)])
    assert book.queue_case(case_id, "flair", rank=(1,))
    run(book, case_id)


def test_what_a_reader_rejects_is_withdrawn_where_it_was_sent_and_only_once(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    book.judge(case_id, VerdictKind.REJECT, "A. Reader")
    book.judge(case_id, VerdictKind.REJECT, "A. Reader")
    (owed,) = book.owed_notes(case_id)
    assert (owed.kind, owed.revision, owed.source_title) == ("rejection-note-rejected.taking", 1, None)
    assert owed.paths == ("outputs/segmentation-1",)
    book.write_note(owed, output(1, owed.kind))
    (due,) = book.due_deliveries()
    book.delivered(due.id)
    renew(book, case_id)
    assert [one.output for one in book.due_deliveries() if one.revision == 2] == ["segmentation", "segmentation"]
    assert book.owed_notes() == [], "it is withdrawn already"


def test_a_rejected_result_that_was_not_withdrawn_in_time_is_by_its_successor(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    book.judge(case_id, VerdictKind.REJECT, "A. Reader")
    renew(book, case_id)
    (owed,) = book.owed_notes(case_id)
    assert (owed.kind, owed.revision, owed.paths) == ("rejection-note.taking", 2, ("outputs/segmentation-1",))


def not_kept(book: Book, case_id: str) -> dict[str, str]:
    """Let `taking` report of everything it was sent that it has it no more."""
    for one in book.deliveries(case_id):
        if one.destination == "taking" and one.state is DeliveryState.PENDING:
            book.delivered(one.id, ask_at=utc_now())
    due = [one for one in book.due_deliveries() if one.destination == "taking"]
    asked = [(found, [found.output]) for one in due if (found := book.claim_delivery(one.id, "s", DeliveryState.SENT))]
    book.ask_in("2.25.7", asked)
    assert book.take_report("2.25.7", ["taking"], (), {one.output: 0x0112 for one in due}) is not None
    return {one.output: one.state.value for one in book.deliveries(case_id) if one.destination == "taking"}


def test_what_a_reader_rejects_is_not_sent_again_where_it_is_not_kept(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    (result,) = [one for one in book.deliveries(case_id) if one.destination == "taking"]
    book.delivered(result.id, ask_at=utc_now())
    book.judge(case_id, VerdictKind.REJECT, "A. Reader")
    assert not_kept(book, case_id) == {"segmentation": "withheld"}
    (owed,) = book.owed_notes(case_id)
    assert owed.paths == ("outputs/segmentation-1",), "it was sent, whatever became of it"


def test_what_a_reader_rejects_is_not_sent_again_where_it_was_never_committed(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    book.judge(case_id, VerdictKind.REJECT, "A. Reader")
    (owed,) = book.owed_notes(case_id)
    book.write_note(owed, output(1, owed.kind))
    for one in book.deliveries(case_id):
        book.delivery_dead(one.id, "not confirmed")
    assert book.resend() == 1
    found = {(one.output, one.state.value, one.last_error) for one in book.deliveries(case_id)}
    assert found == {("segmentation", "withheld", "rejected by a reader"), (owed.kind, "pending", "not confirmed")}


@pytest.mark.parametrize("why", ["the source is rejected", "the result is rejected"])
def test_a_note_that_is_not_kept_is_sent_again(book: Book, why: str) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    if why == "the source is rejected":
        reject(book, 1, 2, 3)
    else:
        book.judge(case_id, VerdictKind.REJECT, "A. Reader")
    (owed,) = book.owed_notes(case_id)
    book.write_note(owed, output(owed.revision, owed.kind))
    assert not_kept(book, case_id) == {"segmentation": "sent", owed.kind: "pending"}


def test_a_note_waits_for_what_is_just_being_sent(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    one = next(delivery for delivery in book.deliveries(case_id) if delivery.destination == "taking")
    claimed = book.claim_delivery(one.id, "s")
    assert claimed is not None
    reject(book, 1, 2, 3)
    (owed,) = book.owed_notes()
    assert (owed.paths, owed.waits) == ((), True)
    book.delivered(claimed.id, fence=claimed.fence)
    (owed,) = book.owed_notes()
    assert (owed.paths, owed.waits) == (("outputs/segmentation-1",), False)


def test_a_new_revision_withdraws_the_one_before_it(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    sent(book, case_id)
    for number in (4, 5):
        book.note_instances([instance(number)])
        assert book.owed_notes() == [], "the old result stays until there is a new one"
        assert book.queue_case(case_id, "flair", rank=(1,))
        run(book, case_id)
        (owed,) = book.owed_notes()
        assert (owed.revision, owed.source_title, owed.paths) == (number - 2, None, (f"outputs/segmentation-{number - 3}",))
        book.write_note(owed, output(owed.revision, owed.kind))
        sent(book, case_id)


def test_a_file_of_a_withdrawn_series_is_still_told(sqlite_book: Book) -> None:
    """Its note may be sent in the repertoire of the source."""
    case_id = queue(sqlite_book)
    path = sqlite_book.source_path(case_id)
    assert path == "instances/1.2.3/1.dcm"
    assert reject(sqlite_book, 1, 2, 3) == 3
    assert sqlite_book.instance_paths(case_id) == []
    assert sqlite_book.source_path(case_id) == path
    assert sqlite_book.source_path("nobody") is None
