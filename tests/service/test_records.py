"""The case book's surface, on SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from service.errors import Misconfigured, Unavailable
from service.records import (
    Book,
    BookOutdated,
    InvalidTransition,
    LeaseLost,
    State,
    UnknownCase,
    open_book,
    patient_key,
    upgrade,
    utc_now,
)
from service.records import work as work_module
from service.records.database import make_engine
from service.records.schema import metadata
from service.settings import Settings
from tests.service.casebook import FINDINGS, SECRET, START, instance, output, queue, receive, run


def test_a_series_becomes_one_case_in_receiving(book: Book) -> None:
    noted = book.note_instances([instance(n) for n in (1, 2, 3)])
    assert [one.outcome for one in noted] == ["new"] * 3
    assert len({one.case_id for one in noted}) == 1
    case = book.case(noted[0].case_id)
    assert case is not None
    assert (case.state, case.revision, case.instances, case.attempts) == (State.RECEIVING, 1, 3, 0)
    assert (case.patient_id, case.study_uid, case.series_uid) == ("P/1", "1.2", "1.2.3")
    assert case.received_at == START
    assert [(line.event, line.previous, line.state) for line in case.history] == [("receive", None, State.RECEIVING)]


def test_repeats_change_nothing_and_other_bytes_are_kept_aside(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    before = book.case(case_id)
    noted = book.note_instances([instance(1), instance(2), instance(2, digest="x"), instance(2, digest="x")])
    assert [one.outcome for one in noted] == ["repeat", "repeat", "conflict", "conflict"]
    assert {one.state for one in noted} == {State.DONE}
    assert book.case(case_id) == before
    assert len(book.headers(case_id)) == 3
    assert "instances/1.2.3/x.dcm" not in book.instance_paths(case_id)


def test_series_of_the_same_uid_in_two_studies_are_two_cases(book: Book) -> None:
    first, second = book.note_instances([instance(1, study="1"), instance(1, study="2")])
    assert first.case_id != second.case_id
    assert len(book.find_cases(series_uid="1.2.3").items) == 2


def test_headers_come_back_as_they_went_in(book: Book) -> None:
    rows = [instance(n, header={"name": "é≥", "position": [1.5, None], "n": n}) for n in (2, 1, 3)]
    case_id = book.note_instances(rows)[0].case_id
    assert book.headers(case_id) == rows
    assert book.instance_paths(case_id) == [f"instances/1.2.3/{n}.dcm" for n in (1, 2, 3)]


def test_a_class_nobody_wants_has_a_row_but_no_file(book: Book) -> None:
    case_id = book.note_instances([instance(1), instance(2, path="", size=0)])[0].case_id
    assert len(book.headers(case_id)) == 2
    assert book.instance_paths(case_id) == ["instances/1.2.3/1.dcm"]


def test_text_no_database_takes_does_not_stop_a_series(book: Book) -> None:
    row = instance(
        1, patient_id="a\x00b", patient_issuer="\udc80", series_description="FL\x00AIR", source="S\x00", header={"x": "\x00\udc80"}
    )
    case_id = book.note_instances([row])[0].case_id
    case = book.case(case_id)
    assert case is not None
    assert (case.patient_id, case.series_description) == ("ab", "FLAIR")
    assert book.headers(case_id)[0].header == {"x": "\x00\udc80"}
    book.refuse(case_id, "no \x00 brain")
    assert "no  brain" in str(book.case(case_id))


def test_receiving_tells_when_the_last_instance_came(book: Book) -> None:
    receive(book, 1)
    later = START + timedelta(seconds=7)
    book.note_instances([instance(2, received_at=later)])
    assert (book.receiving()[0].last_received_at, book.receiving()[0].instances) == (later, 2)
    again = later + timedelta(seconds=7)
    book.note_instances([instance(2, received_at=again)])
    assert (book.receiving()[0].last_received_at, book.receiving()[0].instances) == (again, 2)


def test_a_decision_made_on_fewer_instances_is_not_taken(book: Book) -> None:
    case_id = receive(book, 3)
    assert not book.queue_case(case_id, "flair", seen=2)
    assert not book.hold(case_id, "gap", seen=2)
    assert not book.refuse(case_id, "T1", "not-flair", seen=2)
    assert book.case(case_id).state is State.RECEIVING  # type: ignore[union-attr]
    assert book.refuse(case_id, "T1", "not-flair", seen=3)
    case = book.case(case_id)
    assert (case.state, case.reason, case.rule, case.primary) == (State.REJECTED, "T1", "not-flair", False)  # type: ignore[union-attr]


def test_a_case_from_queue_to_done(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "worker-1")
    assert lease is not None
    assert (lease.revision, lease.fence) == (1, 1)
    assert book.claim(case_id, "worker-2") is None
    assert book.lease_of(case_id) == lease
    lease = book.renew(lease)
    book.finish(
        lease,
        outputs=[output()],
        findings=FINDINGS,
        quality=("after contrast",),
        model={"name": "m"},
        stages={"convert": (10.0, 0.5), "predict": (11.0, 2.0)},
    )
    case = book.case(case_id)
    assert case is not None
    assert (case.state, case.reason, case.rule, case.primary, case.attempts) == (State.DONE, None, "flair", True, 0)
    assert case.stages == {"convert": {"start": 10.0, "seconds": 0.5}, "predict": {"start": 11.0, "seconds": 2.0}}
    assert case.quality == ("thick slices", "after contrast")
    assert (case.findings, case.model) == (FINDINGS, {"name": "m"})
    assert book.outputs(case_id) == [output()]
    assert [line.event for line in case.history] == ["receive", "admit", "claim", "finish"]
    assert all(line.at.tzinfo == UTC for line in case.history)
    with pytest.raises(LeaseLost):
        book.renew(lease)
    assert book.lease_of(case_id) is None


def test_the_book_says_no_to_what_cannot_happen(book: Book) -> None:
    case_id = queue(book)
    for act in (
        lambda: book.queue_case(case_id, None),
        lambda: book.hold(case_id, "x"),
        lambda: book.refuse(case_id, "x"),
        lambda: book.retry(case_id),
    ):
        with pytest.raises(InvalidTransition):
            act()
    with pytest.raises(UnknownCase):
        book.retry("nobody")
    assert book.case("nobody") is None
    assert book.claim("nobody", "w") is None
    assert book.outputs("nobody") == []
    assert [line.event for line in book.case(case_id).history] == ["receive", "admit"]  # type: ignore[union-attr]


def test_three_attempts_are_all(book: Book) -> None:
    case_id = queue(book)
    states = []
    for _ in range(3):
        lease = book.claim(case_id, "w")
        assert lease is not None
        states.append(book.fail(lease, "boom"))
    case = book.case(case_id)
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    assert (case.state, case.reason, case.attempts, case.primary) == (State.FAILED, "boom", 3, False)  # type: ignore[union-attr]
    assert book.retry(case_id) is State.QUEUED
    assert (book.case(case_id).attempts, book.case(case_id).primary) == (0, True)  # type: ignore[union-attr]


def test_an_unavailable_part_is_not_an_attempt(book: Book) -> None:
    case_id = queue(book)
    for _ in range(5):
        lease = book.claim(case_id, "w")
        assert lease is not None
        book.put_back(lease, "the disk is full", delay_s=60)
    assert book.case(case_id).attempts == 0  # type: ignore[union-attr]
    now = datetime.now(UTC)
    assert book.due(now) == []
    assert book.due(now + timedelta(seconds=61)) == [case_id]


def test_a_worker_that_rejects(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    book.reject(lease, "a mask")
    case = book.case(case_id)
    assert (case.state, case.reason, case.primary) == (State.REJECTED, "a mask", False)  # type: ignore[union-attr]


def test_a_lapsed_lease_is_taken_over_and_counted_apart(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = queue(book)
    old = book.claim(case_id, "dead")
    assert old is not None
    later = datetime.now(UTC) + timedelta(seconds=31)
    assert book.due(later) == [case_id]
    monkeypatch.setattr(work_module, "utc_now", lambda: later)
    new = book.claim(case_id, "alive")
    assert new is not None
    assert new.fence == old.fence + 1
    case = book.case(case_id)
    assert (case.lapses, case.attempts, case.state) == (1, 0, State.RUNNING)  # type: ignore[union-attr]
    for write in (
        lambda: book.renew(old),
        lambda: book.fail(old, "x"),
        lambda: book.reject(old, "x"),
    ):
        with pytest.raises(LeaseLost):
            write()
    with pytest.raises(LeaseLost):
        book.finish(old, outputs=[output()], findings=FINDINGS)
    assert book.outputs(case_id) == []
    book.finish(new, outputs=[output()], findings=FINDINGS)
    assert [line.event for line in book.case(case_id).history] == ["receive", "admit", "claim", "lapse", "claim", "finish"]  # type: ignore[union-attr]


def test_a_clock_set_back_delays_nothing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = queue(book)
    assert book.claim(case_id, "w") is not None
    other = queue(book, series="9")
    book.submitted(other)
    past = datetime.now(UTC) - timedelta(days=1)
    assert sorted(book.due(past)) == sorted([case_id, other])
    monkeypatch.setattr(work_module, "utc_now", lambda: past)
    assert book.claim(case_id, "w2") is not None


def test_the_sweep_sees_what_was_not_submitted(book: Book) -> None:
    case_id = queue(book)
    admitted = book.case(case_id).history[-1].at  # type: ignore[union-attr]
    assert book.due(admitted) == []  # a moment for the one who queued it
    assert book.due(admitted + timedelta(seconds=2)) == [case_id]
    before = datetime.now(UTC)
    book.submitted(case_id)
    assert book.due(before + timedelta(seconds=29)) == []
    assert book.due(datetime.now(UTC) + timedelta(seconds=30)) == [case_id]
    run(book, case_id)
    assert book.due(before + timedelta(days=1)) == []


def test_a_restarted_service_takes_its_dead_workers_cases_back(book: Book) -> None:
    mine, other = queue(book), queue(book, series="9", study="9")
    assert book.claim(mine, "serve_1:77")
    assert book.claim(other, "serveX1:78")
    assert book.reclaim("serve_1:") == [mine]
    assert book.case(mine).state is State.QUEUED  # type: ignore[union-attr]
    assert (book.case(mine).lapses, book.case(other).state) == (1, State.RUNNING)  # type: ignore[union-attr]
    assert book.due() == [mine]


def test_a_late_slice_makes_one_new_revision(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    noted = book.note_instances([instance(4), instance(5), instance(4)])
    assert [(one.outcome, one.state) for one in noted] == [("new", State.RECEIVING), ("new", State.RECEIVING), ("repeat", State.RECEIVING)]
    book.note_instances([instance(6)])
    case = book.case(case_id)
    assert case is not None
    assert (case.state, case.revision, case.instances, case.findings) == (State.RECEIVING, 2, 6, None)
    assert [row.revision for row in book.outputs(case_id)] == [1, 1]
    book.queue_case(case_id, "flair", rank=(1,))
    run(book, case_id)
    assert [row.revision for row in book.outputs(case_id)] == [2, 2]
    assert book.case(case_id).state is State.DONE  # type: ignore[union-attr]


def test_a_late_slice_takes_the_case_from_its_worker(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    book.note_instances([instance(4)])
    with pytest.raises(LeaseLost):
        book.finish(lease, outputs=[output()], findings=FINDINGS)
    with pytest.raises(LeaseLost):
        book.fail(lease, "x")
    assert book.outputs(case_id) == []
    assert book.claim(case_id, "w") is None  # not admitted yet
    book.queue_case(case_id, "flair", rank=(1,))
    again = book.claim(case_id, "w")
    assert again is not None
    assert again.revision == 2
    with pytest.raises(ValueError, match="revision 1 under"):
        book.finish(again, outputs=[output(1)], findings=FINDINGS)
    book.finish(again, outputs=[output(2)], findings=FINDINGS)
    assert [row.revision for row in book.outputs(case_id)] == [2]


@pytest.mark.parametrize("decide", ["hold", "refuse"])
def test_a_later_slice_reopens_what_was_decided_without_a_revision(book: Book, decide: str) -> None:
    case_id = receive(book)
    getattr(book, decide)(case_id, "gap after slice 83")
    assert book.note_instances([instance(4)])[0].state is State.RECEIVING
    assert (book.case(case_id).revision, book.case(case_id).reason) == (1, None)  # type: ignore[union-attr]


def test_a_held_case_that_is_retried_is_looked_at_again(book: Book) -> None:
    case_id = receive(book)
    book.hold(case_id, "gap")
    assert book.retry(case_id) is State.RECEIVING


def test_nothing_of_a_failed_finish_stays(book: Book) -> None:
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    with pytest.raises(Exception, match=r"(?i)unique"):
        book.finish(lease, outputs=[output(), output()], findings=FINDINGS)
    assert book.outputs(case_id) == []
    assert book.deliveries(case_id) == []
    book.finish(lease, outputs=[output()], findings=FINDINGS)


def test_lists_are_newest_first_and_stable_while_cases_arrive(book: Book) -> None:
    made = [receive(book, 1, series=f"1.{n}", received_at=START + timedelta(seconds=n // 2)) for n in range(7)]
    first = book.find_cases(limit=3)
    receive(book, 1, series="8", received_at=START + timedelta(seconds=60))
    second = book.find_cases(limit=3, cursor=first.next)
    third = book.find_cases(limit=3, cursor=second.next)
    seen = [case.id for page in (first, second, third) for case in page.items]
    assert sorted(seen) == sorted(made)
    assert [case.received_at for page in (first, second, third) for case in page.items] == sorted(
        (START + timedelta(seconds=n // 2) for n in range(7)), reverse=True
    )
    assert third.next is None
    assert book.find_cases(limit=8).next is None


def test_lists_are_filtered(book: Book) -> None:
    done = queue(book)
    run(book, done)
    receive(book, series="2", study="2", patient_id="other")
    assert [case.id for case in book.find_cases(state="done").items] == [done]
    assert [case.id for case in book.find_cases(patient_id="P/1", series_uid="1.2.3", study_uid="1.2").items] == [done]
    assert book.find_cases(patient_id="nobody").items == ()
    assert len(book.find_cases(patient_key=patient_key(SECRET, "P/1", "HOSPITAL")).items) == 1
    with pytest.raises(ValueError, match="sleeping"):
        book.find_cases(state="sleeping")


@pytest.mark.parametrize("cursor", ["", "x", "é", "bnVsbA", "W10", "WzEsIDJd", "e30", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwgImEiXQ", "a" * 5000])
def test_a_bad_cursor_is_a_value_error(sqlite_book: Book, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        sqlite_book.find_cases(cursor=cursor)


def test_counts_for_the_metrics(book: Book) -> None:
    run(book, queue(book))
    queue(book, series="2", study="2")
    counts = book.count_cases()
    assert (counts[State.DONE], counts[State.QUEUED], counts[State.FAILED]) == (1, 1, 0)
    assert book.count_deliveries()["pending"] == 1
    assert book.oldest_queued_at() is not None
    book.ping()


def test_one_of_many_has_the_turn(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    assert book.take_turn("sweep", "a", 15)
    assert not book.take_turn("sweep", "b", 15)
    assert book.take_turn("sweep", "a", 15)
    later = datetime.now(UTC) + timedelta(seconds=16)
    monkeypatch.setattr(work_module, "utc_now", lambda: later)
    assert book.take_turn("sweep", "b", 15)
    assert not book.take_turn("sweep", "a", 15)


def test_patient_keys_are_stable_opaque_and_apart() -> None:
    key = patient_key(SECRET, "P/1", "HOSPITAL")
    assert key == patient_key(SECRET, " P/1 ", "HOSPITAL", "any study")
    assert len(key) == 32
    assert "P/1" not in key
    others = {patient_key(SECRET, *one) for one in (("P/1",), ("P/1HOSPITAL",), ("HOSPITAL", "P/1"), ("", "HOSPITAL"))}
    assert len({key, *others}) == 5
    assert patient_key(SECRET, "", "", "1.2") != patient_key(SECRET, " ", "", "1.3")
    assert patient_key(bytes(32), "P/1", "HOSPITAL") != key, "whoever has not the secret cannot try PatientIDs"


def test_a_naive_time_is_refused(sqlite_book: Book) -> None:
    with pytest.raises(Exception, match="without a zone"):
        sqlite_book.note_instances([instance(received_at=datetime(2026, 1, 1))])  # noqa: DTZ001


def test_the_migrations_make_the_tables_of_the_schema(database: str) -> None:
    upgrade(database)
    upgrade(database)
    engine = make_engine(database)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        assert set(metadata.tables) < set(inspect(connection).get_table_names())
    engine.dispose()


def test_a_database_that_is_not_at_head_is_refused_in_a_clear_line(database: str) -> None:
    with pytest.raises(BookOutdated, match="no case book yet: run `leukoscope migrate`"):
        Book(database)
    upgrade(database)
    engine = make_engine(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(BookOutdated, match="revision 9999, this program needs 0004"):
        Book(database)
    with pytest.raises(Misconfigured, match="9999"):
        upgrade(database)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_be_a_case_book_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured):
        Book(url)


def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="database"):
        Book("postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1")
    with pytest.raises(Unavailable):
        upgrade("postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1")
    (tmp_path / "garbage.sqlite").write_bytes(b"not a database, " * 1000)
    with pytest.raises(Unavailable, match="not a database"):
        Book(f"sqlite:///{tmp_path}/garbage.sqlite")


def test_a_database_that_is_locked_is_unavailable_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.records.database.BUSY_TIMEOUT_MS", 100)
    url = f"sqlite:///{tmp_path}/book.sqlite"
    upgrade(url)
    book = Book(url, secret=SECRET)
    locker = sqlite3.connect(tmp_path / "book.sqlite", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        receive(book)
    assert book.find_cases().items == ()  # readers go on
    locker.execute("ROLLBACK")
    locker.close()
    receive(book)
    book.close()


def test_sqlite_is_set_up_for_many_processes(sqlite_book: Book) -> None:
    with sqlite_book._reading() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 1, 1, 15000]


def test_open_book_uses_the_settings(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", lease_s=7)
    upgrade(settings.database)
    book = open_book(settings)
    case_id = queue(book)
    lease = book.claim(case_id, "w")
    assert lease is not None
    assert lease.until - datetime.now(UTC) < timedelta(seconds=7.1)
    book.close()


def test_a_time_survives_other_zones(book: Book) -> None:
    moment = datetime(2026, 3, 29, 2, 30, tzinfo=UTC).astimezone()
    case_id = book.note_instances([instance(received_at=moment)])[0].case_id
    assert book.case(case_id).received_at == moment  # type: ignore[union-attr]
    assert book.case(case_id).received_at.utcoffset() == timedelta(0)  # type: ignore[union-attr]


def test_a_long_queue_is_submitted_again_only_where_messages_are_missing(book: Book) -> None:
    case_ids = [queue(book, series=f"1.{n}") for n in range(3)]
    for case_id in case_ids:
        book.submitted(case_id)
    later = utc_now() + timedelta(seconds=31)
    assert book.due(later - timedelta(seconds=20)) == []
    assert book.due(later, messages=3) == []
    assert sorted(book.due(later, messages=2)) == sorted(case_ids)
    book.claim(case_ids[0], "worker")
    lapsed = later + timedelta(seconds=60)
    assert book.due(lapsed, messages=2) == case_ids[:1]


def test_after_a_worker_died_what_is_queued_is_due_at_once(book: Book) -> None:
    case_id = queue(book)
    book.submitted(case_id)
    assert book.due() == []
    book.reclaim("serve:here:")
    assert book.due() == [case_id]
