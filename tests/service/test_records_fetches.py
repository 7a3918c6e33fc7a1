"""Fetches in the case book, on both kinds of database: one at a time under a lease, and what each outcome does to the case."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from service.records import Book, Case, Fetch, LeaseLost, State, utc_now
from tests.service.casebook import instance, queue


def case_of(book: Book, case_id: str) -> Case:
    case = book.case(case_id)
    assert case is not None
    return case


def claimed(book: Book, owner: str = "me") -> Fetch:
    fetch = book.claim_fetch(owner)
    assert fetch is not None
    return fetch


def test_a_series_that_was_asked_for_is_a_case_without_a_patient_until_it_comes(book: Book) -> None:
    case_id = book.ask_fetch("1.2", "1.2.3", "pacs")
    case = case_of(book, case_id)
    assert (case.state, case.reason, case.instances, case.patient_id) == (State.RECEIVING, "to be fetched from pacs", 0, "")
    assert book.ask_fetch("1.2", "1.2.3", "other") == case_id
    fetch = claimed(book)
    assert (fetch.case_id, fetch.study_uid, fetch.series_uid, fetch.source, fetch.attempts) == (case_id, "1.2", "1.2.3", "pacs", 1)
    assert book.standing(case_id).fetching
    (noted,) = book.note_instances([instance()])
    assert noted.case_id == case_id
    come = case_of(book, case_id)
    assert (come.patient_id, come.patient_issuer, come.series_description, come.reason) == (
        "P/1",
        "HOSPITAL",
        "FLAIR 3D",
        "being fetched from pacs",
    )
    assert come.patient_key != case.patient_key
    book.fetch_done(fetch)
    assert not book.standing(case_id).fetching
    assert case_of(book, case_id).reason is None


def test_one_of_many_takes_it(book: Book) -> None:
    book.ask_fetch("1.2", "1.2.3", "pacs")
    taken: list[Fetch | None] = []
    threads = [threading.Thread(target=lambda: taken.append(book.claim_fetch(threading.current_thread().name))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one is not None for one in taken) == 1


def test_a_fetch_is_put_off_and_given_up_with_the_reason_and_asked_for_again(book: Book) -> None:
    case_id = book.ask_fetch("1.2", "1.2.3", "pacs")
    book.put_off_fetch(claimed(book), "no connection", utc_now() + timedelta(minutes=5))
    assert case_of(book, case_id).reason == "to be fetched from pacs again: no connection"
    assert book.claim_fetch("me") is None
    assert book.ask_fetch("1.2", "1.2.3", "pacs") == case_id
    assert book.claim_fetch("me") is None  # asked for already: its pause goes on


def test_what_is_given_up_holds_a_case_that_receives_and_no_other(book: Book) -> None:
    case_id, queued = book.ask_fetch("1.2", "1.2.3", "pacs"), queue(book, series="1.2.4")
    book.fetch_failed(claimed(book), "it is gone\x00")
    case = case_of(book, case_id)
    assert (case.state, case.reason) == (State.HELD, "not fetched from pacs: it is gone")
    assert book.ask_fetch("1.2", "1.2.4", "pacs") == queued
    book.fetch_failed(claimed(book), "it is gone")
    assert (case_of(book, queued).state, case_of(book, queued).reason) == (State.QUEUED, None)
    assert book.retry(case_id) is State.RECEIVING
    assert book.repeat_fetch(case_id)
    assert not book.repeat_fetch(case_id)
    assert claimed(book).attempts == 1


def test_what_another_sent_last_is_not_held_when_a_fetch_is_given_up(book: Book) -> None:
    case_id = book.ask_fetch("1.2", "1.2.3", "pacs")
    senders = (("fetch-1", "pacs", State.HELD), ("a1", "SCANNER", State.RECEIVING), ("a2", "PACS", State.HELD))
    for number, (association, source, state) in enumerate(senders):
        one = replace(instance(number), association=association, source=source, received_at=utc_now())
        book.note_instances([one])
        book.fetch_failed(claimed(book), "no connection", "PACS")
        case = case_of(book, case_id)
        assert (case.state, case.reason) == (state, "not fetched from pacs: no connection")
        assert case.history[-1].reason == case.reason
        assert not book.standing(case_id).fetching
        book.ask_fetch("1.2", "1.2.3", "pacs")


def test_nothing_is_written_to_see_that_no_fetch_is_due(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    write = book._writing
    monkeypatch.setattr(book, "_writing", lambda: writes.append(1) or write())
    assert book.claim_fetch("me") is None
    assert not writes
    book.ask_fetch("1.2", "1.2.3", "pacs")
    claimed(book)
    assert book.claim_fetch("other") is None
    assert len(writes) == 2


def test_who_lost_the_lease_writes_nothing(book: Book) -> None:
    case_id = book.ask_fetch("1.2", "1.2.3", "pacs")
    dead = claimed(book, "serve:here:1")
    book.renew_fetch(dead)
    book.reclaim("serve:here:")
    alive = claimed(book, "serve:here:2")
    assert alive.attempts == 2
    for write in (book.fetch_done, book.renew_fetch, lambda fetch: book.fetch_failed(fetch, "x")):
        with pytest.raises(LeaseLost):
            write(dead)
    assert case_of(book, case_id).state is State.RECEIVING
    book.fetch_done(alive)
