"""The audit trail: who did what, to which case, and how it ended (PS3.15 A.5).

`Book.audit` is what everybody calls: it remembers the entry and returns at once, in whatever thread and however the database is.
`Book.write_audit`, called every few seconds beside the work (`writing_audit`) and when the book is closed, writes what came together in
one transaction, and then to the file that outlives the database (decision 0018). An entry holds identifiers: no name, no PatientID, no
value that came from a header.

A process that is killed takes its last seconds with it; who sent an instance is in its row all the same.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from sqlalchemy import and_, delete, insert, or_, select
from sqlalchemy.exc import SQLAlchemyError

from service.audit_file import AuditFile
from service.errors import Unavailable
from service.records.cursors import decode_cursor, encode_cursor
from service.records.database import Ledger
from service.records.deeds import MOST_PENDING, Actor, AuditEvent, Deed, Outcome, PendingDeeds
from service.records.moves import utc_now
from service.records.schema import audit
from service.repeating import end_process, repeating

LOG = logging.getLogger(__name__)
EVERY_S: Final = 2.0
_END_LIMIT_S: Final = 10.0
_AT_ONCE: Final = 500
_COLUMNS: Final = tuple(column.name for column in audit.c if column.name != "id")


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

    _audit_file: AuditFile | None = None

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._pending = PendingDeeds()
        self._unfiled: deque[dict[str, Any]] = deque(maxlen=MOST_PENDING)
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
        """
        Write what came together since the last time. What cannot be written is kept, said in the log and by `audit_trouble`.

        Parameters
        ----------
        all_of_it : it is the end: what the database does not take is in the file at least
        """
        taken = self._pending.take(all_of_it=all_of_it)
        if not (taken or self._unfiled):
            return
        rows = [done.row(at, count) for done, at, count in taken]
        trouble = self._insert(rows)
        if trouble:
            self._pending.put_back(taken)
        if not trouble or all_of_it:
            self._unfiled.extend(rows)
        trouble = "; ".join(filter(None, (trouble, self._append())))
        if trouble and trouble != self._audit_trouble:
            LOG.error("the audit trail cannot be written, its entries are kept: %s", trouble)
        self._audit_trouble = trouble

    def _insert(self, rows: Sequence[dict[str, Any]]) -> str:
        """Write rows; gives what keeps them from being written."""
        try:
            if rows:
                with self._writing() as connection:
                    connection.execute(insert(audit), rows)
        except (Unavailable, SQLAlchemyError) as error:
            return error.reason if isinstance(error, Unavailable) else f"the database: {type(error).__name__}"
        return ""

    def _append(self) -> str:
        """Write to the file what is not in it yet; gives what keeps it from being written. Whatever that is, the rows are there."""
        rows = [self._unfiled.popleft() for _ in range(len(self._unfiled))]
        try:
            if rows and self._audit_file is not None:
                self._audit_file.append(rows, utc_now())
        except Unavailable as error:
            self._unfiled.extendleft(reversed(rows))
            return error.reason
        return ""

    def restore_audit(self, damaged: dict[str, str]) -> int:
        """Enter what the files have and the database has not; gives how many entries. `damaged`: as for `AuditFile.read`."""
        if self._audit_file is None:
            return 0
        count = 0
        entries = self._audit_file.read(damaged)
        while some := list(islice(entries, _AT_ONCE)):
            chosen = select(*(audit.c[name] for name in _COLUMNS))
            chosen = chosen.where(audit.c.at.between(min(one["at"] for one in some), max(one["at"] for one in some)))
            with self._writing() as connection:
                known = {tuple(row) for row in connection.execute(chosen)}
                missing = {key: one for one in some if (key := tuple(one[name] for name in _COLUMNS)) not in known}
                if missing:
                    connection.execute(insert(audit), list(missing.values()))
            count += len(missing)
        return count

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
        """Remove the entries of before this moment, and the files that hold no others; gives how many. Raises Unavailable."""
        if self._audit_file is not None:
            self._audit_file.forget(before)
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
