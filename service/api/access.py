"""Every HTTP request: an identifier, one log line by route and never by query, a count, and a last resort for defects."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.desk import CASE_ID
from service.log import request_id
from service.metrics import HttpCounts
from service.problems import problem_of_defect

LOG = logging.getLogger("service.http")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET: Final = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Routes that a probe calls every few seconds: logged only when they fail."""


class Access:
    """ASGI middleware, the outermost: nothing passes it unseen, and no exception leaves it (uvicorn would print its text)."""

    def __init__(self, app: ASGIApp, counts: HttpCounts) -> None:
        self._app, self._counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it ended; 499 is a client that left before its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        current = uuid.uuid4().hex[:16]
        reset = request_id.set(current)
        began = time.perf_counter()
        status = 0
        head = scope["method"] == "HEAD"
        # Wherever GET is, HEAD is the same without the body (RFC 9110 9.3.2).
        inner = {**scope, "method": "GET"} if head else scope

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = current
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(inner, receive, noting)
        except Exception as error:  # noqa: BLE001  # the edge: a defect is answered with 500 and logged without its text
            problem = problem_of_defect(error)
            if not status:
                await problem.response()(inner, receive, noting)
        finally:
            self._note(inner, scope["method"], status or 499, time.perf_counter() - began)
            request_id.reset(reset)

    def _note(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        method = method if method in METHODS else "other"
        self._counts.add(method, route, status, seconds)
        if route not in QUIET or status >= 500:
            fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
            case_id = scope.get("path_params", {}).get("case_id", "")
            token = scope.get("state", {}).get("token")
            peer = scope["client"][0] if scope.get("client") else None
            LOG.info(
                "request", extra=fields | {"case_id": case_id if re.fullmatch(CASE_ID, case_id) else None, "token": token, "peer": peer}
            )
