"""The files of identities corrected by hand: one for each that was confirmed, also of a version before; and whom the results name."""

from __future__ import annotations

import os

import pytest
from sqlalchemy import update

from service import identity_file, serve
from service.commands.administer import migrate
from service.errors import Unavailable
from service.identity_file import UNCONFIRMED, file_identities
from service.records import AuditEvent, Book, DeliveryState, State
from service.records.schema import identities
from service.whose_results import WHY
from tests.service.rebuild.conftest import Clinic, empty
from tests.service.rebuild.correcting import correct, files, run_again, whose
from tests.service.series import flair_series


def forget_files(clinic: Clinic) -> None:
    """As a version before there were such files left it: they and what the record says of them are not there."""
    for path in files(clinic):
        path.unlink()
    with clinic.book._writing() as connection:
        connection.execute(update(identities).values(path=None))


def before_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Book, "told_identities", lambda *_: {})


def test_one_said_before_there_were_files_gets_its_own_and_outlives_the_case_book(
    clinic_on: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic, series, other = clinic_on, flair_series(14), flair_series(14)
    with monkeypatch.context() as old:
        before_files(old)
        correct(clinic, clinic.done(series), PatientID="FIRST")
        correct(clinic, clinic.case_of(series))
        run_again(clinic)
        clinic.send(other[:9], association="a2")
        correct(clinic, clinic.case_of(other), PatientID="OTHER")
    forget_files(clinic)
    facts, said = clinic.facts(), clinic.book.identity_corrections(clinic.case_of(series).id)
    file_identities(clinic.book, clinic.store)
    known = {path.name: path.read_bytes() for path in files(clinic)}
    assert len(known) == 3
    file_identities(clinic.book, clinic.store)
    assert {path.name: path.read_bytes() for path in files(clinic)} == known, "once"
    empty(clinic)
    tally = clinic.rebuild()
    assert (tally.counts["identities"], tally.is_sound) == (3, True)
    case = clinic.case_of(series)
    assert {case.id: clinic.facts()[case.id]} == {case.id: facts[case.id]}, "and does not run again"
    assert clinic.book.identity_corrections(case.id) == said
    assert whose(clinic, other)[0] == "OTHER"


def test_migrate_and_the_first_start_write_the_files(clinic: Clinic) -> None:
    correct(clinic, clinic.done(flair_series(14)))
    for start in (lambda: migrate(clinic.settings, new_keys=False), lambda: serve._file_identities(clinic.book, clinic.store)):
        forget_files(clinic)
        start()
        assert len(files(clinic)) == 1


@pytest.mark.parametrize("step", ["file_identity", "_confirm"])
def test_a_kill_while_the_files_are_written_leaves_one_each_after_the_next_start(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    correct(clinic, clinic.done(flair_series(14)))
    run_again(clinic)
    forget_files(clinic)
    with monkeypatch.context() as killed:
        killed.setattr(Book if step == "file_identity" else identity_file, step, kill)
        with pytest.raises(KeyboardInterrupt):
            file_identities(clinic.book, clinic.store)
    assert files(clinic) == []
    file_identities(clinic.book, clinic.store)
    assert len(files(clinic)) == 1
    assert list(clinic.store.every_output(UNCONFIRMED)) == []


def kill(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_results_that_name_another_patient_are_told_and_not_sent(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The correction that they were made with is lost: by the headers they are another's."""
    series, others = flair_series(14), flair_series(14)
    before_files(monkeypatch)
    case = clinic.done(series)
    correct(clinic, case)
    run_again(clinic)
    sound = clinic.done(others)
    for path in files(clinic):
        path.unlink()
    clinic.lose_book()
    tally = clinic.rebuild()
    assert (clinic.case_of(series).state, clinic.case_of(series).patient_id) == (State.DONE, "P1")
    assert (tally.of_others, tally.is_sound) == ({case.id}, False)
    assert {one.case_id for one in clinic.book.due_deliveries()} == {sound.id}
    assert {(one.state, one.last_error) for one in clinic.book.deliveries(case.id)} == {(DeliveryState.DEAD, WHY)}
    assert clinic.rebuild().of_others == {case.id}
    correct(clinic, case)
    run_again(clinic)
    assert clinic.rebuild().of_others == set()


@pytest.mark.parametrize("refused", [True, False])
def test_one_that_was_not_answered_is_not_said_again(clinic: Clinic, monkeypatch: pytest.MonkeyPatch, refused: bool) -> None:
    """503, or killed before the row was there."""
    series = flair_series(14)
    case = clinic.done(series)
    with monkeypatch.context() as broken:
        if refused:
            broken.setattr(Book, "correct_identity", away)
        else:
            broken.setattr(Book, "correct_identity", kill)
            broken.setattr(clinic.store, "remove", kill)
        with pytest.raises(Unavailable if refused else KeyboardInterrupt):
            correct(clinic, case)
    left = {clinic.store.relative(path) for path in clinic.store.every_output(UNCONFIRMED)}
    assert len(left) == (0 if refused else 1)
    clinic.lose_book()
    tally = clinic.rebuild()
    assert (clinic.case_of(series).patient_id, clinic.case_of(series).state, tally.counts["identities"]) == ("P1", State.DONE, 0)
    assert tally.damaged.keys() == left
    assert tally.is_sound is refused


def away(*_: object, **__: object) -> None:
    raise Unavailable("the database: gone")


def test_a_file_whose_name_could_not_be_given_at_once_gets_it_at_the_next_start(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = clinic.done(flair_series(14))
    with monkeypatch.context() as full:
        full.setattr(clinic.store, "rename_output", away)
        correct(clinic, case)
    assert "is not confirmed" in caplog.text
    assert files(clinic) == []
    file_identities(clinic.book, clinic.store)
    (path,) = files(clinic)
    assert path.name.rpartition("-")[2] in clinic.book.told_identities(case.id)


def test_each_that_is_said_again_is_told_to_the_audit_trail(clinic: Clinic) -> None:
    case = clinic.done(flair_series(14))
    correct(clinic, case)
    clinic.lose_book()
    clinic.rebuild()
    clinic.book.write_audit()
    told = [one.what for one in clinic.book.audit_trail(case_id=case.id, event=AuditEvent.PATIENT_RECORD).items]
    assert "identity corrected by dr who, said again by index rebuild: mix-up" in told


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_one_that_root_wrote_can_be_read_by_the_owner_of_the_data_folder(clinic: Clinic) -> None:
    case = clinic.done(flair_series(14))
    os.chown(clinic.store.root, 12345, 12345)
    correct(clinic, case)
    (path,) = files(clinic)
    assert [(one.stat().st_uid, one.stat().st_gid) for one in (path, path.parent)] == [(12345, 12345)] * 2
