"""The queue carries case ids and nothing else; what it loses, the sweep submits again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError

from service.errors import Unavailable
from service.settings import Settings

INFER = "leukoscope.infer"
COMPARE = "leukoscope.compare"
CORRECT = "leukoscope.correct"
DELIVER = "leukoscope.deliver"
INFERENCE_QUEUE = "inference"
DELIVERY_QUEUE = "delivery"
ROUTES = {INFER: INFERENCE_QUEUE, COMPARE: INFERENCE_QUEUE, CORRECT: INFERENCE_QUEUE, DELIVER: DELIVERY_QUEUE}

EMBEDDED = "sqla+sqlite://"
_PUBLISH_RETRY = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}


def make_app(settings: Settings) -> Celery:
    """Make the Celery app of an installation; the worker adds its tasks to it.

    JSON only, acknowledged late, one message at a time, no result backend: the case book is the only memory.
    """
    app = Celery("leukoscope", set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,  # of a pool of processes; ours is of threads, and a killed worker has acknowledged nothing
        task_default_queue=INFERENCE_QUEUE,
        task_queues=[Queue(name, Exchange(name, type="direct"), routing_key=name) for name in (INFERENCE_QUEUE, DELIVERY_QUEUE)],
        task_routes={task: {"queue": queue} for task, queue in ROUTES.items()},
        task_publish_retry_policy=_PUBLISH_RETRY,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # A broker that restarts delivers again what was not acknowledged; the lease makes that harmless.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=3,
        enable_utc=True,
        timezone="UTC",
        **_broker(settings),
    )
    return app


def _broker(settings: Settings) -> dict[str, Any]:
    url = settings.broker
    if url.startswith(EMBEDDED):
        # kombu takes no import path from a URL, only beside one; "sqla+" keeps the name under which kombu knows such a broker.
        return {"broker_url": url.removeprefix("sqla+"), "broker_transport": "service.broker:Transport"}
    options = {"visibility_timeout": 2 * settings.time_limit_s + 60, "socket_connect_timeout": 3, "socket_timeout": 30}
    return {"broker_url": url, "broker_transport_options": options if url.startswith("redis") else {}}


def renew_broker(settings: Settings) -> None:
    """Make the embedded broker's file anew, before any process of this `serve` opens it; another broker is left alone."""
    if not settings.broker.startswith(EMBEDDED):
        return
    path = Path(settings.broker.removeprefix(EMBEDDED + "/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def submit(app: Celery, case_id: str) -> None:
    """Ask for a case to be worked on. Raises Unavailable; the case stays queued and the sweep asks again."""
    _send(app, INFER, case_id)


def submit_comparison(app: Celery, case_id: str) -> None:
    """Ask for the instances of a case that were set aside to be compared. Raises Unavailable; the sweep asks again."""
    _send(app, COMPARE, case_id)


def submit_correction(app: Celery, case_id: str) -> None:
    """Ask for the corrections of a case to be looked at. Raises Unavailable; the sweep asks again."""
    _send(app, CORRECT, case_id)


def submit_delivery(app: Celery, case_id: str) -> None:
    """Ask for the due deliveries of a case to be sent. Raises Unavailable; they stay due."""
    _send(app, DELIVER, case_id)


def ping(app: Celery) -> None:
    """Make sure that the broker answers. Raises Unavailable."""
    count_messages(app)


def count_messages(app: Celery) -> int:
    """Count the messages that wait for a worker and that none has taken. Raises Unavailable."""
    with app.connection_for_write() as connection, _broker_trouble(*connection.connection_errors, *connection.channel_errors):
        connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=3)
        return int(connection.default_channel.queue_declare(INFERENCE_QUEUE, passive=False).message_count)


def _send(app: Celery, task: str, case_id: str) -> None:
    with _broker_trouble():
        app.send_task(task, args=[case_id], queue=ROUTES[task])


@contextmanager
def _broker_trouble(*kinds: type[Exception]) -> Iterator[None]:
    """Turn what a broker that is away raises into Unavailable; `kinds`: its client's own errors, where nobody has translated them."""
    away: tuple[type[Exception], ...] = (OperationalError, sqlite3.Error, OSError, *kinds)
    try:
        yield
    except away as error:
        raise Unavailable(f"the broker: {' '.join(str(error).split())[:200]}") from error
