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
from service.presence import Counts, present
from service.records import Book, open_book, upgrade_book
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
    """A case book in which this process, the supervisor, says that it lives."""
    made = open_book(settings)
    with present(made, Counts(), {"listener": dict}, every_s=0.05):
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
        time.sleep(0.2)
        watchdog.read()
        watchdog.look([child])
        child.check()
        assert time.monotonic() < deadline


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


@pytest.mark.parametrize("away", ["living_parts", "beat"])
def test_a_case_book_that_cannot_be_read_or_written_excuses_everybody(
    book: Book, child: Child, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    now = [0.0]
    watchdog = Watchdog(book, clock=lambda: now[0], silent_s=SILENT_S)
    first = child.pid
    look_until(watchdog, child, lambda: any(part.detail["pid"] == first for part in book.living_parts()))

    def refuse(*_: object) -> None:
        raise Unavailable("the database")

    monkeypatch.setattr(book, away, refuse)
    time.sleep(0.2)
    os.kill(first, signal.SIGSTOP)  # type: ignore[arg-type]  # it tells nothing, as on a full disk
    for _ in range(20):
        now[0] += SILENT_S
        watchdog.read()
        watchdog.look([child])
    os.kill(first, signal.SIGCONT)  # type: ignore[arg-type]
    assert child.pid == first
