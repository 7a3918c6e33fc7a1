"""What breaks off, is killed or races with a sender while cases are removed loses nothing acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service import retention
from service.errors import Unavailable
from service.intake.handover import Source
from service.presence import Counts
from service.records import Book, utc_now
from service.records.schema import cases
from service.retention import apply_plan, make_plan
from service.store import Store
from tests.service.retention.conftest import AGE, House, read
from tests.service.series import flair_series, part10


@pytest.mark.parametrize("after", ["rows", "some files", "all files"])
def test_what_breaks_off_in_the_middle_is_finished_by_the_next_run(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    house = make(**AGE)
    house.age(house.done(), 20)
    remove = house.store.remove

    def break_off(paths: list[str]) -> int:
        if after == "some files":
            remove(paths[:5])
        raise Unavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(*((house.book, "end_removal") if after == "all files" else (house.store, "remove")), break_off)
        with pytest.raises(Unavailable):
            house.run()
    assert not house.ids
    assert {"rows": 16, "some files": 11, "all files": 0}[after] == len(house.files)
    assert len(house.book.unfinished_removals()) == 1
    house.run()
    assert not house.files
    assert not house.folders
    assert not house.book.unfinished_removals()


KILLED = """
import os, signal, sys
from service import retention, store
from service.records import Book
from service.presence import Counts
from service.settings import load_settings
settings = load_settings()
book, kept = Book(settings.database), store.Store(settings.data_dir)
remove = store.Store.remove
def die(self, paths):
    remove(self, paths[:3])
    os.kill(os.getpid(), signal.SIGKILL)
store.Store.remove = die
retention.apply_plan(retention.make_plan(settings, book, kept), book, kept, Counts())
"""


def test_a_process_that_is_killed_leaves_what_the_next_one_finishes(tmp_path: Path, sqlite_book: Book) -> None:
    house = House(tmp_path / "data", sqlite_book, **AGE)
    first, second = house.age(house.done(), 21), house.age(house.done(), 20)
    (tmp_path / "data" / "leukoscope.toml").write_text("[retention]\nkeep_days = 10\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LEUKOSCOPE_")}
    clean |= {"LEUKOSCOPE_DATA_DIR": str(tmp_path / "data"), "LEUKOSCOPE_CONFIG": str(tmp_path / "data" / "leukoscope.toml")}
    clean |= {"LEUKOSCOPE_DATABASE_URL": f"sqlite:///{tmp_path}/sqlite-book.sqlite", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", KILLED], env=clean, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert house.ids == {second}
    assert house.book.case(first) is None
    assert len(house.files) == 2 * 16 - 3
    assert house.run() == 1
    assert not house.files


def test_a_series_sent_again_between_rows_and_files_keeps_its_files(make: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    house = make(**AGE)
    series = flair_series(14)
    house.age(house.done(series), 20)
    without_rows = house.book.without_rows

    def send_first(*arguments: Any) -> None:
        house.send(series)
        without_rows(*arguments)

    monkeypatch.setattr(house.book, "without_rows", send_first)
    assert house.run() == 1
    (case_id,) = house.ids
    assert house.book.case(case_id).instances == 14
    assert house.named() == house.files
    assert len(house.files) == 14


def test_results_that_are_made_again_after_a_kill_between_rows_and_files_stay(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(**AGE)
    series = flair_series(14)
    first = house.age(house.done(series), 20)
    house.break_off(monkeypatch)
    assert not house.ids
    assert house.done(series) == first, "the same series is the same case, and its results the same files"
    retention.finish_removals(house.book, house.store)
    assert len(house.named()) == 16
    assert house.named() == house.files
    assert not house.book.unfinished_removals()


def test_results_are_not_removed_under_the_worker_that_is_about_to_name_them(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(**AGE)
    series = flair_series(14)
    house.age(house.done(series), 20)
    house.break_off(monkeypatch)
    left: list[int] = []

    def remove_meanwhile() -> None:
        retention.finish_removals(house.book, house.store)
        left.append(len(house.book.unfinished_removals()))

    house.finish(house.send(series), before=remove_meanwhile)
    assert left == [1], "a later run looks again"
    assert len(house.named()) == 16
    assert house.named() == house.files
    retention.finish_removals(house.book, house.store)
    assert not house.book.unfinished_removals()
    assert house.named() == house.files


def test_files_that_go_between_being_found_and_being_noted_are_written_again(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(**AGE)
    series = flair_series(14)
    house.age(house.done(series), 20)
    note = house.intake._commit.put
    removed: list[int] = []

    def remove_first(row: Any) -> Any:
        removed.append(house.run())  # the file is in its place, the row is not there yet
        return note(row)

    monkeypatch.setattr(house.intake._commit, "put", remove_first)
    house.intake.receive(part10(series[0]), Source("a1", "SCANNER"))
    assert removed == [1]
    assert len(house.named()) == 1
    assert house.named() == house.files


@pytest.mark.parametrize("what", ["instances of a study", "instances of no known study", "results of no known case"])
def test_no_row_can_come_while_files_are_looked_at_and_unlinked(make: Callable[..., House], book_url: str, what: str) -> None:
    house = make()
    dataset = flair_series(1)[0]
    header, _ = read(dataset)
    other = Book(book_url, secret=house.book._secret)
    sender = threading.Thread(target=house.new_intake(other).receive, args=(part10(dataset), Source("a", "SCANNER")))

    def look(paths: list[str]) -> None:
        sender.start()
        sender.join(0.7)
        assert sender.is_alive(), "a row came meanwhile"

    if what == "results of no known case":
        house.book.without_output_rows("x", None, ["outputs/x/y"], look)
    else:
        house.book.without_rows(header.study_uid if what == "instances of a study" else None, ["instances/x/y.dcm"], look)
    sender.join()
    other.close()
    assert len(house.named()) == 1


def test_senders_and_removers_at_once_lose_nothing(make: Callable[..., House], book_url: str) -> None:
    """Three senders repeat a series for ever while two others remove it as soon as it is there."""
    house = make(**AGE)
    series = [part10(dataset) for dataset in flair_series(4)]
    over = threading.Event()
    trouble: list[BaseException] = []
    acknowledged: list[int] = []
    went: list[int] = []

    def guarded(work: Callable[[Book], None]) -> Callable[[], None]:
        def run() -> None:
            book = Book(book_url, secret=house.book._secret)
            try:
                while not over.is_set():
                    work(book)
            except BaseException as error:
                trouble.append(error)
            finally:
                book.close()

        return run

    def send(book: Book) -> None:
        intake = house.new_intake(book)
        for data in series:
            receipt = intake.receive(data, Source("a", "SCANNER"))
            acknowledged.append(1)
            assert receipt.outcome in {"new", "repeat"}

    def remove(book: Book) -> None:
        then = utc_now() - timedelta(days=30)
        with book._writing() as connection:
            connection.execute(update(cases).values(state="held", received_at=then, last_received_at=then, changed_at=then))
        store = Store(house.settings.data_dir)
        went.append(apply_plan(make_plan(house.settings, book, store), book, store, Counts()))

    threads = [threading.Thread(target=guarded(work)) for work in (send, send, send, remove, remove)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while (len(acknowledged) < 100 or sum(went) < 10) and not trouble and time.monotonic() < deadline:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    assert not trouble, trouble
    assert sum(went) >= 10
    retention.finish_removals(house.book, house.store)
    missing = house.named() - house.files
    assert not missing, "a row without a file"
    house.intake.receive(series[0], Source("a", "SCANNER"))
    assert house.named() <= house.files
