"""Lets series go to work: looks at the headers of one that may be whole, and writes down whether it is queued, held or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from service.admission import Hold, Refuse, Run, examine
from service.errors import Unavailable
from service.headers import Header
from service.intake.watches import Watch, Watches
from service.records import Book, InvalidTransition, UnknownCase
from service.settings import Settings

LOG = logging.getLogger(__name__)

# A sender that opens an association for each few instances makes every release look like the end: see `Intake.close_source`.
FEW: Final = 3
GAPS_TO_WAIT: Final = 4
LONGEST_GAP_WAIT_S: Final = 5.0
SHORTEST_GAP_WAIT_S: Final = 0.5


class Judge:
    """Decides on one series at a time; any number of threads may call it.

    Parameters
    ----------
    submit : asks for a queued case to be worked on
    """

    def __init__(self, settings: Settings, book: Book, watches: Watches, submit: Callable[[str], bool]) -> None:
        self._settings = settings
        self._book = book
        self._watches = watches
        self._submit = submit

    def judge(self, watch: Watch, *, final: bool, brought: int | None = None) -> None:
        """
        Decide, where that can be done now. One series that breaks the rules' code must not stop the others: it is held, and logged as
        the defect it is.

        Parameters
        ----------
        final : the quiet time is over; what is not whole now is held
        brought : how many new instances the association brought that just ended

        Raises
        ------
        Unavailable
            The case book is away; nothing was decided.
        """
        try:
            self._look(watch, final=final, brought=brought)
        except Unavailable:
            raise
        except Exception:
            LOG.exception("a series could not be judged", extra={"case_id": watch.case_id})
            version = watch.version
            with suppress(InvalidTransition, UnknownCase):
                standing = self._book.standing(watch.case_id)
                self._book.hold(watch.case_id, "internal error while its headers were judged", fence=standing.fence)
            self._watches.rest(watch, version)

    def _look(self, watch: Watch, *, final: bool, brought: int | None) -> None:
        case_id, version = watch.case_id, watch.version
        try:
            standing = self._book.standing(case_id)
        except UnknownCase:  # deleted
            self._watches.rest(watch, version)
            return
        if standing.uncompared or standing.fetching:
            return  # more comes, or what is judged changes; looked at again when the quiet time is over, and from then on
        rows = self._book.headers(case_id)
        decision = examine([Header.from_json(row.header) for row in rows], self._settings, final=final)
        if isinstance(decision, Run) and brought is not None and brought <= FEW < len(rows) and not decision.counted:
            self._watches.look_again(watch, min(LONGEST_GAP_WAIT_S, max(SHORTEST_GAP_WAIT_S, GAPS_TO_WAIT * watch.gap)))
            return
        try:
            settled = self._settle(case_id, decision, len(rows), standing.fence)
        except (InvalidTransition, UnknownCase):
            settled = True  # another process, or a deletion, was faster
        if settled:
            self._watches.rest(watch, version)

    def _settle(self, case_id: str, decision: object, seen: int, fence: int) -> bool:
        """Write the decision down; False when there is none yet, or instances came or were corrected since it was made."""
        if isinstance(decision, Refuse):
            settled = self._book.refuse(case_id, decision.reason, decision.rule, seen=seen, fence=fence)
        elif isinstance(decision, Hold):
            settled = self._book.hold(case_id, decision.reason, rule=decision.rule, seen=seen, fence=fence)
        elif isinstance(decision, Run):
            settled = self._book.queue_case(case_id, decision.rule, decision.quality, rank=decision.rank, seen=seen, fence=fence)
        else:
            return False
        if settled:
            kind = type(decision).__name__.lower()
            LOG.info("series judged: %s", kind, extra={"case_id": case_id, "rule": getattr(decision, "rule", None), "instances": seen})
        if settled and isinstance(decision, Run):
            self._submit(case_id)
        return settled
