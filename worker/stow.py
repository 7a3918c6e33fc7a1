"""STOW-RS as its user agent: files go out as they are, streamed from the disk in one request. PS3.18 10.5."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import httpx
from pynetdicom.status import code_to_category

from service.calling.web import open_web, shows_credentials
from service.errors import Unavailable
from service.sections import WebDestination
from worker.send import Answer, Outgoing

ANSWER_S: Final = 120.0
"""Without a byte for so long a request has failed."""

_BLOCK: Final = 1 << 20
_LARGEST_ANSWER: Final = 16 << 20
_ANSWERED: Final = {200, 202, 409}  # with an outcome for each instance; PS3.18 table 10.5.3-1
_STORED, _FAILED = "00081199", "00081198"  # Referenced, Failed SOP Sequence
_INSTANCE, _WARNING, _REASON = "00081155", "00081196", "00081197"
_NOT_NAMED: Final = (None, "not named in the answer")

_Outcome = tuple[int | None, str]
"""Status as C-STORE has it, None where there is none for it, and a comment."""


def store(destination: WebDestination, files: Sequence[Outgoing], on_answer: Callable[[Answer], None]) -> None:
    """Store files in one request; `on_answer` is told what became of each, in their order.

    Raises
    ------
    Unavailable
        The service could not be reached, or its answer says of no instance what became of it; may be repeated.
    """
    boundary = uuid.uuid4().hex
    headers = {
        "Accept": "application/dicom+json",
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Content-Length": str(sum(len(_head(boundary)) + file.size_bytes + 2 for file in files) + len(_tail(boundary))),
    }
    address = f"{destination.url.rstrip('/')}/studies"
    try:
        with (
            open_web(destination.url, destination, ANSWER_S) as client,
            client.stream("POST", address, headers=headers, content=_body(files, boundary)) as response,
        ):
            outcomes = _read(response, asked=shows_credentials(client))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise Unavailable(f"{destination.url}: {_describe(error)}") from error
    except (_Unusable, Unavailable) as error:
        raise Unavailable(f"{destination.url}: {error}") from None
    for file in files:
        on_answer(Answer(file.path, *outcomes.get(str(file.sop_instance_uid), _NOT_NAMED)))


class _Unusable(Exception):
    """The answer does not say what became of the instances; the text says why."""


def _head(boundary: str) -> bytes:
    return f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _tail(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()


def _body(files: Sequence[Outgoing], boundary: str) -> Iterator[bytes]:
    for file in files:
        yield _head(boundary)
        with file.open() as opened:
            while block := opened.read(_BLOCK):
                yield block
        yield b"\r\n"
    yield _tail(boundary)


def _read(response: httpx.Response, *, asked: bool) -> dict[str, _Outcome]:
    """Give what became of each instance, by SOP Instance UID."""
    status = f"HTTP {response.status_code}"
    if response.status_code in {401, 403}:
        raise _Unusable(f"{status}: {'the credentials are refused' if asked else 'credentials are wanted'}")
    if response.is_redirect:
        raise _Unusable(f"{status}: it sends elsewhere, which is not followed")
    if response.status_code not in _ANSWERED:
        raise _Unusable(status)
    body = bytearray()
    for block in response.iter_bytes():
        body += block
        if len(body) > _LARGEST_ANSWER:
            raise _Unusable(f"{status} with an endless answer")
    if not body:
        raise _Unusable(f"{status} without an answer")
    try:
        return _outcomes(json.loads(body))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise _Unusable(f"{status} with an answer that is no Store Instances Response in JSON") from None


def _outcomes(answer: Any) -> dict[str, _Outcome]:
    """Read a Store Instances Response (PS3.18 I.2); what is named as failed has failed, whatever else is said of it."""
    told = answer if isinstance(answer, list) else [answer]
    stored = {_value(item, _INSTANCE): _warning(item) for one in told for item in _items(one, _STORED)}
    return stored | {_value(item, _INSTANCE): _failure(item) for one in told for item in _items(one, _FAILED)}


def _items(answer: Mapping[str, Any], tag: str) -> list[Any]:
    return list(answer.get(tag, {}).get("Value", ()))


def _value(item: Mapping[str, Any], tag: str) -> str:
    return str(item[tag]["Value"][0])


def _warning(item: Mapping[str, Any]) -> _Outcome:
    if _WARNING not in item:
        return 0x0000, ""
    reason = int(_value(item, _WARNING))
    return (reason, "") if code_to_category(reason) == "Warning" else (0xB000, f"warning reason 0x{reason:04X}")


def _failure(item: Mapping[str, Any]) -> _Outcome:
    reason = int(_value(item, _REASON)) if _REASON in item else 0x0110
    return (reason, "") if code_to_category(reason) == "Failure" else (None, f"failure reason 0x{reason:04X}")


def _describe(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"no connection ({error})" if str(error) else "no connection"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {ANSWER_S:g} s"
    return f"the request broke off ({str(error) or type(error).__name__})"
