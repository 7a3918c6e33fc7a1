"""Is the process alive, and can the service do its work: one reason per part."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from service import queue
from service.errors import Unavailable
from service.records import Book, Part, State
from service.settings import Settings
from service.store import Store
from service.tls.renewal import ends_told, is_troubled, notes_of

ANSWER_WITHIN_S: Final = 3.0
STUCK_AFTER_S: Final = 60.0
REMEMBERED_S: Final = 1.0

Check = Callable[[], str]
"""Looks at one part and says how it is, in one line; raises Unavailable with the reason where it cannot do its work."""


class PartHealth(BaseModel):
    """One part, and why."""

    ok: bool
    reason: str


class Readiness(BaseModel):
    """
    Ready when every part is that this process needs to take series in and to answer.

    `workers`, `delivery` and `audit` are told and do not count: without them series are still taken and kept, and worked on later.
    `listener` counts where this process has one (`leukoscope serve`), and is told where the listeners are elsewhere.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "ready": False,
                "parts": {
                    "database": {"ok": True, "reason": "answers"},
                    "store": {"ok": False, "reason": "disk nearly full: 301 MiB free, 512 MiB kept in reserve"},
                },
            }
        }
    )

    ready: bool
    parts: dict[str, PartHealth]


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Health:
    """
    Asks every part at once, each at most `ANSWER_WITHIN_S`; an answer is remembered for a second, so that many probes cost one.

    What is in `advisory` is told and does not count.
    A part that hangs is reported as such and not asked again before its answer came: probes never pile up threads.
    """

    def __init__(self, checks: Mapping[str, Check], advisory: Collection[str] = ()) -> None:
        self._checks = dict(checks)
        self._advisory = frozenset(advisory)
        self._threads = ThreadPoolExecutor(max_workers=max(1, len(self._checks)), thread_name_prefix="health")
        self._asked: dict[str, Future[str]] = {}
        self._last: tuple[float, Readiness] | None = None

    def readiness(self) -> Readiness:
        """Ask all parts; called by one thread at a time or several, either is right."""
        if self._last is not None and time.monotonic() - self._last[0] < REMEMBERED_S:
            return self._last[1]
        for name, check in self._checks.items():
            if name not in self._asked or self._asked[name].done():
                self._asked[name] = self._threads.submit(check)
        asked = dict(self._asked)
        wait(asked.values(), timeout=ANSWER_WITHIN_S)
        parts = {name: _part(future) for name, future in asked.items()}
        answer = Readiness(ready=all(part.ok for name, part in parts.items() if name not in self._advisory), parts=parts)
        self._last = (time.monotonic(), answer)
        return answer

    def close(self) -> None:
        """Let the threads go; one that hangs is left to end with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def check_database(book: Book) -> Check:
    """The case book answers a query."""

    def check() -> str:
        book.ping()
        return "answers"

    return check


def check_store(store: Store) -> Check:
    """The object store takes a file, and has more room than its reserve."""

    def check() -> str:
        store.check_space()
        probe = store.upload_file()
        try:
            probe.write_bytes(b"?")
        finally:
            probe.unlink(missing_ok=True)
        return f"{store.free_bytes() // 1024**2} MiB free"

    return check


def check_broker(settings: Settings) -> Check:
    """The queue's broker takes a connection, and the queue is there."""
    app = queue.make_app(settings)

    def check() -> str:
        queue.ping(app)
        return "answers"

    return check


def check_listener(book: Book) -> Check:
    """Somewhere in the installation a DICOM listener lives and takes associations."""

    def check() -> str:
        living = _living(book, "listener")
        if not living:
            raise Unavailable("no DICOM listener is alive")
        words = [_describe_listener(part) for part in living]
        if all(part.detail.get("refuses") for part in living):
            raise Unavailable("; ".join(words))
        return "; ".join(words)

    return check


def check_workers(book: Book) -> Check:
    """An inference worker lives, and queued cases are taken: one runs, or the oldest in the queue is young."""

    def check() -> str:
        living = _living(book, "inference")
        since = book.oldest_queued_at()
        waited_s = 0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())
        running = book.count_cases()[State.RUNNING]
        if not living:
            raise Unavailable("no inference worker is alive" + (f"; the oldest case has waited {waited_s:.0f} s" if since else ""))
        if since is not None and not running and waited_s > STUCK_AFTER_S:
            raise Unavailable(f"no worker takes cases: the oldest has waited {waited_s:.0f} s")
        queue_is = "nothing waits" if since is None else f"the oldest in the queue has waited {waited_s:.0f} s"
        return "; ".join([*map(_describe_worker, living), f"{running} running, {queue_is}"])

    return check


def check_delivery(book: Book, destinations: int) -> Check:
    """A delivery worker lives, where there is anybody to deliver to."""

    def check() -> str:
        living = _living(book, "delivery")
        counts = book.count_deliveries()
        left = f"{counts['pending']} to be sent, {counts['dead']} given up"
        if not destinations:
            return f"no destination in the settings; {left}"
        if not living:
            raise Unavailable(f"no delivery worker is alive; {left}")
        return "; ".join([*(_alive(part) + _describe_tls(part) for part in living), left])

    return check


def check_audit(book: Book) -> Check:
    """Every process of the installation writes its part of the audit trail."""

    def check() -> str:
        told = {str(part.detail["audit"]) for part in book.living_parts() if part.detail.get("audit")} | {book.audit_trouble()}
        if trouble := "; ".join(sorted(told - {""})):
            raise Unavailable(f"the trail is not written, its entries are kept in memory: {trouble}")
        return "written"

    return check


def _living(book: Book, kind: str) -> list[Part]:
    return [part for part in book.living_parts() if part.kind == kind]


def _alive(part: Part) -> str:
    return f"alive on {part.detail.get('host')} (process {part.detail.get('pid')}) since {part.started_at:%Y-%m-%d %H:%M:%S} UTC"


def _describe_listener(part: Part) -> str:
    detail = part.detail
    refuses = f", takes none: {detail['refuses']}" if detail.get("refuses") else ""
    return f"{_alive(part)}, port {detail.get('port')}, {detail.get('associations')} associations{refuses}{_describe_tls(part)}"


def _describe_tls(part: Part) -> str:
    """What is to be renewed, and what was and cannot be used."""
    notes = [note for _, note in notes_of(ends_told(part.detail))]
    if is_troubled(part.detail):
        notes.append("new TLS files cannot be used (the log says why)")
    return "".join(f"; {note}" for note in notes)


def _describe_worker(part: Part) -> str:
    detail = part.detail
    engine = f"release {detail.get('release')}, {detail.get('engine') or 'engine not loaded yet'}"
    works = f", on case {detail['case_id']} since {detail.get('since')}" if detail.get("case_id") else ""
    return f"{_alive(part)}, {engine}{works}"


def _part(future: Future[str]) -> PartHealth:
    if not future.done():
        return PartHealth(ok=False, reason=f"no answer within {ANSWER_WITHIN_S:g} s")
    error = future.exception()
    if error is None:
        return PartHealth(ok=True, reason=future.result())
    if isinstance(error, Unavailable):
        return PartHealth(ok=False, reason=error.reason)
    # Texts of other errors quote addresses, passwords and statements.
    return PartHealth(ok=False, reason=f"fails with {type(error).__name__}")
