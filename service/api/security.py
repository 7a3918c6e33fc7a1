"""Who may call what over HTTP: bearer tokens with scopes, the headers of every answer, and no cross-site writes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Final

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from service.api.problems import Problem
from service.records import Actor, AuditEvent, Book, Outcome
from service.sections import Token


class Scope(StrEnum):
    """What a token may do. `admin` may do everything."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
}
"""Set on every answer that does not say otherwise itself."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """
    Checks bearer tokens against their SHA-256 digests.

    Without tokens every call is allowed: the settings refuse to start like that anywhere but on a loopback address.
    """

    def __init__(self, tokens: Sequence[Token], book: Book) -> None:
        self._tokens = tuple(tokens)
        self._book = book

    @property
    def open(self) -> bool:
        """Tell whether no tokens are configured."""
        return not self._tokens

    def needs(self, scope: Scope) -> Callable[[Request], Awaitable[None]]:
        """A FastAPI dependency that lets a request with `scope` through; raises a 401 or 403 problem else."""

        async def check(request: Request) -> None:
            if self.open:
                return
            token = self._find(request.headers.get("authorization", ""))
            if token is None:
                self._refuse(request, AuditEvent.USER_AUTHENTICATION, "no valid token")
                challenge = 'Bearer realm="leukoscope"'
                raise Problem("unauthenticated", "Send Authorization: Bearer TOKEN.", headers={"WWW-Authenticate": challenge})
            request.state.token = token.name
            if not {scope.value, Scope.ADMIN.value} & set(token.scopes):
                self._refuse(request, AuditEvent.SECURITY_ALERT, f"use of a restricted function: needs the scope {scope.value}")
                challenge = f'Bearer realm="leukoscope", error="insufficient_scope", scope="{scope.value}"'
                raise Problem("forbidden", f"The token lacks the scope {scope.value}.", headers={"WWW-Authenticate": challenge})

        return check

    def scopes_of(self, request: Request) -> frozenset[Scope]:
        """What the caller may do: everything where there are no tokens, nothing without one of them."""
        if self.open:
            return frozenset(Scope)
        authorization = request.headers.get("authorization", "")
        token = self._find(authorization)
        if token is None:
            if authorization:
                self._refuse(request, AuditEvent.USER_AUTHENTICATION, "no valid token")
            return frozenset()
        request.state.token = token.name
        return frozenset(Scope) if Scope.ADMIN.value in token.scopes else frozenset(map(Scope, token.scopes))

    def _refuse(self, request: Request, event: AuditEvent, what: str) -> None:
        self._book.audit(event, what, caller(request), outcome=Outcome.FAILURE)

    def _find(self, authorization: str) -> Token | None:
        kind, _, secret = authorization.partition(" ")
        digest = hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for token in self._tokens:  # all of them, always: the time taken tells nothing
            if hmac.compare_digest(digest, token.sha256):
                found = token
        return found if kind.lower() == "bearer" else None


def caller(request: Request) -> Actor:
    """Who calls, for the audit trail: the token's name (none where the service is open) and the address."""
    address = request.client.host if request.client else ""
    return Actor("token", getattr(request.state, "token", ""), address)


class SecureAnswers:
    """ASGI middleware: the security headers on every answer, and a refusal of writes that another site's page starts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        # A loopback service without tokens is reachable from any page in a browser on the same machine.
        site = Headers(scope=scope).get("sec-fetch-site", "none")
        if scope["method"] not in SAFE_METHODS and site not in {"none", "same-origin"}:
            await Problem("forbidden", "Requests from another site's page are refused.").response()(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)
