"""What goes on beside a block outlives a database that is away, and never ends unsaid."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from service import repeating as module
from service.errors import Unavailable
from service.presence import Counts, present
from service.records import open_book, upgrade_book
from service.repeating import repeating
from service.settings import Settings


def test_it_goes_on_after_what_was_unavailable(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_AFTER_UNAVAILABLE_S", 0.01)
    done = threading.Event()
    answers = iter([True, False, True])

    def work() -> None:
        is_away = next(answers, None)
        if is_away:
            raise Unavailable("the database")
        if is_away is None:
            done.set()

    with repeating("sweep", work, 0.01) as thread:
        assert done.wait(20)
    assert not thread.is_alive()
    assert [line.message for line in caplog.records] == ["sweep put off: the database"] * 2


def test_a_defect_is_said_and_acted_on_once(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()
    with repeating("sweep", lambda: 1 / 0, 0.01, on_defect=failed.set) as thread:
        assert failed.wait(20)
        thread.join(20)
        assert not thread.is_alive()
    (line,) = caplog.records
    assert (line.levelname, line.message) == ("CRITICAL", "a part of this process failed: sweep")


def test_a_part_that_cannot_say_how_it_is_does_not_die_out_unsaid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(data_dir=tmp_path)
    upgrade_book(settings)
    book, failed = open_book(settings), threading.Event()
    sound: list[dict[str, str]] = [{}]
    with present(book, Counts(), {"listener": lambda: sound[0]}, every_s=0.01, on_defect=failed.set):
        sound.clear()
        assert failed.wait(20)
        sound.append({})
    book.close()
    assert [line.message for line in caplog.records if line.levelname == "CRITICAL"] == ["a part of this process failed: presence"]
