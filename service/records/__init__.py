"""The case book: what the service knows, and the only place that changes it.

Files first, rows after: whoever calls this has the files on disk already. Every method is one transaction; a database that is
away raises `Unavailable`, and the call may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from service.audit_file import AuditFile
from service.installation import read_secret
from service.records.arrivals import Arrivals
from service.records.audit import Audit, AuditEntry, AuditPage, writing_audit
from service.records.commitments import Commitments
from service.records.database import BookOutdated, upgrade
from service.records.deeds import Actor, AuditEvent, Outcome
from service.records.fetches import Fetch, Fetches
from service.records.identity import Identities
from service.records.kept import Kept, KeptInstance, KeptSeries
from service.records.moves import UnknownCase, utc_now
from service.records.notes import Notes, OwedNote, is_note
from service.records.noting import patient_key
from service.records.outbox import Outbox
from service.records.past import AnyResult, Past
from service.records.reader_verdicts import ReaderVerdicts, standing_verdict, told_correction
from service.records.reading import Reading, StudyFacts
from service.records.rebuilding import Rebuilding
from service.records.rekeying import check_secret
from service.records.removal import Removal
from service.records.resends import Resends
from service.records.rows import (
    Case,
    Correction,
    Delivery,
    DeliveryState,
    HistoryRow,
    InstanceRow,
    Judged,
    Lease,
    LeaseLost,
    Noted,
    OutputRow,
    Page,
    ReaderVerdict,
    Receiving,
    Resend,
    Standing,
    Verdict,
    VerdictKind,
    VerdictRefused,
    VerdictState,
)
from service.records.states import FINAL, MAXIMUM_ATTEMPTS, TRANSITIONS, Event, InvalidTransition, State
from service.records.upkeep import GONE_AFTER, Part, Upkeep
from service.records.withdrawal import Withdrawal, Withdrawn
from service.records.work import Work
from service.sections import Recipient
from service.settings import Settings


class Book(
    Arrivals,
    Fetches,
    Resends,
    Work,
    Outbox,
    Commitments,
    Reading,
    Kept,
    Past,
    Rebuilding,
    Upkeep,
    Removal,
    Audit,
    Notes,
    Withdrawal,
    ReaderVerdicts,
    Identities,
):
    """The case book at `url`, for any number of threads; a forked child opens its own.

    Parameters
    ----------
    secret
        The installation's (`service.installation`). Without it no case can be made; enough for reading.
    data_dir
        Where the audit trail is written to as well; None: in the database only.
    destinations
        Who is sent the results of a primary case. Every process of an installation gives the same.

    Raises
    ------
    BookOutdated
        The database is not at this program's revision.
    Misconfigured
        Its patients were named with another secret.
    Unavailable
        The database is away.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: bytes | None = None,
        data_dir: Path | None = None,
        destinations: Sequence[Recipient] = (),
        lease_s: float = 30.0,
    ) -> None:
        super().__init__(url)
        if secret is not None:
            with self._reading() as connection:
                check_secret(connection, secret)
        self._secret = secret
        self._audit_file = AuditFile(data_dir) if data_dir is not None else None
        self._destinations = tuple(destinations)
        self._lease = timedelta(seconds=lease_s)


def open_book(settings: Settings) -> Book:
    """Open the case book of an installation; `upgrade_book(settings)` comes first where nobody else did it."""
    secret, folder = read_secret(settings.data_dir), settings.data_dir
    return Book(settings.database, secret=secret, data_dir=folder, destinations=settings.destinations, lease_s=settings.lease_s)


def upgrade_book(settings: Settings, *, new_keys: bool = False) -> None:
    """Bring the case book of an installation to this program's revision. Raises as `upgrade` does."""
    upgrade(settings.database, read_secret(settings.data_dir), new_keys=new_keys)


__all__ = [
    "FINAL",
    "GONE_AFTER",
    "MAXIMUM_ATTEMPTS",
    "TRANSITIONS",
    "Actor",
    "AnyResult",
    "AuditEntry",
    "AuditEvent",
    "AuditPage",
    "Book",
    "BookOutdated",
    "Case",
    "Correction",
    "Delivery",
    "DeliveryState",
    "Event",
    "Fetch",
    "HistoryRow",
    "InstanceRow",
    "InvalidTransition",
    "Judged",
    "KeptInstance",
    "KeptSeries",
    "Lease",
    "LeaseLost",
    "Noted",
    "Outcome",
    "OutputRow",
    "OwedNote",
    "Page",
    "Part",
    "ReaderVerdict",
    "Receiving",
    "Resend",
    "Standing",
    "State",
    "StudyFacts",
    "UnknownCase",
    "Verdict",
    "VerdictKind",
    "VerdictRefused",
    "VerdictState",
    "Withdrawn",
    "is_note",
    "open_book",
    "patient_key",
    "standing_verdict",
    "told_correction",
    "upgrade",
    "upgrade_book",
    "utc_now",
    "writing_audit",
]
