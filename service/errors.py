"""The three kinds of failure the service knows (anything else is a defect and is logged as one)."""

from __future__ import annotations


class Rejected(Exception):
    """The input cannot be processed and never will be; the reason is shown and nothing is retried."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unavailable(Exception):
    """A part we need (disk space, database, broker, destination) is away; the same call may succeed later."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Misconfigured(Exception):
    """The start is refused; the one line it carries tells the administrator what to change. Never raised after the start."""
