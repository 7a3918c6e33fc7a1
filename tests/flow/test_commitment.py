"""Storage Commitment, asked of real providers: over the same association, over a new one to the listener, refused, failed, unanswered."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from service.records import DeliveryState, commitments, outbox
from service.sections import Destination
from tests.provider import CLASSES, Committing, provider
from tests.sending import sending, states
from tests.service.casebook import queue
from worker import asking, commitment

KINDS = ("segmentation", "structured-report")
LOST = 0x0112


@pytest.fixture(autouse=True)
def short_stay(monkeypatch):
    monkeypatch.setattr(commitment, "STAY_S", 0.05)


@pytest.fixture
def long_stay(monkeypatch):
    """Whoever reports over the same association ends the stay by that."""
    monkeypatch.setattr(commitment, "STAY_S", 20.0)


@contextmanager
def asking_of(folder, pacs, *, listening=False):
    """A case of two results that is to be committed by a node; with `listening` the node can call back."""
    node = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs.port, outputs=tuple(CLASSES), storage_commitment=True)
    with sending(folder, node, listening=listening, kinds=KINDS) as made:
        pacs.listener = made.port
        yield made


def later(monkeypatch, **ago):
    """Let time pass for the case book and the sender."""
    moment = datetime.now(UTC) + timedelta(**ago)
    for module in (outbox, commitments, asking):
        monkeypatch.setattr(module, "utc_now", lambda: moment)


def test_a_report_over_the_same_association_commits(tmp_path, long_stay):
    with provider(Committing) as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        sender.deliver(case_id)
        assert states(book, case_id) == dict.fromkeys(KINDS, "committed")
        ((transaction_uid, uids),) = pacs.asked
        assert (uids, pacs.answered) == (["2.25.1", "2.25.11"], [0x0000]), "one transaction for the case"
        assert {one.transaction_uid for one in book.deliveries(case_id)} == {transaction_uid}
        assert {(one.attempts, one.next_attempt_at, one.last_error) for one in book.deliveries(case_id)} == {(1, None, None)}


@pytest.mark.parametrize("role", [True, False])
def test_a_report_to_the_listener_commits_and_again_changes_nothing(tmp_path, monkeypatch, role):
    with provider(Committing, how="new") as pacs, asking_of(tmp_path, pacs, listening=True) as (book, sender, case_id):
        sender.deliver(case_id)
        waiting = book.deliveries(case_id)
        assert {one.state for one in waiting} == {DeliveryState.SENT}
        assert all(one.next_attempt_at - datetime.now(UTC) > timedelta(hours=23) for one in waiting)
        assert book.due_deliveries() == []
        assert pacs.report("2.25.99") == 0x0115, "no such transaction"
        assert pacs.report(title="STRANGER") is None, "who is no destination has nothing to report"
        assert states(book, case_id) == dict.fromkeys(KINDS, "sent")
        assert [pacs.report(role=role), pacs.report(role=role)] == [0x0000, 0x0000]
        assert states(book, case_id) == dict.fromkeys(KINDS, "committed")


def test_what_was_not_kept_is_sent_and_asked_for_again(tmp_path, monkeypatch, long_stay):
    with provider(Committing) as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        pacs.lost["2.25.11"] = LOST
        sender.deliver(case_id)
        assert states(book, case_id) == {"segmentation": "committed", "structured-report": "pending"}
        lost = book.deliveries(case_id)[1]
        assert lost.last_error == "not committed: failure reason 0x0112 (no such object instance)"
        pacs.lost.clear()
        later(monkeypatch, minutes=1)
        sender.deliver(case_id)
        assert states(book, case_id) == dict.fromkeys(KINDS, "committed")
        assert pacs.got == ["2.25.1", "2.25.11", "2.25.11"]
        assert [uids for _, uids in pacs.asked] == [["2.25.1", "2.25.11"], ["2.25.11"]]
        assert len({transaction for transaction, _ in pacs.asked}) == 2


def test_a_result_that_was_replaced_meanwhile_is_not_sent_again(tmp_path):
    with provider(Committing, how="silent") as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        sender.deliver(case_id)
        ((transaction_uid, uids),) = pacs.asked
        queue(book, series="9", study="1.1", rank=(9,))
        assert book.take_report(transaction_uid, ["pacs"], [], dict.fromkeys(uids, LOST)).failed == 2
        assert states(book, case_id) == dict.fromkeys(KINDS, "withheld")


@pytest.mark.parametrize("arguments", [{"kind": None}, {"kind": Committing, "status": 0x0122}])
def test_a_destination_without_the_service_keeps_sent_and_is_not_asked_again(tmp_path, monkeypatch, arguments):
    arguments = {**arguments, "kind": arguments["kind"]} if arguments["kind"] else {}
    with provider(**arguments) as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        sender.deliver(case_id)
        assert states(book, case_id) == dict.fromkeys(KINDS, "sent")
        assert all(one.last_error.startswith("storage commitment not offered") for one in book.deliveries(case_id))
        later(monkeypatch, days=2)
        assert book.due_deliveries() == []


def test_who_never_reports_is_asked_every_day_and_after_a_week_it_is_dead(tmp_path, monkeypatch):
    with provider(Committing, how="silent") as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        for hours in (0, 1, 25, 26, 7 * 24 + 30):
            later(monkeypatch, hours=hours)
            sender.deliver(case_id)
        assert len(pacs.asked) == 2
        assert states(book, case_id) == dict.fromkeys(KINDS, "dead")
        assert "not confirmed within 7 days" in book.deliveries(case_id)[0].last_error
        assert book.resend(case_id) == 2
        pacs.how = "same"
        monkeypatch.setattr(commitment, "STAY_S", 20.0)
        sender.deliver(case_id)
        assert states(book, case_id) == dict.fromkeys(KINDS, "committed")


def test_a_sender_that_died_while_it_asked_is_followed_by_one_that_asks(tmp_path, monkeypatch):
    with provider(Committing) as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        monkeypatch.setattr(asking, "ask", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            sender._attempt(book.due_deliveries())
        assert states(book, case_id) == dict.fromkeys(KINDS, "sent")
        monkeypatch.undo()
        monkeypatch.setattr(commitment, "STAY_S", 20.0)
        assert book.due_deliveries() == [], "the lease of the dead one holds"
        book.reclaim("test:")
        sender.deliver(case_id)
        assert states(book, case_id) == dict.fromkeys(KINDS, "committed")
        assert pacs.got == ["2.25.1", "2.25.11"], "nothing was sent twice"


def test_a_destination_that_cannot_be_asked_now_is_asked_later(tmp_path, monkeypatch, long_stay):
    with provider(Committing, status=0x0213) as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        sender.deliver(case_id)
        (first, _) = book.deliveries(case_id)
        assert (first.state, first.attempts) == (DeliveryState.SENT, 1)
        assert first.last_error == "storage commitment not asked for: PACS: status 0x0213"
        pacs.action_status = 0
        later(monkeypatch, minutes=5)
        sender.deliver(case_id)
        assert states(book, case_id) == dict.fromkeys(KINDS, "committed")
        assert book.deliveries(case_id)[0].last_error is None


def test_a_warning_outlives_the_commitment(tmp_path, long_stay):
    with provider(Committing) as pacs, asking_of(tmp_path, pacs) as (book, sender, case_id):
        pacs.status = 0xB000
        sender.deliver(case_id)
        assert {(one.state.value, one.last_error) for one in book.deliveries(case_id)} == {("committed", "status 0xB000")}
