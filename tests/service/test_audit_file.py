"""The audit trail beside the database: it outlives a lost one, and whatever fails, nothing is lost without a word."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from service import audit_file
from service.audit_file import AuditFile
from service.errors import Unavailable
from service.records import Actor, AuditEvent, Book, Outcome, upgrade, utc_now

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)

ROW: dict[str, Any] = {"at": AT, "event": "Query", "what": "w", "actor_kind": "ae", "actor": "a", "address": "", "outcome": "success"}
ROW |= {"case_id": None, "study_uid": None, "patient_key": None, "count": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def kept(book_url: str, data: Path) -> Iterator[Book]:
    """A case book, on each kind of database, that writes the files."""
    with closing(Book(book_url, data_dir=data)) as made:
        yield made


def new_book(data: Path) -> Book:
    url = f"sqlite:///{data}/book.sqlite"
    upgrade(url)
    return Book(url, data_dir=data)


def note(book: Book, what: str, **fields: Any) -> None:
    book.audit(AuditEvent.QUERY, what, Actor("ae", "Röntgen 1", "10.0.0.5"), study_uid="1.2", **fields)
    book.write_audit()


def trail(book: Book) -> list[dict[str, Any]]:
    return [{name: value for name, value in asdict(one).items() if name != "id"} for one in book.audit_trail(limit=500).items]


def lines(data: Path) -> list[str]:
    return [json.loads(line)["what"] for path in sorted((data / "audit").iterdir()) for line in path.read_text().splitlines()]


def test_a_lost_database_gets_its_trail_back_and_a_whole_one_nothing_twice(kept: Book, data: Path) -> None:
    note(kept, "one", case_id="c1", patient_key="k")
    note(kept, "two", outcome=Outcome.FAILURE, count=7)
    kept.audit(AuditEvent.EXPORT, "three", Actor.at_the_command_line())
    kept.audit(AuditEvent.EXPORT, "three", Actor.at_the_command_line())
    kept.write_audit()
    before = trail(kept)
    assert [one["what"] for one in before] == ["three", "two", "one"]
    damaged: dict[str, str] = {}
    assert kept.restore_audit(damaged) == 0, "it has them"
    with kept._writing() as connection:
        connection.execute(text("DELETE FROM audit WHERE what <> 'two'"))
    assert kept.restore_audit(damaged) == 2, "one restored from a back-up lacks some"
    assert (trail(kept), damaged) == (before, {})
    assert kept.restore_audit(damaged) == 0


def test_what_cannot_be_filed_is_in_the_database_is_told_and_is_filed_later(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    book = new_book(data)
    (data / "audit").write_text("in the way")
    for number in range(3):
        note(book, str(number))
    assert [one["what"] for one in trail(book)] == ["2", "1", "0"], "care and record go on"
    assert "Not a directory" in book.audit_trouble()
    assert len([line for line in caplog.records if line.levelname == "ERROR"]) == 1
    (data / "audit").unlink()
    book.write_audit()
    assert (book.audit_trouble(), lines(data)) == ("", ["0", "1", "2"])
    book.close()


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_no_half_of_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = new_book(data)
    note(book, "before")
    write = os.write

    def full(descriptor: int, some: bytes) -> int:
        if write(descriptor, some[:20]) == 20:
            monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        return 20

    monkeypatch.setattr(os, "write", full)
    note(book, "while full")
    monkeypatch.undo()
    assert "No space left" in book.audit_trouble()
    assert lines(data) == ["before"]
    note(book, "after")
    assert lines(data) == ["before", "while full", "after"]
    book.close()


def test_a_process_that_ends_without_its_database_leaves_its_last_entries_in_the_file(data: Path) -> None:
    book = new_book(data)
    with book._writing() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO elsewhere"))
    book.audit(AuditEvent.QUERY, "last", Actor("ae", "A"), case_id="c")
    book.write_audit()
    assert not (data / "audit").exists(), "not yet: the same that comes meanwhile is one entry with it"
    book.close()
    assert lines(data) == ["last"]
    (data / "book.sqlite").unlink()
    with closing(new_book(data)) as anew:
        assert anew.restore_audit({}) == 1
        assert [one["what"] for one in trail(anew)] == ["last"]


def test_lines_that_are_no_entries_are_told_and_the_others_are_entered(data: Path) -> None:
    book = new_book(data)
    note(book, "whole")
    (path,) = (data / "audit").iterdir()
    good = json.loads(path.read_text())
    bad = [
        good | {"more": 1},
        good | {"at": "2026-01-01T00:00:00"},
        good | {"count": "2"},
        good | {"event": "x" * 65},
        good | {"what": "a\0b"},
        [],
    ]
    with path.open("a") as file:
        file.write("".join(json.dumps(one) + "\n" for one in bad) + "\xff\n" + json.dumps(good)[:40])
    note(book, "after a torn line")
    (data / "audit" / "notes.txt").write_text("no file of ours")
    book.close()
    (data / "book.sqlite").unlink()
    damaged: dict[str, str] = {}
    with closing(new_book(data)) as anew:
        assert anew.restore_audit(damaged) == 2
        assert [one["what"] for one in trail(anew)] == ["after a torn line", "whole"]
    assert damaged == {f"audit/{path.name}": "8 lines are no entries"}


def test_many_at_once_share_the_file_line_by_line(data: Path) -> None:
    def work(writer: int) -> None:
        mine = AuditFile(data)
        for number in range(20):
            mine.append([ROW | {"what": f"{writer}.{number}.{part}" + "x" * 3000} for part in (1, 2)], AT)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    damaged: dict[str, str] = {}
    found = [one["what"].rstrip("x") for one in AuditFile(data).read(damaged)]
    assert (sorted(found), damaged) == (sorted(f"{w}.{n}.{p}" for w in range(4) for n in range(20) for p in (1, 2)), {})
    assert [found[place + 1] for place in range(0, 160, 2)] == [f"{one[:-1]}2" for one in found[::2]], "written together, together"


def test_one_that_holds_the_file_holds_up_nobody(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_file, "_PAUSE_S", 0.001)
    book = new_book(data)
    note(book, "one")
    (path,) = (data / "audit").iterdir()
    with path.open("rb") as hanging:
        fcntl.flock(hanging, fcntl.LOCK_EX)
        note(book, "two")
        assert book.audit_trouble() == "the audit file: another process holds it"
    book.close()
    assert lines(data) == ["one", "two"]


def test_a_data_folder_that_is_away_is_not_made(data: Path) -> None:
    with pytest.raises(Unavailable, match="the data folder is away"):
        AuditFile(data / "mount").append([], AT)
    assert not (data / "mount").exists()


def test_the_folder_belongs_to_whom_the_data_folder_belongs(data: Path) -> None:
    if os.getuid() == 0:
        os.chown(data, 12345, 12345)
    AuditFile(data).append([], AT)
    assert (data / "audit").stat().st_uid == data.stat().st_uid


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_that_root_made_belongs_to_whom_the_data_folder_belongs(data: Path) -> None:
    os.chown(data, 12345, 12345)
    AuditFile(data).append([ROW], AT)
    (path,) = (data / "audit").iterdir()
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_entered(data: Path) -> None:
    AuditFile(data).append([ROW], AT)
    (data / "audit" / "2026-01.host-0.jsonl").mkdir()
    damaged: dict[str, str] = {}
    assert [one["what"] for one in AuditFile(data).read(damaged)] == ["w"]
    assert damaged == {"audit/2026-01.host-0.jsonl": "Is a directory"}


def test_files_go_when_their_month_is_no_longer_kept(data: Path) -> None:
    with closing(new_book(data)) as book:
        note(book, "now")
        (now,) = (data / "audit").iterdir()
        for month in ("2019-12", "2020-01", "2020-02"):
            now.with_name(f"{month}.other-host-0.jsonl").touch()
        book.forget_audit(datetime(2020, 2, 1, tzinfo=UTC))
        assert sorted(path.name for path in (data / "audit").iterdir()) == ["2020-02.other-host-0.jsonl", now.name]
        assert now.name.startswith(f"{utc_now():%Y-%m}.")
