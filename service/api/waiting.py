"""Long polls: many clients may wait, one look at the case book per round answers them all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from service.records import FINAL, Book, Case

ROUND_S: Final = 0.05
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Waiters:
    """
    Those who wait for a case to become final.

    One task looks while anybody waits: at most one thread is in use, and a round that takes long makes the next pause longer, so
    that waiting clients never load the book by more than a third of one connection's time.
    """

    def __init__(self, book: Book, in_thread: InThread) -> None:
        self._book, self._in_thread = book, in_thread
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._rounds: asyncio.Task[None] | None = None
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def until_final(self, case_id: str, seconds: float, gone: Callable[[], Awaitable[None]]) -> None:
        """
        Return when the case is final, `seconds` are over, `gone()` returns (the client left), or the server stops.

        Raises what the book raises when it is away.
        """
        if self._stopped or seconds <= 0:
            return
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(case_id, set()).add(future)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._look())
        left = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({future, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                future.result()
        finally:
            left.cancel()
            future.cancel()
            self._forget(case_id, future)

    def stop(self) -> None:
        """Let everybody go now, and nobody wait any more: the server is stopping."""
        self._stopped = True
        for future in [future for futures in self._waiting.values() for future in futures]:
            _resolve(future, None)

    def stop_soon(self) -> None:
        """`stop`, from any thread."""
        self._stopped = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.stop)

    async def _look(self) -> None:
        while self._waiting:
            began = time.monotonic()
            try:
                final = await self._in_thread(partial(self._final_of, tuple(self._waiting)))
            except Exception as error:  # noqa: BLE001  # whatever the book raises belongs to those who wait
                for future in [future for futures in self._waiting.values() for future in futures]:
                    _resolve(future, error)
                return
            for case_id in final:
                for future in self._waiting.get(case_id, ()):
                    _resolve(future, None)
            await asyncio.sleep(max(ROUND_S, 2 * (time.monotonic() - began)))

    def _final_of(self, case_ids: tuple[str, ...]) -> list[str]:
        return [case_id for case_id in case_ids if is_final(self._book.case(case_id))]

    def _forget(self, case_id: str, future: asyncio.Future[None]) -> None:
        futures = self._waiting.get(case_id, set())
        futures.discard(future)
        if not futures:
            self._waiting.pop(case_id, None)


def is_final(case: Case | None) -> bool:
    """Tell whether nothing more will happen to the case by itself."""
    return case is None or case.state in FINAL


def _resolve(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
