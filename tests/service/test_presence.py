"""Living processes and sums in the case book: right over several processes, restarts and a database that goes away."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from service.errors import Unavailable
from service.presence import Counts, Presence, present
from service.records import Book, Event, finished, upgrade, upkeep, utc_now
from tests.service.casebook import queue, run


def sums(book: Book) -> dict[tuple[str, tuple[str, ...]], int]:
    return book.counters()


def test_two_processes_add_to_the_same_sums(book: Book, book_url: str) -> None:
    other = Book(book_url)
    one, two = Counts(), Counts()
    presences = [Presence(book, one, {"listener": dict}), Presence(other, two, {"listener": dict, "api": dict})]
    for number in range(3):
        one.add("received_bytes", "dicom", by=100)
        two.add("received_bytes", "dicom", by=1)
        two.add("retention_cases")
        presences[number % 2].beat()
    for presence in presences:
        presence.beat()
    assert sums(book) == {("received_bytes", ("dicom",)): 303, ("retention_cases", ()): 3}
    assert sorted(part.kind for part in book.living_parts()) == ["api", "listener", "listener"]
    presences[1].leave()
    assert [part.kind for part in book.living_parts()] == ["listener"]
    other.close()


def test_many_processes_add_at_once_and_nothing_is_lost(book: Book, book_url: str) -> None:
    def count(labels: list[str]) -> None:
        mine = Book(book_url)
        counts = Counts()
        presence = Presence(mine, counts, {"listener": dict})
        for _ in range(10):
            for label in labels:
                counts.add("associations", label)
            presence.beat()
        presence.leave()
        mine.close()

    threads = [threading.Thread(target=count, args=(order,)) for order in (["a", "b"], ["b", "a"], ["a", "c"], ["c", "b"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {labels: value for (_, labels), value in sums(book).items()} == {("a",): 30, ("b",): 30, ("c",): 20}
    assert book.living_parts() == []


def test_a_killed_process_disappears_by_itself_and_is_deleted_later(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    Presence(book, Counts(), {"listener": lambda: {"associations": 3}}).beat()
    now = utc_now()
    assert [part.detail["associations"] for part in book.living_parts(now + timedelta(seconds=25))] == [3]
    assert book.living_parts(now + timedelta(seconds=40)) == []
    monkeypatch.setattr(upkeep, "_FORGOTTEN_AFTER", timedelta(0))
    time.sleep(0.01)
    book.beat([], {})
    with book._reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM parts")).scalar() == 0


def test_counts_wait_for_a_database_that_is_away(book: Book, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the database: gone")

    counts = Counts()
    presence = Presence(book, counts, {"api": dict})
    with monkeypatch.context() as patched:
        patched.setattr(book, "beat", away)
        for _ in range(3):
            counts.add("associations", "accepted")
            presence.beat()
    assert sums(book) == {}
    presence.beat()
    presence.beat()
    assert sums(book) == {("associations", ("accepted",)): 3}
    assert len([line for line in caplog.records if "counts are kept" in line.message]) == 1


def test_the_last_counts_are_written_at_the_orderly_end(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/book.sqlite"
    upgrade(url)
    book, counts = Book(url), Counts()
    with present(book, counts, {"listener": dict}, every_s=3600):
        assert len(book.living_parts()) == 1
        counts.add("associations", "accepted")
    assert sums(book) == {("associations", ("accepted",)): 1}
    assert book.living_parts() == []
    book.close()


def test_a_part_is_renewed_while_the_process_runs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/book.sqlite"
    upgrade(url)
    book, works = Book(url), {"case_id": ""}
    with present(book, Counts(), {"inference": lambda: works}, every_s=0.02):
        first = book.living_parts()[0]
        works["case_id"] = "c1"
        deadline = time.monotonic() + 20
        while (now := book.living_parts()[0]).detail["case_id"] != "c1":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert now.seen_at > first.seen_at
        assert now.started_at == first.started_at
    book.close()


def test_transitions_are_counted_once_each(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    assert book.events_after(0) == (0, {}), "nothing yet"
    run(book, queue(book))
    line, counted = book.events_after(0)
    assert (line, counted) == (0, {}), "too young: a transaction with a smaller number may still commit"
    monkeypatch.setattr(upkeep, "SETTLED", finished.SETTLED * 0)
    time.sleep(0.01)
    line, counted = book.events_after(line)
    assert counted == {Event.RECEIVE: 1, Event.ADMIT: 1, Event.CLAIM: 1, Event.FINISH: 1}
    assert book.events_after(line) == (line, {})


def test_the_oldest_delivery_is_told(book: Book) -> None:
    assert book.oldest_pending_at() is None
    run(book, queue(book))
    since = book.oldest_pending_at()
    assert since is not None
    assert since.tzinfo is not None
