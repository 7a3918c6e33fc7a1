"""Fetches the series that somebody asked for: each in a thread of the process that listens, by the ways its PACS offers.

It runs beside the listener and not in a worker: what comes goes the one way in (service.intake), which no worker has, and C-MOVE
brings it to the listener anyhow. The request is in the case book before it is answered; a fetch that a killed process leaves behind
is taken up by the next one (decision 0016).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

from service.calling import Refused
from service.errors import Rejected, Unavailable
from service.fetching.taking import Taking
from service.fetching.ways import WAYS, Errand
from service.intake import Intake
from service.records import Book, Fetch, LeaseLost, State, utc_now
from service.records.fetches import FETCH_LEASE
from service.repeating import end_process, repeating
from service.settings import Settings
from service.store import Store

LOG = logging.getLogger(__name__)
AT_ONCE: Final = 2
PAUSES_S: Final = (5.0, 30.0)
"""Before the second and the third try; after that it is given up."""
_ROUND_S: Final = 0.25
_END_LIMIT_S: Final = 5.0
_NO_ANSWER: Final = "the process that fetched it ended three times in the middle"


class Fetcher:
    """Does what is due; any number of processes may have one.

    Parameters
    ----------
    name : how its leases are signed; a process that replaces another finds that one's by it
    """

    def __init__(self, settings: Settings, book: Book, store: Store, intake: Intake, name: str | None = None) -> None:
        self._settings = settings
        self._sources = {source.name: source for source in settings.sources}
        self._book = book
        self._store = store
        self._intake = intake
        self._owner = f"{name or ''}{secrets.token_hex(8)}"
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def look(self) -> None:
        """Begin what is due, as long as a thread is free. Raises Unavailable."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        while len(self._threads) < AT_ONCE and not self._stop.is_set():
            fetch = self._book.claim_fetch(f"{self._owner}:{secrets.token_hex(4)}")
            if fetch is None:
                return
            thread = threading.Thread(target=self.run, args=(fetch,), name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Break off what is under way; it is done by the next process."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_END_LIMIT_S)

    def run(self, fetch: Fetch) -> None:
        """Do one fetch that was claimed, and write down how it ended (the edge that translates the kinds of failure)."""
        taking = Taking(self._settings, self._intake, fetch, self._book.case(fetch.case_id), self._stop)
        done = False
        try:
            with repeating("fetch lease", lambda: self._renew(fetch), FETCH_LEASE.total_seconds() / 3):
                done = self._settle(fetch, taking)
        except LeaseLost:
            LOG.info("another process has the fetch", extra={"case_id": fetch.case_id})
        except Unavailable as error:
            LOG.warning("outcome of a fetch not written, its lease lapses: %s", error, extra={"case_id": fetch.case_id})
        finally:
            taking.close(clean=done)
            if done:
                self._judge(fetch)

    def _renew(self, fetch: Fetch) -> None:
        with suppress(LeaseLost, Unavailable):
            self._book.renew_fetch(fetch)

    def _settle(self, fetch: Fetch, taking: Taking) -> bool:
        fields = {"case_id": fetch.case_id, "series_uid": fetch.series_uid, "attempt": fetch.attempts}
        try:
            if fetch.attempts > len(PAUSES_S) + 1:
                raise Rejected(fetch.last_error or _NO_ANSWER)
            self._fetch(fetch, taking)
        except LeaseLost:
            raise
        except (Rejected, Refused) as error:
            self._give_up(fetch, str(error), fields)
        except Unavailable as error:
            self._put_off(fetch, error.reason, fields)
        except Exception as error:
            LOG.error("a fetch failed", exc_info=error, extra=fields)
            self._give_up(fetch, f"{type(error).__name__}; the log has the details", fields)
        else:
            self._book.fetch_done(fetch)
            LOG.info("fetched from %s", fetch.source, extra=fields | {"instances": taking.total})
            return True
        return False

    def _fetch(self, fetch: Fetch, taking: Taking) -> None:
        """Try the ways one after the other until one brought everything; what an earlier one brought is kept."""
        source = self._sources.get(fetch.source)
        if source is None:
            raise Rejected("it is no longer in the settings ([[sources]])")
        errand = Errand(self._settings, source, fetch, taking, self._store, lambda: self._instances(fetch))
        failures: list[Unavailable] = []
        for way in source.ways or source.possible_ways:
            taking.begin()
            try:
                WAYS[way](errand)
                return
            except Unavailable as error:
                # Why is in the case: what the PACS says about it may name a patient.
                LOG.info("%s did not bring the series", way, extra={"case_id": fetch.case_id})
                failures.append(type(error)(f"{way}: {error.reason}"))
        kind: Callable[[str], Unavailable] = Refused if all(isinstance(one, Refused) for one in failures) else Unavailable
        raise kind("; ".join(one.reason for one in failures))

    def _instances(self, fetch: Fetch) -> int:
        case = self._book.case(fetch.case_id)
        return 0 if case is None else case.instances

    def _give_up(self, fetch: Fetch, why: str, fields: dict[str, object]) -> None:
        source = self._sources.get(fetch.source)
        title = None if source is None else source.ae_title
        self._book.fetch_failed(fetch, f"{why}. Ask again, or run the case again, when that is mended", title)
        LOG.warning("not fetched from %s", fetch.source, extra=fields)

    def _put_off(self, fetch: Fetch, why: str, fields: dict[str, object]) -> None:
        if self._stop.is_set():
            self._book.put_off_fetch(fetch, "the service was stopped", utc_now(), counted=False)
        elif fetch.attempts > len(PAUSES_S):
            self._give_up(fetch, why, fields)
        else:
            pause_s = PAUSES_S[fetch.attempts - 1]
            self._book.put_off_fetch(fetch, why, utc_now() + timedelta(seconds=pause_s))
            LOG.warning("not fetched from %s yet", fetch.source, extra=fields | {"seconds": pause_s})

    def _judge(self, fetch: Fetch) -> None:
        """All of it is there: it need not wait until it has been quiet."""
        with suppress(Unavailable):  # the sweep finds it
            case = self._book.case(fetch.case_id)
            if case is not None and case.state is State.RECEIVING:
                self._intake.judge_now(case)


@contextmanager
def fetching(
    settings: Settings, book: Book, store: Store, intake: Intake, *, name: str | None, on_defect: Callable[[], None] = end_process
) -> Iterator[None]:
    """Fetch what is asked for while the block runs; also where the settings name no source any more: what waits is given up."""
    fetcher = Fetcher(settings, book, store, intake, name)
    try:
        with repeating("fetch", fetcher.look, _ROUND_S, on_defect=on_defect):
            yield
    finally:
        fetcher.stop()
