"""The case book made anew from the files says what the old one said, as far as files can know."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from service.commands.index import demand_stillness, run
from service.errors import Misconfigured, Rejected, Unavailable
from service.records import DeliveryState, Part, State, VerdictKind, VerdictRefused
from service.records.rebuilding import Rebuilding
from service.serve import only_one
from service.verdicts import judge
from tests.service.key_objects import key_objects
from tests.service.rebuild.conftest import Clinic, empty
from tests.service.series import flair_series


def test_a_lost_case_book_comes_back_from_the_files(clinic_on: Clinic) -> None:
    clinic = clinic_on
    for patient in ("P/1", "P2"):
        clinic.done(flair_series(14, PatientID=patient))
    before = clinic.facts()
    empty(clinic)
    assert clinic.facts() == {}
    tally = clinic.rebuild()
    assert (tally.counts["series"], tally.counts["new"], tally.counts["restored"], tally.counts["orphans"]) == (2, 28, 2, 0)
    assert tally.is_sound
    assert clinic.facts() == before
    (case, *_) = clinic.book.find_cases().items
    assert [line.reason for line in clinic.book.case(case.id).history] == [None, "index rebuilt from the files"]  # type: ignore[union-attr]
    assert clinic.book.due() == [], "nothing runs again"
    assert len(clinic.book.due_deliveries()) == 2, "what was not delivered must not be lost"


def test_repeated_it_changes_nothing(clinic_on: Clinic) -> None:
    clinic = clinic_on
    clinic.done(flair_series(14))
    clinic.send(flair_series(13), close=None)
    before = clinic.facts()
    tally = clinic.rebuild()
    assert (tally.counts["new"], tally.counts["known"], tally.counts["restored"]) == (0, 27, 0)
    assert clinic.facts() == before
    empty(clinic)
    clinic.rebuild()
    first = clinic.facts()
    clinic.rebuild()
    assert clinic.facts() == first


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [1, 15, 28])
def test_interrupted_and_begun_again_it_gives_the_same(clinic: Clinic, after: int) -> None:
    clinic.done(flair_series(14))
    clinic.done(flair_series(14))
    before = clinic.facts()
    clinic.lose_book()
    left = after

    def stop() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Interrupted

    with pytest.raises(Interrupted):
        clinic.rebuild(step=stop)
    clinic.rebuild()
    assert clinic.facts() == before


def test_what_was_not_finished_is_judged_again_and_runs(clinic: Clinic) -> None:
    waiting, refused, gap = flair_series(14), flair_series(14, SeriesDescription="T1 MPRAGE", EchoTime="3"), flair_series(14)
    for series in (waiting, refused, gap[:6] + gap[7:]):
        clinic.send(series)
    clinic.wait(31)
    states = [clinic.case_of(series).state for series in (waiting, refused, gap)]
    assert states == [State.QUEUED, State.REJECTED, State.HELD]
    reasons = [clinic.case_of(series).reason for series in (refused, gap)]
    clinic.lose_book()
    clinic.rebuild()
    assert {case.state for case in clinic.cases} == {State.RECEIVING}
    clinic.wait(40)
    assert [clinic.case_of(series).state for series in (waiting, refused, gap)] == states
    assert [clinic.case_of(series).reason for series in (refused, gap)] == reasons
    clinic.work()
    assert clinic.case_of(waiting).state is State.DONE


def test_what_was_delivered_can_be_said_so(clinic: Clinic) -> None:
    case = clinic.done(flair_series(14))
    clinic.lose_book()
    clinic.rebuild(delivered=True)
    assert [one.state for one in clinic.book.deliveries(case.id)] == [DeliveryState.SENT]
    assert clinic.book.due_deliveries() == []


def test_the_best_series_of_a_study_is_its_result_again(clinic: Clinic) -> None:
    few = flair_series(14)
    many = flair_series(20, study_uid=few[0].StudyInstanceUID)
    clinic.done(few)
    clinic.done(many)
    before = clinic.facts()
    assert [clinic.case_of(series).series_shift for series in (few, many)] == [0, 10]
    clinic.lose_book()
    clinic.rebuild()
    assert clinic.facts() == before
    assert clinic.case_of(many).primary
    assert {one.case_id for one in clinic.book.due_deliveries()} == {clinic.case_of(many).id}


def test_a_database_that_goes_away_stops_it_and_nothing_is_half_done(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.done(flair_series(14))
    before = clinic.facts()
    clinic.lose_book()

    def away(*_: object, **__: object) -> int:
        raise Unavailable("the database: gone")

    monkeypatch.setattr(Rebuilding, "restore_results", away)
    with pytest.raises(Unavailable):
        clinic.rebuild()
    monkeypatch.undo()
    clinic.rebuild()
    assert clinic.facts() == before


def test_it_refuses_while_a_part_is_alive(clinic: Clinic) -> None:
    clinic.done(flair_series(14))
    settings = clinic.settings
    now = datetime.now(UTC)
    seen_at = now - timedelta(seconds=12)
    part = Part("listener:host:1:ab", "listener", now, seen_at, {"host": "radiology-1", "pid": 7})
    clinic.book.beat([part], {})
    with pytest.raises(Rejected, match=r"still running: listener on radiology-1 \(process 7\); stop every part first") as refused:
        run(settings)
    (seconds,) = map(int, re.findall(r"database was copied here, is forgotten in (\d+) s$", refused.value.reason))
    assert 0 < seconds <= 18
    clinic.book.leave([part.name], {})
    with only_one(settings.data_dir), pytest.raises(Misconfigured, match="already runs on the data folder"):
        run(settings)
    for dead in ({"host": "radiology-1", "seen_at": now - timedelta(seconds=31)}, {"host": socket.gethostname(), "seen_at": now}):
        child = subprocess.Popen(["true"])
        child.wait()
        clinic.book.beat([Part(part.name, "listener", now, dead.pop("seen_at"), {**dead, "pid": child.pid})], {})
        demand_stillness(clinic.book)
    clinic.book.beat([Part(part.name, "listener", now, now, {"host": socket.gethostname(), "pid": os.getpid()})], {})
    with pytest.raises(Rejected, match=f"process {os.getpid()}"):
        demand_stillness(clinic.book)


def test_the_command_says_what_it_found(clinic: Clinic, capsys: pytest.CaptureFixture[str]) -> None:
    case = clinic.done(flair_series(14))
    clinic.lose_book()
    assert run(clinic.settings)
    said = " ".join(capsys.readouterr().out.split())
    assert "instances indexed 14" in said
    assert "cases done, with their results 1" in said
    assert "Not in the files" in said
    clinic.store.path_of(clinic.book.instance_paths(case.id)[0]).unlink()
    (clinic.store.root / "installation.key").chmod(0o600)
    assert not run(clinic.settings)
    assert f"case {case.id}: 1 files missing; send the series again, then retry the case if it failed" in capsys.readouterr().out


def test_what_readers_said_comes_back_and_what_was_rejected_is_not_sent(clinic_on: Clinic) -> None:
    clinic = clinic_on
    corrected, rejected = clinic.done(flair_series(14)), clinic.done(flair_series(14, PatientID="P2"))
    clinic.intake.corrections.take(corrected.id, b"a mask", "A", "a vessel")
    (pending,) = clinic.book.pending_corrections(corrected.id)
    assert clinic.book.take_correction(pending)
    clinic.submitted.append(corrected.id)
    clinic.work(corrected=True)
    judge(clinic.book, clinic.store, rejected.id, VerdictKind.ACCEPT, "A", "", None)
    for _ in range(2):
        judge(clinic.book, clinic.store, rejected.id, VerdictKind.REJECT, "B", "motion", 1)
    with pytest.raises(VerdictRefused):
        judge(clinic.book, clinic.store, rejected.id, VerdictKind.ACCEPT, "A", "", 1)
    before = [_said(clinic, case.id) for case in (corrected, rejected)]
    standing = clinic.book.correction_of(corrected.id)
    one_moment = max(path.stat().st_mtime for path in clinic.store.every_output("verdict"))
    for path in clinic.store.every_output("verdict"):
        os.utime(path, (one_moment, one_moment))
    empty(clinic)
    tally = clinic.rebuild()
    assert (tally.counts["verdicts"], tally.is_sound) == (2, True)
    assert tally.counts["orphans"] == 3, "results and record of the revision that was corrected"
    assert [_said(clinic, case.id) for case in (corrected, rejected)] == before
    found = clinic.book.correction_of(corrected.id)
    assert found is not None
    assert standing is not None
    assert (found.path, found.digest, found.seen, found.at) == (standing.path, standing.digest, standing.seen, standing.at)
    assert {one.case_id for one in clinic.book.due_deliveries()} == {corrected.id}
    assert clinic.rebuild().counts["verdicts"] == 0


def _said(clinic: Clinic, case_id: str) -> list[tuple[object, ...]]:
    return [(one.kind, one.reader, one.comment, one.revision, one.made, one.path) for one in clinic.book.verdicts_of([case_id])[case_id]]


def test_what_rejection_notes_took_stays_out_of_a_book_made_anew(clinic: Clinic) -> None:
    whole, some = flair_series(20), flair_series(20)
    clinic.done(whole)
    clinic.done(some)
    clinic.send([key_objects(whole)], association="n1")
    clinic.send([key_objects(some[-1:])], association="n2")
    clinic.wait(40)
    clinic.work()
    before = {uid: clinic.book.instance_paths(clinic.case_of(one).id) for uid, one in (("whole", whole), ("some", some))}
    assert [len(paths) for paths in before.values()] == [0, 19]
    clinic.lose_book()
    assert clinic.rebuild().is_sound
    clinic.wait(40)
    clinic.work()
    assert clinic.case_of(whole).state is State.REJECTED
    assert clinic.book.due_deliveries(case_id=clinic.case_of(whole).id) == []
    assert (clinic.case_of(some).state, clinic.case_of(some).instances) == (State.DONE, 19)
    assert {uid: clinic.book.instance_paths(clinic.case_of(one).id) for uid, one in (("whole", whole), ("some", some))} == before


def test_the_choice_by_the_earlier_visit_comes_back_and_nothing_is_sent_for_it(clinic: Clinic) -> None:
    """The later study's UID sorts first; its series that is not like the visit before would be chosen without that."""
    clinic.done(flair_series(14, study_uid="1.3", StudyDate="20240101"))
    for changes in ({"MRAcquisitionType": "3D", "SliceThickness": "1"}, {}):
        clinic.done(flair_series(14, study_uid="1.2", StudyDate="20240601", **changes))
    before = clinic.facts()
    assert sum(case["primary"] for case, *_ in before.values()) == 2
    clinic.lose_book()
    clinic.rebuild(delivered=True)
    assert clinic.facts() == before
    assert clinic.book.due_deliveries() == []
