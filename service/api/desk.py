"""What every route of the HTTP face works with, handed down from the composition root."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter, Semaphore
from fastapi import Request

from service.api.health import Health
from service.api.metrics import Metrics
from service.api.problems import Problem
from service.api.readings import Readings
from service.api.rendering import Renderer
from service.api.security import Guard, caller
from service.intake import Intake
from service.multipart import Limits
from service.records import AuditEvent, Book, Case
from service.settings import Settings
from service.store import Store

T = TypeVar("T")
UPLOADS_AT_ONCE: Final = 8
CASE_ID = r"^[A-Za-z0-9._-]{1,64}$"


@dataclass(frozen=True)
class Desk:
    """
    The parts, and the threads: `look` for short calls of the case book, `work` for uploads, whose files `hands` give to the intake,
    `read` for what is searched and streamed from the disk, `finders` to ask a PACS, `drawers` to wait for a picture.

    Blocking calls never run on the event loop, and no kind can starve another. `large` lets one large file pass at a time, `uploads`
    so many requests that send.
    """

    settings: Settings
    book: Book
    store: Store
    intake: Intake
    guard: Guard
    health: Health
    metrics: Metrics
    version: str
    limits: Limits
    lookers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(6))
    workers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))
    uploads: Semaphore = field(default_factory=lambda: Semaphore(UPLOADS_AT_ONCE))
    finders: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))
    drawers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(2))
    renderer: Renderer = field(default_factory=Renderer)
    hands: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "upload"))
    large: threading.Lock = field(default_factory=threading.Lock)
    readings: Readings = field(default_factory=Readings)

    async def look(self, call: Callable[[], T]) -> T:
        """Run a short blocking call in a thread."""
        return await anyio.to_thread.run_sync(call, limiter=self.lookers)

    async def work(self, call: Callable[[], Any]) -> Any:
        """Run a step of an upload in a thread."""
        return await anyio.to_thread.run_sync(call, limiter=self.workers)

    async def read(self, call: Callable[[], T]) -> T:
        """Run a search, or a step of an answer that comes from the disk, in a thread."""
        return await anyio.to_thread.run_sync(call, limiter=self.readers)

    def audit(self, request: Request, event: AuditEvent, what: str, **about: Any) -> None:
        """Enter into the audit trail what the caller did (`Book.audit`)."""
        self.book.audit(event, what, caller(request), **about)

    def audit_reading(self, request: Request, event: AuditEvent, what: str, asked: Hashable, **about: Any) -> None:
        """Enter that the caller read something, but not that it asks for the same again within a minute. On the event loop only."""
        if self.readings.is_new((caller(request), event, asked)):
            self.audit(request, event, what, **about)

    async def case(self, case_id: str) -> Case:
        """Give the case, or raise a 404 problem."""
        found = await self.look(partial(self.book.case, case_id))
        if found is None:
            raise Problem("case-not-found", "No case has this identifier.")
        return found
