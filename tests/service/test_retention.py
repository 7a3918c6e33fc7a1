"""What the retention removes, what it never does, and that nothing acknowledged is lost while it is at it."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select, text, update

from service import administer, retention
from service.errors import Unavailable
from service.intake import Intake, Source
from service.orphans import Orphans, find_orphans, remove_orphans
from service.presence import Counts
from service.records import Book, OutputRow, State, utc_now
from service.records.schema import cases, deliveries, instances, outputs, turns
from service.retention import Keeper, apply_plan, make_plan
from service.settings import Settings
from service.store import Store
from tests.service.casebook import FINDINGS
from tests.service.series import flair_series, part10

AGE = {"keep_days": 10}


class House:
    """A book, a store, an intake, and time that can be turned back."""

    def __init__(self, folder: Path, book: Book, **rules: Any) -> None:
        self.book = book
        self.settings = Settings(data_dir=folder, minimum_free_mb=0, retention=rules)
        self.store = Store(folder)
        self.submitted: list[str] = []
        self.intake = self.new_intake(book)
        self.counts = Counts()

    def new_intake(self, book: Book) -> Intake:
        return Intake(self.settings, Store(self.settings.data_dir), book, None, submit=lambda _, case_id: self.submitted.append(case_id))

    def send(self, series: list[Dataset], *, close: bool = True) -> str:
        association = secrets.token_hex(4)
        for dataset in series:
            receipt = self.intake.receive(part10(dataset), Source(association, "SCANNER"))
        if close:
            self.intake.close_source(association)
        return receipt.case_id

    def finish(self, case_id: str, *, before: Callable[[], object] = lambda: None) -> str:
        lease = self.book.claim(case_id, "w")
        assert lease is not None
        rows = []
        for kind in ("segmentation", "report.json"):
            data = f"{case_id} {kind}".encode()
            path = self.store.put_output(case_id, kind, data)
            rows.append(
                OutputRow(kind, "x/y", path, hashlib.sha256(data).hexdigest(), len(data), lease.revision, "1.2", f"2.25.{case_id[:5]}")
            )
        before()  # the files are there, the rows are not
        self.book.finish(lease, outputs=rows, findings=FINDINGS)
        return case_id

    def done(self, series: list[Dataset] | None = None, *, sent: bool = True) -> str:
        case_id = self.finish(self.send(series or flair_series(14)))
        for delivery in self.book.deliveries(case_id) if sent else ():
            self.book.delivered(delivery.id)
        return case_id

    def age(self, case_id: str, days: float) -> str:
        then = utc_now() - timedelta(days=days)
        with self.book._writing() as connection:
            chosen = update(cases).where(cases.c.id == case_id)
            connection.execute(chosen.values(received_at=then, last_received_at=then, changed_at=then))
            paths = [*connection.execute(select(instances.c.path).where(instances.c.case_id == case_id)).scalars()]
            paths += connection.execute(select(outputs.c.path).where(outputs.c.case_id == case_id)).scalars()
        for path in paths:
            os.utime(self.store.path_of(path), (then.timestamp(), then.timestamp()))
        return case_id

    def run(self) -> int:
        return apply_plan(make_plan(self.settings, self.book, self.store), self.book, self.store, self.counts)

    @property
    def ids(self) -> set[str]:
        return {case.id for case in self.book.find_cases(limit=500).items}

    @property
    def files(self) -> set[str]:
        roots = [self.store.root / name for name in ("instances", "outputs")]
        return {self.store.relative(path) for root in roots for path in root.rglob("*") if path.is_file()}

    @property
    def folders(self) -> int:
        return sum(1 for name in ("instances", "outputs") for _ in (self.store.root / name).iterdir())

    def named(self) -> set[str]:
        with self.book._reading() as connection:
            found = set(connection.execute(select(instances.c.path).where(instances.c.path != "")).scalars())
            return found | set(connection.execute(select(outputs.c.path)).scalars())

    def break_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the rows go, and be gone before the files are."""

        def die(paths: list[str]) -> int:
            raise Unavailable("gone")

        with monkeypatch.context() as patched:
            patched.setattr(self.store, "remove", die)
            with pytest.raises(Unavailable):
                self.run()


@pytest.fixture
def make(tmp_path: Path, book: Book) -> Iterator[Callable[..., House]]:
    with book._writing() as connection:
        connection.execute(text("DELETE FROM removals"))
    yield lambda **rules: House(tmp_path / "data", book, **rules)


