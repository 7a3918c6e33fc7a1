"""A case book of an older version is brought up to this one with everything in it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from service.errors import Misconfigured
from service.installation import KEY_FILE, read_secret
from service.records import Book, State, patient_key, upgrade
from service.records.database import _configuration, make_engine, newest_revision
from tests.service.casebook import SECRET, instance, receive

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_first(url: str, cases: int = 3) -> None:
    """A book as version 0.1.0 made it: revision 0001, a done case, its files, a delivery, history, arrivals."""
    engine = make_engine(url)
    at = AT if engine.dialect.name == "postgresql" else AT.replace(tzinfo=None)
    with engine.begin() as connection:
        config = _configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for number in range(cases):
            values = {
                "id": f"-random_{number}",
                "study": f"1.2.{number}",
                "series": f"1.2.3.{number}",
                "at": str(at),
                "key": f"unkeyed-{number}",
            }
            for table, columns in _ROWS.items():
                names = ", ".join(f'"{name}"' for name in columns)
                connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(columns.values())})"), values)
    engine.dispose()


_ROWS = {
    "cases": {
        "id": ":id",
        "study_uid": ":study",
        "series_uid": ":series",
        "patient_id": "'P/1'",
        "patient_issuer": "'HOSPITAL'",
        "patient_key": ":key",
        "series_description": "'FLAIR'",
        "state": "'done'",
        "revision": "2",
        "attempts": "1",
        "lapses": "0",
        "instances": "1",
        "received_at": ":at",
        "last_received_at": ":at",
        "changed_at": ":at",
        "due_at": ":at",
        "fence": "3",
        "rank": "'[1, 2]'",
        "primary": "true",
        "stages": "'{}'",
        "model": '\'{"name": "m"}\'',
        "quality": "'[\"thick\"]'",
        "findings": "'{\"lesion_count\": 2}'",
    },
    "instances": {
        "case_id": ":id",
        "sop_instance_uid": "'1.9'",
        "sop_class_uid": "'1.8'",
        "transfer_syntax_uid": "'1.7'",
        "digest": "'d'",
        "path": "'instances/x/d.dcm'",
        "size": "7",
        "header": "'{}'",
        "source": "'SCANNER'",
        "association": "'a'",
        "received_at": ":at",
        "aside": "false",
    },
    "arrivals": {"association": "'a'", "case_id": ":id", "first_at": ":at"},
    "history": {"case_id": ":id", "at": ":at", "event": "'finish'", "previous": "'running'", "state": "'done'", "revision": "2"},
    "outputs": {
        "case_id": ":id",
        "revision": "2",
        "kind": "'segmentation'",
        "media_type": "'application/dicom'",
        "path": "'outputs/x/s'",
        "sha256": "'s'",
        "size": "9",
    },
    "deliveries": {
        "case_id": ":id",
        "revision": "2",
        "destination": "'pacs'",
        "output": "'segmentation'",
        "state": "'sent'",
        "attempts": "1",
        "created_at": ":at",
        "changed_at": ":at",
        "fence": "1",
    },
}


def test_a_book_of_the_first_version_keeps_everything(database: str) -> None:
    make_first(database)
    upgrade(database, SECRET)
    book = Book(database, secret=SECRET)
    found = book.find_cases().items
    assert sorted(case.id for case in found) == [f"-random_{n}" for n in range(3)], "addresses stay"
    case = book.case("-random_0")
    assert case is not None
    assert (case.state, case.revision, case.rank, case.quality, case.findings) == (State.DONE, 2, (1, 2), ("thick",), {"lesion_count": 2})
    assert (case.received_at, case.model, case.primary) == (AT, {"name": "m"}, True)
    assert [line.event for line in case.history] == ["finish"]
    assert book.instance_paths(case.id) == ["instances/x/d.dcm"]
    assert [(row.kind, row.size) for row in book.outputs(case.id)] == [("segmentation", 9)]
    assert [one.state for one in book.deliveries(case.id)] == ["sent"]
    assert {one.patient_key for one in found} == {patient_key(SECRET, "P/1", "HOSPITAL")}, "patients are keyed anew"
    (noted,) = book.note_instances([instance(5, study="1.2.0", series="1.2.3.0")])
    assert noted.case_id == "-random_0"
    book.close()


def test_the_newest_revision_by_its_file_is_the_end_of_the_chain() -> None:
    assert ScriptDirectory.from_config(_configuration()).get_heads() == [newest_revision()]


@pytest.mark.parametrize("old", [False, True])
def test_several_processes_may_bring_a_book_up_at_once(database: str, old: bool) -> None:
    if old:
        make_first(database, cases=40)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            upgrade(database, SECRET)
            Book(database, secret=SECRET).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_patients_are_not_keyed_without_the_secret(database: str) -> None:
    make_first(database)
    with pytest.raises(Misconfigured, match="installation's secret"):
        upgrade(database)
    upgrade(database, SECRET)


def test_a_book_and_a_key_that_do_not_belong_together_are_refused_until_told_so(database: str) -> None:
    other = bytes(32)
    upgrade(database)
    book = Book(database, secret=SECRET)
    case_id = receive(book)
    book.close()
    with pytest.raises(Misconfigured, match="restore that file from the back-up"):
        Book(database, secret=other)
    upgrade(database, other)  # no reason yet to write anything anew
    with pytest.raises(Misconfigured, match="--new-keys"):
        Book(database, secret=other)
    upgrade(database, other, new_keys=True)
    book = Book(database, secret=other)
    found = book.case(case_id)
    assert found is not None
    assert found.patient_key == patient_key(other, "P/1", "HOSPITAL")
    book.close()


def test_ids_are_the_same_for_the_same_series_and_secret_only(database: str, tmp_path: Path) -> None:
    ids = []
    for name, secret in (("a", SECRET), ("b", SECRET), ("c", bytes(32))):
        url = f"sqlite:///{tmp_path}/{name}.sqlite"
        upgrade(url)
        book = Book(url, secret=secret)
        ids.append(receive(book))
        ids.append(receive(book, series="1.2.4"))
        book.close()
    assert ids[:2] == ids[2:4]
    assert len(set(ids)) == 4
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)
    assert not any("1.2.3" in one for one in ids)


def test_a_book_opened_for_reading_names_nobody(database: str) -> None:
    upgrade(database)
    book = Book(database)
    with pytest.raises(ValueError, match="opened without the installation's secret"):
        receive(book)
    book.close()


def test_one_secret_is_made_and_kept(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(read_secret(tmp_path / "data"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert [path.name for path in (tmp_path / "data").iterdir()] == [KEY_FILE]
    assert (tmp_path / "data" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert read_secret(tmp_path / "other") != found[0]


@pytest.mark.parametrize("content", ["", "x" * 64, "ab" * 31, "é"])
def test_a_damaged_secret_stops_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / KEY_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(Misconfigured, match=r"installation\.key: not 64 hexadecimal digits"):
        read_secret(tmp_path)
