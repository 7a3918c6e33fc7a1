"""Instances that came again, from the case book to the comparison and back: the child's part, and its parent's when it is lost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from service.errors import Unavailable
from service.queue import COMPARE
from service.records import Book, Judged, Resend, Verdict
from service.store import Store
from worker.child import ChildLost, WorkChild
from worker.compare import compare
from worker.frames import Limits

LOG = logging.getLogger(__name__)
MAXIMUM_LOSSES: Final = 3
LIMIT_S: Final = 120.0
_ROUNDS: Final = 5


def compare_resends(book: Book, store: Store, case_id: str, say: Callable[[int], None], limits: Limits) -> None:
    """Compare what was set aside of a case and write the verdicts down, all at once; once more for what came meanwhile.

    Where the database or the disk is away, what is not written down is asked for again by the sweep.

    Parameters
    ----------
    say : told the number of each before it is decoded
    limits : of what is decoded
    """
    try:
        for _ in range(_ROUNDS):
            found = [_look(store, resend, say, limits) for resend in book.uncompared(case_id)]
            store.demand_instances()  # where all of them are away, none is missing
            if not found or not book.judge_resends(case_id, found):
                return
            LOG.info("instances that came again were compared", extra={"case_id": case_id, "instances": len(found)})
    except (Unavailable, OSError) as error:
        LOG.warning("comparison put off: %s", type(error).__name__, extra={"case_id": case_id})


def _look(store: Store, resend: Resend, say: Callable[[int], None], limits: Limits) -> Judged:
    say(resend.number)
    found = compare(store.path_of(resend.kept_path), store.path_of(resend.path), limits)
    return Judged(resend, found.verdict, found.changed)


def oversee(child: WorkChild, open_here: Callable[[], Book], case_id: str, limit_s: float) -> None:
    """Have the child compare; an instance on which it is lost three times, or late once, is not tried again.

    Parameters
    ----------
    open_here : gives a case book for this process
    limit_s : seconds for one instance
    """
    lost: Counter[int] = Counter()
    while True:
        heard = [0]
        try:
            child.work_on((COMPARE, case_id), min(limit_s, LIMIT_S), heard.append)
            return
        except ChildLost as error:
            number = heard[-1]
            lost[number] += 1
            LOG.error("child lost over a comparison: %s", error, extra={"case_id": case_id})
            if not error.late and lost[number] < MAXIMUM_LOSSES:
                continue
            if number == 0 or not _give_up(open_here, case_id, number):
                return  # not the fault of an instance, or not to be written down now: the sweep asks again


def _give_up(open_here: Callable[[], Book], case_id: str, number: int) -> bool:
    """Write down that an instance cannot be compared."""
    try:
        book = open_here()
    except Unavailable:
        return False
    try:
        poison = [Judged(one, Verdict.UNREADABLE) for one in book.uncompared(case_id) if one.number == number]
        return bool(book.judge_resends(case_id, poison))
    except Unavailable:
        return False
    finally:
        book.close()
