"""Who is still sending to which series, and how long it has been quiet. In memory, thread-safe, knows no database."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

NEVER: Final = float("inf")
_CLOSED_KEPT: Final = 4096
_ASK_AGAIN_S: Final = 1.0


@dataclass(eq=False)
class Watch:
    """One series while something may still come; times are the clock's, in seconds.

    Attributes
    ----------
    open : how many new instances each open association brought
    due : when the quiet time is over; never, when the series is decided and nothing new came
    again : when to look once more before that
    gap : the longest recent pause between two instances
    lost : an association that sent to it was aborted or lost, and no other has begun since
    version : counts what arrived, new or not
    """

    study_uid: str
    series_uid: str
    case_id: str = ""
    open: dict[str, int] = field(default_factory=dict)
    due: float = NEVER
    again: float = NEVER
    last: float | None = None
    gap: float = 0.0
    lost: bool = False
    instances: int = 0
    version: int = 0


class Watches:
    """All series that are being watched by this process."""

    def __init__(self, quiet_time_s: float, clock: Callable[[], float]) -> None:
        self._quiet = quiet_time_s
        self._clock = clock
        self._lock = threading.Lock()
        self._all: dict[tuple[str, str], Watch] = {}
        self._closed: OrderedDict[str, None] = OrderedDict()

    def open(self, study_uid: str, series_uid: str, association: str) -> Watch:
        """An association is about to bring an instance of the series."""
        with self._lock:
            watch = self._all.setdefault((study_uid, series_uid), Watch(study_uid, series_uid))
            if association in self._closed:  # the connection went while its last message was still in our hands
                watch.lost = True
            elif association not in watch.open:
                watch.lost = watch.lost and bool(watch.open)
                watch.open[association] = 0
            return watch

    def note(self, watch: Watch, association: str, case_id: str, *, new: bool, receiving: bool) -> None:
        """The instance is in the case book."""
        now = self._clock()
        with self._lock:
            watch = self._all.setdefault((watch.study_uid, watch.series_uid), watch)
            watch.case_id = case_id
            watch.version += 1
            if new:
                watch.gap = max(0.5 * watch.gap, now - watch.last) if watch.last is not None else 0.0
                watch.last = now
                watch.instances += 1
                if association in watch.open:
                    watch.open[association] += 1
            if new or receiving:
                watch.due, watch.again = now + self._quiet, NEVER

    def close(self, association: str, *, clean: bool) -> list[tuple[Watch, int]]:
        """The association is over: give the series that can be judged now, and how many new instances it brought to each."""
        ready = []
        with self._lock:
            self._closed[association] = None
            if len(self._closed) > _CLOSED_KEPT:
                self._closed.popitem(last=False)
            for watch in [watch for watch in self._all.values() if association in watch.open]:
                brought = watch.open.pop(association)
                watch.lost = watch.lost or not clean
                if not watch.lost and not watch.open and watch.case_id and watch.due != NEVER:
                    ready.append((watch, brought))
                self._forget_if_idle(watch)
        return ready

    def is_closed(self, association: str) -> bool:
        """Tell whether an association is over (of those that ended lately)."""
        with self._lock:
            return association in self._closed

    def adopt(self, study_uid: str, series_uid: str, case_id: str, instances: int) -> Watch:
        """A series is in receiving although nobody here may know of it (a restart, another process): watch it."""
        with self._lock:
            watch = self._all.setdefault((study_uid, series_uid), Watch(study_uid, series_uid, case_id, lost=True))
            if watch.due == NEVER or (not watch.open and watch.instances != instances):
                watch.case_id, watch.instances, watch.due = case_id, instances, self._clock() + self._quiet
            return watch

    def look_again(self, watch: Watch, after_s: float) -> None:
        """Judge the series after this time even if nothing happens; not while an association that began meanwhile sends to it."""
        with self._lock:
            if not watch.open:
                watch.again = self._clock() + after_s

    def rest(self, watch: Watch, version: int) -> None:
        """The series is decided as of `version`; watch it no longer, unless more came meanwhile."""
        with self._lock:
            if watch.version == version:
                watch.due = watch.again = NEVER
            self._forget_if_idle(watch)

    def due(self, now: float) -> list[tuple[Watch, bool]]:
        """Give the series to look at, and whether their quiet time is over."""
        with self._lock:
            found = []
            for watch in self._all.values():
                if watch.case_id and (now >= watch.due or now >= watch.again):
                    found.append((watch, now >= watch.due))
                    watch.again = NEVER
                    if now >= watch.due:
                        watch.due = now + _ASK_AGAIN_S  # should the decision not be written down
            return found

    def _forget_if_idle(self, watch: Watch) -> None:
        if not watch.open and watch.due == NEVER:
            self._all.pop((watch.study_uid, watch.series_uid), None)
