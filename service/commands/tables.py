"""What the case book knows, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import make_url

from service.errors import Rejected
from service.records import (
    Actor,
    AuditEvent,
    Book,
    Case,
    ReaderVerdict,
    State,
    StudyFacts,
    VerdictKind,
    VerdictState,
    is_note,
    standing_verdict,
)
from service.settings import Settings

_SHORTEST_BEGINNING: Final = 6
_SAID: Final = {VerdictKind.ACCEPT: "accepted", VerdictKind.REJECT: "rejected", VerdictKind.CORRECT: "corrected"}
_COLOURS = {State.DONE: "green", State.FAILED: "red", State.HELD: "yellow", State.REJECTED: "yellow"}


def print_cases(settings: Settings, state: str | None, limit: int) -> None:
    """Print the newest cases, one a line; that they were shown is in the audit trail."""
    if state is not None and state not in set(State):
        raise Rejected(f"--state {state}: one of {', '.join(State)}")
    with closing(open_existing_book(settings)) as book:
        page = book.find_cases(state=State(state) if state else None, limit=limit)
        said = book.verdicts_of([case.id for case in page.items])
        studies = book.studies_of([case.id for case in page.items])
        book.audit(AuditEvent.QUERY, f"listed by command: cases, {len(page.items)} given", Actor.at_the_command_line())
    table = Table(box=None, pad_edge=False)
    # An id that is cut is none for `case`, `resend` and `identity`.
    table.add_column("case", no_wrap=True, min_width=max((len(case.id) for case in page.items), default=0))
    for heading in ("received (UTC)", "study", "state", "series", "slices", "lesions", "ml", "why"):
        table.add_column(heading, justify="right" if heading in {"slices", "lesions", "ml"} else "left")
    for case in page.items:
        findings = case.findings or {}
        table.add_row(
            case.id,
            _moment(case.received_at),
            _day(studies[case.id]),
            _state(case.state),
            escape(case.series_description),
            str(case.instances),
            str(findings.get("lesion_count", "")),
            _number(findings.get("lesion_volume_ml")),
            "; ".join(filter(None, (escape(case.reason or ""), _verdict(case, said[case.id])))),
        )
    Console().print(table)


def print_case(settings: Settings, case_id: str) -> None:
    """Print everything about one case, and enter it into the audit trail. Raises Rejected when there is none."""
    with closing(open_existing_book(settings)) as book:
        case = find_case(book, case_id)
        if case is None:
            raise Rejected(f"no case {case_id}")
        actor = Actor.at_the_command_line()
        book.audit(AuditEvent.PROCEDURE_RECORD, "case read by command", actor, case_id=case.id, study_uid=case.study_uid)
        _print_case(Console(), book, case)


def find_case(book: Book, typed: str) -> Case | None:
    """Give the case of this id, or the one whose id begins so. Raises Rejected where several do."""
    found = book.ids_beginning(typed) if len(typed) >= _SHORTEST_BEGINNING else []
    if len(found) > 1 and typed not in found:
        raise Rejected(f"{typed} begins the ids of several cases ({', '.join(found)} …): give more of it")
    return book.case(typed) or (book.case(found[0]) if found else None)


def _print_case(console: Console, book: Book, case: Case) -> None:
    said = book.verdicts_of([case.id])[case.id]
    console.print(_facts(case, said, book.studies_of([case.id])[case.id]))
    if case.stages:
        console.print(_stages(case.stages))
    console.print(_rows(book, case))
    if said:
        console.print(_verdicts(said))
    if corrected := book.identity_corrections(case.id):
        console.print(_identities(corrected))
    lines = Table("at (UTC)", "what", "state", "why", title="history", title_justify="left", box=None)
    for line in case.history:
        lines.add_row(_moment(line.at), line.event, _state(line.state), escape(line.reason or ""))
    console.print(lines)


def _facts(case: Case, said: Sequence[ReaderVerdict], study: StudyFacts) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    model = case.model or {}
    findings = {name: value for name, value in (case.findings or {}).items() if isinstance(value, int | float | str | bool)}
    facts = {
        "case": case.id,
        "state": _state(case.state),
        "why": escape(case.reason or ""),
        "verdict": _verdict(case, said),
        "series": f"{escape(case.series_description)} ({case.series_uid})",
        "study": f"{_day(study)} ({case.study_uid})",
        "accession number": escape(study.accession_number),
        "admission": escape(case.rule or ""),
        "revision, attempts": f"{case.revision}, {case.attempts}",
        "workers killed": str(case.lapses or ""),
        "primary": "yes" if case.primary else "no",
        "model": " ".join(str(model[name]) for name in ("name", "version", "engine", "precision") if name in model),
        "quality": escape("; ".join(case.quality)),
    } | {name.replace("_", " "): _number(value) for name, value in findings.items()}
    for name, value in facts.items():
        if value:
            table.add_row(name, value)
    return table


def _stages(stages: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("stage", "seconds", title="stages", title_justify="left", box=None)
    for name, stage in sorted(stages.items(), key=lambda item: item[1]["start"]):
        table.add_row(name, f"{stage['seconds']:.2f}")
    return table


def _rows(book: Book, case: Case) -> Table:
    table = Table("output", "bytes", "sent", title="outputs", title_justify="left", box=None)
    sent: dict[str, list[str]] = {}
    for one in book.deliveries(case.id):
        if one.revision != case.revision and not is_note(one.output):
            continue
        error = f" ({escape(one.last_error)})" if one.last_error else ""
        sent.setdefault(one.output, []).append(f"{escape(one.destination)}: {one.state}{error}")
    for row in book.outputs(case.id):
        if row.revision == case.revision:
            table.add_row(row.kind, str(row.size), "; ".join(sent.get(row.kind, ())))
    for kind, states in sent.items():
        if is_note(kind):
            table.add_row(escape(kind), "", "; ".join(states))
    return table


def _verdicts(said: Sequence[ReaderVerdict]) -> Table:
    table = Table("at (UTC)", "verdict", "revision", "reader", "comment", "", title="readers", title_justify="left", box=None)
    for one in said:
        became = one.reason or (f"revision {one.made}" if one.made else "" if one.state is VerdictState.STANDS else one.state.value)
        table.add_row(_moment(one.at), one.kind.value, str(one.revision), escape(one.reader), escape(one.comment), escape(became))
    return table


def _verdict(case: Case, said: Sequence[ReaderVerdict]) -> str:
    """What the reader said whose word stands."""
    one = standing_verdict(said)
    if one is None:
        return ""
    about = one.made or one.revision
    comment = f": {escape(one.comment)}" if one.comment else ""
    return f"{_SAID[one.kind]} by {escape(one.reader)}{comment}" + ("" if about == case.revision else f" (revision {about})")


def _identities(corrected: Sequence[tuple[datetime, str, str, dict[str, str], dict[str, str]]]) -> Table:
    heads = ("at (UTC)", "by", "why", "attribute", "what was", "what is")
    table = Table(*heads, title="identity corrected by hand", title_justify="left", box=None)
    for at, by, reason, before, after in corrected:
        for keyword, value in after.items():
            if (was := before.get(keyword, "")) != value:
                table.add_row(_moment(at), escape(by), escape(reason), keyword, escape(was), escape(value))
    return table


def open_existing_book(settings: Settings) -> Book:
    """Open the book for reading; a folder without one is told, never made."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise Rejected(f"no case book at {url.database}; set LEUKOSCOPE_DATA_DIR to the service's data folder")
    return Book(settings.database, data_dir=settings.data_dir)


def _state(state: State) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state.value}[/{colour}]" if colour else state.value


def _day(study: StudyFacts) -> str:
    return f"{date.fromisoformat(study.date):%Y-%m-%d}" if study.date else "-"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "" if value is None else escape(str(value))
