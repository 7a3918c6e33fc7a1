"""A case whose workers are killed time and again is held in the end; kills that strike it by chance are not held against it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rich.console import Console

from service.commands import tables
from service.records import Book, Case, State, utc_now
from service.records import work as work_module
from service.records.lapses import ALONE, ALONE_FOR, AMONG_OTHERS
from tests.service.casebook import instance, queue, run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """The case book's, which a test moves."""
    now = [utc_now()]
    monkeypatch.setattr(work_module, "utc_now", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += timedelta(seconds=seconds)

    return wait


def case_of(book: Book, case_id: str) -> Case:
    case = book.case(case_id)
    assert case is not None
    return case


def kill(book: Book, clock, case_id: str, times: int, every_s: float = 160.0, *, others: bool = False) -> Case:
    """Let a worker claim the case and be killed with its parent, which is noticed before the next; `others` finish something meanwhile."""
    for number in range(times):
        if book.claim(case_id, "serve:9:") is None:
            break
        clock(every_s)
        if others and number % (ALONE - 1) == 0:
            other = queue(book, series=str(utc_now()), study="other")
            run(book, other)
        book.reclaim("serve:")
    return case_of(book, case_id)


def test_five_lapses_in_a_row_with_nothing_else_done_hold_the_case(book: Book, clock) -> None:
    case_id = queue(book)
    assert kill(book, clock, case_id, ALONE - 1).state is State.QUEUED
    case = kill(book, clock, case_id, 1)
    assert (case.state, case.attempts, case.lapses, case.primary) == (State.HELD, 0, ALONE, False)
    assert case.reason is not None and case.reason.startswith("its worker was killed 5 times in a row") and "memory limit" in case.reason
    assert [line.event for line in case.history][-3:] == ["lapse", "claim", "set aside"]
    assert book.claim(case_id, "w") is None
    assert book.due(utc_now() + timedelta(days=1)) == [], "nobody is asked to try it again"


def test_the_worker_that_finds_the_last_lapse_gets_no_lease(book: Book, clock) -> None:
    case_id = queue(book)
    kill(book, clock, case_id, ALONE - 1)
    assert book.claim(case_id, "w1") is not None
    clock(160)
    assert book.claim(case_id, "w2") is None
    assert case_of(book, case_id).state is State.HELD


@pytest.mark.parametrize("anew", ["asked for", "a late slice", "charged"])
def test_what_happens_in_between_begins_the_count_again(book: Book, clock, anew: str) -> None:
    case_id = queue(book)
    if anew == "asked for":
        assert kill(book, clock, case_id, ALONE).state is State.HELD
        assert book.retry(case_id) is State.RECEIVING
    else:
        kill(book, clock, case_id, ALONE - 1)
    if anew == "a late slice":
        book.note_instances([instance(9)])
    if anew == "charged":
        lease = book.claim(case_id, "w")
        assert lease is not None
        book.fail(lease, "boom")
    else:
        assert book.queue_case(case_id, "flair", rank=(1,))
    assert kill(book, clock, case_id, ALONE - 1).state is State.QUEUED
    assert kill(book, clock, case_id, 1).state is State.HELD


def test_a_storm_that_hits_the_same_case_each_time_does_not_hold_it(book: Book, clock) -> None:
    case_id = queue(book)
    rounds = AMONG_OTHERS - 1
    assert kill(book, clock, case_id, rounds, every_s=ALONE_FOR.total_seconds() / rounds).state is State.QUEUED
    run(book, case_id)
    assert case_of(book, case_id).state is State.DONE


def test_while_others_are_done_it_takes_fifty(book: Book, clock) -> None:
    case_id = queue(book)
    assert kill(book, clock, case_id, AMONG_OTHERS - 1, others=True).state is State.QUEUED
    assert kill(book, clock, case_id, 1, others=True).state is State.HELD


def test_the_terminal_tells_how_often(book: Book, clock, capsys: pytest.CaptureFixture[str]) -> None:
    case = kill(book, clock, queue(book), 2)
    tables._print_case(Console(width=200), book, case)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "workers killed" in line]
    assert line.split()[-1] == "2"
