"""Every HTTP request: an identifier, one log line by route and never by query, a count, and a last resort for defects."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Final

from anyio import move_on_after
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.metrics import HttpCounts
from service.api.problems import problem_of_defect
from service.log import request_id

LOG = logging.getLogger("service.http")
DRAIN_BYTES: Final = 1 << 30
DRAIN_S: Final = 20.0
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET: Final = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Routes that a probe calls every few seconds: logged only when they fail."""


OURS: Final = re.compile(r"[0-9a-f]{32}")
"""What a case id looks like; whatever else stands in its place may be a patient's."""


class _Body:
    """The body of a request, so that what an error leaves unread can be read to its end: a sender that is cut off sees no answer."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._over = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._over = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Throw away the rest of the body, up to a size and a time; RFC 9112 9.6."""
        left_bytes = DRAIN_BYTES
        with move_on_after(DRAIN_S):
            while not self._over and left_bytes > 0:
                left_bytes -= len((await self.receive()).get("body", b""))


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

        body = _Body(receive)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = current
            elif head:
                message = {**message, "body": b""}
            await send(message)
            if message["type"] == "http.response.start" and status >= 400:
                await body.drain()

        try:
            await self._app(inner, body.receive, noting)
        except Exception as error:  # noqa: BLE001  # the edge: a defect is answered with 500 and logged without its text
            problem = problem_of_defect(error)
            if not status:
                await problem.response()(inner, body.receive, noting)
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
            LOG.info("request", extra=fields | {"case_id": case_id if OURS.fullmatch(case_id) else None, "token": token, "peer": peer})
