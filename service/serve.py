"""The supervisor: listener and API in this process, workers as its children, one orderly start and one orderly end."""

from __future__ import annotations

import faulthandler
import fcntl
import hashlib
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service import records
from service.children import Child
from service.commitment import Reports
from service.errors import Misconfigured, Unavailable
from service.fetching import fetching
from service.identity_file import file_identities
from service.intake import Intake
from service.listener import Listener, start_listener
from service.presence import Counts, Describe, present
from service.queue import make_app, renew_broker
from service.records import Actor, AuditEvent, Book, open_book, writing_audit
from service.repeating import repeating
from service.retention import keeping
from service.settings import Settings
from service.store import Store
from service.tls import renewed_call, tell_of
from service.tokens import note_tokens
from service.watchdog import Watchdog, watching

LOG = logging.getLogger(__name__)
ALL_PARTS = ("listener", "api", "inference", "delivery")
LOCK_FILE = "serve.lock"
PORTS_FILE = "serve.json"
_ROUND_S = 0.1
_STOP_LIMIT_S = 30.0


class _Stop:
    """Whether the service is to end; `failed` when that is because a part of it met a defect.

    Plain flags: an event's lock may be held by the very thread that a signal interrupts, which then waits for itself for ever.
    """

    asked = False
    failed = False

    def ask(self) -> None:
        """End the service in good order."""
        self.asked = True

    def fail(self) -> None:
        """End the whole service after a defect in one of its parts: half a service would look alive."""
        self.failed = True
        self.asked = True


@dataclass
class _Doors:
    """What is open to the outside, as written to the ports file."""

    dicom_port: int | None = None
    dicom_tls_port: int | None = None
    http_port: int | None = None


def run(settings: Settings, parts: Sequence[str] = ALL_PARTS) -> int:
    """Run the parts until SIGTERM or SIGINT, then finish what was acknowledged. Gives the exit code: 1 when a part met a defect.

    Raises
    ------
    Misconfigured
        Another service uses the data folder, a port is taken, the database is not at this version's revision.
    Unavailable
        The database is away at the start.
    """
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.ask())
    faulthandler.register(signal.SIGUSR1)  # kill -USR1 shows where every thread is, and no value of any variable
    workers = [name for name in parts if name in {"inference", "delivery"}]
    with ExitStack() as stack:
        book, store = _open(settings, stack, alone=bool(workers))
        _note_start(settings, book, parts, stack)
        children = [_worker(name, settings, book) for name in workers]
        stack.callback(_wait_for_end, children)
        doors = _open_doors(settings, book, store, parts, stop, stack)
        stack.callback(_ask_to_end, children)  # the last one in is the first to be done
        _supervise(settings, doors, children, stack.enter_context(watching(book, stop.fail)), stop)
        LOG.info("stopping")
        _end_by_force(2 * _STOP_LIMIT_S)
    return 1 if stop.failed else 0


def _open(settings: Settings, stack: ExitStack, *, alone: bool) -> tuple[Book, Store]:
    """Open the case book and the store; `alone`: nobody else may run on this data folder, and what its last service left is taken over."""
    _make_folder(settings.data_dir)
    if alone:
        stack.enter_context(only_one(settings.data_dir))
        renew_broker(settings)
    if settings.database_url is None:
        records.upgrade_book(settings)
    book = open_book(settings)
    stack.callback(book.close)
    store = Store(settings.data_dir, settings.minimum_free_mb)
    store.clean_leftovers()
    _file_identities(book, store)
    if alone:
        _reclaim(settings, book)
    return book, store


def _file_identities(book: Book, store: Store) -> None:
    try:
        file_identities(book, store)
    except Unavailable as error:  # a full disk: what does not write goes on, and the next start tries again
        LOG.error("corrected identities without a file beside the results: %s", error)


def _note_start(settings: Settings, book: Book, parts: Sequence[str], stack: ExitStack) -> None:
    """Enter start, orderly end and changed tokens into the audit trail (PS3.15 A.5.3.1, Application Start and Stop)."""
    actor, what = Actor("service", settings.ae_title, socket.gethostname()), ", ".join(parts)
    book.audit(AuditEvent.APPLICATION_ACTIVITY, f"application start: {what}", actor)
    stack.callback(book.audit, AuditEvent.APPLICATION_ACTIVITY, f"application stop: {what}", actor)
    if "api" in parts:
        note_tokens(settings.tokens, book, actor)


