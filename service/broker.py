"""The embedded broker: a Celery transport on an SQLite file of its own (deploy/decisions/0003-embedded-broker.md).

A message leaves the table when it is taken. Nothing here outlives the service: the sweep submits again what a crash takes with it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import virtual

BUSY_TIMEOUT_S = 5.0
POLLING_INTERVAL_S = 0.05

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, payload TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS ix_message_queue_id ON message (queue, id);
"""
_TAKE = "DELETE FROM message WHERE id = (SELECT id FROM message WHERE queue = ? ORDER BY id LIMIT 1) RETURNING payload"


class Channel(virtual.Channel):
    """A virtual channel whose queues are rows, first in, first out."""

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self._file = _MessageFile(_path_of(self.connection.client.hostname))

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        self._file.run("INSERT INTO message (queue, payload) VALUES (?, ?)", queue, json.dumps(message))

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002  (kombu's signature)
        # Looking takes no lock; an idle worker looks twenty times a second.
        if not self._file.run("SELECT 1 FROM message WHERE queue = ? LIMIT 1", queue):
            raise Empty
        taken = self._file.run(_TAKE, queue)
        if not taken:
            raise Empty
        return json.loads(taken[0][0])

    def _size(self, queue: str) -> int:
        return int(self._file.run("SELECT count(*) FROM message WHERE queue = ?", queue)[0][0])

    def _purge(self, queue: str) -> int:
        return len(self._file.run("DELETE FROM message WHERE queue = ? RETURNING id", queue))

    def close(self) -> None:
        """Put back what was taken and not acknowledged, then let go of the file."""
        super().close()
        self._file.close()


class Transport(virtual.Transport):
    """Polls often: nobody waits a second for a case to start."""

    Channel = Channel
    can_parse_url = True
    driver_type = "sql"
    driver_name = "sqlite3"
    polling_interval = POLLING_INTERVAL_S
    connection_errors = (*virtual.Transport.connection_errors, sqlite3.OperationalError)  # type: ignore[assignment]

    def driver_version(self) -> str:
        """Give SQLite's version."""
        return sqlite3.sqlite_version


class _MessageFile:
    """One connection, made at its first use, and anew in a forked child (SQLite's must not cross a fork) or when the file was replaced."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._made_for = (0, 0)
        self._of_parents: list[sqlite3.Connection] = []

    def run(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            if self._connection is None or self._made_for != (os.getpid(), self._inode()):
                self._open()
            assert self._connection is not None
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._connection is None:
            return
        if self._made_for[0] == os.getpid():
            self._connection.close()
        else:
            self._of_parents.append(self._connection)  # closing it here would drop the parent's locks
        self._connection = None

    def _open(self) -> None:
        self._let_go()
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.executescript(_SCHEMA)
        self._connection, self._made_for = connection, (os.getpid(), self._inode())

    def _inode(self) -> int:
        try:
            return Path(self._path).stat().st_ino
        except FileNotFoundError:
            return 0


def _path_of(url: str) -> str:
    return url.removeprefix("sqlite:///")
