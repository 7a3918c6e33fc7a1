"""A case at work: queue, leases, attempts and late slices, on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.records import (
    Book,
    InvalidTransition,
    LeaseLost,
    State,
    UnknownCase,
    utc_now,
)
from service.records import work as work_module
from tests.service.casebook import FINDINGS, instance, output, queue, receive, run


def test_a_case_from_queue_to_done(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "worker-1")
    assert lease is not None
    assert (lease.revision, lease.fence) == (1, 1)
    assert book.claim(case_id, "worker-2") is None
    assert book.lease_of(case_id) == lease
    lease = book.renew(lease)
    book.finish(
        lease,
        outputs=[output()],
        findings=FINDINGS,
        quality=("after contrast",),
        model={"name": "m"},
        stages={"convert": (10.0, 0.5), "predict": (11.0, 2.0)},
    )
    case = book.case(case_id)
    assert case is not None
    assert (case.state, case.reason, case.rule, case.primary, case.attempts) == (State.DONE, None, "flair", True, 0)
    assert case.stages == {"convert": {"start": 10.0, "seconds": 0.5}, "predict": {"start": 11.0, "seconds": 2.0}}
    assert case.quality == ("thick slices", "after contrast")
    assert (case.findings, case.model) == (FINDINGS, {"name": "m"})
    assert book.outputs(case_id) == [output()]
    assert [line.event for line in case.history] == ["receive", "admit", "claim", "finish"]
    assert all(line.at.tzinfo == UTC for line in case.history)
    with pytest.raises(LeaseLost):
        book.renew(lease)
    assert book.lease_of(case_id) is None


def test_the_book_says_no_to_what_cannot_happen(book: Book) -> None:
    case_id = queue(book)
    for act in (
        lambda: book.queue_case(case_id, None),
        lambda: book.hold(case_id, "x"),
        lambda: book.refuse(case_id, "x"),
        lambda: book.retry(case_id),
    ):
        with pytest.raises(InvalidTransition):
            act()
    with pytest.raises(UnknownCase):
        book.retry("nobody")
    assert book.case("nobody") is None
    assert book.claim("nobody", "w") is None
    assert book.outputs("nobody") == []
    assert [line.event for line in book.case(case_id).history] == ["receive", "admit"]  # type: ignore[union-attr]


def test_three_attempts_are_all(book: Book) -> None:
    case_id = queue(book)
    states = []
    for _ in range(3):
        lease = book.claim(case_id, "w")
        assert lease is not None
        states.append(book.fail(lease, "boom"))
    case = book.case(case_id)
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    assert (case.state, case.reason, case.attempts, case.primary) == (State.FAILED, "boom", 3, False)  # type: ignore[union-attr]
    assert book.retry(case_id) is State.QUEUED
    assert (book.case(case_id).attempts, book.case(case_id).primary) == (0, True)  # type: ignore[union-attr]


def test_an_unavailable_part_is_not_an_attempt(book: Book) -> None:
    case_id = queue(book)
    for _ in range(5):
        lease = book.claim(case_id, "w")
        assert lease is not None
        book.put_back(lease, "the disk is full", delay_s=60)
    assert book.case(case_id).attempts == 0  # type: ignore[union-attr]
    now = datetime.now(UTC)
    assert book.due(now) == []
    assert book.due(now + timedelta(seconds=61)) == [case_id]


def test_a_worker_that_rejects(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    book.reject(lease, "a mask")
    case = book.case(case_id)
    assert (case.state, case.reason, case.primary) == (State.REJECTED, "a mask", False)  # type: ignore[union-attr]


def test_a_lapsed_lease_is_taken_over_and_counted_apart(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = queue(book)
    old = book.claim(case_id, "dead")
    assert old is not None
    later = datetime.now(UTC) + timedelta(seconds=31)
    assert book.due(later) == [case_id]
    monkeypatch.setattr(work_module, "utc_now", lambda: later)
    new = book.claim(case_id, "alive")
    assert new is not None
    assert new.fence == old.fence + 1
    case = book.case(case_id)
    assert (case.lapses, case.attempts, case.state) == (1, 0, State.RUNNING)  # type: ignore[union-attr]
    for write in (
        lambda: book.renew(old),
        lambda: book.fail(old, "x"),
        lambda: book.reject(old, "x"),
    ):
        with pytest.raises(LeaseLost):
            write()
    with pytest.raises(LeaseLost):
        book.finish(old, outputs=[output()], findings=FINDINGS)
    assert book.outputs(case_id) == []
    book.finish(new, outputs=[output()], findings=FINDINGS)
    assert [line.event for line in book.case(case_id).history] == ["receive", "admit", "claim", "lapse", "claim", "finish"]  # type: ignore[union-attr]


def test_a_clock_set_back_delays_nothing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = queue(book)
    assert book.claim(case_id, "w") is not None
    other = queue(book, series="9")
    book.submitted(other)
    past = datetime.now(UTC) - timedelta(days=1)
    assert sorted(book.due(past)) == sorted([case_id, other])
    monkeypatch.setattr(work_module, "utc_now", lambda: past)
    assert book.claim(case_id, "w2") is not None


def test_the_sweep_sees_what_was_not_submitted(book: Book) -> None:
    case_id = queue(book)
    admitted = book.case(case_id).history[-1].at  # type: ignore[union-attr]
    assert book.due(admitted) == []  # a moment for the one who queued it
    assert book.due(admitted + timedelta(seconds=2)) == [case_id]
    before = datetime.now(UTC)
    book.submitted(case_id)
    assert book.due(before + timedelta(seconds=29)) == []
    assert book.due(datetime.now(UTC) + timedelta(seconds=30)) == [case_id]
    run(book, case_id)
    assert book.due(before + timedelta(days=1)) == []


def test_a_restarted_service_takes_its_dead_workers_cases_back(book: Book) -> None:
    mine, other = queue(book), queue(book, series="9", study="9")
    assert book.claim(mine, "serve_1:77")
    assert book.claim(other, "serveX1:78")
    assert book.reclaim("serve_1:") == [mine]
    assert book.case(mine).state is State.QUEUED  # type: ignore[union-attr]
    assert (book.case(mine).lapses, book.case(other).state) == (1, State.RUNNING)  # type: ignore[union-attr]
    assert book.due() == [mine]


def test_a_late_slice_makes_one_new_revision(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    noted = book.note_instances([instance(4), instance(5), instance(4)])
    assert [(one.outcome, one.state) for one in noted] == [("new", State.RECEIVING), ("new", State.RECEIVING), ("repeat", State.RECEIVING)]
    book.note_instances([instance(6)])
    case = book.case(case_id)
    assert case is not None
    assert (case.state, case.revision, case.instances, case.findings) == (State.RECEIVING, 2, 6, None)
    assert [row.revision for row in book.outputs(case_id)] == [1, 1]
    book.queue_case(case_id, "flair", rank=(1,))
    run(book, case_id)
    assert [row.revision for row in book.outputs(case_id)] == [2, 2]
    assert book.case(case_id).state is State.DONE  # type: ignore[union-attr]


def test_a_late_slice_takes_the_case_from_its_worker(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    book.note_instances([instance(4)])
    with pytest.raises(LeaseLost):
        book.finish(lease, outputs=[output()], findings=FINDINGS)
    with pytest.raises(LeaseLost):
        book.fail(lease, "x")
    assert book.outputs(case_id) == []
    assert book.claim(case_id, "w") is None  # not admitted yet
    book.queue_case(case_id, "flair", rank=(1,))
    again = book.claim(case_id, "w")
    assert again is not None
    assert again.revision == 2
    with pytest.raises(ValueError, match="revision 1 under"):
        book.finish(again, outputs=[output(1)], findings=FINDINGS)
    book.finish(again, outputs=[output(2)], findings=FINDINGS)
    assert [row.revision for row in book.outputs(case_id)] == [2]


@pytest.mark.parametrize("decide", ["hold", "refuse"])
def test_a_later_slice_reopens_what_was_decided_without_a_revision(book: Book, decide: str) -> None:
    case_id = receive(book)
    getattr(book, decide)(case_id, "gap after slice 83")
    assert book.note_instances([instance(4)])[0].state is State.RECEIVING
    assert (book.case(case_id).revision, book.case(case_id).reason) == (1, None)  # type: ignore[union-attr]


def test_a_held_case_that_is_retried_is_looked_at_again(book: Book) -> None:
    case_id = receive(book)
    book.hold(case_id, "gap")
    assert book.retry(case_id) is State.RECEIVING


def test_nothing_of_a_failed_finish_stays(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    with pytest.raises(Exception, match=r"(?i)unique"):
        book.finish(lease, outputs=[output(), output()], findings=FINDINGS)
    assert book.outputs(case_id) == []
    assert book.deliveries(case_id) == []
    book.finish(lease, outputs=[output()], findings=FINDINGS)


def test_a_long_queue_is_submitted_again_only_where_messages_are_missing(book: Book) -> None:
    case_ids = [queue(book, series=f"1.{n}") for n in range(3)]
    for case_id in case_ids:
        book.submitted(case_id)
    later = utc_now() + timedelta(seconds=31)
    assert book.due(later - timedelta(seconds=20)) == []
    assert book.due(later, messages=3) == []
    assert sorted(book.due(later, messages=2)) == sorted(case_ids)
    book.claim(case_ids[0], "worker")
    lapsed = later + timedelta(seconds=60)
    assert book.due(lapsed, messages=2) == case_ids[:1]


def test_after_a_worker_died_what_is_queued_is_due_at_once(book: Book) -> None:
    case_id = queue(book)
    book.submitted(case_id)
    assert book.due() == []
    book.reclaim("serve:here:")
    assert book.due() == [case_id]