def _open_doors(settings: Settings, book: Book, store: Store, parts: Sequence[str], stop: _Stop, stack: ExitStack) -> _Doors:
    """Let series in by the doors among `parts`, with what goes on behind them."""
    counts = Counts()
    # Only one `serve` runs on a data folder: a new one is the old one's successor.
    name = _owner_prefix(settings) if set(parts) == set(ALL_PARTS) else None
    intake = Intake(settings, store, book, make_app(settings), name=name, counts=counts)
    doors = _Doors()
    tells: dict[str, Describe] = {}
    if "listener" in parts:
        reports = Reports(book, settings.destinations, counts)
        listener = stack.enter_context(_listening(settings, intake, counts, reports))
        stack.enter_context(fetching(settings, book, store, intake, name=name, on_defect=stop.fail))
        doors.dicom_port, doors.dicom_tls_port = listener.port, listener.tls_port
        kept = [renewed_call(f"source {source.name}", source) for source in settings.sources] + ([listener.tls] if listener.tls else [])
        tells["listener"] = lambda: listener.describe() | {"audit": book.audit_trouble(), "tls": tell_of(kept)}
    if "api" in parts:
        doors.http_port = stack.enter_context(_answering(settings, book, store, intake, own=tells))
        tells["api"] = lambda: {"address": settings.http_host, "port": doors.http_port, "audit": book.audit_trouble()}
    if tells:
        stack.enter_context(present(book, counts, tells, on_defect=stop.fail))
        stack.enter_context(writing_audit(book, on_defect=stop.fail))
        stack.enter_context(keeping(settings, book, store, counts, name=name, on_defect=stop.fail))
        # Quiet times that end, and the sweep.
        stack.enter_context(repeating("tick", lambda: intake.tick(datetime.now(UTC)), _ROUND_S, on_defect=stop.fail))
    return doors


def _supervise(settings: Settings, doors: _Doors, children: Sequence[Child], watchdog: Watchdog, stop: _Stop) -> None:
    """Keep the children alive and the ports file true. The children are forked from this thread, which outlives them."""
    ports = settings.data_dir / PORTS_FILE
    written = ""
    announced = False
    try:
        while not stop.asked:
            for child in children:
                child.check()
            watchdog.look(children)
            text = _describe(settings, doors, children)
            if text != written:
                _write_atomically(ports, text)
                written = text
            if not announced:
                LOG.info("ready on DICOM port %s, HTTP port %s", doors.dicom_port, doors.http_port)
                announced = True
            time.sleep(_ROUND_S)
    finally:
        ports.unlink(missing_ok=True)


def _describe(settings: Settings, doors: _Doors, children: Sequence[Child]) -> str:
    host = "127.0.0.1" if settings.http_host == "0.0.0.0" else settings.http_host  # noqa: S104  # compared, not bound
    return json.dumps(
        {
            "pid": os.getpid(),
            "ae_title": settings.ae_title,
            "dicom_host": settings.dicom_host,
            "dicom_port": doors.dicom_port,
            "dicom_tls_port": doors.dicom_tls_port,
            "http": None if doors.http_port is None else f"http://{host}:{doors.http_port}",
            "workers": {child.name: child.pid for child in children},
        },
        indent=1,
    )


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"data_dir {folder}: {error.strerror}") from None


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of the data folder; the kernel lets it go however this process ends."""
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Misconfigured(f"another service (process {holder}) already runs on the data folder {folder}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _owner_prefix(settings: Settings) -> str:
    """Sign the leases of this service's workers: this machine, this data folder."""
    folder = hashlib.sha256(str(settings.data_dir.resolve()).encode()).hexdigest()[:12]
    return f"serve:{socket.gethostname()}:{folder}:"


def _reclaim(settings: Settings, book: Book, pid: int | None = None) -> None:
    """Take back the leases of this service's dead workers (or of one), so that their cases need not wait for the leases to run out."""
    try:
        taken = book.reclaim(_owner_prefix(settings) + ("" if pid is None else f"{pid}:"))
    except Unavailable as error:
        LOG.warning("leases of dead workers not taken back, they run out: %s", error)
        return
    if taken:
        LOG.info("%s leases of dead workers taken back", len(taken))


@contextmanager
def _listening(settings: Settings, intake: Intake, counts: Counts, reports: Reports) -> Iterator[Listener]:
    try:
        server = start_listener(settings, intake, counts, reports)
    except OSError as error:
        tls = f", or dicom_tls {settings.dicom_tls_host}:{settings.dicom_tls.port}" if settings.dicom_tls else ""
        raise Misconfigured(f"DICOM port {settings.dicom_host}:{settings.dicom_port}{tls}: {error.strerror}") from None
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _answering(settings: Settings, book: Book, store: Store, intake: Intake, own: Collection[str]) -> Iterator[int]:
    from service.api import make_api, start_api  # a listener alone loads no FastAPI

    server = start_api(make_api(settings, book, store, intake, own=own), settings)
    try:
        yield server.port
    finally:
        server.stop()


def _worker(name: str, settings: Settings, book: Book) -> Child:
    arguments = ("worker", "--queue", name, "--owner", _owner_prefix(settings))
    return Child(name, arguments, os.environ, on_end=lambda pid: _reclaim(settings, book, pid))


def _end_by_force(after_s: float) -> None:
    """End this process, and by that its children, should the orderly end hang; nothing acknowledged depends on it."""

    def end() -> None:
        LOG.error("the orderly end took more than %s s", after_s)
        os._exit(1)

    timer = threading.Timer(after_s, end)
    timer.daemon = True
    timer.start()


def _ask_to_end(children: Sequence[Child]) -> None:
    """Let the workers finish the case in hand while the doors close."""
    for child in children:
        child.terminate()


def _wait_for_end(children: Sequence[Child]) -> None:
    deadline = time.monotonic() + _STOP_LIMIT_S
    for child in children:
        child.stop(deadline)
