"""Engine, migrations and the two kinds of transaction the case book uses."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, make_url, text
from sqlalchemy.engine import URL

from service.errors import Misconfigured, Unavailable
from service.records.rekeying import rekey
from service.sections import Recipient

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
BUSY_TIMEOUT_MS = 15_000
# A host that is gone answers nothing, and a C-STORE waits for it: to connect, and on a connection that was there (libpq's names).
_IMPATIENT = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
WRITER_TIMEOUT_S = 30.0
_UPGRADE_LOCK = 0x1E0C05C0  # any fixed number: PostgreSQL's advisory lock of our migrations
_WRITE = "leukoscope_write"


class BookOutdated(Misconfigured):
    """The database is not at the revision this program needs."""


def make_engine(url: str) -> Engine:
    """Open a pool of connections. SQLite: WAL, and BEGIN IMMEDIATE for every transaction that writes."""
    parsed = _normalise(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=32, connect_args=_IMPATIENT)
    if parsed.database in {None, "", ":memory:"}:
        raise Misconfigured("database_url: the case book needs a file, not SQLite's memory")
    try:
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the database's folder: {error.strerror}") from error
    engine = create_engine(parsed, pool_size=8, max_overflow=64, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "isolation_level": None})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _normalise(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise Misconfigured("database_url is not an SQLAlchemy URL such as sqlite:///file or postgresql://user@host/name") from None
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise Misconfigured(f"database_url: {parsed.get_backend_name()} is neither sqlite nor postgresql")
    return parsed


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # NORMAL: a commit is not an fsync. What power loss may take, the files on disk can give again (the index is rebuilt).
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _switch_to_wal(cursor)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Several processes may be the first at once; SQLite's busy handler does not wait for this one lock."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writer fails at once when another process wrote in between.
    kind = "BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITE) else "BEGIN"
    connection.exec_driver_sql(kind)


def upgrade(url: str, secret: bytes | None = None, *, new_keys: bool = False) -> None:
    """Bring the database to the newest revision; several processes may call it at once.

    Parameters
    ----------
    secret
        The installation's; an empty database needs none.
    new_keys
        Give every patient a new key: the secret of the old ones is lost.

    Raises
    ------
    Misconfigured
        There are patients to be keyed anew, and no secret.
    BookOutdated
        The database was made by a newer program.
    Unavailable
        The database is away. Retried.
    """
    from alembic import command  # a fifth of a second, which a worker's start need not take
    from alembic.util import CommandError

    engine = make_engine(url)
    try:
        with database_trouble(), engine.connect().execution_options(**{_WRITE: True}) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            config = _configuration()
            config.attributes["connection"] = connection
            config.attributes["secret"] = secret
            command.upgrade(config, "head")
            if new_keys:
                rekey(connection, secret)
    except CommandError as error:
        raise BookOutdated(f"the database was made by a newer version: {error}") from error
    finally:
        engine.dispose()


def _configuration() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def newest_revision() -> str:
    """Give the revision this program needs: the number its last migration's file begins with."""
    return max(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def check_revision(connection: Connection) -> None:
    """Raise BookOutdated unless the database is exactly at this program's revision."""
    head = newest_revision()
    # Read without Alembic's context, which would log two lines for every process that starts.
    found = (
        connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if inspect(connection).has_table("alembic_version")
        else None
    )
    if found is None:
        raise BookOutdated("the database has no case book yet: run `leukoscope migrate`")
    if found != head:
        raise BookOutdated(f"the database is at revision {found}, this program needs {head}: run `leukoscope migrate` of this version")


@contextmanager
def database_trouble() -> Iterator[None]:
    """Turn what a database that is away, locked, full or broken raises into Unavailable."""
    try:
        yield
    # InternalError: psycopg's for a server that only reads (a stand-by), or that ended the transaction.
    except (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError) as error:
        raise Unavailable(f"the database: {_brief(error)}") from error
    except exc.DBAPIError as error:
        if error.connection_invalidated or type(error) is exc.DatabaseError:
            raise Unavailable(f"the database: {_brief(error)}") from error
        raise


def _brief(error: Exception) -> str:
    """Say what is wrong in words that may leave the house: libpq's own name hosts, ports and users."""
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(cause, sqlite3.Error) or not isinstance(error, exc.DBAPIError):
        return " ".join(str(cause).split())[:200]
    return f"{type(cause).__name__}, SQLSTATE {getattr(cause, 'sqlstate', None) or 'unknown: no connection, or it was lost'}"


@contextmanager
def _turn(writer: threading.Lock) -> Iterator[None]:
    if not writer.acquire(timeout=WRITER_TIMEOUT_S):
        raise Unavailable("the database: too many writers wait")
    try:
        yield
    finally:
        writer.release()


class Ledger:
    """The pool, the two kinds of transaction, and what `Book` is told of the installation."""

    _secret: bytes | None = None
    _destinations: tuple[Recipient, ...] = ()
    _lease = timedelta(seconds=30)

    def __init__(self, url: str) -> None:
        self._engine = make_engine(url)
        # SQLite has one writer: waiting here is fair and cheap, waiting in its busy handler sleeps.
        self._writer = threading.Lock() if self._engine.dialect.name == "sqlite" else None
        with self._reading() as connection:
            check_revision(connection)

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database_trouble(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with database_trouble():
            if self._writer is None:
                with self._engine.begin() as connection:
                    yield connection
                return
            with _turn(self._writer), self._engine.connect().execution_options(**{_WRITE: True}) as connection, connection.begin():
                yield connection
