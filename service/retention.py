"""Old cases and old audit entries out; of cases never what is undelivered or at work, and none unless the settings say so.

The order, and why nothing acknowledged is lost:

1. Rows first. In one transaction, under the lock of the study, the case is judged again and its rows go. Killed after that, its files
   are rubbish that the next run sweeps; a row without a file cannot come of it.
2. Files after, and only those that no row names. The same series may be sent again at any moment: `Store.put_instance` finds the old
   file in its place and writes none, and the row comes later. So the files of a study are unlinked inside a transaction that holds the
   study's lock, which `note_instances` needs too. A row is either there before, and its file stays, or comes after.
3. If it comes after, the file may be gone by then: the intake looks once more when the row is committed, and writes the file again
   before it answers (`Intake.receive`). From then on a row names the file, and 2 never removes it. Should the process be killed between
   row and file, nothing was acknowledged, and the sender repeats.
4. A series that is sent again is young again (`last_received_at`), so the judgement in 1 keeps what was just acknowledged.

5. What 1 took is remembered in the same transaction until 2 is done: the next run finishes what a kill left in the middle.
6. Results of a series that was sent again have the old names too: the id and the bytes are the same. 2 holds for them, and where a
   worker has the case again it may name them in a moment: they stay, and a later run looks again.

The lock is the database's, so it holds between hosts, whatever their shared file system makes of file locks. Files that no row names
for other reasons are `service.orphans`'.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from service.orphans import batches
from service.presence import Counts
from service.records import Actor, AuditEvent, Book, utc_now
from service.records.removal import YOUNG, Candidate, Cutoff, Removed
from service.repeating import end_process, repeating
from service.settings import Settings
from service.store import Store

LOG = logging.getLogger(__name__)
NEVER_BEFORE: Final = timedelta(days=1)
"""For want of space nothing goes that is younger: its results may not have been fetched yet."""
HELD_NEVER_BEFORE: Final = timedelta(days=7)
EVERY_S: Final = 3600.0
AGAIN_WHEN_LOW_S: Final = 600.0
TICK_S: Final = 20.0
TURN: Final = "retention"
TURN_S: Final = 900.0
END_LIMIT_S: Final = 5.0
BY_ITSELF: Final = Actor("service", "retention")


@dataclass(frozen=True)
class Going:
    """A case that would go, and why."""

    case: Candidate
    why: str
    cutoff: Cutoff


@dataclass
class Plan:
    """What would go, in this order, and how many cases stay for which reason (those that are only young are not counted)."""

    going: list[Going] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    missing_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """What it would free."""
        return sum(one.case.size_bytes for one in self.going)

    @property
    def reasons(self) -> Counter[str]:
        """How many cases are kept back, by reason."""
        return Counter(self.kept.values())


def make_plan(settings: Settings, book: Book, store: Store, now: datetime | None = None) -> Plan:
    """Say what would go now. Changes nothing. Raises Unavailable."""
    now = now or utc_now()
    chosen = settings.retention
    plan = Plan()
    if chosen.keep_days is not None or chosen.keep_refused_days is not None:
        _by_age(plan, book, _cutoff_of_age(settings, now))
    if chosen.keep_free_mb is not None:
        _by_space(plan, book, chosen.keep_free_mb * 1024**2 - store.free_bytes(), now)
    gone = {one.case.case_id for one in plan.going}
    plan.kept = {case_id: why for case_id, why in plan.kept.items() if case_id not in gone}
    return plan


def _cutoff_of_age(settings: Settings, now: datetime) -> Cutoff:
    chosen = settings.retention
    finished = None if chosen.keep_days is None else now - timedelta(days=chosen.keep_days)
    refused = finished if chosen.keep_refused_days is None else now - timedelta(days=chosen.keep_refused_days)
    return Cutoff(finished, refused, finished)


def _by_age(plan: Plan, book: Book, cutoff: Cutoff) -> None:
    latest = max(moment for moment in (cutoff.finished, cutoff.refused) if moment is not None)
    for study_uid in book.studies_before(latest):
        for case in book.candidates(study_uid, cutoff):
            if not case.kept:
                plan.going.append(Going(case, "age", cutoff))
            elif case.kept != YOUNG:
                plan.kept[case.case_id] = case.kept


def _by_space(plan: Plan, book: Book, missing_bytes: int, now: datetime) -> None:
    """Add the oldest studies until enough is free."""
    planned = {one.case.case_id for one in plan.going}
    missing_bytes -= plan.size_bytes
    cutoff = Cutoff(now - NEVER_BEFORE, now - NEVER_BEFORE, now - HELD_NEVER_BEFORE)
    for study_uid in book.studies_before(now - NEVER_BEFORE) if missing_bytes > 0 else ():
        for case in book.candidates(study_uid, cutoff):
            if not case.kept and case.case_id not in planned:
                plan.going.append(Going(case, "space", cutoff))
                missing_bytes -= case.size_bytes
            elif case.kept:
                plan.kept[case.case_id] = case.kept
        if missing_bytes <= 0:
            break
    plan.missing_bytes = max(0, missing_bytes)


def apply_plan(
    plan: Plan,
    book: Book,
    store: Store,
    counts: Counts,
    on_case: Callable[[], None] = lambda: None,
    go_on: Callable[[], bool] = lambda: True,
    by: Actor = BY_ITSELF,
) -> int:
    """
    Remove what may still go of a plan, study by study while `go_on` says so; gives how many cases went.

    Parameters
    ----------
    by : who asked for it

    Raises
    ------
    Unavailable
        The database went away in the middle; the next run goes on.
    """
    finish_removals(book, store, go_on)
    studies: dict[tuple[str, Cutoff], list[Going]] = defaultdict(list)
    for one in plan.going:
        studies[one.case.study_uid, one.cutoff].append(one)
    number = 0
    for (study_uid, cutoff), group in studies.items():
        if not go_on():
            break
        cases = {one.case.case_id: one.case for one in group}
        for removed in book.remove(study_uid, cases.keys(), cutoff):
            _remove_files(book, store, removed)
            case = cases[removed.case_id]
            number += 1
            counts.add("retention_cases")
            counts.add("retention_bytes", by=case.size_bytes)
            what = f"case removed, {len(removed.instances)} instances and their results"
            book.audit(AuditEvent.STUDY_DELETED, what, by, case_id=case.case_id, study_uid=study_uid)
            LOG.info("case removed", extra={"case_id": case.case_id, "state": case.state.value, "bytes": case.size_bytes})
        for _ in group:
            on_case()
    return number


def forget_audit(settings: Settings, book: Book) -> None:
    """Remove what the audit trail no longer keeps. Raises Unavailable."""
    keep_days = settings.audit.keep_days
    number = book.forget_audit(utc_now() - timedelta(days=keep_days))
    if number:
        what = f"audit trail: entries older than {keep_days:g} days removed"
        book.audit(AuditEvent.APPLICATION_ACTIVITY, what, BY_ITSELF, count=number)


def finish_removals(book: Book, store: Store, go_on: Callable[[], bool] = lambda: True) -> None:
    """Remove the files of cases whose rows went before a process was killed. Raises Unavailable."""
    for removed in book.unfinished_removals():
        if not go_on():
            break
        _remove_files(book, store, removed)


def _remove_files(book: Book, store: Store, removed: Removed) -> None:
    for some in batches(removed.instances):
        book.without_rows(removed.study_uid, some, store.remove)
    if book.without_output_rows(removed.case_id, removed.study_uid, removed.outputs, store.remove):
        book.end_removal(removed.case_id)


class Turn:
    """The turn of the retention: one process of the installation has it. One of the same name takes over without waiting."""

    def __init__(self, book: Book, name: str | None = None) -> None:
        self._book, self._name = book, name or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def take(self) -> bool:
        """Take it or keep it, for the next `TURN_S` seconds; False where somebody else has it. Raises Unavailable."""
        return self._book.take_turn(TURN, self._name, TURN_S)

    def give(self) -> None:
        """Let somebody else have it at once. Raises Unavailable."""
        self._book.give_turn(TURN, self._name)


class Keeper:
    """Runs the retention by itself: every hour, and when the disk falls below what is to be kept free.

    Parameters
    ----------
    name : who takes the turn; a process that replaces another takes its name too
    """

    def __init__(
        self,
        settings: Settings,
        book: Book,
        store: Store,
        counts: Counts,
        *,
        name: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._book, self._store, self._counts, self._clock = settings, book, store, counts, clock
        self._turn = Turn(book, name)
        self._ran_at = float("-inf")

    def tick(self) -> int:
        """Run if it is time and no other process of the installation has the turn; gives how many cases went. Raises Unavailable."""
        passed_s = self._clock() - self._ran_at
        if passed_s < (AGAIN_WHEN_LOW_S if self._is_low() else EVERY_S):
            return 0
        if not self._settings.retention.asks:
            self._ran_at = self._clock()
            forget_audit(self._settings, self._book)
            return 0
        if not self._turn.take():
            return 0
        self._ran_at = self._clock()
        forget_audit(self._settings, self._book)
        plan = make_plan(self._settings, self._book, self._store)
        if plan.missing_bytes:
            LOG.error("less is free than is to be kept free, and nothing more may go", extra={"bytes": plan.missing_bytes})
        return apply_plan(plan, self._book, self._store, self._counts, go_on=self._turn.take)

    def _is_low(self) -> bool:
        wanted_mb = self._settings.retention.keep_free_mb
        return wanted_mb is not None and self._store.free_bytes() < wanted_mb * 1024**2


@contextmanager
def keeping(
    settings: Settings,
    book: Book,
    store: Store,
    counts: Counts,
    *,
    name: str | None = None,
    on_defect: Callable[[], None] = end_process,
) -> Iterator[None]:
    """Let a `Keeper` work while the block runs."""
    keeper = Keeper(settings, book, store, counts, name=name)
    with repeating("retention", keeper.tick, TICK_S, on_defect=on_defect, end_limit_s=END_LIMIT_S):
        yield
