"""Group commit: everybody's row is written once, and everybody gets their own answer."""

from __future__ import annotations

import threading
import time

import pytest

from service.errors import Unavailable
from service.intake.commit import GroupCommit


def test_rows_that_wait_together_are_written_together() -> None:
    batches: list[list[int]] = []

    def write(rows: list[int]) -> list[int]:
        batches.append(rows)
        time.sleep(0.05)
        return [row * 10 for row in rows]

    commit: GroupCommit[int, int] = GroupCommit(write)
    results: dict[int, int] = {}
    threads = [threading.Thread(target=lambda row=row: results.__setitem__(row, commit.put(row))) for row in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {row: row * 10 for row in range(20)}
    assert sorted(row for batch in batches for row in batch) == list(range(20))
    assert len(batches) <= 5


def test_a_row_that_breaks_its_batch_breaks_alone() -> None:
    begun = threading.Event()

    def write(rows: list[int]) -> list[int]:
        if rows == [0]:
            begun.set()
            time.sleep(0.1)
        if 3 in rows:
            raise ValueError("three")
        return rows

    commit: GroupCommit[int, int] = GroupCommit(write)
    results: dict[int, object] = {}

    def put(row: int) -> None:
        try:
            results[row] = commit.put(row)
        except ValueError as error:
            results[row] = str(error)

    first = threading.Thread(target=put, args=(0,))
    first.start()
    begun.wait()
    rest = [threading.Thread(target=put, args=(row,)) for row in range(1, 6)]
    for thread in rest:
        thread.start()
    for thread in [first, *rest]:
        thread.join()
    assert results == {0: 0, 1: 1, 2: 2, 3: "three", 4: 4, 5: 5}


def test_a_database_that_is_away_is_everybodys_answer_at_once() -> None:
    calls = 0

    def write(_rows: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise Unavailable("gone")

    commit: GroupCommit[int, int] = GroupCommit(write)
    with pytest.raises(Unavailable):
        commit.put(1)
    assert calls == 1
