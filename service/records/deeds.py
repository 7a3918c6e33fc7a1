"""What is entered into the audit trail, and what of it waits to be written (PS3.15 A.5).

What is alike in all but its time is one line with a number. Of what failed the first is written at once and the others every ten minutes
together; of those no more than `MOST_FAILURES` kinds are told apart at a time, so that a port scanner does not fill the table.
"""

from __future__ import annotations

import getpass
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, Self

from service.records.moves import plain, utc_now

FAILURES_EVERY_S: Final = 600.0
MOST_FAILURES: Final = 50
MOST_PENDING: Final = 10_000
_LONGEST_TEXT: Final = 500
_LOST: Final = "entries of the audit trail were lost: the case book was away for too long"


class AuditEvent(StrEnum):
    """What kind of thing was done; PS3.15 A.5.3, the meanings of PS3.16 CID 400."""

    APPLICATION_ACTIVITY = "Application Activity"
    AUDIT_LOG_USED = "Audit Log Used"
    INSTANCES_TRANSFERRED = "DICOM Instances Transferred"
    STUDY_DELETED = "DICOM Study Deleted"
    EXPORT = "Export"
    PATIENT_RECORD = "Patient Record"
    PROCEDURE_RECORD = "Procedure Record"
    QUERY = "Query"
    SECURITY_ALERT = "Security Alert"
    USER_AUTHENTICATION = "User Authentication"


class Outcome(StrEnum):
    """How it ended; EventOutcomeIndicator 0 and 8 of PS3.15 A.5.1."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True)
class Actor:
    """Who did it: a DICOM node, the holder of an API token, somebody at the command line, or the service by itself."""

    kind: Literal["ae", "token", "command", "service"]
    name: str
    address: str = ""

    @classmethod
    def at_the_command_line(cls) -> Self:
        """The user of the operating system, on this host."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user has no name
            user = "unknown"
        return cls("command", user, socket.gethostname())


@dataclass(frozen=True)
class Deed:
    """What was done, without when and how often."""

    event: AuditEvent
    what: str
    actor: Actor
    case_id: str | None
    study_uid: str | None
    patient_key: str | None
    outcome: Outcome

    def row(self, at: datetime, count: int) -> dict[str, Any]:
        """Give the values of its row."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        actor = {"actor_kind": self.actor.kind, "actor": _short(self.actor.name), "address": _short(self.actor.address)}
        words = {"event": self.event.value, "outcome": self.outcome.value, "what": _short(self.what)}
        return values | actor | words | {"at": at, "count": count}


class PendingDeeds:
    """What is not written yet; for any number of threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._done: dict[Deed, tuple[datetime, int]] = {}
        self._failures: dict[Deed, float] = {}
        self._lost = 0

    def add(self, done: Deed, at: datetime, count: int) -> None:
        """Remember one thing that was done."""
        with self._lock:
            if done.outcome is Outcome.FAILURE:
                done = self._fold(done)
            if done not in self._done and len(self._done) >= MOST_PENDING:
                self._lost += count
                return
            first, before = self._done.get(done, (at, 0))
            self._done[done] = (first, before + count)

    def _fold(self, done: Deed) -> Deed:
        """Of more kinds of failures than are told apart only what failed is told."""
        if done not in self._failures and len(self._failures) >= MOST_FAILURES:
            actor = Actor(done.actor.kind, "several")
            done = replace(done, what="more failures than are told apart", actor=actor, case_id=None, study_uid=None, patient_key=None)
        self._failures.setdefault(done, float("-inf"))
        return done

    def take(self, *, all_of_it: bool = False) -> list[tuple[Deed, datetime, int]]:
        """Give what is to be written now; of failures that were told within `FAILURES_EVERY_S` nothing, unless it is the end."""
        now = self._clock()
        with self._lock:
            ready = [
                done
                for done in self._done
                if all_of_it or done.outcome is Outcome.SUCCESS or now - self._failures.get(done, float("-inf")) >= FAILURES_EVERY_S
            ]
            self._failures = {done: at for done, at in self._failures.items() if now - at < FAILURES_EVERY_S}
            self._failures |= {done: now for done in ready if done.outcome is Outcome.FAILURE}
            taken = [(done, *self._done.pop(done)) for done in ready]
            if self._lost and taken:
                lost = Deed(AuditEvent.SECURITY_ALERT, _LOST, Actor("service", "audit"), None, None, None, Outcome.FAILURE)
                taken.append((lost, utc_now(), self._lost))
                self._lost = 0
            return taken

    def put_back(self, taken: list[tuple[Deed, datetime, int]]) -> None:
        """Keep what could not be written."""
        with self._lock:
            for done, at, count in taken:
                first, more = self._done.get(done, (at, 0))
                self._done[done] = (min(at, first), count + more)


def _short(text: str) -> str:
    return plain(text)[:_LONGEST_TEXT]
