"""Whether the disk still has room: asked for every association, looked at once a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from service.errors import Unavailable

LOG = logging.getLogger(__name__)
REMEMBERED_S: Final = 1.0


class Room:
    """Remembers for a second whether `check` (the store's) raised Unavailable; a line of log whenever that changes."""

    def __init__(self, check: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._reason: str | None = None

    def why_not(self) -> str | None:
        """Give the reason why nothing can be taken in, or None."""
        with self._lock:
            if self._clock() - self._looked_at >= REMEMBERED_S:
                self._look()
                self._looked_at = self._clock()
            return self._reason

    def _look(self) -> None:
        before = self._reason
        try:
            self._check()
        except Unavailable as error:
            self._reason = error.reason
        else:
            self._reason = None
        if self._reason is not None and before is None:
            LOG.error("new associations are refused: %s", self._reason)
        elif self._reason is None and before is not None:
            LOG.info("new associations are taken again")
