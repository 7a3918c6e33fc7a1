"""What a destination says of its commitment to keep what it was sent: N-EVENT-REPORT, into the case book. PS3.4 J.3.3."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset

from service.errors import Rejected, Unavailable
from service.presence import Counts
from service.records import Book
from service.sections import Destination, Recipient

LOG = logging.getLogger(__name__)

STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"  # Push Model
STATUSES: Final = {
    0x0000: ("Success", "the report is in the case book"),
    0x0110: ("Processing failure", "a defect; logged"),
    0x0113: ("No such event type", "neither 1 nor 2"),
    0x0115: ("Invalid argument value", "no such transaction, or not one of this peer's"),
    0x0213: ("Resource limitation", "the case book is away; report again later"),
}
_EVENTS: Final = (1, 2)  # all committed; some failed


@dataclass(frozen=True)
class Report:
    """A report, by SOP Instance UID; `failed` with the Failure Reason (PS3.3 C.14)."""

    transaction_uid: str
    committed: frozenset[str]
    failed: dict[str, int]


class _NoSuchEvent(Rejected):
    """The event type is not one of storage commitment."""


class Reports:
    """Enters reports into the case book; for any number of associations."""

    def __init__(self, book: Book, destinations: Sequence[Recipient], counts: Counts) -> None:
        self._book = book
        self._counts = counts
        self._of = {one.name: one.ae_title for one in destinations if isinstance(one, Destination) and one.storage_commitment}

    def awaited_from(self, ae_title: str) -> bool:
        """Tell whether the node of that title is a destination that is asked to commit."""
        return ae_title in self._of.values()

    def taking(self, ae_title: str) -> Callable[[Any], tuple[int, None]]:
        """Give a handler of N-EVENT-REPORT for an association with the node of that title."""
        return lambda event: (self.take(event, ae_title), None)

    def take(self, event: Any, ae_title: str) -> int:
        """Enter one report; gives the status of the answer."""
        names = [name for name, title in self._of.items() if title == ae_title]
        try:
            report = read_report(int(event.request.EventTypeID), event.event_information)
            found = self._book.take_report(report.transaction_uid, names, report.committed, report.failed)
            if found is None:
                raise Rejected("no such transaction")
        except _NoSuchEvent:
            return 0x0113
        except Rejected as error:
            LOG.warning("a storage commitment report was refused: %s", error, extra={"calling_ae": ae_title})
            return 0x0115
        except Unavailable as error:
            LOG.warning("a storage commitment report was put off: %s", error, extra={"calling_ae": ae_title})
            return 0x0213
        except Exception:
            LOG.exception("a storage commitment report failed", extra={"calling_ae": ae_title})
            return 0x0110
        for result, number in (("committed", found.committed), ("failed", found.failed)):
            self._counts.add("commitments", found.destination, result, by=number)
        LOG.info("storage commitment reported", extra={"case_id": found.case_id, "destination": found.destination})
        return 0x0000


def read_report(event_type: int, information: Dataset) -> Report:
    """
    Read what is reported.

    Raises
    ------
    Rejected
        It names no transaction, or is of another kind of event.
    """
    if event_type not in _EVENTS:
        raise _NoSuchEvent(f"event type {event_type}")
    transaction_uid = str(information.get("TransactionUID") or "")
    if not transaction_uid:
        raise Rejected("no Transaction UID")
    committed = frozenset(str(item.get("ReferencedSOPInstanceUID", "")) for item in information.get("ReferencedSOPSequence") or ())
    failed = {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason") or 0x0110)
        for item in information.get("FailedSOPSequence") or ()
    }
    return Report(transaction_uid, committed - failed.keys(), failed)
