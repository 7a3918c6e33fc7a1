"""Which series is the study's result, and the outbox that follows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.records import Book, DeliveryState, LeaseLost, State
from service.records import outbox as outbox_module
from service.sections import Destination
from tests.service.casebook import FINDINGS, START, instance, output, queue, receive, run


def states(book: Book, case_id: str) -> list[tuple[int, str]]:
    return [(delivery.revision, delivery.state.value) for delivery in book.deliveries(case_id)]


def test_finishing_the_primary_makes_its_deliveries(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    (delivery,) = book.deliveries(case_id)
    assert (delivery.destination, delivery.output, delivery.state, delivery.attempts) == ("pacs", "segmentation", DeliveryState.PENDING, 0)
    assert (delivery.path, delivery.sop_instance_uid, delivery.revision) == ("outputs/segmentation-1", "2.25.1", 1)
    assert book.due_deliveries() == [delivery]
    assert book.due_deliveries(case_id="other") == []


def test_a_delivery_is_sent_once(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    claimed = book.claim_delivery(book.due_deliveries()[0].id, "sender-1")
    assert claimed is not None
    assert book.claim_delivery(claimed.id, "sender-2") is None
    assert book.due_deliveries() == []
    book.renew_delivery(claimed)
    book.delivered(claimed.id, "sent", warning="0xB000", fence=claimed.fence)
    book.delivered(claimed.id, "committed")
    (delivery,) = book.deliveries(case_id)
    assert (delivery.state, delivery.attempts, delivery.last_error) == (DeliveryState.COMMITTED, 1, None)
    assert book.claim_delivery(claimed.id, "sender-1") is None
    with pytest.raises(ValueError, match="not a delivery's success"):
        book.delivered(claimed.id, "dead")


def test_a_failed_delivery_waits_for_its_time(book: Book) -> None:
    run(book, queue(book))
    claimed = book.claim_delivery(book.due_deliveries()[0].id, "s")
    assert claimed is not None
    later = datetime.now(UTC) + timedelta(minutes=5)
    assert book.delivery_failed(claimed.id, "0xA700", later, fence=claimed.fence) is DeliveryState.PENDING
    assert book.due_deliveries() == []
    assert book.claim_delivery(claimed.id, "s") is None
    (delivery,) = book.due_deliveries(later)
    assert (delivery.attempts, delivery.last_error, delivery.next_attempt_at) == (1, "0xA700", later)
    assert len(book.due_deliveries(datetime.now(UTC) - timedelta(days=1))) == 1  # the clock was set back


def test_the_lease_of_a_dead_sender_lapses_and_its_fence_is_void(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    run(book, queue(book))
    old = book.claim_delivery(book.due_deliveries()[0].id, "dead")
    assert old is not None
    later = datetime.now(UTC) + timedelta(seconds=61)
    monkeypatch.setattr(outbox_module, "utc_now", lambda: later)
    new = book.claim_delivery(old.id, "alive")
    assert new is not None
    for write in (
        lambda: book.delivered(old.id, fence=old.fence),
        lambda: book.delivery_failed(old.id, "x", later, fence=old.fence),
        lambda: book.renew_delivery(old),
        lambda: book.delivery_dead(old.id, "x", fence=old.fence),
    ):
        with pytest.raises(LeaseLost):
            write()
    book.delivered(new.id, fence=new.fence)


def test_a_restarted_service_sends_at_once_what_its_dead_sender_held(book: Book) -> None:
    run(book, queue(book))
    claimed = book.claim_delivery(book.due_deliveries()[0].id, "serve:1")
    assert claimed is not None
    assert book.reclaim("serve:") == []
    assert [delivery.id for delivery in book.due_deliveries()] == [claimed.id]


def test_after_a_week_a_delivery_is_dead_until_it_is_resent(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = queue(book)
    run(book, case_id)
    claimed = book.claim_delivery(book.due_deliveries()[0].id, "s")
    assert claimed is not None
    late = datetime.now(UTC) + timedelta(days=7, seconds=1)
    monkeypatch.setattr(outbox_module, "utc_now", lambda: late)
    assert book.delivery_failed(claimed.id, "refused", late + timedelta(minutes=15), fence=claimed.fence) is DeliveryState.DEAD
    assert states(book, case_id) == [(1, "dead")]
    assert book.due_deliveries(late + timedelta(days=1)) == []
    assert book.resend(case_id) == 1
    assert book.claim_delivery(claimed.id, "s") is not None
    assert book.delivery_failed(claimed.id, "refused", late) is DeliveryState.PENDING


def test_what_was_given_up_is_not_sent_again_once_another_result_took_its_place(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    book.delivery_dead(book.due_deliveries()[0].id, "refused")
    book.note_instances([instance(4)])
    book.queue_case(case_id, "flair", rank=(1,))
    run(book, case_id)
    assert states(book, case_id) == [(1, "dead"), (2, "pending")]
    assert book.resend() == 0
    assert states(book, case_id) == [(1, "withheld"), (2, "pending")]


def test_a_report_is_entered_by_instance_once_and_only_from_its_destination(book: Book) -> None:
    book._destinations = (Destination(name="pacs", ae_title="A", host="h", port=1, outputs=("rtstruct", "segmentation")),)
    case_id = queue(book)
    run(book, case_id, kinds=("rtstruct", "segmentation", "resampled.zip"))
    for delivery in book.due_deliveries():
        book.delivered(delivery.id, ask_at=datetime.now(UTC))
    claimed = [book.claim_delivery(one.id, "s", DeliveryState.SENT) for one in book.due_deliveries()]
    asked = {one.output: one for one in claimed if one is not None}
    instances = {"resampled.zip": ["1", "2"], "rtstruct": ["3"], "segmentation": ["4"]}
    book.ask_in("2.25.7", [(one, instances[kind]) for kind, one in asked.items()])
    assert book.take_report("2.25.8", ["pacs"], ["1"], {}) is None
    assert book.take_report("2.25.7", ["other"], ["1"], {}) is None
    first = book.take_report("2.25.7", ["pacs"], ["1", "3", "9"], {"4": 0x0213})
    assert first is not None
    assert (first.committed, first.failed) == (1, 1)
    book.report_awaited(list(asked.values()))
    found = {one.output: one for one in book.deliveries(case_id)}
    assert {kind: one.state.value for kind, one in found.items()} == {
        "resampled.zip": "sent",
        "rtstruct": "committed",
        "segmentation": "pending",
    }
    assert found["segmentation"].last_error == "not committed: failure reason 0x0213 (resource limitation)"
    assert found["rtstruct"].next_attempt_at is None, "what was reported before the request was answered stays"
    again = book.take_report("2.25.7", ["pacs"], ["1", "2", "3"], {"4": 0x0213})
    assert again is not None
    assert (again.committed, again.failed) == (1, 0)
    with pytest.raises(LeaseLost):
        book.ask_in("2.25.10", [(found["segmentation"], ["4"]), (asked["segmentation"], ["4"])])
    assert book.take_report("2.25.10", ["pacs"], ["4"], {}) is None, "all or nothing"


def test_only_the_primary_of_a_study_is_delivered(book: Book) -> None:
    low, high = queue(book, series="1", rank=(0, 9)), queue(book, series="2", rank=(1, 0))
    run(book, low)
    assert book.deliveries(low) == []
    run(book, high)
    assert states(book, high) == [(1, "pending")]
    assert (book.case(low).primary, book.case(high).primary) == (False, True)  # type: ignore[union-attr]


def test_a_better_series_that_comes_later_takes_the_place(book: Book) -> None:
    first = queue(book, series="1", rank=(0,))
    run(book, first)
    assert states(book, first) == [(1, "pending")]
    better = queue(book, series="2", rank=(1,))
    assert states(book, first) == [(1, "withheld")]
    assert book.due_deliveries() == []
    run(book, better)
    assert states(book, better) == [(1, "pending")]


def test_when_the_better_series_fails_the_other_is_delivered_after_all(book: Book) -> None:
    first, better = queue(book, series="1", rank=(0,)), queue(book, series="2", rank=(1,))
    run(book, first)
    lease = book.claim(better, "w")
    assert lease is not None
    book.reject(lease, "a mask")
    assert book.case(first).primary  # type: ignore[union-attr]
    assert states(book, first) == [(1, "pending")]


def test_what_was_withheld_is_revived_and_not_doubled(book: Book) -> None:
    first = queue(book, series="1", rank=(0,))
    run(book, first)
    better = queue(book, series="2", rank=(1,))
    assert states(book, first) == [(1, "withheld")]
    for _ in range(3):
        lease = book.claim(better, "w")
        assert lease is not None
        book.fail(lease, "boom")
    assert states(book, first) == [(1, "pending")]
    assert book.deliveries(first)[0].last_error is None


def test_on_a_tie_the_earlier_series_is_primary(book: Book) -> None:
    late = queue(book, series="1", received_at=START + timedelta(seconds=1))
    early = queue(book, series="2", received_at=START)
    assert (book.case(late).primary, book.case(early).primary) == (False, True)  # type: ignore[union-attr]


def test_a_new_revision_withholds_what_the_old_one_did_not_send(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    book.note_instances([instance(4)])
    assert states(book, case_id) == [(1, "withheld")]  # made of a part of the series
    assert book.due_deliveries() == []
    book.queue_case(case_id, "flair", rank=(1,))
    run(book, case_id)
    assert states(book, case_id) == [(1, "withheld"), (2, "pending")]
    assert "revision 2" in str(book.deliveries(case_id)[0].last_error)


def test_a_sending_that_was_withheld_meanwhile_says_what_happened(book: Book) -> None:
    first = queue(book, series="1", rank=(0,))
    run(book, first)
    claimed = book.claim_delivery(book.due_deliveries()[0].id, "s")
    assert claimed is not None
    better = queue(book, series="2", rank=(1,))
    assert book.delivery_failed(claimed.id, "refused", datetime.now(UTC), fence=claimed.fence) is DeliveryState.WITHHELD
    book.delivered(claimed.id, fence=claimed.fence)
    run(book, better)
    assert states(book, first) == [(1, "sent")]


def test_a_segmentation_without_a_voxel_goes_only_where_it_is_wanted(book: Book) -> None:
    wanting = Destination(name="archive", ae_title="A", host="h", port=1, outputs=("segmentation", "report.dcm"), empty_segmentation=True)
    book._destinations = (*book._destinations, wanting)
    case_id = queue(book)
    run(book, case_id, findings={"lesion_count": 0, "tumour_like_volume_ml": 0.0}, kinds=("segmentation", "report.dcm", "report.pdf"))
    assert [(d.destination, d.output) for d in book.deliveries(case_id)] == [
        ("pacs", "report.dcm"),
        ("archive", "segmentation"),
        ("archive", "report.dcm"),
    ]


def test_a_destination_gets_what_it_asks_for_if_it_is_there(book: Book) -> None:
    book._destinations = (Destination(name="d", ae_title="A", host="h", port=1, outputs=("report.dcm", "preview.dcm", "report.dcm")),)
    case_id = queue(book)
    run(book, case_id, kinds=("segmentation", "report.dcm"))
    assert [d.output for d in book.deliveries(case_id)] == ["report.dcm"]


@pytest.mark.parametrize(("wanted", "made"), [(("segmentation",), []), (("rtstruct",), ["resampled.zip", "rtstruct"])])
def test_the_series_of_a_structure_set_goes_where_that_goes(book: Book, wanted: tuple[Any, ...], made: list[str]) -> None:
    book._destinations = (Destination(name="d", ae_title="A", host="h", port=1, outputs=wanted),)
    case_id = queue(book)
    run(book, case_id, kinds=("rtstruct", "resampled.zip"))
    assert [d.output for d in book.deliveries(case_id)] == made


def test_a_study_whose_series_were_all_refused_has_no_result(book: Book) -> None:
    case_id = receive(book)
    book.refuse(case_id, "T1")
    case = book.case(case_id)
    assert (case.state, case.primary) == (State.REJECTED, False)  # type: ignore[union-attr]


def test_one_result_set_whatever_is_sent_again(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    for _ in range(10):
        book.note_instances([instance(n) for n in (3, 1, 2, 2)])
        assert book.claim(case_id, "w") is None
    assert len(book.outputs(case_id)) == 2
    assert states(book, case_id) == [(1, "pending")]
    assert book.case(case_id).findings == FINDINGS  # type: ignore[union-attr]
    assert output() in book.outputs(case_id)
