"""API tokens that changed since the last start, for the audit trail: they are settings, and nothing else sees them change."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Final

from service.errors import Unavailable
from service.records import Actor, AuditEvent, Book
from service.sections import Token

LOG = logging.getLogger(__name__)
_CHANGED: Final = "user security attributes changed: API tokens"


def note_tokens(tokens: Sequence[Token], book: Book, actor: Actor) -> None:
    """
    Enter the set of tokens into the audit trail where it is not the one that stands there last (PS3.15 A.5.3.11).

    References
    ----------
    PS3.16 CID 403: 110137, User Security Attributes Changed
    """
    listed = sorted(f"{token.name} ({' '.join(token.scopes)}) {token.sha256[:12]}" for token in tokens)
    said = "; ".join(listed) or "none"
    what = f"{_CHANGED} (set {hashlib.sha256(said.encode()).hexdigest()[:8]}): {said}"
    try:
        known = book.last_audited(_CHANGED)
    except Unavailable as error:
        LOG.warning("whether the API tokens changed is not known: %s", error)
        known = None
    if (tokens or known) and not (known and what.startswith(known)):  # a long list is kept cut
        book.audit(AuditEvent.SECURITY_ALERT, what, actor)
