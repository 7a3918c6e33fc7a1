"""The composition root of the delivery: what it imports needs no picture, no engine and no release."""

from __future__ import annotations

from typing import Any

from service.presence import Counts, present
from service.queue import DELIVER, DELIVERY_QUEUE, make_app
from service.records import open_book, writing_audit
from service.repeating import repeating
from service.settings import Settings
from service.store import Store
from service.tls import renewed_call, tell_of
from worker.deliver import Sender
from worker.tasks import make_owner, work_through


def work_on_delivery(settings: Settings, concurrency: int | None = None, owner: str | None = None) -> int:
    """Run the outbox's sender until it is told to stop; gives its exit code."""
    app = make_app(settings)
    counts = Counts()
    book = open_book(settings)
    kept = [renewed_call(f"destination {one.name}", one) for one in settings.destinations]
    sender = Sender(settings, book, Store(settings.data_dir), make_owner(owner), counts)

    def describe() -> dict[str, Any]:
        return {"destinations": len(settings.destinations), "audit": book.audit_trouble(), "tls": tell_of(kept)}

    @app.task(name=DELIVER)
    def deliver(case_id: str) -> None:
        sender.deliver(case_id)

    # Due deliveries are looked for from time to time: retries, and what a lost message or a restart left behind.
    # One thread may wait for each slow destination, and some are left for the others.
    with (
        repeating("outbox", sender.deliver_due, settings.sweep_s, end_limit_s=0.0),
        present(book, counts, {"delivery": describe}),
        writing_audit(book),
    ):
        return work_through(app, "delivery", DELIVERY_QUEUE, concurrency=concurrency or len(settings.destinations) + 2)