def test_without_rules_everything_is_kept(make: Callable[..., House]) -> None:
    house = make()
    house.age(house.done(), 4000)
    assert house.run() == 0
    assert len(house.files) == 16


def test_what_is_old_and_over_goes_with_its_files_and_folders(make: Callable[..., House]) -> None:
    house = make(**AGE)
    old, young = house.age(house.done(), 11), house.age(house.done(), 9)
    before = house.files
    plan = make_plan(house.settings, house.book, house.store)
    assert [one.case.case_id for one in plan.going] == [old]
    assert plan.size_bytes == sum((house.store.root / path).stat().st_size for path in before) // 2
    assert house.files == before, "a plan changes nothing"
    assert house.run() == 1
    assert house.ids == {young}
    assert house.files == house.named()
    assert house.folders == 2
    assert house.book.unfinished_removals() == []
    assert house.counts.take() == {("retention_cases", ()): 1, ("retention_bytes", ()): plan.size_bytes}


def test_what_is_undelivered_at_work_or_just_held_stays_however_old(make: Callable[..., House]) -> None:
    house = make(**AGE)
    t1 = {"SeriesDescription": "MPRAGE", "EchoTime": "3", "InversionTime": "900"}
    kept = {
        "pending": house.done(sent=False),
        "dead": house.done(sent=False),
        "queued": house.send(flair_series(14)),
        "receiving": house.send(flair_series(5), close=False),
    }
    running = kept["running"] = house.send(flair_series(14))
    house.book.claim(running, "w")
    (delivery,) = house.book.deliveries(kept["dead"])
    house.book.delivery_dead(delivery.id, "no")
    gone = {"refused": house.send(flair_series(14, **t1)), "held": house.send(flair_series(14))}
    with house.book._writing() as connection:
        connection.execute(update(cases).where(cases.c.id == gone["held"]).values(state="held"))
    for case_id in (*kept.values(), *gone.values()):
        house.age(case_id, 400)
    plan = make_plan(house.settings, house.book, house.store)
    assert {one.case.case_id for one in plan.going} == set(gone.values())
    assert plan.reasons == {"results not delivered": 2, "is queued": 1, "is receiving": 1, "is running": 1}
    assert house.run() == 2
    assert house.ids == set(kept.values())
    assert house.named() == house.files


def test_a_study_is_not_broken_up_lest_another_series_became_its_result(make: Callable[..., House]) -> None:
    house = make(**AGE)
    study_uid = flair_series(1)[0].StudyInstanceUID
    first = house.done(flair_series(16, study_uid=study_uid))
    second = house.done(flair_series(14, study_uid=study_uid))
    scout = house.send(flair_series(3, study_uid=study_uid, SeriesDescription="localizer"))
    primary = next(one for one in (first, second) if house.book.case(one).primary)
    for case_id in (primary, scout):
        house.age(case_id, 20)
    assert house.run() == 1
    assert house.ids == {first, second}, "only what was refused goes alone"
    assert house.book.case(primary).primary
    for case_id in (first, second):
        house.age(case_id, 20)
    assert house.run() == 2


def test_refused_series_may_go_earlier(make: Callable[..., House]) -> None:
    house = make(keep_refused_days=2)
    scout, done = house.send(flair_series(3, SeriesDescription="localizer")), house.done()
    house.age(scout, 3)
    house.age(done, 3000)
    assert house.run() == 1
    assert house.ids == {done}


