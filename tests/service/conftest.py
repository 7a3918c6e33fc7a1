"""Case books on real databases: SQLite files, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from service.records import Book, upgrade
from service.settings import Destination

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)


@pytest.fixture(scope="session")
def postgresql(peer: Callable[[str], str]) -> Iterator[str]:
    """Give the URL of a running server's database "postgres", reached over a socket in its own folder."""
    programs = {name: peer(name) for name in ("initdb", "pg_ctl")}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    as_user: dict[str, int] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_uid, "group": user.pw_gid}

    def call(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, timeout=60, **as_user)  # type: ignore[call-overload]

    try:
        call(programs["initdb"], "-D", f"{folder}/data", "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses= -c fsync=off -c shared_buffers=32MB"
        call(programs["pg_ctl"], "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        subprocess.run(
            [programs["pg_ctl"], "-D", f"{folder}/data", "-m", "immediate", "stop"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **as_user,
        )
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database, once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/book.sqlite"
    server = str(request.getfixturevalue("postgresql"))
    name = f"t{abs(hash(str(tmp_path))):x}"
    engine = create_engine(server.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.replace("/postgres?", f"/{name}?")


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
        connection.execute(text("TRUNCATE cases, turns CASCADE"))
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def postgresql_book(postgresql: str) -> str:
    """Give the URL of a case book on PostgreSQL that all tests use one after the other."""
    upgrade(postgresql)
    return postgresql


@pytest.fixture
def book(book_url: str) -> Iterator[Book]:
    """Give an empty case book with one destination."""
    made = Book(book_url, destinations=[PACS])
    yield made
    made.close()


@pytest.fixture
def sqlite_book(tmp_path: Path) -> Iterator[Book]:
    """Give an empty case book on SQLite, for what does not depend on the database."""
    url = f"sqlite:///{tmp_path}/sqlite-book.sqlite"
    upgrade(url)
    made = Book(url, destinations=[PACS])
    yield made
    made.close()
