"""Leases that are held as long as the work lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from service.errors import Unavailable
from service.records import LeaseLost

_RENEWALS_PER_LEASE: Final = 3


@contextmanager
def renewing(renew: Callable[[], object], lease_s: float) -> Iterator[None]:
    """Renew a lease while the block runs; a renewal that fails is noticed by the fence when the work is written.

    Parameters
    ----------
    renew : prolongs the lease; may raise LeaseLost or Unavailable
    lease_s : how long it lasts
    """
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(lease_s / _RENEWALS_PER_LEASE):
            try:
                renew()
            except LeaseLost:
                return
            except Unavailable:
                continue

    thread = threading.Thread(target=go_on, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
