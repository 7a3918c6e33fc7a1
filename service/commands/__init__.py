"""The administrator's part of the command line; each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.settings import Settings

INDEX_APP = typer.Typer(help="The case book and the files it is about.", no_args_is_help=True)
TOKENS_APP = typer.Typer(help="API tokens; the settings keep only their SHA-256.", no_args_is_help=True)


CORRECTIONS_APP = typer.Typer(help="Masks that readers corrected.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program's."""
    for command in (migrate, retention, resend, audit, identity):
        app.command()(command)
    app.add_typer(INDEX_APP, name="index")
    app.add_typer(TOKENS_APP, name="tokens")
    app.add_typer(CORRECTIONS_APP, name="corrections")


def migrate(
    new_keys: Annotated[bool, typer.Option("--new-keys", help="Give every patient a new key: installation.key was lost.")] = False,
) -> None:
    """Bring the case book's tables up to this version."""
    from service.commands import administer

    administer.migrate(read_settings(), new_keys=new_keys)


@INDEX_APP.command("rebuild")
def index_rebuild(
    delivered: Annotated[
        bool, typer.Option("--delivered", help="The destinations have the results that come back; otherwise they are sent again.")
    ] = False,
) -> None:
    """Make the case book anew from the files, or complete a restored one. Every part of the service is stopped first."""
    from service.commands import index

    raise typer.Exit(0 if index.run(read_settings(), delivered=delivered) else 1)


def retention(
    apply: Annotated[bool, typer.Option("--apply", help="Remove; without it only shown.")] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Also files that no row names. Never after a database was lost or restored.")
    ] = False,
) -> None:
    """Show, and with --apply remove, what the settings no longer keep (keep_days, keep_refused_days, keep_free_mb under retention)."""
    from service.commands import administer

    administer.clean_up(read_settings(), apply=apply, orphans=orphans)


def resend(
    case_id: Annotated[str | None, typer.Argument(metavar="[CASE]", show_default=False)] = None,
    destination: Annotated[str | None, typer.Option(metavar="NAME", help="Only to this destination.")] = None,
) -> None:
    """Send again what was given up: of all cases, or of one."""
    from service.commands import administer

    administer.resend(read_settings(), case_id, destination)


def audit(
    since: Annotated[datetime | None, typer.Option(help="Only from this moment on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only before this moment (UTC).")] = None,
    event: Annotated[str | None, typer.Option(help='What kind of thing, by PS3.15 A.5.3, such as "Query".')] = None,
    actor: Annotated[str | None, typer.Option(help="An AE title, the name of a token, or a user.")] = None,
    case: Annotated[str | None, typer.Option(metavar="ID", help="Only about this case.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many at most, the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show who did what, newest first."""
    from service.commands import trail

    trail.print_trail(read_settings(), trail.Wanted(since, until, event, actor, case, limit), as_json=as_json)


@CORRECTIONS_APP.command("export")
def corrections_export(
    folder: Annotated[Path, typer.Argument(help="Where they go; made if missing, else empty.")],
) -> None:
    """Write what readers corrected (source series, corrected SEG, provenance) for `train data` and `train adapt`. Holds patients' names."""
    from service.commands import administer

    raise typer.Exit(administer.export(read_settings(), folder))


def identity(
    case_or_study: Annotated[str, typer.Argument(metavar="CASE_OR_STUDY", help="A case's id, or a Study Instance UID: all its series.")],
    patient_id: Annotated[str, typer.Option(help="The right PatientID.")],
    by: Annotated[str, typer.Option(help="Who says so; goes into the audit trail.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the audit trail, and must not repeat the identity.")],
    name: Annotated[str | None, typer.Option(help="Family^Given^Middle^Prefix^Suffix; without it, as it was.")] = None,
    birth_date: Annotated[str | None, typer.Option(help="YYYYMMDD.")] = None,
    sex: Annotated[str | None, typer.Option(help="M, F or O.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Issuer of the PatientID.")] = None,
) -> None:
    """Correct a patient's identity: every result is made again under new UIDs. An empty text blanks an attribute."""
    from service.commands import administer

    given = {"PatientName": name, "PatientBirthDate": birth_date, "PatientSex": sex, "IssuerOfPatientID": issuer}
    values = {"PatientID": patient_id} | {keyword: value for keyword, value in given.items() if value is not None}
    administer.correct(read_settings(), case_or_study, values, by, reason)


@TOKENS_APP.command("new")
def tokens_new(
    name: Annotated[str, typer.Argument(help="What the log calls it.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, submit or admin; may be given several times.")] = None,
) -> None:
    """Make a token: shown once, with the lines for the settings."""
    from service.commands import administer

    administer.new_token(name, scope or ["read", "submit"])


@TOKENS_APP.command("list")
def tokens_list() -> None:
    """Show the names and scopes in the settings."""
    from service.commands import administer

    administer.list_tokens(read_settings())


@TOKENS_APP.command("check")
def tokens_check(
    token: Annotated[str | None, typer.Argument(help="Without it, read from standard input: not shown in the list of processes.")] = None,
) -> None:
    """Tell what a token may do."""
    from service.commands import administer

    administer.check_token(read_settings(), token if token is not None else sys.stdin.readline())


def read_settings() -> Settings:
    """Read the settings of this process. Raises SettingsError."""
    from service.settings import load_settings

    return load_settings()
