"""Readings that the audit trail was told of lately: pages and long polls ask for the same again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

TOLD_EVERY_S: Final = 60.0


class Readings:
    """What was read within the last minute, by whom. For the event loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[Hashable, float] = {}  # the oldest first

    def is_new(self, reading: Hashable) -> bool:
        """Tell whether the trail is to be told; asked again within a minute, it is not."""
        now = self._clock()
        while self._told and now - next(iter(self._told.values())) >= TOLD_EVERY_S:
            del self._told[next(iter(self._told))]
        if reading in self._told:
            return False
        self._told[reading] = now
        return True
