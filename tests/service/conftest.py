"""Case books on real databases: SQLite files, and a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from service.records import Book, upgrade
from service.sections import Destination
from tests.servers import PostgresServer
from tests.service.casebook import SECRET

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database, once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/book.sqlite"
    server: PostgresServer = request.getfixturevalue("postgresql")
    return server.create_database(f"t{abs(hash(str(tmp_path))):x}")


@pytest.fixture(params=["sqlite", "postgresql"])
def book_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty case book, once on each kind of database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/book.sqlite"
        upgrade(url)
        return url
    url = str(request.getfixturevalue("postgresql_book"))
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE cases, turns, parts, counters, audit CASCADE"))
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def postgresql_book(postgresql: PostgresServer) -> str:
    """Give the URL of a case book on PostgreSQL that all tests use one after the other."""
    upgrade(postgresql.url)
    return postgresql.url


@pytest.fixture
def book(book_url: str) -> Iterator[Book]:
    """Give an empty case book with one destination."""
    made = Book(book_url, secret=SECRET, destinations=[PACS])
    yield made
    made.close()


@pytest.fixture
def sqlite_book(tmp_path: Path) -> Iterator[Book]:
    """Give an empty case book on SQLite, for what does not depend on the database."""
    url = f"sqlite:///{tmp_path}/sqlite-book.sqlite"
    upgrade(url)
    made = Book(url, secret=SECRET, destinations=[PACS])
    yield made
    made.close()
