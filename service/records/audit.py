"""The audit trail: who did what, to which case, and how it ended (PS3.15 A.5).

`Book.audit` is what everybody calls: it remembers the entry and returns at once, in whatever thread and however the database is.
`Book.write_audit`, called every few seconds beside the work (`writing_audit`) and when the book is closed, writes what came together in
one transaction. An entry holds identifiers: no name, no PatientID, no value that came from a header.

A process that is killed takes its last seconds with it; who sent an instance is in its row all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import and_, delete, insert, or_, select
from sqlalchemy.exc import SQLAlchemyError

from service.errors import Unavailable
from service.records.cursors import decode_cursor, encode_cursor
from service.records.database import Ledger
from service.records.deeds import Actor, AuditEvent, Deed, Outcome, PendingDeeds
from service.records.moves import utc_now
from service.records.schema import audit
from service.repeating import end_process, repeating

LOG = logging.getLogger(__name__)
EVERY_S: Final = 2.0
_END_LIMIT_S: Final = 10.0


@dataclass(frozen=True)
class AuditEntry:
    """One line of the trail, as it is kept.

    Attributes
    ----------
    at : when it was done for the first time
    what : in words, what exactly
    case_id, study_uid, patient_key : what it was done to, as far as that is known
    count : how many instances, or how often the same
    """

    id: int
    at: datetime
    event: str
    what: str
    actor_kind: str
    actor: str
    address: str
    case_id: str | None
    study_uid: str | None
    patient_key: str | None
    outcome: str
    count: int


@dataclass(frozen=True)
class AuditPage:
    """A page of the trail, newest first; `next` is the cursor of the following one."""

    items: tuple[AuditEntry, ...]
    next: str | None


class Audit(Ledger):
    """The trail: entries in, pages out."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._pending = PendingDeeds()
        self._audit_trouble = ""

    def audit(
        self,
        event: AuditEvent,
        what: str,
        actor: Actor,
        *,
        case_id: str | None = None,
        study_uid: str | None = None,
        patient_key: str | None = None,
        outcome: Outcome = Outcome.SUCCESS,
        count: int = 1,
    ) -> None:
        """
        Enter into the audit trail that something was done. Never waits, never raises; written within seconds.

        Parameters
        ----------
        what
            In words, what exactly; never a name, a PatientID or another value of a header.
        count
            How many instances, or how often.
        """
        self._pending.add(Deed(event, what, actor, case_id, study_uid, patient_key, outcome), utc_now(), count)

    def write_audit(self, *, all_of_it: bool = False) -> None:
        """Write what came together since the last time. What cannot be written is kept, said in the log and by `audit_trouble`."""
        taken = self._pending.take(all_of_it=all_of_it)
        if not taken:
            return
        try:
            with self._writing() as connection:
                connection.execute(insert(audit), [done.row(at, count) for done, at, count in taken])
        except (Unavailable, SQLAlchemyError) as error:
            self._pending.put_back(taken)
            trouble = error.reason if isinstance(error, Unavailable) else f"the database: {type(error).__name__}"
            if trouble != self._audit_trouble:
                LOG.error("the audit trail cannot be written, its entries are kept: %s", trouble)
            self._audit_trouble = trouble
        else:
            self._audit_trouble = ""

    def audit_trouble(self) -> str:
        """Say why the trail of this process is not written; nothing where it is."""
        return self._audit_trouble

    def close(self) -> None:
        """Write the last entries, and give all connections back."""
        self.write_audit(all_of_it=True)
        super().close()

    def audit_trail(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        event: AuditEvent | None = None,
        actor: str | None = None,
        case_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> AuditPage:
        """Give a page of the trail, newest first.

        Parameters
        ----------
        since, until
            From this moment on; before that one.
        actor
            The AE title, the token's name or the user, exactly.

        Raises
        ------
        ValueError
            Not a cursor of ours, or a limit below 1.
        """
        if limit < 1:
            raise ValueError("limit below 1")
        chosen = select(audit)
        exact = {"event": event.value if event else None, "actor": actor, "case_id": case_id}
        for name, value in exact.items():
            if value is not None:
                chosen = chosen.where(audit.c[name] == value)
        if since is not None:
            chosen = chosen.where(audit.c.at >= since)
        if until is not None:
            chosen = chosen.where(audit.c.at < until)
        if cursor is not None:
            at, number = _decode(cursor)
            chosen = chosen.where(or_(audit.c.at < at, and_(audit.c.at == at, audit.c.id < number)))
        with self._reading() as connection:
            rows = connection.execute(chosen.order_by(audit.c.at.desc(), audit.c.id.desc()).limit(limit + 1)).mappings().all()
        items = tuple(AuditEntry(**row) for row in rows[:limit])
        return AuditPage(items, encode_cursor(items[-1].at, str(items[-1].id)) if len(rows) > limit else None)

    def last_audited(self, beginning: str) -> str | None:
        """Give the words of the last entry that begin so."""
        chosen = select(audit.c.what).where(audit.c.what.startswith(beginning, autoescape=True))
        with self._reading() as connection:
            return connection.execute(chosen.order_by(audit.c.at.desc(), audit.c.id.desc()).limit(1)).scalar()

    def forget_audit(self, before: datetime) -> int:
        """Remove the entries of before this moment; gives how many. Raises Unavailable."""
        with self._writing() as connection:
            return connection.execute(delete(audit).where(audit.c.at < before)).rowcount


def _decode(cursor: str) -> tuple[datetime, int]:
    at, number = decode_cursor(cursor)
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise ValueError("not a cursor of this list")
    return at, int(number)


@contextmanager
def writing_audit(book: Audit, *, on_defect: Callable[[], None] = end_process) -> Iterator[None]:
    """Write the trail every few seconds while the block runs, and at its end; closing the book writes what comes after."""
    try:
        with repeating("audit", book.write_audit, EVERY_S, on_defect=on_defect, end_limit_s=_END_LIMIT_S) as thread:
            yield
    finally:
        if not thread.is_alive():  # one that hangs in the database would hold up the end
            book.write_audit(all_of_it=True)
