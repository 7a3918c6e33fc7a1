"""JSON bodies that routes read by themselves: after the token, so that nobody else makes us keep one, within a size and a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import anyio
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from service.api.problems import Problem

JSON: Final = "application/json"
LARGEST_BODY: Final = 64 << 10
SILENCE_S: Final = 20.0

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model], most_bytes: int = LARGEST_BODY) -> Model:
    """
    Read a body and what it says.

    Raises
    ------
    Problem
        408 it does not come, 413 it is too large, 400 the sender left.
    RequestValidationError
        422, as `understand`.
    """
    body = bytearray()
    try:
        with anyio.fail_after(SILENCE_S):
            async for block in request.stream():
                body += block
                if len(body) > most_bytes:
                    raise Problem("upload-too-large", f"JSON of at most {most_bytes >> 10} KiB is taken here.", limit_bytes=most_bytes)
    except TimeoutError:
        raise Problem("upload-timed-out", f"The body did not come within {SILENCE_S:g} s.") from None
    except ClientDisconnect:
        raise Problem("malformed-upload", "The sender left before the end.") from None
    return understand(model.model_validate_json, bytes(body))


def understand(validate: Callable[[Any], Model], value: Any) -> Model:
    """Validate what a body says. Raises RequestValidationError, which tells what is wrong without its value."""
    try:
        return validate(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in wrong]) from None
