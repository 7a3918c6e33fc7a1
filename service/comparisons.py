"""Which series have instances that came again with other bytes, and when to ask a worker to compare them.

In memory and thread-safe; what is forgotten here is in the case book, where the sweep finds it.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from service.errors import Unavailable

LOG = logging.getLogger(__name__)

# More than this over one association is a re-send as a whole; of fewer, more may follow over the next association.
FEW: Final = 3
PAUSE_S: Final = 2.0
ASK_AGAIN_S: Final = 30.0
LONGEST_PAUSE_S: Final = 1800.0


class Comparisons:
    """Puts asks for a series together, so that what is sent again at one time makes one revision.

    Parameters
    ----------
    ask : sends the message for a case; may raise Unavailable
    clock : seconds
    """

    def __init__(self, ask: Callable[[str], object], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._brought: dict[str, dict[str, int]] = {}
        self._due: dict[str, float] = {}
        self._asked: dict[str, tuple[float, float]] = {}

    def note(self, association: str, case_id: str) -> None:
        """An instance of the case came again with other bytes."""
        with self._lock:
            self._brought.setdefault(association, defaultdict(int))[case_id] += 1

    def close(self, association: str) -> None:
        """Nothing more comes from this association: ask for what it brought, at once or after a pause for others like it."""
        with self._lock:
            for case_id, count in self._brought.pop(association, {}).items():
                self._due[case_id] = self._clock() + (PAUSE_S if count <= FEW else 0.0)
        self.ask_due()

    def ask_due(self) -> None:
        """Ask for the cases whose time has come, unless an association that brought such instances is still open."""
        now = self._clock()
        with self._lock:
            busy = {case_id for brought in self._brought.values() for case_id in brought}
            ready = [case_id for case_id, moment in self._due.items() if moment <= now and case_id not in busy]
            for case_id in ready:
                del self._due[case_id]
        self._ask_for(ready)

    def ask_again(self, waiting: Iterable[str]) -> None:
        """Ask once more for those of the cases that wait by the case book: each after a pause twice as long as the last."""
        now = self._clock()
        with self._lock:
            spoken_for = {case_id for brought in self._brought.values() for case_id in brought} | self._due.keys()
            wanted = [case_id for case_id in waiting if case_id not in spoken_for]
            self._asked = {case_id: self._asked.get(case_id, (float("-inf"), ASK_AGAIN_S / 2)) for case_id in wanted}
            ready = [case_id for case_id, (at, pause) in self._asked.items() if now - at >= pause]
            for case_id in ready:
                self._asked[case_id] = (now, min(2 * self._asked[case_id][1], LONGEST_PAUSE_S))
        self._ask_for(ready)

    def _ask_for(self, case_ids: Iterable[str]) -> None:
        """What is asked for in vain, the sweep asks for again; each further try would only wait for the same broker."""
        for case_id in case_ids:
            try:
                self._ask(case_id)
            except Unavailable:
                LOG.warning("the broker is away; the sweep will ask for the comparison", extra={"case_id": case_id})
                return
