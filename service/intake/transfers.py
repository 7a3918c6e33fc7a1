"""What each open association brought, by study, for the audit trail: one entry when it is over, not one an instance."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field

from service.records import Actor, AuditEvent, Book


@dataclass
class _Brought:
    actor: Actor
    instances: int = 0
    case_ids: set[str] = field(default_factory=set)


class Transfers:
    """In memory and thread-safe; of an association that ends with its process the rows of its instances tell."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._lock = threading.Lock()
        self._open: dict[str, dict[str, _Brought]] = defaultdict(dict)

    def note(self, association: str, actor: Actor, study_uid: str, case_id: str | None) -> None:
        """An instance of the study was taken in; `case_id`: where it has one."""
        with self._lock:
            brought = self._open[association].setdefault(study_uid, _Brought(actor))
            brought.instances += 1
            brought.case_ids |= {case_id} if case_id else set()

    def close(self, association: str) -> None:
        """The association is over; an instance that was in hand then may be noted after, and this called again."""
        with self._lock:
            studies = self._open.pop(association, {})
        for study_uid, brought in studies.items():
            one = brought.case_ids.pop() if len(brought.case_ids) == 1 else None
            what, number = f"received over association {association}", brought.instances
            self._book.audit(AuditEvent.INSTANCES_TRANSFERRED, what, brought.actor, case_id=one, study_uid=study_uid, count=number)
