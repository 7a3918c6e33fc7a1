"""Finds a worker that hangs as a whole: alive for the kernel, silent in the case book.

A child of the worker that hangs on a case is the worker's own to end; this is for the worker itself. Where each part is run alone, the
orchestrator's probe does the same.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from service.children import Child
from service.errors import Unavailable
from service.records import Book

LOG = logging.getLogger(__name__)
LOOK_S: Final = 2.0
SILENT_S: Final = 30.0
STARTING_S: Final = 120.0


class Watchdog:
    """Kills what was silent for `SILENT_S` although the case book answered all the time; the supervisor starts it again."""

    def __init__(self, book: Book, clock: Callable[[], float] = time.monotonic, silent_s: float = SILENT_S) -> None:
        self._book = book
        self._clock = clock
        self._silent_s = silent_s
        self._looked_at = float("-inf")
        self._heard: dict[int, tuple[datetime | None, float]] = {}

    def look(self, children: Sequence[Child]) -> None:
        """Look at most every `LOOK_S`; a case book that is away excuses everybody."""
        now = self._clock()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            told = {
                part.detail.get("pid"): part.seen_at
                for part in self._book.living_parts()
                if part.detail.get("host") == socket.gethostname()
            }
        except Unavailable:
            self._heard.clear()
            return
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
