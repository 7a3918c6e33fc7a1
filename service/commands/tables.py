"""What the case book knows, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import make_url

from service.errors import Rejected
from service.records import Actor, AuditEvent, Book, Case, ReaderVerdict, State, StudyFacts, VerdictState, is_note
from service.settings import Settings

_COLOURS = {State.DONE: "green", State.FAILED: "red", State.HELD: "yellow", State.REJECTED: "yellow"}


def print_cases(settings: Settings, state: str | None, limit: int) -> None:
    """Print the newest cases, one a line; that they were shown is in the audit trail."""
    if state is not None and state not in set(State):
        raise Rejected(f"--state {state}: one of {', '.join(State)}")
    with closing(open_existing_book(settings)) as book:
        page = book.find_cases(state=State(state) if state else None, limit=limit)
        studies = book.studies_of([case.id for case in page.items])
        book.audit(AuditEvent.QUERY, f"listed by command: cases, {len(page.items)} given", Actor.at_the_command_line())
    table = Table(box=None, pad_edge=False)
    for heading in ("case", "received (UTC)", "study", "state", "series", "slices", "lesions", "ml", "why"):
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
            escape(case.reason or ""),
        )
    Console().print(table)


def print_case(settings: Settings, case_id: str) -> None:
    """Print everything about one case, and enter it into the audit trail. Raises Rejected when there is none."""
    with closing(open_existing_book(settings)) as book:
        case = book.case(case_id)
        if case is None:
            raise Rejected(f"no case {case_id}")
        actor = Actor.at_the_command_line()
        book.audit(AuditEvent.PROCEDURE_RECORD, "case read by command", actor, case_id=case_id, study_uid=case.study_uid)
        _print_case(Console(), book, case)


def _print_case(console: Console, book: Book, case: Case) -> None:
    console.print(_facts(case, book.studies_of([case.id])[case.id]))
    if case.stages:
        console.print(_stages(case.stages))
    console.print(_rows(book, case))
    if said := book.verdicts_of([case.id])[case.id]:
        console.print(_verdicts(said))
    lines = Table("at (UTC)", "what", "state", "why", title="history", title_justify="left", box=None)
    for line in case.history:
        lines.add_row(_moment(line.at), line.event, _state(line.state), escape(line.reason or ""))
    console.print(lines)


def _facts(case: Case, study: StudyFacts) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    model = case.model or {}
    findings = {name: value for name, value in (case.findings or {}).items() if isinstance(value, int | float | str | bool)}
    facts = {
        "case": case.id,
        "state": _state(case.state),
        "why": escape(case.reason or ""),
        "series": f"{escape(case.series_description)} ({case.series_uid})",
        "study": f"{_day(study)} ({case.study_uid})",
        "accession number": escape(study.accession_number),
        "admission": escape(case.rule or ""),
        "revision, attempts": f"{case.revision}, {case.attempts}",
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
    table = Table("at (UTC)", "verdict", "revision", "reader", "", title="readers", title_justify="left", box=None)
    for one in said:
        became = one.reason or (f"revision {one.made}" if one.made else "" if one.state is VerdictState.STANDS else one.state.value)
        table.add_row(_moment(one.at), one.kind.value, str(one.revision), escape(one.reader), escape(became))
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
