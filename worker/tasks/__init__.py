"""The workers' composition roots, one for each queue, and what they have in common."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from datetime import UTC, datetime
from typing import Any

from celery import Celery, signals


def make_owner(prefix: str | None) -> str:
    """Name who holds a lease. The prefix is the service's that started this worker; a restarted service knows its own dead by it."""
    return f"{prefix or 'worker:' + socket.gethostname() + ':'}{os.getpid()}:{datetime.now(UTC):%Y%m%dT%H%M%S}"


def work_through(app: Celery, kind: str, queue: str, *, concurrency: int) -> int:
    """Work on a queue, in that many threads, until told to stop; gives the exit code."""
    signals.setup_logging.connect(_keep_logging, weak=False)
    warnings.filterwarnings("ignore", message=".*superuser privileges.*")
    worker = app.Worker(
        hostname=f"{kind}-{os.getpid()}@{socket.gethostname()}",
        queues=[queue],
        pool="threads",
        concurrency=concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    worker.start()
    return int(worker.exitcode or 0)


def _keep_logging(**_: Any) -> None:
    """Celery configures no logging when somebody answers this signal: our JSON lines stay."""
