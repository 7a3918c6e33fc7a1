"""Series Numbers of what a case gives: FIRST and those after it, or the same numbers of a later block that the study has free."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

FIRST: Final = 9100
BLOCK: Final = 10


def choose_shift(taken: Collection[int], given: Collection[int], own: int | None = None) -> int:
    """Tell how far a case's Series Numbers are moved on.

    Parameters
    ----------
    taken : Series Numbers of the study's other series
    given : shifts of the study's other cases
    own : the shift the case has already; kept while nobody else uses it

    Returns
    -------
    a multiple of `BLOCK`, the smallest whose numbers nobody uses
    """
    blocks = {number - (number - FIRST) % BLOCK - FIRST for number in taken} | set(given)
    if own is not None and own not in blocks:
        return own
    shift = 0
    while shift in blocks:
        shift += BLOCK
    return shift