def test_for_space_the_oldest_go_until_enough_is_free_and_nothing_of_today(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(keep_free_mb=100)
    old = [house.age(house.done(), days) for days in (2, 5, 3, 4)]
    today = house.done()
    size = make_plan_size(house, old[0])
    missing = int(1.5 * size)
    monkeypatch.setattr(house.store, "free_bytes", lambda: 100 * 1024**2 - missing)
    plan = make_plan(house.settings, house.book, house.store)
    assert [(one.case.case_id, one.why) for one in plan.going] == [(old[1], "space"), (old[3], "space")]
    assert plan.missing_bytes == 0
    monkeypatch.setattr(house.store, "free_bytes", lambda: 0)
    plan = make_plan(house.settings, house.book, house.store)
    assert [one.case.case_id for one in plan.going] == [old[1], old[3], old[2], old[0]]
    assert plan.missing_bytes > 0
    assert house.run() == 4
    assert house.ids == {today}
    monkeypatch.setattr(house.store, "free_bytes", lambda: 200 * 1024**2)
    assert not make_plan(house.settings, house.book, house.store).going


def make_plan_size(house: House, case_id: str) -> int:
    with house.book._reading() as connection:
        sizes = [
            connection.execute(select(table.c.size).where(table.c.case_id == case_id)).scalars().all() for table in (instances, outputs)
        ]
    return sum(map(sum, sizes))


def test_a_plan_is_judged_again_when_it_is_carried_out(make: Callable[..., House]) -> None:
    house = make(**AGE)
    series = flair_series(14)
    case_id = house.age(house.done(series), 20)
    plan = make_plan(house.settings, house.book, house.store)
    house.send(series[:1])  # the same instance again: it was just acknowledged, so the case is young
    assert apply_plan(plan, house.book, house.store, house.counts) == 0
    assert house.ids == {case_id}
    house.age(case_id, 20)
    with house.book._writing() as connection:
        connection.execute(update(deliveries).values(state="pending"))
    assert apply_plan(plan, house.book, house.store, house.counts) == 0
    assert house.book.case(case_id).state is State.DONE
    assert house.named() == house.files


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
    header, _ = _read(dataset)
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


def test_files_without_rows_go_only_when_asked_for_and_a_day_old(make: Callable[..., House]) -> None:
    house = make(**AGE)
    case_id = house.done()
    stranger = flair_series(2)
    for dataset in stranger:
        data = part10(dataset)
        house.store.put_instance(
            data[400:],
            series_uid=dataset.SeriesInstanceUID,
            sop_class_uid="1.2",
            sop_instance_uid="1.3",
            transfer_syntax_uid="1.2.840.10008.1.2",
        )
    house.send(flair_series(3), close=False)
    readable = house.intake._keep(*_read(flair_series(1)[0]))
    lost = house.store.put_output("feedbeef", "segmentation", b"of a worker that lost its lease")
    again = house.store.put_output(case_id, "segmentation", b"of an attempt that failed")
    named = house.named()
    assert find_orphans(house.book, house.store).files == 0, "too young"
    house.run()
    for path in house.files:
        os.utime(house.store.path_of(path), (1e9, 1e9))
    house.run()
    found = find_orphans(house.book, house.store)
    assert found.files == 5
    assert found.size_bytes == sum(house.store.path_of(path).stat().st_size for path in house.files - named)
    running = house.send(flair_series(14))
    house.book.claim(running, "w")
    at_work = house.store.put_output(running, "segmentation", b"about to be named")
    os.utime(house.store.path_of(at_work), (1e9, 1e9))
    assert {readable.path, lost, again} <= house.files
    remove_orphans(find_orphans(house.book, house.store), house.book, house.store)
    assert house.files == house.named() | {at_work}


def _read(dataset: Dataset) -> tuple[Any, bytes]:
    from io import BytesIO

    from service.headers import read_file

    data = part10(dataset)
    header, start = read_file(BytesIO(data))
    return header, data[start:]


def test_an_orphan_that_is_sent_again_while_it_is_removed_stays(make: Callable[..., House]) -> None:
    house = make()
    dataset = flair_series(1)[0]
    row = house.intake._keep(*_read(dataset))
    os.utime(house.store.path_of(row.path), (1e9, 1e9))
    found = find_orphans(house.book, house.store)
    assert found.instances == [row.path]
    house.send([dataset], close=False)
    remove_orphans(found, house.book, house.store)
    assert house.files == house.named() == {row.path}


def test_a_damaged_orphan_that_is_sent_again_before_it_is_removed_stays(make: Callable[..., House]) -> None:
    house = make()
    dataset = flair_series(1)[0]
    path = house.intake._keep(*_read(dataset)).path
    house.store.path_of(path).write_bytes(b"nothing that could be read")
    os.utime(house.store.path_of(path), (1e9, 1e9))
    found = find_orphans(house.book, house.store)
    assert found.files == 1
    house.send([dataset], close=False)
    remove_orphans(found, house.book, house.store)
    assert house.files == house.named() == {path}


def test_results_that_a_row_names_under_an_older_case_id_are_no_orphans(make: Callable[..., House]) -> None:
    house = make()
    case_id = house.done()
    with house.book._writing() as connection:  # as the index is made anew where the installation's key is another
        for number, path in connection.execute(select(outputs.c.id, outputs.c.path).where(outputs.c.case_id == case_id)).all():
            older = path.replace(case_id, "01d")
            house.store.path_of(older).parent.mkdir(exist_ok=True)
            house.store.path_of(path).rename(house.store.path_of(older))
            connection.execute(update(outputs).where(outputs.c.id == number).values(path=older))
    nobodys = house.store.put_output("01d", "segmentation", b"of an attempt that failed")
    named = house.named()
    for path in house.files:
        os.utime(house.store.path_of(path), (1e9, 1e9))
    assert find_orphans(house.book, house.store).outputs == {"01d": [nobodys]}
    remove_orphans(
        Orphans([], {"01d": sorted(path for path in house.files if path.startswith("outputs/01d/"))}, 0), house.book, house.store
    )
    assert house.files == named


def test_what_came_again_and_was_not_kept_waits_for_no_comparison(make: Callable[..., House]) -> None:
    house = make(**AGE)
    first, second = (flair_series(1)[0] for _ in range(2))
    for dataset in (first, second):
        dataset.SOPClassUID = SecondaryCaptureImageStorage
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(second, keyword, first[keyword].value)
    second.PatientName = "Corrected"
    case_id = house.age(house.send([first, second]), 20)
    with house.book._writing() as connection:  # earlier versions left no verdict
        older = update(instances).where(instances.c.aside, instances.c.path == "").values(verdict=None)
        assert connection.execute(older).rowcount == 1
    plan = make_plan(house.settings, house.book, house.store)
    assert plan.reasons == {}
    assert [one.case.case_id for one in plan.going] == [case_id]


def test_one_process_of_many_runs_it_once_an_hour_or_sooner_when_the_disk_is_low(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(keep_days=10, keep_free_mb=1)
    now = [0.0]
    first, second = (Keeper(house.settings, house.book, house.store, house.counts, clock=lambda: now[0]) for _ in range(2))
    house.age(house.done(), 20)
    assert (first.tick(), second.tick()) == (1, 0)
    house.age(house.done(), 20)
    now[0] += retention.EVERY_S - 1
    assert (first.tick(), second.tick()) == (0, 0)
    now[0] += 2
    assert (second.tick(), first.tick()) == (0, 1), "the turn is still the first one's"
    house.age(house.done(), 20)
    now[0] += retention.AGAIN_WHEN_LOW_S + 1
    assert first.tick() == 0
    monkeypatch.setattr(house.store, "free_bytes", lambda: 1000)
    assert first.tick() == 1


def test_a_process_that_replaces_another_need_not_wait_for_its_turn_to_end(make: Callable[..., House]) -> None:
    house = make(**AGE)
    before, after, other = (
        Keeper(house.settings, house.book, house.store, house.counts, name=name) for name in ("serve:host", "serve:host", None)
    )
    house.age(house.done(), 20)
    assert before.tick() == 1
    house.age(house.done(), 20)
    assert (other.tick(), after.tick()) == (0, 1)


def test_a_long_run_keeps_its_turn_and_stops_where_it_lost_it(make: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    house = make(**AGE)
    for days in (23, 22, 21):
        house.age(house.done(), days)
    remove, left_s = house.book.remove, []

    def take_long(*arguments: Any) -> Any:
        now = utc_now()
        with house.book._writing() as connection:
            left_s.append((connection.execute(select(turns.c.until)).scalar_one() - now).total_seconds())
            lost = {"owner": "another"} if len(left_s) == 2 else {}
            until = now + timedelta(seconds=600 if lost else 1)
            connection.execute(update(turns).values(until=until, **lost))
        return remove(*arguments)

    monkeypatch.setattr(house.book, "remove", take_long)
    assert Keeper(house.settings, house.book, house.store, house.counts).tick() == 2, "the third is the other's"
    assert min(left_s) > retention.TURN_S - 120
    assert len(house.ids) == 1


def test_the_clean_up_by_hand_never_runs_beside_another(
    make: Callable[..., House], book_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house = make(**AGE)
    settings = Settings(data_dir=house.settings.data_dir, database_url=book_url, minimum_free_mb=0, retention=AGE)
    old = house.age(house.done(), 20)
    house.book.take_turn(retention.TURN, "another", 900)
    administer.clean_up(settings, apply=False, orphans=False)
    with pytest.raises(Unavailable, match="somebody else") as refused:
        administer.clean_up(settings, apply=True, orphans=False)
    assert "\n" not in str(refused.value)
    assert house.ids == {old}
    house.book.give_turn(retention.TURN, "a third")
    assert not house.book.take_turn(retention.TURN, "me", 900), "nobody gives away what he does not have"
    house.book.give_turn(retention.TURN, "another")
    administer.clean_up(settings, apply=True, orphans=False)
    assert not house.ids
    administer.clean_up(settings, apply=True, orphans=False)
    assert "0 cases removed" in capsys.readouterr().out, "the turn was given back"
