"""Log lines: JSON, by allow-list, without the texts of others."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator

import pytest

from service.log import configure_logging, request_id

NAME = "DOE^JANE"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    configure_logging("INFO", text)
    yield text
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def read(text: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.getvalue().splitlines()]


def test_a_line_is_json_with_allowed_fields_only(lines: io.StringIO) -> None:
    token = request_id.set("abc")
    logging.getLogger("service.x").info("seen %d", 3, extra={"case_id": "c1", "patient_name": NAME, "patient_id": "77"})
    request_id.reset(token)
    (line,) = read(lines)
    assert line["message"] == "seen 3"
    assert (line["level"], line["logger"], line["case_id"], line["request_id"]) == ("info", "service.x", "c1", "abc")
    assert str(line["time"]).endswith("+00:00")
    assert "patient_name" not in line
    assert "patient_id" not in line


def test_foreign_messages_and_warnings_are_withheld(lines: io.StringIO) -> None:
    logging.getLogger("pydicom").warning("Invalid value for VR PN: %s", NAME)
    logging.getLogger("celery.app.trace").error("Task raised ValueError(%r)", NAME)
    logging.getLogger("pydicom").info("quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(NAME, stacklevel=1)
    assert NAME not in lines.getvalue()
    assert [line["logger"] for line in read(lines)] == ["pydicom", "celery.app.trace", "py.warnings"]
    assert str(read(lines)[0]["message"]).startswith("(withheld: test_log:")


def test_an_exception_shows_types_and_frames_but_no_text(lines: io.StringIO) -> None:
    try:
        try:
            raise KeyError(NAME)
        except KeyError as error:
            raise ValueError(NAME) from error
    except ValueError:
        logging.getLogger("worker.tasks").exception("case failed", extra={"case_id": "c1"})
    assert NAME not in lines.getvalue()
    (line,) = read(lines)
    chain = line["exception"]
    assert isinstance(chain, list)
    assert [link["type"] for link in chain] == ["builtins.ValueError", "builtins.KeyError"]
    assert chain[0]["frames"][-1].startswith("service/test_log.py:")


def test_line_breaks_cannot_forge_lines(lines: io.StringIO) -> None:
    logging.getLogger("service").info('a\n{"level": "info"}')
    assert len(lines.getvalue().splitlines()) == 1


def test_configuring_twice_logs_once(lines: io.StringIO) -> None:
    configure_logging("WARNING", lines)
    logging.getLogger("service").info("no")
    logging.getLogger("service").warning("yes")
    assert [line["message"] for line in read(lines)] == ["yes"]
    assert logging.getLogger("uvicorn.access").disabled
    assert sys.stderr not in [getattr(handler, "stream", None) for handler in logging.getLogger().handlers]
