"""The outbox's sender: each due result to its destination, by C-STORE, until the destination has it or a week is over."""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta

from service.errors import Rejected, Unavailable
from service.presence import Counts
from service.records import Book, Delivery, LeaseLost, outbox, utc_now
from service.settings import Destination, Settings
from service.store import Store
from worker.renewal import renewing
from worker.send import Answer, Peer, read_outgoing, send

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

    def next(self) -> Delivery | None:
        """Take the first; None ends the serving (in the same breath, so that nobody joins a line that is not served)."""
        with self.guard:
            if not self.waiting:
                self.served = False
                return None
            return self.waiting.popleft()

    def abandon(self) -> None:
        """End the serving early; what waits is still due in the case book, and the sweep brings it back."""
        with self.guard:
            self.waiting.clear()
            self.served = False


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
            due = self._book.due_deliveries(case_id=case_id)
        except Unavailable as error:
            LOG.warning("deliveries not read, the sweep repeats: %s", error, extra={"case_id": case_id})
            return
        self._send_all(due)

    def deliver_due(self) -> None:
        """Send whatever is due of any case. Destinations that are slow are served on by threads of their own."""
        try:
            due = self._book.due_deliveries()
        except Unavailable as error:
            LOG.warning("outbox not read: %s", error)
            return
        self._send_all(due, wait=False)

    def _send_all(self, due: list[Delivery], *, wait: bool = True) -> None:
        """Put deliveries into their destinations' lines, and serve those lines that nobody serves, each in its own thread."""
        lines = []
        for name in sorted({delivery.destination for delivery in due}):
            wanted = sorted((one for one in due if one.destination == name), key=lambda one: (one.output != _FIRST, one.id))
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
            while (delivery := line.next()) is not None:
                self._attempt(delivery)
            done = True
        except Unavailable as error:
            LOG.warning("outcome of a delivery not written: %s", error)
        finally:
            if not done:
                line.abandon()

    def _attempt(self, due: Delivery) -> None:
        delivery = self._book.claim_delivery(due.id, self._owner)
        if delivery is None:
            return
        fields = {"case_id": delivery.case_id, "destination": delivery.destination, "kind": delivery.output, "delivery_id": delivery.id}
        try:
            self._settle(delivery, fields)
        except LeaseLost:
            LOG.info("another worker has the delivery", extra=fields)

    def _settle(self, delivery: Delivery, fields: dict[str, object]) -> None:
        destination = self._destinations.get(delivery.destination)
        if destination is None or delivery.sop_class_uid is None:
            why = "the destination is no longer in the settings" if destination is None else "not a DICOM object"
            self._book.delivery_dead(delivery.id, why, fence=delivery.fence)
            LOG.error("delivery given up: %s", why, extra=fields)
            return
        try:
            with renewing(lambda: self._book.renew_delivery(delivery), outbox.DELIVERY_LEASE.total_seconds()):
                answer = self._send(destination, delivery)
        except (Unavailable, Rejected) as error:
            self._postpone(delivery, str(error), fields)
            return
        if answer.category == "Failure":
            self._postpone(delivery, _describe(answer), fields | {"dimse_status": answer.status}, shown="refused")
            return
        warning = _describe(answer) if answer.category == "Warning" else None
        self._book.delivered(delivery.id, warning=warning, fence=delivery.fence)
        self._counts.add("delivery_attempts", delivery.destination, "sent")
        LOG.info("delivered", extra=fields | {"dimse_status": answer.status})

    def _send(self, destination: Destination, delivery: Delivery) -> Answer:
        peer = Peer(destination.ae_title, destination.host, destination.port, destination.calling_ae or self._title)
        try:
            files = read_outgoing([self._store.path_of(delivery.path)])
        except OSError as error:
            raise Unavailable(f"the result cannot be read: {error.strerror}") from error
        if not files:
            raise Unavailable("the result is not in the store")
        return send(peer, files)[0]

    def _postpone(self, delivery: Delivery, why: str, fields: dict[str, object], *, shown: str = "") -> None:
        """What the peer says in its Error Comment may name a patient: the case book keeps it, the log does not."""
        self._counts.add("delivery_attempts", delivery.destination, "failed")
        pause_s = pause_after(delivery.attempts)
        state = self._book.delivery_failed(delivery.id, why, utc_now() + timedelta(seconds=pause_s), fence=delivery.fence)
        LOG.warning(
            "not delivered: %s", shown or why, extra=fields | {"state": state.value, "attempt": delivery.attempts + 1, "seconds": pause_s}
        )


def pause_after(attempts: int) -> float:
    """Give the seconds to wait after that many earlier attempts: doubling, at most 15 minutes, with jitter of a half."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts, 20))
    return longest * random.uniform(0.5, 1.0)


def _describe(answer: Answer) -> str:
    status = "no status" if answer.status is None else f"status 0x{answer.status:04X}"
    return f"{status}: {answer.comment}" if answer.comment else status
