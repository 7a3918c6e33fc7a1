"""The databases a case book can be on: at which revision, away, locked, none."""

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
    open_book,
    upgrade,
)
from service.records.database import make_engine
from service.records.schema import metadata
from service.settings import Settings
from tests.service.casebook import SECRET, instance, queue, receive


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
    with pytest.raises(BookOutdated, match="revision 9999, this program needs 0012"):
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
