"""Asks destinations to commit to what they were sent; what they answer enters the case book here or at the listener."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TypeGuard

from service.commitment import Reports
from service.errors import Rejected, Unavailable
from service.presence import Counts
from service.records import Book, Delivery, DeliveryState, LeaseLost, outbox, utc_now
from service.sections import Destination, Recipient
from service.settings import Settings
from service.store import Store
from worker.commitment import NotOffered, ask
from worker.parcels import Parcel, pack, peer_of
from worker.renewal import renewing

LOG = logging.getLogger(__name__)
_SHORTEST_PAUSE_S = 60.0


def is_asked(destination: Recipient | None) -> TypeGuard[Destination]:
    """Tell whether a destination is asked to commit."""
    return isinstance(destination, Destination) and destination.storage_commitment


class Asker:
    """The user of storage commitment. One per process, used by many threads."""

    def __init__(self, settings: Settings, book: Book, store: Store, owner: str, counts: Counts) -> None:
        self._title = settings.ae_title
        self._book = book
        self._store = store
        self._owner = owner
        self._counts = counts

    def ask(self, case_id: str, name: str, destination: Recipient | None) -> None:
        """Ask for what of a case is due to be committed at a destination, in one transaction. Raises Unavailable (the case book)."""
        due = [one for one in self._book.due_deliveries(case_id=case_id) if one.destination == name and one.state is DeliveryState.SENT]
        claimed = [delivery for one in due if (delivery := self._book.claim_delivery(one.id, self._owner, DeliveryState.SENT))]
        if not is_asked(destination):
            self._book.commitment_refused(claimed, "the settings do not ask for it any more")
            return
        over = [one for one in claimed if one.transaction_uid and utc_now() - one.created_at >= outbox.GIVE_UP_AFTER]
        if over:
            self._book.never_committed(over)
            LOG.error("given up for want of a commitment", extra={"case_id": case_id, "destination": name})
        parcels = [parcel for one in claimed if one not in over and (parcel := self._pack(one, destination))]
        if parcels:
            self._ask(parcels, destination)

    def _pack(self, delivery: Delivery, destination: Destination) -> Parcel | None:
        try:
            return pack(delivery, destination, self._store)
        except (Unavailable, Rejected) as error:
            self._put_off([delivery], error.reason)
            return None

    def _ask(self, parcels: Sequence[Parcel], destination: Destination) -> None:
        asked = [parcel.delivery for parcel in parcels]
        fields = {"case_id": asked[0].case_id, "destination": destination.name}
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        reports = Reports(self._book, [destination], self._counts)
        try:
            self._book.ask_in(transaction_uid, [(one.delivery, [str(file.sop_instance_uid) for file in one.files]) for one in parcels])
            with renewing(lambda: self._renew(asked), outbox.DELIVERY_LEASE.total_seconds()):
                files = [file for parcel in parcels for file in parcel.files]
                ask(peer_of(destination, self._title), transaction_uid, files, lambda event: reports.take(event, destination.ae_title))
        except LeaseLost:
            LOG.info("another worker has the delivery", extra=fields)
        except NotOffered as error:
            LOG.warning("storage commitment is not offered", extra=fields)
            self._counts.add("commitments", destination.name, "refused", by=len(asked))
            self._book.commitment_refused(asked, error.reason)
        except Unavailable as error:
            LOG.warning("not asked to commit: %s", error, extra=fields)
            self._put_off(asked, str(error))
        else:
            self._counts.add("commitments", destination.name, "asked", by=len(asked))
            self._book.report_awaited(asked)

    def _put_off(self, asked: Sequence[Delivery], why: str) -> None:
        pause_s = max(_SHORTEST_PAUSE_S, outbox.pause_after(max(one.attempts for one in asked)))
        self._book.asking_failed(asked, why, utc_now() + timedelta(seconds=pause_s))

    def _renew(self, asked: Sequence[Delivery]) -> None:
        for delivery in asked:
            with suppress(LeaseLost):
                self._book.renew_delivery(delivery)
