"""What the worker's parent tells of itself and its child, also while the child hangs."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from model.release import Release
from service.records import Book, Part
from service.records.upkeep import Counted


class Window:
    """What the worker's parent tells of its child: shared memory, since the child may hang or die at any moment."""

    def __init__(self, release: Release, evidence: str) -> None:
        self._evidence = evidence
        self._release = f"{release.card.version} ({release.card.sha256[:12]})"
        self._engine = multiprocessing.Array("c", 64, lock=False)
        self._case: tuple[str, datetime] | None = None

    def show_engine(self, name: str, precision: str) -> None:
        """Called in the child when its engine is loaded."""
        self._engine.value = f"{name} {precision}".encode()[:63]

    @contextmanager
    def at_work(self, case_id: str) -> Iterator[None]:
        """Called in the parent."""
        self._case = (case_id, datetime.now(UTC))
        try:
            yield
        finally:
            self._case = None

    def describe(self) -> dict[str, Any]:
        """Tell how this worker is."""
        case_id, since = self._case or ("", None)
        detail = {"release": self._release, "engine": self._engine.value.decode(), "case_id": case_id, "evidence": self._evidence}
        return detail | ({"since": f"{since:%Y-%m-%d %H:%M:%S} UTC"} if since else {})


class BookBetweenForks:
    """
    The case book for a process that forks: no connection is open while a child is made.

    References
    ----------
    sqlite.org/howtocorrupt.html, 2.6: a connection must not be carried across a fork; the child's own would share its bookkeeping.
    """

    def __init__(self, book: Book, forking: threading.Lock) -> None:
        self._book = book
        self._forking = forking
        book.close()

    def beat(self, living: Sequence[Part], counted: Counted) -> None:
        """Note that parts live, and add counts. Raises Unavailable."""
        with self._alone() as book:
            book.beat(living, counted)

    def leave(self, names: Sequence[str], counted: Counted) -> None:
        """Add the last counts, and forget parts. Raises Unavailable."""
        with self._alone() as book:
            book.leave(names, counted)

    @contextmanager
    def _alone(self) -> Iterator[Book]:
        with self._forking:
            try:
                yield self._book
            finally:
                self._book.close()
