"""The outbox's sender: each due result to its destination, by C-STORE, until the destination has it or a week is over.

What a case has for a destination goes over one association; the outcome is each object's own.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest

from service.calling import Peer
from service.errors import Misconfigured, Rejected, Unavailable
from service.presence import Counts
from service.records import Actor, AuditEvent, Book, Delivery, LeaseLost, is_note, outbox, utc_now
from service.sections import Destination
from service.settings import Settings
from service.store import Store
from service.tls import call_context
from worker.renewal import renewing
from worker.send import Answer, Broken, Outgoing, read_outgoing, send
from worker.withdraw import write_notes

LOG = logging.getLogger(__name__)
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 15 * 60.0
_FIRST = "segmentation"


@dataclass
class _Line:
    """What waits for one destination. One thread at a time serves it, so that a slow destination holds up nobody else."""

    waiting: deque[Delivery] = field(default_factory=deque)
    served: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)

    def join(self, deliveries: list[Delivery]) -> bool:
        """Queue deliveries; True when the caller is to serve the line now."""
        with self.guard:
            known = {delivery.id for delivery in self.waiting}
            self.waiting.extend(delivery for delivery in deliveries if delivery.id not in known)
            mine = not self.served and bool(self.waiting)
            self.served = self.served or mine
            return mine

    def next(self) -> list[Delivery]:
        """Take what the first case has here; nothing ends the serving (in the same breath: nobody joins a line that is not served)."""
        with self.guard:
            batch = [delivery for delivery in self.waiting if delivery.case_id == self.waiting[0].case_id]
            self.waiting = deque(delivery for delivery in self.waiting if delivery.case_id != batch[0].case_id)
            self.served = bool(batch)
            return batch

    def abandon(self) -> None:
        """End the serving early; what waits is still due in the case book, and the sweep brings it back."""
        with self.guard:
            self.waiting.clear()
            self.served = False


@dataclass(frozen=True)
class _Parcel:
    """A delivery that can be sent: where to, and its file."""

    delivery: Delivery
    destination: Destination
    file: Outgoing


class Sender:
    """Sends what the outbox holds. One per process, used by many threads."""

    def __init__(self, settings: Settings, book: Book, store: Store, owner: str, counts: Counts | None = None) -> None:
        self._title = settings.ae_title
        self._destinations = {destination.name: destination for destination in settings.destinations}
        self._book = book
        self._store = store
        self._owner = owner
        self._counts = counts if counts is not None else Counts()
        self._lines: dict[str, _Line] = {}
        self._guard = threading.Lock()

    def deliver(self, case_id: str) -> None:
        """Send what is due of one case; returns when nothing is left to this call."""
        try:
            write_notes(self._book, self._store, case_id)
            due = self._book.due_deliveries(case_id=case_id)
        except Unavailable as error:
            LOG.warning("deliveries not read, the sweep repeats: %s", error, extra={"case_id": case_id})
            return
        self._send_all(due)

    def deliver_due(self) -> None:
        """Send whatever is due of any case. Destinations that are slow are served on by threads of their own."""
        try:
            write_notes(self._book, self._store)
            due = self._book.due_deliveries()
        except Unavailable as error:
            LOG.warning("outbox not read: %s", error)
            return
        self._send_all(due, wait=False)

    def _send_all(self, due: list[Delivery], *, wait: bool = True) -> None:
        """Put deliveries into their destinations' lines, and serve those lines that nobody serves, each in its own thread."""
        lines = []
        for name in sorted({delivery.destination for delivery in due}):
            wanted = sorted((one for one in due if one.destination == name), key=_place)
            line = self._line(name)
            if line.join(wanted):
                lines.append(line)
        threads = [threading.Thread(target=self._serve, args=(line,), name="deliver", daemon=True) for line in lines]
        for thread in threads:
            thread.start()
        for thread in threads if wait else ():
            thread.join()

    def _line(self, name: str) -> _Line:
        with self._guard:
            return self._lines.setdefault(name, _Line())

    def _serve(self, line: _Line) -> None:
        done = False
        try:
            while batch := line.next():
                self._attempt(batch)
            done = True
        except Unavailable as error:
            LOG.warning("outcome of a delivery not written: %s", error)
        finally:
            if not done:
                line.abandon()

    def _attempt(self, batch: list[Delivery]) -> None:
        """Claim and send what is still due; an object at which the peer hangs up does not keep back those after it."""
        claimed = [delivery for due in batch if (delivery := self._book.claim_delivery(due.id, self._owner))]
        waiting = [parcel for delivery in claimed if (parcel := self._pack(delivery))]
        while waiting:
            waiting = self._send(waiting)

    def _renew(self, parcels: list[_Parcel]) -> None:
        for parcel in parcels:
            with suppress(LeaseLost):
                self._book.renew_delivery(parcel.delivery)

    def _pack(self, delivery: Delivery) -> _Parcel | None:
        """Find the file of a delivery; without one the delivery is given up or put off."""
        destination = self._destinations.get(delivery.destination)
        try:
            if destination is None or delivery.sop_class_uid is None:
                self._give_up(delivery, "the destination is no longer in the settings" if destination is None else "not a DICOM object")
                return None
            files = read_outgoing([self._store.path_of(delivery.path)])
        except OSError as error:
            self._postpone(delivery, f"the result cannot be read: {error.strerror}", pause_after(delivery.attempts))
            return None
        if not files:
            self._postpone(delivery, "the result is not in the store", pause_after(delivery.attempts))
            return None
        return _Parcel(delivery, destination, files[0])

    def _send(self, parcels: list[_Parcel]) -> list[_Parcel]:
        """Send over one association, write what became of each, and give those that are to be sent over another."""
        answers: list[Answer] = []
        left, failure = 0, ""
        try:
            with renewing(lambda: self._renew(parcels), outbox.DELIVERY_LEASE.total_seconds()):
                send(self._peer(parcels[0].destination), [parcel.file for parcel in parcels], answers.append)
        except Broken as error:
            left, failure = len(parcels) - len(answers) - 1, str(error)
        except (Unavailable, Rejected, Misconfigured) as error:
            failure = str(error)
        tried = parcels[: len(parcels) - left]
        # one pause for all: what failed together is sent together again
        pause_s = pause_after(max(parcel.delivery.attempts for parcel in tried))
        for parcel, answer in zip_longest(tried, answers):
            if answer is None:
                self._postpone(parcel.delivery, failure, pause_s)
            else:
                self._settle(parcel.delivery, answer, pause_s)
        return parcels[len(tried) :]

    def _peer(self, destination: Destination) -> Peer:
        """Who is called, with certificates as they are on disk now: they are renewed while this process runs."""
        tls = call_context(f"destination {destination.name}", destination)
        return Peer(destination.ae_title, destination.host, destination.port, destination.calling_ae or self._title, tls)

    def _settle(self, delivery: Delivery, answer: Answer, pause_s: float) -> None:
        if answer.category == "Failure":
            self._postpone(delivery, _describe(answer), pause_s, shown="refused", dimse_status=answer.status)
            return
        warning = _describe(answer) if answer.category == "Warning" else None
        with _owned(delivery):
            self._book.delivered(delivery.id, warning=warning, fence=delivery.fence)
            self._counts.add("delivery_attempts", delivery.destination, "sent")
            self._book.audit(
                AuditEvent.INSTANCES_TRANSFERRED,
                f"sent over C-STORE to {delivery.destination}",
                Actor("service", self._title),
                case_id=delivery.case_id,
            )
            LOG.info("delivered", extra=_fields(delivery) | {"dimse_status": answer.status})

    def _give_up(self, delivery: Delivery, why: str) -> None:
        with _owned(delivery):
            self._book.delivery_dead(delivery.id, why, fence=delivery.fence)
            LOG.error("delivery given up: %s", why, extra=_fields(delivery))

    def _postpone(self, delivery: Delivery, why: str, pause_s: float, *, shown: str = "", **fields: object) -> None:
        """What the peer says in its Error Comment may name a patient: the case book keeps it, the log does not."""
        self._counts.add("delivery_attempts", delivery.destination, "failed")
        with _owned(delivery):
            state = self._book.delivery_failed(delivery.id, why, utc_now() + timedelta(seconds=pause_s), fence=delivery.fence)
            told = {"state": state.value, "attempt": delivery.attempts + 1, "seconds": pause_s}
            LOG.warning("not delivered: %s", shown or why, extra=_fields(delivery) | told | fields)


@contextmanager
def _owned(delivery: Delivery) -> Iterator[None]:
    """Write an outcome only while the delivery is ours."""
    try:
        yield
    except LeaseLost:
        LOG.info("another worker has the delivery", extra=_fields(delivery))


def _fields(delivery: Delivery) -> dict[str, object]:
    return {"case_id": delivery.case_id, "destination": delivery.destination, "kind": delivery.output, "delivery_id": delivery.id}


def _place(delivery: Delivery) -> tuple[bool, bool, int]:
    """What is superseded is withdrawn before its successor comes, and of that the segmentation goes first."""
    return not is_note(delivery.output), delivery.output != _FIRST, delivery.id


def pause_after(attempts: int) -> float:
    """Give the seconds to wait after that many earlier attempts: doubling, at most 15 minutes, with jitter of a half."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts, 20))
    return longest * random.uniform(0.5, 1.0)


def _describe(answer: Answer) -> str:
    status = "no status" if answer.status is None else f"status 0x{answer.status:04X}"
    return f"{status}: {answer.comment}" if answer.comment else status
