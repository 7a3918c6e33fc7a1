"""The administrator's commands in a terminal: tables brought up, clean-up, API tokens, dead letters, identities."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from service import orphans as strays
from service import retention
from service.commands.tables import find_case, open_existing_book
from service.errors import Rejected, Unavailable
from service.export import export_corrections
from service.identity import correct_identity
from service.identity_file import file_identities
from service.presence import Counts
from service.records import Actor, AuditEvent, Book, open_book, upgrade_book
from service.settings import Settings
from service.store import Store

_SHOWN: Final = 50
_MOST_SERIES: Final = 500
_MIB: Final = 1024**2
_TOKEN_BYTES: Final = 32
_SCOPES: Final = ("read", "submit", "admin")
_TAKEN: Final = "somebody else has the turn of the retention (it runs, or ran in the last quarter of an hour); come again later"


def migrate(settings: Settings, *, new_keys: bool) -> None:
    """Bring the case book up to this version, tables and files; new keys are told to the audit trail. Raises as `upgrade`."""
    upgrade_book(settings, new_keys=new_keys)
    with closing(open_book(settings)) as book:
        if book.corrected_identities():  # a new data folder is made by the service, as its own user
            file_identities(book, Store(settings.data_dir, settings.minimum_free_mb))
        if new_keys:
            book.audit(AuditEvent.PATIENT_RECORD, "every patient given a new key", Actor.at_the_command_line())
    typer.echo("the case book is up to date")


def clean_up(settings: Settings, *, apply: bool, orphans: bool) -> None:
    """
    Show what the retention would remove, and remove it where `apply` says so.

    Raises
    ------
    Unavailable
        Another process has the turn of the retention, or took it in the middle; what went till then is gone.
    """
    book = open_existing_book(settings)
    turn = retention.Turn(book)
    if apply and not turn.take():
        raise Unavailable(_TAKEN)
    try:
        _clean_up(settings, book, turn, apply=apply, orphans=orphans)
    finally:
        if apply:
            turn.give()
        book.close()


def _clean_up(settings: Settings, book: Book, turn: retention.Turn, *, apply: bool, orphans: bool) -> None:
    store = Store(settings.data_dir, settings.minimum_free_mb)
    console = Console()
    plan = retention.make_plan(settings, book, store)
    _print_plan(console, settings, plan, store.free_bytes())
    found = strays.find_orphans(book, store) if orphans else None
    if found is not None:
        console.print(f"{found.files} files a day old that no row names, {found.size_bytes / _MIB:.1f} MiB", highlight=False)
    if not apply:
        console.print("nothing was removed; --apply does it")
        return
    counts = Counts()
    by = Actor.at_the_command_line()
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("removing", total=len(plan.going))
        number = retention.apply_plan(plan, book, store, counts, lambda: progress.advance(bar), turn.take, by)
    retention.forget_audit(settings, book)
    if found is not None:
        strays.remove_orphans(found, book, store)
        book.audit(AuditEvent.STUDY_DELETED, "files that no row names removed", by, count=found.files)
    book.beat([], counts.take())
    console.print(f"{number} cases removed, {store.free_bytes() / _MIB:.0f} MiB free", highlight=False)
    if not turn.take():
        raise Unavailable(_TAKEN)


def _print_plan(console: Console, settings: Settings, plan: retention.Plan, free_bytes: int) -> None:
    if not settings.retention.asks:
        console.print("the settings keep everything: [retention] names neither keep_days, keep_refused_days nor keep_free_mb", markup=False)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("case", no_wrap=True, min_width=32)
    for heading in ("received (UTC)", "state", "MiB", "why"):
        table.add_column(heading)
    for one in islice(plan.going, _SHOWN):
        case = one.case
        table.add_row(case.case_id, f"{case.received_at:%Y-%m-%d %H:%M:%S}", case.state.value, f"{case.size_bytes / _MIB:.1f}", one.why)
    console.print(table)
    if len(plan.going) > _SHOWN:
        console.print(f"and {len(plan.going) - _SHOWN} more")
    console.print(
        f"{len(plan.going)} cases would go, {plan.size_bytes / _MIB:.1f} MiB; {free_bytes / _MIB:.0f} MiB are free", highlight=False
    )
    for why, number in plan.reasons.most_common():
        console.print(f"kept back: {number} ({escape(why)})", highlight=False)
    if plan.missing_bytes:
        console.print(f"{plan.missing_bytes / _MIB:.0f} MiB would still be missing", style="yellow", highlight=False)


def new_token(name: str, scopes: Sequence[str]) -> None:
    """Make a token, show it once, and the lines for the settings; nothing is kept here."""
    unknown = [scope for scope in scopes if scope not in _SCOPES]
    if unknown:
        raise Rejected(f"--scope {unknown[0]}: one of {', '.join(_SCOPES)}")
    if not name.strip() or len(name) > 64 or not name.isprintable() or {'"', "\\"} & set(name):
        raise Rejected("the name: 1 to 64 printable characters, no quotes or backslashes")
    token = f"lks_{secrets.token_urlsafe(_TOKEN_BYTES)}"
    listed = ", ".join(f'"{scope}"' for scope in dict.fromkeys(scopes))
    Console(stderr=True).print("the token, shown this once, for the client; the lines below for the settings of every API process:")
    typer.echo(token)
    typer.echo(f'\n[[tokens]]\nname = "{name}"\nsha256 = "{_digest(token)}"\nscopes = [{listed}]')


def list_tokens(settings: Settings) -> None:
    """Show the names and scopes of the tokens in the settings."""
    table = Table("name", "scopes", "sha256 begins", box=None, pad_edge=False)
    for token in settings.tokens:
        table.add_row(escape(token.name), " ".join(token.scopes), token.sha256[:12])
    Console().print(table if settings.tokens else "no tokens: every call is allowed, on the loopback address only")


def check_token(settings: Settings, token: str) -> None:
    """Tell what a token may do. Raises Rejected where the settings do not have it."""
    found = [one for one in settings.tokens if hmac.compare_digest(one.sha256, _digest(token.strip()))]
    if not found:
        raise Rejected("not a token of these settings")
    typer.echo(f"{found[-1].name}: {' '.join(found[-1].scopes)}")


def export(settings: Settings, folder: Path) -> int:
    """Write every correction to a folder, and say which were left out and why; gives the exit code. Raises Rejected, Unavailable."""
    left_out = written = 0
    with closing(open_existing_book(settings)) as book:
        for one in export_corrections(book, Store(settings.data_dir), folder):
            if one.why_not:
                left_out += 1
                Console(stderr=True).print(f"{one.case_id}: left out, {one.why_not}", style="yellow", markup=False)
            else:
                written += 1
                book.audit(AuditEvent.EXPORT, "corrected series exported by command", Actor.at_the_command_line(), case_id=one.case_id)
    typer.echo(f"{written} corrections written to {folder}")
    return 1 if left_out else 0


def resend(settings: Settings, case_id: str | None, destination: str | None) -> None:
    """Make dead deliveries due again. Raises Rejected for a case or destination that is not there."""
    names = [one.name for one in settings.destinations]
    if destination is not None and destination not in names:
        raise Rejected(f"--destination {destination}: not in the settings")
    with closing(open_existing_book(settings)) as book:
        if case_id is not None:
            if (case := find_case(book, case_id)) is None:
                raise Rejected(f"no case {case_id}")
            case_id = case.id
        number = book.resend(case_id, destinations=[destination] if destination is not None else names)
        what = f"{number} given-up deliveries due again: {destination or 'all destinations'}"
        book.audit(AuditEvent.PROCEDURE_RECORD, what, Actor.at_the_command_line(), case_id=case_id)
        typer.echo(f"{number} given-up deliveries are due again")
        left = book.count_deliveries()["dead"]
    if left and case_id is None and destination is None:
        typer.echo(f"{left} stay given up: their destinations are not in the settings")


def correct(settings: Settings, case_or_study: str, values: Mapping[str, str], by: str, reason: str) -> None:
    """
    Correct the identity of a case, or of every case of a study; a service that runs makes the results again.

    Raises
    ------
    Rejected
        There is no such case, or the values are none.
    Misconfigured
        The data folder has not the key that the case book was made with.
    """
    open_existing_book(settings).close()
    book = open_book(settings)
    try:
        one = find_case(book, case_or_study)
        cases = [one] if one is not None else list(book.find_cases(study_uid=case_or_study, limit=_MOST_SERIES).items)
        if not cases:
            raise Rejected(f"no case or study {case_or_study}")
        changed = correct_identity(book, Store(settings.data_dir), cases, values, by, reason, Actor.at_the_command_line())
        for case_id in changed:
            typer.echo(f"{case_id}: identity corrected; its results are made again while the service runs")
    finally:
        book.close()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
