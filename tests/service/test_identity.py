"""A patient's identity corrected by hand: checked, kept, issued anew, and told to nobody who need not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from service.__main__ import APP
from service.identity import BadIdentity, check_identity, correct_identity, current_identity
from service.records import Actor, Book, Case, Judged, State, Verdict, patient_key, utc_now
from service.store import Store
from tests.service.casebook import SECRET, instance, queue, receive, run
from tests.service.house import QUIET_S, House
from tests.service.key_objects import key_objects
from tests.service.series import flair_series

BEFORE = {"PatientID": "P1", "IssuerOfPatientID": "", "PatientName": "Test^Ünï", "PatientBirthDate": "", "PatientSex": ""}
RIGHT = {"PatientID": "RIGHT 7", "PatientName": "Zhāng^Wěi", "PatientBirthDate": "19610203"}
COMMAND = ("--patient-id", "RIGHT 7", "--name", "Zhāng^Wěi", "--birth-date", "19610203")
WHO = ("--by", "dr who", "--reason", "worklist mix-up")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "1961-02-03"),
        ("PatientBirthDate", "19610231"),
        ("PatientBirthDate", "1961٠٢٠٣"),
        ("PatientSex", "male"),
        ("PatientID", "x" * 65),
        ("PatientID", " "),
        ("PatientID", "A\\B"),
        ("IssuerOfPatientID", "A\nB"),
        ("PatientName", "x" * 65),
        ("PatientName", "a^b^c^d^e^f"),
        ("PatientName", "a=b=c=d"),
    ],
)
def test_what_the_attribute_cannot_hold_is_one_clear_error_without_the_value(keyword: str, value: str) -> None:
    with pytest.raises(BadIdentity) as refused:
        check_identity({"PatientID": "P", keyword: value})
    assert str(refused.value).startswith(f"{keyword}: ")
    assert "\n" not in str(refused.value)
    assert len(value.strip()) < 4 or value.strip() not in str(refused.value)


def test_names_of_every_script_and_blanks_are_taken() -> None:
    given = {"PatientID": "7/8 ", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "PatientBirthDate": "", "PatientSex": "O"}
    assert check_identity(given) == given | {"PatientID": "7/8"}


def case_of(book: Book, case_id: str) -> Case:
    found = book.case(case_id)
    assert found is not None
    return found


def test_a_correction_is_kept_and_makes_one_revision_of_the_right_patient(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    after = BEFORE | RIGHT
    book.correct_identity(case_id, BEFORE, after, by="dr who", reason="mix-up")
    case = case_of(book, case_id)
    assert (case.state, case.revision, case.patient_id, case.patient_key) == (
        State.RECEIVING,
        2,
        "RIGHT 7",
        patient_key(SECRET, "RIGHT 7", "", case.study_uid),
    )
    assert case.history[-1].reason == "identity corrected by hand"
    assert book.corrected_identity(case_id) == after
    ((_, by, reason, was, is_now),) = book.identity_corrections(case_id)
    assert (by, reason, was, is_now) == ("dr who", "mix-up", BEFORE, after)
    again = after | {"PatientSex": "F"}
    book.correct_identity(case_id, after, again, by="dr who", reason="sex")
    assert book.corrected_identity(case_id) == again
    assert case_of(book, case_id).revision == 2, "nothing was submitted since"
    assert len(book.identity_corrections(case_id)) == 2


def test_what_the_sender_corrects_later_takes_the_place_of_what_was_said_by_hand(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    book.correct_identity(case_id, BEFORE, BEFORE | RIGHT, by="b", reason="r")
    header = {"patient_id": "SENT", "patient_id_issuer": "", "series_description": "FLAIR"}
    later = {"header": header, "received_at": utc_now()}
    book.note_instances([instance(number, digest=f"{number + 9:064x}", **later) for number in (1, 2, 3)])
    book.judge_resends(case_id, [Judged(one, Verdict.CORRECTED, ("PatientID",)) for one in book.uncompared(case_id)])
    assert case_of(book, case_id).patient_id == "SENT"
    assert book.corrected_identity(case_id) == {}
    assert len(book.identity_corrections(case_id)) == 1


def test_what_comes_after_a_withdrawal_says_itself_whose_it_is(book: Book) -> None:
    case_id = queue(book)
    run(book, case_id)
    book.correct_identity(case_id, BEFORE, BEFORE | RIGHT, by="b", reason="r")
    book.reject_instances("1.9.9", "113038", "Incorrect Modality Worklist Entry", [("1.2", "1.2.3", f"1.2.3.{one}") for one in (1, 2, 3)])
    assert book.corrected_identity(case_id) != {}
    book.note_instances([instance(number, patient_id="SENT RIGHT") for number in (11, 12)])
    assert (case_of(book, case_id).patient_id, book.corrected_identity(case_id)) == ("SENT RIGHT", {})
    assert len(book.identity_corrections(case_id)) == 1


def test_a_refused_series_stays_refused(book: Book) -> None:
    case_id = receive(book)
    book.refuse(case_id, "a localizer", "localizer")
    book.correct_identity(case_id, BEFORE, BEFORE | RIGHT, by="b", reason="r")
    assert (case_of(book, case_id).state, case_of(book, case_id).patient_id) == (State.REJECTED, "RIGHT 7")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    yield made
    made.book.close()


@pytest.fixture
def leukoscope(tmp_path: Path) -> Callable[..., Any]:
    environ = {"LEUKOSCOPE_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200"}
    return lambda *arguments: CliRunner().invoke(APP, arguments, env=environ)


def test_the_command_corrects_every_series_of_a_study(house: House, leukoscope: Callable[..., Any]) -> None:
    series = flair_series(14)
    house.send(series)
    house.send(flair_series(14, study_uid=series[0].StudyInstanceUID), association="a2")
    told = leukoscope("identity", series[0].StudyInstanceUID, *COMMAND, *WHO)
    assert told.exit_code == 0, told.output
    assert sorted(line.partition(":")[0] for line in told.stdout.splitlines()) == sorted(case.id for case in house.cases)
    assert {(case.patient_id, case.revision, case.state) for case in house.cases} == {("RIGHT 7", 2, State.RECEIVING)}
    one = house.cases[0]
    assert house.book.identity_corrections(one.id)[0][3:] == (BEFORE, BEFORE | RIGHT)
    house.wait(QUIET_S + 10)
    assert {case.state for case in house.cases} == {State.QUEUED}, "the sweep saw to it"
    said = [(entry.event, entry.what, entry.actor_kind) for entry in house.book.audit_trail(case_id=one.id).items]
    assert said[0] == ("Patient Record", "identity corrected by dr who: worklist mix-up", "command")
    for case_id in (one.id, one.id[:8]):
        assert isinstance(leukoscope("identity", case_id, *COMMAND, *WHO).exception, BadIdentity), "that is it already"


def test_the_command_case_shows_what_was_corrected_by_whom_and_why(house: House, leukoscope: Callable[..., Any]) -> None:
    house.send(flair_series(14))
    assert "identity corrected" not in leukoscope("case", house.case.id).stdout
    values = RIGHT | {"PatientName": "Zhāng^[bold]Wěi", "IssuerOfPatientID": ""}
    correct_identity(house.book, house.store, house.cases, values, "dr [red]who", "mix-up", Actor("command", "root"))
    told = leukoscope("case", house.case.id).stdout
    shown = told[told.index("identity corrected by hand") : told.index("history")]
    for words in ("dr [red]who", "mix-up", "PatientID", "P1", "RIGHT 7", "Test^Ünï", "Zhāng^[bold]Wěi", "PatientBirthDate", "19610203"):
        assert words in shown
    assert "PatientSex" not in shown, "it stayed as it was"
    assert "IssuerOfPatientID" not in shown


@pytest.mark.parametrize("reason", ["it is zhāng, not she", "RIGHT 7", "Ünï was wrong", ""])
def test_the_trail_is_not_told_who_the_patient_is(house: House, reason: str) -> None:
    house.send(flair_series(14))
    with pytest.raises(BadIdentity):
        correct_identity(house.book, house.store, house.cases, RIGHT, "dr who", reason, Actor("command", "root"))
    assert house.case.patient_id == "P1"


def test_nothing_is_corrected_before_anything_has_come_and_the_withdrawn_is_passed_over(house: House) -> None:
    who = ("dr who", "mix-up", Actor("command", "root"))
    awaited = house.book.ask_fetch("1.2", "1.2.3", "pacs")
    with pytest.raises(BadIdentity, match="nothing of the series is there yet"):
        correct_identity(house.book, house.store, house.cases, RIGHT, *who)
    assert house.book.corrected_identity(awaited) == {}
    stays, goes = flair_series(14), flair_series(14)
    (kept, *_), (withdrawn, *_) = house.send(stays), house.send(goes, association="a2")
    house.send([key_objects(goes)], association="a3")
    cases = [case_of(house.book, receipt.case_id) for receipt in (withdrawn, kept)]
    assert cases[0].state is State.REJECTED
    assert correct_identity(house.book, house.store, cases, RIGHT, *who) == [kept.case_id]
    assert house.book.corrected_identity(withdrawn.case_id) == {}


def test_an_identity_is_what_the_files_say_until_somebody_says_otherwise(house: House) -> None:
    series = flair_series(14, PatientBirthDate="19500101", PatientSex="M")
    house.send(series)
    assert current_identity(house.book, Store(house.settings.data_dir), house.case) == BEFORE | {
        "PatientBirthDate": "19500101",
        "PatientSex": "M",
    }
    (path, *_) = house.book.instance_paths(house.case.id)
    assert dcmread(house.store.path_of(path)).PatientID == "P1"
