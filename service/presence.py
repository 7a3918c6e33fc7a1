"""One process in the case book: that it lives, how it is, and what it counted.

Counting is an addition in memory. A thread adds what came together to the sums in the case book every two seconds and says at the
same time that the process lives, so that any API process can tell both for the whole installation. While the database is away the
counts are kept; a process that is killed takes at most its last seconds of counting with it.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from service.errors import Unavailable
from service.records import Part, utc_now
from service.records.upkeep import Counted
from service.repeating import end_process, repeating

LOG = logging.getLogger(__name__)
BEAT_S: Final = 2.0
_END_LIMIT_S: Final = 10.0

Describe = Callable[[], Mapping[str, Any]]


class Register(Protocol):
    """The case book, or what stands before it."""

    def beat(self, living: Sequence[Part], counted: Counted) -> None:
        """Note that parts live, and add counts. Raises Unavailable."""

    def leave(self, names: Sequence[str], counted: Counted) -> None:
        """Add the last counts, and forget parts. Raises Unavailable."""


class Counts:
    """What this process counted and has not yet added to the case book; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def add(self, name: str, *labels: str, by: int = 1) -> None:
        """Count. What the names and labels mean is said in service.api.metrics."""
        with self._lock:
            self._numbers[name, labels] += by

    def take(self) -> dict[tuple[str, tuple[str, ...]], int]:
        """Give everything counted, and begin anew."""
        with self._lock:
            taken, self._numbers = dict(self._numbers), Counter()
            return taken

    def put_back(self, taken: Counted) -> None:
        """Keep what could not be written."""
        with self._lock:
            self._numbers.update(taken)


class Presence:
    """Tells the case book of one process.

    Parameters
    ----------
    describe : by the kind of each part in this process (listener, api, inference, delivery), what it tells of itself
    """

    def __init__(self, book: Register, counts: Counts, describe: Mapping[str, Describe]) -> None:
        self._book = book
        self._counts = counts
        self._describe = dict(describe)
        self._started_at = utc_now()
        self._where = f"{socket.gethostname()[:100]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._away = False

    @property
    def names(self) -> list[str]:
        """How the parts of this process are called."""
        return [f"{kind}:{self._where}" for kind in self._describe]

    def beat(self) -> None:
        """Tell once; what the database does not take is told with the next beat."""
        now = utc_now()
        here = {"host": socket.gethostname(), "pid": os.getpid()}
        living = [
            Part(name, kind, self._started_at, now, here | dict(tell()))
            for name, (kind, tell) in zip(self.names, self._describe.items(), strict=True)
        ]
        self._write(lambda counted: self._book.beat(living, counted))

    def leave(self) -> None:
        """Tell that this process ends in good order."""
        self._write(lambda counted: self._book.leave(self.names, counted))

    def _write(self, write: Callable[[Counted], None]) -> None:
        counted = self._counts.take()
        try:
            write(counted)
        except Unavailable as error:
            self._counts.put_back(counted)
            if not self._away:
                LOG.warning("counts are kept until the case book is there again: %s", error)
            self._away = True
        else:
            self._away = False


@contextmanager
def present(
    book: Register,
    counts: Counts,
    describe: Mapping[str, Describe],
    every_s: float = BEAT_S,
    *,
    on_defect: Callable[[], None] = end_process,
) -> Iterator[Presence]:
    """Tell of this process now, every few seconds while the block runs, and at its end."""
    presence = Presence(book, counts, describe)
    presence.beat()
    try:
        with repeating("presence", presence.beat, every_s, on_defect=on_defect, end_limit_s=_END_LIMIT_S) as thread:
            yield presence
    finally:
        if not thread.is_alive():  # one that hangs in the database would hold up the end: the row ages by itself
            presence.leave()
