"""The audit trail: entered at once, written in batches, kept through a database that is away, read newest first, forgotten in time."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage, generate_uid
from sqlalchemy import text
from typer.testing import CliRunner

from service.__main__ import APP
from service.api.health import check_audit
from service.commands import administer
from service.errors import Unavailable
from service.export import Exported
from service.presence import Counts, Presence
from service.records import Actor, AuditEntry, AuditEvent, Book, Outcome, deeds, utc_now, writing_audit
from service.records.deeds import Deed, PendingDeeds
from service.retention import Keeper
from service.sections import Token
from service.settings import Settings
from service.store import Store
from service.tokens import note_tokens
from tests.service.casebook import run
from tests.service.house import MR, House, associate, listening
from tests.service.series import flair_series, with_meta

PACS = Actor("ae", "PACS", "10.0.0.5")
SCANNER = Actor("ae", "SCANNER", "10.0.0.99")


def note(book: Book, number: int = 1, **fields: Any) -> None:
    book.audit(AuditEvent.QUERY, f"search {number}", PACS, study_uid="1.2", **fields)


def trail(book: Book, **filters: Any) -> tuple[AuditEntry, ...]:
    book.write_audit()
    return book.audit_trail(**filters).items


def test_pages_go_from_the_newest_to_the_oldest_and_entries_that_come_meanwhile_shift_none(book: Book) -> None:
    for number in range(5):
        note(book, number)
        book.write_audit()
    first = book.audit_trail(limit=2)
    note(book, 9)
    book.write_audit()
    second = book.audit_trail(limit=2, cursor=first.next)
    third = book.audit_trail(limit=2, cursor=second.next)
    assert [one.what for page in (first, second, third) for one in page.items] == [f"search {number}" for number in (4, 3, 2, 1, 0)]
    assert third.next is None
    assert all(one.at.tzinfo is not None for one in first.items)
    for cursor in ("x", first.next[:-3] if first.next else ""):
        with pytest.raises(ValueError, match="cursor"):
            book.audit_trail(cursor=cursor)


def test_entries_are_found_by_time_event_actor_and_case(book: Book) -> None:
    note(book, 1)
    book.audit(AuditEvent.EXPORT, "given", Actor("token", "planning"), case_id="c1")
    book.write_audit()
    between = utc_now()
    book.audit(AuditEvent.EXPORT, "given", Actor("token", "other"), case_id="c2")
    assert [one.case_id for one in trail(book, event=AuditEvent.EXPORT)] == ["c2", "c1"]
    assert [one.case_id for one in trail(book, actor="planning")] == ["c1"]
    assert [one.actor for one in trail(book, case_id="c2")] == ["other"]
    assert [one.actor for one in trail(book, since=between)] == ["other"]
    assert [one.event for one in trail(book, until=between)] == ["Export", "Query"]


def test_what_is_alike_is_one_entry_with_a_number(book: Book) -> None:
    for _ in range(20):
        note(book)
    (entry,) = trail(book)
    assert (entry.count, entry.actor_kind, entry.actor, entry.address, entry.outcome) == (20, "ae", "PACS", "10.0.0.5", "success")


def test_a_port_scanner_does_not_fill_the_table() -> None:
    now = [0.0]
    pending = PendingDeeds(lambda: now[0])
    written: list[tuple[Deed, Any, int]] = []
    for number in range(6000):
        deed = Deed(AuditEvent.SECURITY_ALERT, "refused", Actor("ae", f"T{number}", "10.6.6.6"), None, None, None, Outcome.FAILURE)
        pending.add(deed, utc_now(), 1)
        now[0] += 0.1
        written += pending.take() if number % 20 == 0 else []
    written += pending.take(all_of_it=True)
    assert len(written) <= 2 * (deeds.MOST_FAILURES + 1)
    assert sum(count for _, _, count in written) == 6000, "none is lost"
    assert written[0][0].actor.name == "T0", "the first is told at once"


def test_entries_wait_for_a_database_that_is_away_and_everybody_hears_of_it(
    book: Book, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> Iterator[None]:
        raise Unavailable("the database: gone")

    check = check_audit(book)
    assert check() == "written"
    with monkeypatch.context() as patched:
        patched.setattr(book, "_writing", away)
        for number in range(3):
            note(book, number)
            book.write_audit()
    assert len([line for line in caplog.records if line.levelname == "ERROR" and "cannot be written" in line.message]) == 1
    with pytest.raises(Unavailable, match="the database: gone"):
        check()
    Presence(book, Counts(), {"delivery": lambda: {"audit": book.audit_trouble()}}).beat()
    assert [one.what for one in trail(book)] == ["search 2", "search 1", "search 0"]
    assert book.audit_trouble() == ""
    with pytest.raises(Unavailable, match="gone"):
        check()  # by what the other process last told
    with book._writing() as connection:
        connection.execute(text("DELETE FROM parts"))
    assert check() == "written"


def test_a_process_that_ends_in_good_order_writes_its_last_entries(sqlite_book: Book, tmp_path: Path) -> None:
    other = Book(f"sqlite:///{tmp_path}/sqlite-book.sqlite")
    with writing_audit(other):
        note(other, 1)
    assert [one.what for one in sqlite_book.audit_trail().items] == ["search 1"]
    other.audit(AuditEvent.QUERY, "refused", PACS, outcome=Outcome.FAILURE)
    other.write_audit()
    other.audit(AuditEvent.QUERY, "refused", PACS, outcome=Outcome.FAILURE)
    other.close()
    assert [one.outcome for one in sqlite_book.audit_trail().items] == ["failure", "failure", "success"], "told within ten minutes too"


def test_a_table_that_takes_no_rows_is_no_defect_of_the_process(sqlite_book: Book) -> None:
    with sqlite_book._writing() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
    note(sqlite_book)
    sqlite_book.write_audit()
    assert "the database" in sqlite_book.audit_trouble()


def test_too_many_entries_are_counted_and_not_kept(monkeypatch: pytest.MonkeyPatch, sqlite_book: Book) -> None:
    monkeypatch.setattr(deeds, "MOST_PENDING", 3)
    for number in range(5):
        note(sqlite_book, number)
    found = trail(sqlite_book)
    assert len(found) == 4
    assert [(one.event, one.count) for one in found if one.outcome == "failure"] == [("Security Alert", 2)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data", calling_ae=[{"title": "PACS"}], destinations=())
    yield made
    made.book.close()


def test_an_association_is_one_entry_for_each_study(house: House) -> None:
    series = flair_series(14)
    house.send(series)
    study = str(series[0].StudyInstanceUID)
    (entry,) = trail(house.book)
    assert (entry.event, entry.actor, entry.study_uid, entry.count) == ("DICOM Instances Transferred", "SCANNER", study, 14)
    assert entry.case_id == house.cases[0].id
    assert entry.what.endswith("association a1")
    house.send(series[:1], association="a1", close=None)
    assert [one.count for one in trail(house.book)] == [1, 14], "what was in hand when the association ended"


def test_a_correction_over_dicom_is_entered_as_a_verdict_without_the_name_in_its_header(tmp_path: Path) -> None:
    house = House(tmp_path / "data", corrections={"calling_ae": ["SCANNER"]})
    series = flair_series(14)
    house.send(series)
    mask, referenced = Dataset(), Dataset()
    mask.SOPClassUID, mask.SOPInstanceUID, mask.Modality = SegmentationStorage, generate_uid(), "SEG"
    mask.StudyInstanceUID, mask.SeriesInstanceUID = series[0].StudyInstanceUID, generate_uid()
    mask.ContentCreatorName, referenced.SeriesInstanceUID = "Reader^Ada", series[0].SeriesInstanceUID
    mask.ReferencedSeriesSequence = [referenced]
    house.send([with_meta(mask)], association="a2")
    run(house.book, house.case.id)
    house.send([with_meta(mask)], association="a3")
    verdicts = [(one.event, one.what, one.outcome, one.actor) for one in trail(house.book, case_id=house.case.id) if "verdict" in one.what]
    assert sorted(verdicts) == [
        ("Procedure Record", "verdict on revision 1: correct", "success", "SCANNER"),
        ("Procedure Record", "verdict: correction refused", "failure", "SCANNER"),
    ]
    assert "Ada" not in str(trail(house.book))
    house.book.close()


def test_unknown_senders_are_entered_once_with_their_address(house: House) -> None:
    with listening(house) as listener:
        for _ in range(3):
            associate(listener, MR, calling="UNKNOWN")
    house.book.write_audit(all_of_it=True)
    entries = [one for one in house.book.audit_trail().items if one.outcome == "failure"]
    assert {(one.event, one.actor, one.address) for one in entries} == {("Security Alert", "UNKNOWN", "127.0.0.1")}
    assert sum(one.count for one in entries) == 3


def test_old_entries_go_and_that_they_went_is_entered(house: House) -> None:
    note(house.book)
    house.book.write_audit()
    with house.book._writing() as connection:
        connection.execute(text("UPDATE audit SET at = '2001-01-01 00:00:00'"))
    note(house.book, 2)
    house.book.write_audit()
    settings = Settings(data_dir=house.settings.data_dir, audit={"keep_days": 400})
    keeper = Keeper(settings, house.book, Store(settings.data_dir), Counts())
    keeper.tick()
    assert [(one.what, one.count) for one in trail(house.book)] == [
        ("audit trail: entries older than 400 days removed", 1),
        ("search 2", 1),
    ]


def test_tokens_that_changed_since_the_last_start_are_entered_once(book: Book) -> None:
    one, two = (Token(name=name, sha256=f"{number:064x}") for number, name in enumerate(("planning", "viewer")))
    service = Actor("service", "LEUKOSCOPE")
    for tokens in ((), (one,), (one,), (two, one), (one, two), ()):
        note_tokens(tokens, book, service)
        book.write_audit()
    said = [entry.what.partition("): ")[2] for entry in book.audit_trail().items]
    assert [len(words.split("; ")) if words != "none" else 0 for words in said] == [0, 2, 1]
    assert "planning (read submit)" in said[1]


@pytest.fixture
def leukoscope(tmp_path: Path) -> Callable[..., Any]:
    environ = {"LEUKOSCOPE_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "220"}
    return lambda *arguments: CliRunner().invoke(APP, arguments, env=environ)


def test_the_command_shows_the_trail_and_enters_that_it_was_read(house: House, leukoscope: Callable[..., Any]) -> None:
    for number in range(3):
        note(house.book, number)
        house.book.write_audit()
    house.book.audit(AuditEvent.EXPORT, "given", SCANNER, case_id="abc")
    house.book.write_audit()
    shown = leukoscope("audit").stdout
    assert [shown.index(word) for word in ("given", "search 2", "search 1", "search 0")] == sorted(
        shown.index(word) for word in ("given", "search 2", "search 1", "search 0")
    )
    lines = [json.loads(line) for line in leukoscope("audit", "--json", "--event", "export").stdout.splitlines()]
    assert [(line["what"], line["case_id"], line["actor"]) for line in lines] == [("given", "abc", "SCANNER")]
    assert leukoscope("audit", "--case", "nobody", "--json").stdout == ""
    tomorrow = f"{utc_now() + timedelta(days=1):%Y-%m-%d}"
    assert leukoscope("audit", "--since", tomorrow, "--json").stdout == ""
    assert len(leukoscope("audit", "--json", "--limit", "2").stdout.splitlines()) == 2
    assert "one of Application Activity" in str(leukoscope("audit", "--event", "Lunch").exception)
    (used,) = trail(house.book, event=AuditEvent.AUDIT_LOG_USED)[-1:]
    assert used.actor_kind == "command"


def test_commands_that_show_or_change_patients_data_are_entered_with_the_user(
    house: House, leukoscope: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    house.send(flair_series(14))
    case_id, study = house.case.id, house.case.study_uid
    stray = house.store.path_of(house.store.put_output(case_id, "stray", b"x"))
    os.utime(stray, (1, 1))
    house.book.write_audit()

    def breaking_off(*_: object) -> Iterator[Exported]:
        yield Exported(case_id)
        raise Unavailable("the object store: away")

    monkeypatch.setattr(administer, "export_corrections", breaking_off)
    for command in (
        ("cases", "--limit", "5"),
        ("case", case_id),
        ("case", "nobody"),
        ("corrections", "export", str(house.store.root / "out")),
        ("retention", "--apply", "--orphans"),
        ("migrate",),
        ("migrate", "--new-keys"),
    ):
        leukoscope(*command)
    assert not stray.exists()
    said = [(one.event, one.what, one.case_id, one.study_uid) for one in reversed(trail(house.book)) if one.actor_kind == "command"]
    assert said == [
        ("Query", "listed by command: cases, 1 given", None, None),
        ("Procedure Record", "case read by command", case_id, study),
        ("Export", "corrected series exported by command", case_id, None),
        ("DICOM Study Deleted", "files that no row names removed", None, None),
        ("Patient Record", "every patient given a new key", None, None),
    ]
    assert {one.actor for one in trail(house.book) if one.actor_kind == "command"} == {getpass.getuser()}
