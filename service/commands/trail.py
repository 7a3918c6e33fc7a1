"""`leukoscope audit`: the audit trail in a terminal, or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.commands.tables import open_existing_book
from service.errors import Rejected
from service.records import Actor, AuditEntry, AuditEvent, Book
from service.settings import Settings

_PAGE: Final = 500


@dataclass(frozen=True)
class Wanted:
    """Which entries; times without a zone are in UTC."""

    since: datetime | None
    until: datetime | None
    event: str | None
    actor: str | None
    case_id: str | None
    limit: int


def print_trail(settings: Settings, wanted: Wanted, *, as_json: bool) -> None:
    """
    Print entries, newest first; that they were read is in the trail too.

    Raises
    ------
    Rejected
        There is no such kind of event.
    Unavailable
    """
    event = _event(wanted.event)
    with closing(open_existing_book(settings)) as book:
        book.audit(AuditEvent.AUDIT_LOG_USED, "audit trail read by command", Actor.at_the_command_line())
        found = _entries(book, wanted, event)
        if as_json:
            for entry in found:
                values = {name: value for name, value in asdict(entry).items() if name != "id"}
                typer.echo(json.dumps(values | {"at": entry.at.isoformat()}))
        else:
            Console().print(_table(found))


def _event(name: str | None) -> AuditEvent | None:
    kinds = {kind.value.lower(): kind for kind in AuditEvent}
    if name is not None and name.lower() not in kinds:
        raise Rejected(f"--event {name}: one of {', '.join(AuditEvent)}")
    return None if name is None else kinds[name.lower()]


def _entries(book: Book, wanted: Wanted, event: AuditEvent | None) -> Iterator[AuditEntry]:
    left, cursor = wanted.limit, None
    while left > 0:
        page = book.audit_trail(
            since=_utc(wanted.since),
            until=_utc(wanted.until),
            event=event,
            actor=wanted.actor,
            case_id=wanted.case_id,
            limit=min(left, _PAGE),
            cursor=cursor,
        )
        yield from page.items
        left, cursor = left - len(page.items), page.next
        if cursor is None:
            return


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _table(entries: Iterator[AuditEntry]) -> Table:
    table = Table("at (UTC)", "event", "what", "who", "from", "case or study", "times", "outcome", box=None, pad_edge=False)
    for one in entries:
        about = one.case_id or one.study_uid or one.patient_key or ""
        outcome = one.outcome if one.outcome == "success" else f"[red]{one.outcome}[/red]"
        who = f"{one.actor_kind} {escape(one.actor)}".strip()
        words = (f"{one.at:%Y-%m-%d %H:%M:%S}", one.event, escape(one.what), who, escape(one.address), about, str(one.count), outcome)
        table.add_row(*words)
    return table
