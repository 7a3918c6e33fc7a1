"""The case book made anew from the files says what the old one said, as far as files can know."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from service.errors import Misconfigured, Rejected, Unavailable
from service.index import demand_stillness, run
from service.rebuild import Tally, rebuild
from service.records import Case, DeliveryState, Part, State, open_book, upgrade_book
from service.records.rebuilding import Rebuilding
from service.serve import only_one
from service.settings import Destination, Settings
from tests.service.casebook import FINDINGS
from tests.service.house import House
from tests.service.series import flair_series
from worker.encode import Output
from worker.keeping import find_files, keep_outputs, keep_record

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
FIELDS = (
    *("id", "patient_id", "patient_key", "study_uid", "series_uid", "series_description", "state", "reason", "revision", "instances"),
    *("model", "quality", "findings", "primary", "rule", "rank", "stages"),
)


class Clinic(House):
    """A house whose cases are worked on, and whose case book can be lost."""

    def work(self) -> None:
        """Do what was submitted, as a worker does, with results that only name what they were made from."""
        for case_id in dict.fromkeys(self.submitted):
            lease = self.book.claim(case_id, "w")
            if lease is None:
                continue
            files = find_files(self.book, self.store, case_id)
            data = f"revision {lease.revision} of {sorted(path.stem for path in files)}".encode()
            made = (
                Output("segmentation", "application/dicom", "s.dcm", data, "1.2.840.10008.5.1.4.1.1.66.4", f"2.25.{lease.revision}"),
                Output("report.json", "application/json", "r.json", data[::-1]),
            )
            rows = keep_outputs(self.store, lease, made)
            found: dict[str, Any] = {"findings": FINDINGS, "model": {"name": "m"}, "stages": {"convert": {"start": 1.0, "seconds": 2.0}}}
            rows.append(keep_record(self.book, self.store, lease, files, rows, quality=("after contrast",), **found))
            self.book.finish(lease, outputs=rows, quality=("after contrast",), **found)
        self.submitted.clear()

    def lose_book(self) -> None:
        """The database is gone; a new, empty one takes its place."""
        self.book.close()
        if self.settings.database_url is None:
            for path in self.store.root.glob("leukoscope.sqlite*"):
                path.unlink()
        self.restart()

    def restart(self) -> None:
        upgrade_book(self.settings)
        self.book = open_book(self.settings)
        self.intake = self.new_intake()

    def rebuild(self, **arguments: Any) -> Tally:
        return rebuild(self.book, self.store, **arguments)

    def done(self, datasets: list[Dataset]) -> Case:
        self.send(datasets)
        self.wait(40)
        self.work()
        case = self.case_of(datasets)
        assert case.state is State.DONE, case
        return case

    def case_of(self, datasets: list[Dataset]) -> Case:
        (found,) = self.book.find_cases(series_uid=datasets[0].SeriesInstanceUID).items
        case = self.book.case(found.id)
        assert case is not None
        return case

    def facts(self) -> dict[str, Any]:
        """What the book says that files can know."""
        return {
            case.id: (
                {name: getattr(case, name) for name in FIELDS},
                self.book.outputs(case.id),
                self.book.instance_paths(case.id),
                [row.header for row in sorted(self.book.headers(case.id), key=lambda row: row.sop_instance_uid)],
            )
            for case in self.book.find_cases(limit=500).items
        }


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic(tmp_path / "data", destinations=(PACS,), minimum_free_mb=0)
    yield made
    made.book.close()


@pytest.fixture
def clinic_on(tmp_path: Path, database: str) -> Iterator[Clinic]:
    """On each kind of database."""
    url = None if database.startswith("sqlite") else database
    made = Clinic(tmp_path / "data", destinations=(PACS,), minimum_free_mb=0, database_url=url)
    yield made
    made.book.close()


def empty(clinic: Clinic) -> None:
    if clinic.settings.database_url:
        with clinic.book._writing() as connection:
            connection.exec_driver_sql("TRUNCATE cases CASCADE")
    else:
        clinic.lose_book()


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


def test_damaged_files_are_told_left_alone_and_out(clinic: Clinic) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    paths = [clinic.store.path_of(path) for path in clinic.book.instance_paths(case.id)]
    truncated = paths[3].read_bytes()[:-100]
    paths[3].write_bytes(truncated)
    (paths[0].parent / "notes.dcm").write_bytes(b"not a scan")
    (clinic.store.root / "instances" / "stray.txt").write_bytes(b"nor this")
    moved = clinic.store.root / "instances" / "elsewhere" / paths[5].name
    moved.parent.mkdir()
    shutil.copy(paths[5], moved)
    clinic.lose_book()
    tally = clinic.rebuild()
    assert {Path(path).name: why for path, why in tally.damaged.items()} == {
        paths[3].name: "not what its name says",
        "notes.dcm": "not what its name says",
        moved.name: "in the folder of another series",
    }
    assert not tally.is_sound
    assert paths[3].read_bytes() == truncated
    again = clinic.case_of(series)
    assert (again.state, again.instances, again.revision) == (State.RECEIVING, 13, 2)
    clinic.send(sorted(series, key=lambda one: one.SOPInstanceUID)[3:4])
    assert paths[3].read_bytes() != truncated, "the sender's bytes take the place of the damaged ones"
    clinic.wait(31)
    clinic.work()
    assert (clinic.case_of(series).state, clinic.case_of(series).instances) == (State.DONE, 14)


def test_a_slice_that_came_after_the_results_makes_a_revision(clinic: Clinic) -> None:
    series = flair_series(15)
    first = clinic.done(series[:14])
    outputs = clinic.book.outputs(first.id)
    clinic.send(series[14:], close=None)
    clinic.lose_book()
    clinic.rebuild()
    case = clinic.case_of(series)
    assert (case.id, case.state, case.revision) == (first.id, State.RECEIVING, 2)
    assert clinic.book.outputs(case.id) == outputs, "the results of the last finished revision stay readable"
    clinic.wait(40)
    clinic.work()
    assert (clinic.case_of(series).state, clinic.case_of(series).revision) == (State.DONE, 2)


def test_the_newest_revision_counts_and_older_results_are_left(clinic: Clinic) -> None:
    series = flair_series(15)
    clinic.done(series[:14])
    second = clinic.done(series)
    before = clinic.facts()
    clinic.lose_book()
    tally = clinic.rebuild()
    assert (second.revision, clinic.facts()) == (2, before)
    assert tally.counts["orphans"] == 3


def test_results_that_are_damaged_are_made_again(clinic: Clinic) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    segmentation = next(row for row in clinic.book.outputs(case.id) if row.kind == "segmentation")
    clinic.store.path_of(segmentation.path).write_bytes(b"rot")
    clinic.lose_book()
    tally = clinic.rebuild()
    assert tally.damaged == {segmentation.path: "not what its name says"}
    assert clinic.case_of(series).state is State.RECEIVING


@pytest.mark.parametrize("keep_times", [True, False])
def test_the_version_that_was_segmented_is_in_the_series(clinic: Clinic, keep_times: bool) -> None:
    series = flair_series(14, PatientID="WRONG")
    case = clinic.done(series)
    for dataset in series:
        dataset.PatientID = "RIGHT"
    clinic.send(series)
    assert len(clinic.book.uncompared(case.id)) == 14
    with clinic.book._writing() as connection:  # as the comparison does: what came last takes the place
        for aside, verdict, condition in (("1", "'superseded'", "aside = 0"), ("0", "NULL", "verdict IS NULL AND aside = 1")):
            connection.exec_driver_sql(f"UPDATE instances SET aside = {aside}, verdict = {verdict} WHERE {condition}")
        connection.exec_driver_sql("UPDATE cases SET state = 'queued', revision = 2, patient_id = 'RIGHT'")
    clinic.submitted.append(case.id)
    clinic.work()
    expected = clinic.book.instance_paths(case.id)
    if not keep_times:
        for path in clinic.store.every_instance():
            os.utime(path, (1_000_000, 1_000_000))
    clinic.lose_book()
    clinic.rebuild()
    again = clinic.case_of(series)
    assert (again.state, again.revision, again.patient_id) == (State.DONE, 2, "RIGHT")
    assert clinic.book.instance_paths(case.id) == expected
    assert clinic.book.uncompared(case.id) == [], "what was compared before is not compared again"


def test_a_done_case_whose_results_are_gone_runs_again_as_the_same_revision(clinic: Clinic) -> None:
    series = flair_series(14)
    case = clinic.done(series)
    outputs = clinic.book.outputs(case.id)
    shutil.rmtree(clinic.store.root / "outputs" / case.id)
    tally = clinic.rebuild()
    assert tally.counts["again"] == 1
    clinic.wait(40)
    clinic.work()
    again = clinic.case_of(series)
    assert (again.state, again.revision, again.primary) == (State.DONE, 1, True)
    assert clinic.book.outputs(case.id) == outputs
    assert [one.state for one in clinic.book.deliveries(case.id)] == [DeliveryState.PENDING]


def test_files_older_than_the_book_are_told_case_by_case(clinic: Clinic) -> None:
    series, other = flair_series(14), flair_series(14)
    case, lost = clinic.done(series), clinic.done(other)
    for one in (case, lost):
        for path in clinic.book.instance_paths(one.id)[:3]:
            clinic.store.path_of(path).unlink()
    shutil.rmtree(clinic.store.root / "outputs" / lost.id)
    tally = clinic.rebuild()
    assert tally.missing == {case.id: 3, lost.id: 3}
    assert tally.lost == {lost.id}
    assert clinic.case_of(other).state is State.DONE, "it cannot be run, so it is left as it is"
    clinic.send(other)
    tally = clinic.rebuild()
    assert (tally.missing, tally.counts["again"]) == ({case.id: 3}, 1)


def test_a_restored_older_book_is_completed(clinic: Clinic, tmp_path: Path) -> None:
    early, both, late = flair_series(14), flair_series(16), flair_series(14)
    clinic.done(early)
    clinic.send(both[:9], close=None)
    backup = tmp_path / "backup.sqlite"
    with sqlite3.connect(clinic.store.root / "leukoscope.sqlite") as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    connection.close()
    clinic.send(both[9:], "a2")
    clinic.wait(31)
    clinic.work()
    clinic.done(late)
    before = clinic.facts()
    clinic.book.close()
    for path in clinic.store.root.glob("leukoscope.sqlite*"):
        path.unlink()
    shutil.copy(backup, clinic.store.root / "leukoscope.sqlite")
    clinic.restart()
    assert len(clinic.cases) == 2
    tally = clinic.rebuild()
    assert (tally.counts["new"], tally.counts["known"], tally.counts["restored"]) == (7 + 14, 14 + 9, 2)
    assert clinic.facts() == before


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
    clinic.lose_book()
    clinic.rebuild()
    assert clinic.facts() == before
    assert clinic.case_of(many).primary
    assert {one.case_id for one in clinic.book.due_deliveries()} == {clinic.case_of(many).id}


def test_a_moved_data_folder_finds_its_objects(clinic: Clinic, tmp_path: Path) -> None:
    case = clinic.done(flair_series(14))
    clinic.book.close()
    shutil.move(clinic.store.root, tmp_path / "elsewhere")
    moved = Clinic(tmp_path / "elsewhere", destinations=(PACS,))
    assert [path for path in find_files(moved.book, moved.store, case.id) if not path.is_relative_to(tmp_path / "elsewhere")] == []
    assert all(moved.store.open_output(row.path).read() for row in moved.book.outputs(case.id))
    assert moved.rebuild().is_sound
    moved.book.close()


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
    part = Part("listener:host:1:ab", "listener", now, now, {"host": "radiology-1", "pid": 7})
    clinic.book.beat([part], {})
    with pytest.raises(Rejected, match=r"still running: listener on radiology-1 \(process 7\); stop every part first"):
        run(settings)
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


def test_a_folder_without_instances_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="set LEUKOSCOPE_DATA_DIR"):
        run(Settings(data_dir=tmp_path / "wrong"))
    assert not (tmp_path / "wrong").exists()
