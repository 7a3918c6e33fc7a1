"""What `leukoscope cases` and `leukoscope case` show: whole ids, this revision's deliveries, what readers said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.__main__ import APP
from service.errors import Rejected
from service.records import Book, VerdictKind
from tests.service.casebook import instance, queue, run


@pytest.fixture
def leukoscope(sqlite_book: Book, tmp_path: Path) -> Callable[..., Any]:
    def call(*arguments: str, columns: int = 200) -> Any:
        environ = {"LEUKOSCOPE_DATABASE_URL": f"sqlite:///{tmp_path}/sqlite-book.sqlite", "LEUKOSCOPE_DATA_DIR": str(tmp_path)}
        return CliRunner().invoke(APP, arguments, env=environ | {"COLUMNS": str(columns)})

    return call


def finished(book: Book, **fields: Any) -> str:
    case_id = queue(book, **fields)
    run(book, case_id)
    return case_id


def line_of(shown: str, words: str) -> str:
    (line,) = [line for line in shown.splitlines() if words in line]
    return line.rstrip()


@pytest.mark.parametrize("columns", [40, 80])
def test_an_id_is_never_cut_however_narrow_the_terminal(sqlite_book: Book, leukoscope: Callable[..., Any], columns: int) -> None:
    case_id = finished(sqlite_book, series_description="a description that is long " * 4)
    assert case_id in leukoscope("cases", columns=columns).stdout


def test_the_beginning_of_an_id_is_enough_where_it_is_of_one_case(
    sqlite_book: Book, leukoscope: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        monkeypatch.setattr("service.records.noting.name_case", lambda *_, number=number: f"abcdef{number}".ljust(32, "0"))
        finished(sqlite_book, series=f"1.2.{number}")
    assert "abcdef1".ljust(32, "0") in leukoscope("case", "abcdef1").stdout
    assert leukoscope("resend", "abcdef2").stdout.startswith("0 given-up")
    for command in ("case", "resend"):
        for typed, why in (
            ("abcdef", "abcdef begins the ids of several cases"),
            ("abcde", "no case abcde"),
            ("abcdef_", "no case abcdef_"),
        ):
            refused = leukoscope(command, typed).exception
            assert isinstance(refused, Rejected)
            assert str(refused).startswith(why)


def test_deliveries_are_those_of_the_results_beside_them(sqlite_book: Book, leukoscope: Callable[..., Any]) -> None:
    case_id = finished(sqlite_book)
    for one in sqlite_book.due_deliveries():
        sqlite_book.delivered(one.id)
    assert line_of(leukoscope("case", case_id).stdout, "segmentation").endswith("pacs: sent")
    sqlite_book.note_instances([instance(4)])
    assert sqlite_book.queue_case(case_id, "flair", (), rank=(1,))
    run(sqlite_book, case_id)
    assert line_of(leukoscope("case", case_id).stdout, "segmentation").endswith("  pacs: pending")


def test_what_a_reader_said_is_in_the_list_and_before_everything_else(sqlite_book: Book, leukoscope: Callable[..., Any]) -> None:
    case_id = finished(sqlite_book)
    said = "rejected by dr [red]who: motion, not [bold]lesions"
    assert "dr" not in leukoscope("cases").stdout
    sqlite_book.judge(case_id, VerdictKind.REJECT, "dr [red]who", "motion, not [bold]lesions")
    assert line_of(leukoscope("cases").stdout, case_id).endswith(said)
    shown = leukoscope("case", case_id).stdout
    assert said in line_of(shown[: shown.index("outputs")], "verdict")
    assert "motion, not [bold]lesions" in shown[shown.index("readers") :]
    sqlite_book.note_instances([instance(4)])
    assert line_of(leukoscope("cases").stdout, case_id).endswith(f"{said} (revision 1)"), "not of what is there now"
