"""The outbox's sender: each due result to its destination, by C-STORE or STOW-RS, until the destination has it or a week is over.

What a case has for a destination goes over one association or in one request; the outcome is each object's own. A destination that
commits to keep what it has is asked to right after.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

from service.errors import Rejected, Unavailable
from service.presence import Counts
from service.records import Actor, AuditEvent, Book, Delivery, DeliveryState, LeaseLost, is_note, outbox, utc_now
from service.records.outbox import LONGEST_PAUSE_S, pause_after
from service.sections import Destination, Recipient, WebDestination
from service.settings import Settings
from service.store import Store
from worker.asking import Asker, is_asked
from worker.parcels import Parcel, in_repertoire, pack, peer_of
from worker.renewal import renewing
from worker.send import Answer, Broken, Outgoing, send
from worker.stow import store
from worker.withdraw import write_notes

__all__ = ["LONGEST_PAUSE_S", "Sender", "pause_after"]

LOG = logging.getLogger(__name__)
_FIRST = "segmentation"
_BADNESS = {"Success": 0, "Warning": 1, "Failure": 2}


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


class Sender:
    """Sends what the outbox holds. One per process, used by many threads."""

    def __init__(self, settings: Settings, book: Book, store: Store, owner: str, counts: Counts | None = None) -> None:
        self._title = settings.ae_title
        self._destinations = {destination.name: destination for destination in settings.destinations}
        self._book = book
        self._store = store
        self._owner = owner
        self._counts = counts if counts is not None else Counts()
        self._asker = Asker(settings, book, store, owner, self._counts)
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
        name = batch[0].destination
        unsent = [one for one in batch if one.state is DeliveryState.PENDING]
        claimed = [delivery for one in unsent if (delivery := self._book.claim_delivery(one.id, self._owner))]
        waiting = [parcel for delivery in claimed if (parcel := self._pack(delivery))]
        while waiting:
            waiting = self._send(waiting)
        destination = self._destinations.get(name)
        if len(unsent) < len(batch) or is_asked(destination):
            self._asker.ask(batch[0].case_id, name, destination)

    def _renew(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            with suppress(LeaseLost):
                self._book.renew_delivery(parcel.delivery)

    def _pack(self, delivery: Delivery) -> Parcel | None:
        """Find the files of a delivery; without them the delivery is given up or put off."""
        destination = self._destinations.get(delivery.destination)
        try:
            if destination is None:
                raise Rejected("the destination is no longer in the settings")
            return in_repertoire(pack(delivery, destination, self._store), self._book, self._store)
        except Rejected as error:
            self._give_up(delivery, error.reason)
        except Unavailable as error:
            self._postpone(delivery, error.reason, pause_after(delivery.attempts))
        return None

    def _send(self, parcels: list[Parcel]) -> list[Parcel]:
        """Send over one association or request, write what became of each, and give those that are to be sent over another."""
        files = [file for parcel in parcels for file in parcel.files]
        answers: list[Answer] = []
        broken, failure = False, ""
        try:
            with renewing(lambda: self._renew(parcels), outbox.DELIVERY_LEASE.total_seconds()):
                self._hand_over(parcels[0].destination, files, answers.append)
        except Broken as error:
            broken, failure = True, str(error)
        except (Unavailable, Rejected) as error:
            failure = str(error)
        given = iter(answers)
        answered = [(parcel, list(islice(given, len(parcel.files)))) for parcel in parcels]
        whole = [(parcel, own) for parcel, own in answered if len(own) == len(parcel.files)]
        cut = parcels[len(whole) :]
        tried = parcels[: len(whole) + 1] if broken else parcels
        # one pause for all: what failed together is sent together again
        pause_s = pause_after(max(parcel.delivery.attempts for parcel in tried))
        for parcel, own in whole:
            self._settle(parcel, own, pause_s)
        for parcel in cut[: len(tried) - len(whole)]:
            self._postpone(parcel.delivery, failure, pause_s)
        return parcels[len(tried) :]

    def _hand_over(self, destination: Recipient, files: list[Outgoing], on_answer: Callable[[Answer], None]) -> None:
        """Send files the destination's way; `on_answer` is told of each in order. Raises Broken, Unavailable, Rejected."""
        if isinstance(destination, WebDestination):
            store(destination, files, on_answer)
        elif isinstance(destination, Destination):
            send(peer_of(destination, self._title), files, on_answer)

    def _settle(self, parcel: Parcel, answers: list[Answer], pause_s: float) -> None:
        """Write what became of a delivery: the worst that became of its files."""
        delivery = parcel.delivery
        worst = max(answers, key=lambda answer: _BADNESS[answer.category])
        if worst.category == "Failure":
            self._postpone(delivery, _describe(worst), pause_s, shown="refused", dimse_status=worst.status)
            return
        warning = _describe(worst) if worst.category == "Warning" else None
        ask_at = utc_now() if is_asked(parcel.destination) else None
        with _owned(delivery):
            self._book.delivered(delivery.id, warning=warning, ask_at=ask_at, fence=delivery.fence)
            self._counts.add("delivery_attempts", delivery.destination, "sent")
            self._book.audit(
                AuditEvent.INSTANCES_TRANSFERRED,
                f"sent over {'STOW-RS' if isinstance(parcel.destination, WebDestination) else 'C-STORE'} to {delivery.destination}",
                Actor("service", self._title),
                case_id=delivery.case_id,
            )
            LOG.info("delivered", extra=_fields(delivery) | {"dimse_status": worst.status})

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


def _describe(answer: Answer) -> str:
    status = "no status" if answer.status is None else f"status 0x{answer.status:04X}"
    return f"{status}: {answer.comment}" if answer.comment else status
