"""Finds a worker of this service that hangs as a whole: alive for the kernel, silent in the case book.

A child of the worker that hangs on a case is the worker's own to end; this is for the worker itself. A worker that is run alone has nobody
who does this: there the age of the queue tells.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from service.children import Child
from service.errors import Unavailable
from service.records import Book
from service.repeating import end_process, repeating

LOG = logging.getLogger(__name__)
LOOK_S: Final = 5.0
SILENT_S: Final = 30.0
STARTING_S: Final = 120.0

Told = Mapping[Any, datetime]
"""Process id → when it said last that it lives."""


class Watchdog:
    """Kills what was silent for `SILENT_S` while this process could tell all the time; the supervisor starts it again.

    A database that cannot be read or written excuses everybody: workers prove that they live by writing, and so does this process.
    """

    def __init__(self, book: Book, clock: Callable[[], float] = time.monotonic, silent_s: float = SILENT_S) -> None:
        self._book = book
        self._clock = clock
        self._silent_s = silent_s
        self._news: Told | None = None
        self._own: datetime | None = None
        self._heard: dict[int, tuple[datetime | None, float]] = {}

    def read(self) -> None:
        """Read who lives, for the next look."""
        here = socket.gethostname()
        try:
            self._news = {part.detail.get("pid"): part.seen_at for part in self._book.living_parts() if part.detail.get("host") == here}
        except Unavailable:
            self._news = {}

    def look(self, children: Sequence[Child]) -> None:
        """Judge by what was read since the last look, if anything was."""
        told, self._news = self._news, None
        if told is None:
            return
        own, self._own = self._own, told.get(os.getpid())
        if self._own is None or self._own == own:
            self._heard.clear()
            return
        now = self._clock()
        running = {child.pid: child for child in children if child.pid is not None}
        self._heard = {pid: self._note(pid, told.get(pid), now) for pid in running}
        for pid, (last, since) in self._heard.items():
            if now - since > (STARTING_S if last is None else self._silent_s):
                LOG.error("a worker hangs and is killed", extra={"part": running[pid].name, "pid": pid, "seconds": now - since})
                running[pid].kill()

    def _note(self, pid: int, told: datetime | None, now: float) -> tuple[datetime | None, float]:
        """Give what was heard of a process last, and since when nothing newer came (by our clock: the time of day may jump)."""
        last, since = self._heard.get(pid, (None, now))
        return (told, now) if told is not None and told != last else (last, since)


@contextmanager
def watching(book: Book, on_defect: Callable[[], None] = end_process) -> Iterator[Watchdog]:
    """Give a watchdog that reads in a thread of its own while the block runs: a database that hangs must not hold up the supervisor."""
    watchdog = Watchdog(book)
    with repeating("watchdog", watchdog.read, LOOK_S, on_defect=on_defect, end_limit_s=0.0):
        yield watchdog
