"""JSON log lines that cannot carry patient data: fields by allow-list, foreign messages withheld, exceptions without their text."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

FIELDS: Final = frozenset(
    {
        "association", "attempt", "bytes", "called_ae", "calling_ae", "case_id", "certificate_sha256", "delivery_id", "destination",
        "dimse_status", "engine", "event",
        "files", "frames", "host", "instances", "kind", "method", "part", "peer", "pid", "port", "precision", "problem", "release",
        "revision", "route", "rule", "seconds", "series_uid", "signal", "sop_class_uid", "sop_instance_uid", "stage", "state", "status",
        "study_uid", "token", "version",
    }
)  # fmt: skip
"""What may be handed over in ``extra=``; anything else is dropped. Identifiers yes; names, dates of birth, PatientID never."""

TRUSTED: Final = ("service", "worker", "model", "leukoscope", "uvicorn", "celery", "kombu", "alembic")
"""Loggers whose messages are shown. Others (pydicom quotes the value it dislikes) show level, logger and place only."""

WITHHELD: Final = ("celery.app.trace", "uvicorn.access")
"""Inside the trusted ones: Celery quotes the text of exceptions, uvicorn the query."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id, allowed fields, and of an exception its type and frames."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update({name: value for name, value in vars(record).items() if name in FIELDS and value is not None})
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe_exception(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True, default=_plain)


def describe_exception(error: BaseException) -> list[dict[str, object]]:
    """
    The chain of an exception, outermost first: type and frames, never its text or its local values (both may quote a header).

    Returns
    -------
    list of {"type": qualified name, "frames": ["file.py:line function", …]}, the innermost 12 frames of each
    """
    chain: list[dict[str, object]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        frames = traceback.extract_tb(current.__traceback__)[-12:]
        chain.append(
            {
                "type": f"{type(current).__module__}.{type(current).__qualname__}",
                "frames": [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames],
            }
        )
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def configure_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """
    Send every logger of this process, warnings included, through the one formatter to `stream` (default: standard error).

    Called once by each composition root; calling it again replaces the handler.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Our own line per request names the route; uvicorn's would name the query, and with it a PatientID.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in (
        "pynetdicom",
        "pydicom",
        "python_multipart",
        "sqlalchemy",
        "kombu",
        "alembic.runtime.plugins",  # a line for every plug-in, at import
        "highdicom",
        "dicom2nifti",
        "asyncio",
        "httpx",
        "httpcore",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


def _message(record: logging.LogRecord) -> str:
    if _speaks_for_us(record.name):
        return record.getMessage()
    return f"(withheld: {record.module}:{record.lineno})"


def _speaks_for_us(name: str) -> bool:
    return _under(name, TRUSTED) and not _under(name, WITHHELD)


def _under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])


def _plain(value: object) -> str:
    return str(value) if isinstance(value, Path) else type(value).__name__
