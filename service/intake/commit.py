"""Group commit: rows that several associations have ready at the same time share one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from service.errors import Unavailable

Row = TypeVar("Row")
Result = TypeVar("Result")


class _Entry(Generic[Row, Result]):
    def __init__(self, row: Row) -> None:
        self.row = row
        self.done = False
        self.results: Sequence[Result] = ()
        self.error: BaseException | None = None


class GroupCommit(Generic[Row, Result]):
    """Turns many single calls into few batched ones without a thread of its own: whoever comes first writes for all who wait.

    Parameters
    ----------
    write
        Takes the rows of one transaction and gives one result for each; all or nothing.
    """

    def __init__(self, write: Callable[[list[Row]], Sequence[Result]], largest: int = 256) -> None:
        self._write = write
        self._largest = largest
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._pending: list[_Entry[Row, Result]] = []

    def put(self, row: Row) -> Result:
        """Return when the row is committed; raises what the transaction of its batch raised."""
        entry: _Entry[Row, Result] = _Entry(row)
        with self._guard:
            self._pending.append(entry)
        while not entry.done:
            with self._turn:
                if not entry.done:
                    self._write_pending()
        if entry.error is not None:
            raise entry.error
        return entry.results[0]

    def _write_pending(self) -> None:
        with self._guard:
            batch, self._pending = self._pending[: self._largest], self._pending[self._largest :]
        self._write_batch(batch)

    def _write_batch(self, batch: list[_Entry[Row, Result]]) -> None:
        try:
            results = self._write([entry.row for entry in batch])
        except BaseException as error:  # noqa: BLE001  # each caller gets it
            # A row that alone breaks its batch must not take the others with it.
            if len(batch) > 1 and isinstance(error, Exception) and not isinstance(error, Unavailable):
                for entry in batch:
                    self._write_batch([entry])
                return
            for entry in batch:
                entry.error, entry.done = error, True
            return
        for entry, result in zip(batch, results, strict=True):
            entry.results, entry.done = (result,), True
