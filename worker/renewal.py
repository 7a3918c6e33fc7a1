"""Leases that are held as long as the work lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from service.errors import Unavailable
from service.records import LeaseLost
from service.repeating import repeating

_RENEWALS_PER_LEASE: Final = 3


@contextmanager
def renewing(renew: Callable[[], object], lease_s: float) -> Iterator[None]:
    """Renew a lease while the block runs; a renewal that fails is noticed by the fence when the work is written.

    Parameters
    ----------
    renew : prolongs the lease; may raise LeaseLost or Unavailable
    lease_s : how long it lasts
    """

    def renew_if_ours() -> None:
        with suppress(LeaseLost, Unavailable):
            renew()

    with repeating("lease", renew_if_ours, lease_s / _RENEWALS_PER_LEASE):
        yield
