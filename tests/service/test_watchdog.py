"""A worker that stands still as a whole is killed and started again; one that lives, or a database that is away, is left alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.children import Child
from service.errors import Unavailable
from service.records import Book, upgrade_book
from service.settings import Settings
from service.watchdog import Watchdog

SILENT_S = 5.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(data_dir=tmp_path)
    upgrade_book(made)
    return made


@pytest.fixture
def book(settings: Settings) -> Iterator[Book]:
    made = Book(settings.database)
    yield made
    made.close()


@pytest.fixture
def child(settings: Settings) -> Iterator[Child]:
    made = Child("delivery", ("worker", "--queue", "delivery"), {**os.environ, "LEUKOSCOPE_DATA_DIR": str(settings.data_dir)})
    made.start()
    yield made
    made.kill()
    made.stop(0.0)


def look_until(watchdog: Watchdog, child: Child, over, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not over():
        watchdog.look([child])
        child.check()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_frozen_worker_is_replaced_and_a_living_one_is_not(book: Book, child: Child) -> None:
    watchdog = Watchdog(book, silent_s=SILENT_S)
    first = child.pid
    look_until(watchdog, child, lambda: any(part.detail["pid"] == first for part in book.living_parts()))
    until = time.monotonic() + SILENT_S + 2
    look_until(watchdog, child, lambda: time.monotonic() > until)
    assert child.pid == first, "it lives and was left alone"
    os.kill(first, signal.SIGSTOP)  # type: ignore[arg-type]
    look_until(watchdog, child, lambda: child.pid not in {None, first})
    second = child.pid
    look_until(watchdog, child, lambda: any(part.detail["pid"] == second for part in book.living_parts()))


def test_a_case_book_that_is_away_excuses_everybody(book: Book, child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    watchdog = Watchdog(book, clock=lambda: now[0], silent_s=SILENT_S)
    first = child.pid
    look_until(watchdog, child, lambda: any(part.detail["pid"] == first for part in book.living_parts()))
    watchdog.look([child])

    def away() -> None:
        raise Unavailable("the database")

    monkeypatch.setattr(book, "living_parts", away)
    for _ in range(100):
        now[0] += SILENT_S
        watchdog.look([child])
    assert child.pid == first
