"""`leukoscope index rebuild` in a terminal: the locks it takes, its progress, and what it says at the end."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from math import ceil
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.errors import Rejected
from service.identity_file import file_identities
from service.installation import KEY_FILE
from service.rebuild import Tally, rebuild
from service.records import GONE_AFTER, Actor, AuditEvent, Book, Part, State, open_book, upgrade_book, utc_now
from service.serve import only_one
from service.settings import Settings
from service.store import INSTANCES, Store
from service.whose_results import WHY

_LINES: Final = {
    "series": "series",
    "new": "instances indexed",
    "known": "instances known already",
    "aside": "set aside: other bytes under a known UID",
    "restored": "cases done, with their results",
    "again": "cases whose results are gone, to be run again",
    "verdicts": "words of readers, said again",
    "identities": "identities corrected by hand, said again",
    "audit": "entries of the audit trail, entered again",
    "orphans": "results of no case or of an older revision, left alone",
}
_GONE: Final = (
    "Not in the files, and not back in a case book made anew: who sent what, classes that were discarded, what was refused or held and why "
    "(judged again at the next start), attempts and history, "
    "what was to be fetched, deliveries (results are sent again unless --delivered was given)."
)


def run(settings: Settings, *, delivered: bool = False) -> bool:
    """
    Rebuild with a progress bar and print what came of it; gives whether every file was sound.

    Raises
    ------
    Rejected
        There are no files, or a part of the service is alive.
    Misconfigured, Unavailable
    """
    if not (settings.data_dir / INSTANCES).is_dir():
        raise Rejected(f"no instances in {settings.data_dir}; set LEUKOSCOPE_DATA_DIR to the service's data folder")
    new_key = not (settings.data_dir / KEY_FILE).exists()
    with only_one(settings.data_dir):
        if settings.database_url is None:
            upgrade_book(settings)
        book = open_book(settings)
        try:
            demand_stillness(book)
            store = Store(settings.data_dir)
            file_identities(book, store)  # which of them the case book confirms, no other can tell
            tally = _with_progress(book, store, delivered)
            book.audit(AuditEvent.APPLICATION_ACTIVITY, "index rebuilt from the files", Actor.at_the_command_line())
            _print(tally, book.count_cases(), new_key)
        finally:
            book.close()
    return tally.is_sound


def _with_progress(book: Book, store: Store, delivered: bool) -> Tally:
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("instances", total=sum(1 for _ in store.every_instance()))
        return rebuild(book, store, delivered=delivered, step=lambda: progress.advance(bar))


def _print(tally: Tally, states: Mapping[State, int], new_key: bool) -> None:
    console = Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, words in _LINES.items():
        table.add_row(words, str(tally.counts[name]))
    table.add_row("cases to be judged and run by the service", str(states[State.RECEIVING]))
    table.add_row("files damaged or not readable, left alone", str(len(tally.damaged)))
    table.add_row("files missing", str(tally.missing.total()))
    console.print(table)
    for path, why in sorted(tally.damaged.items()):
        console.print(f"{path}: {why}", style="red", markup=False, highlight=False, soft_wrap=True)
    for case_id, count in sorted(tally.missing.items()):
        said = f"case {case_id}: {count} files missing"
        if case_id in tally.lost:
            said += " and its results; send the series again, then rebuild again"
        else:
            said += "; send the series again, then retry the case if it failed"
        console.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
    for case_id in sorted(tally.of_others):
        said = f"case {case_id}: {WHY}; what was not sent is given up. Look at both, then correct the identity or send again"
        console.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
    if new_key:
        console.print(f"{KEY_FILE} was not there: a new one was made, and new cases and all patients have other addresses", style="yellow")
    console.print(_GONE, highlight=False)


def demand_stillness(book: Book) -> None:
    """Raise Rejected while any part of the installation is alive."""
    living = [part for part in book.living_parts() if not _is_known_dead(part)]
    if living:
        named = ", ".join(f"{part.kind} on {part.detail.get('host', '?')} (process {part.detail.get('pid', '?')})" for part in living)
        seconds = max(0, ceil((max(part.seen_at for part in living) + GONE_AFTER - utc_now()).total_seconds()))
        raise Rejected(
            f"still running: {named}; stop every part first (SIGTERM). One that was killed, or is another installation's whose "
            f"database was copied here, is forgotten in {seconds} s"
        )


def _is_known_dead(part: Part) -> bool:
    """Tell whether a part was on this machine and its process is gone: one that was killed, or that a restored case book remembers."""
    if part.detail.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(part.detail["pid"]), 0)
    except (ProcessLookupError, KeyError):
        return True
    except PermissionError:
        pass
    return False
