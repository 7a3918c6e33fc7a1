"""Files that are damaged, older or newer than the book, or elsewhere: each is told, and nothing is made up."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from service.commands.index import run
from service.errors import Rejected
from service.records import DeliveryState, State
from service.settings import Settings
from tests.service.rebuild.conftest import PACS, Clinic
from tests.service.series import flair_series
from worker.keeping import find_files


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


def test_a_moved_data_folder_finds_its_objects(clinic: Clinic, tmp_path: Path) -> None:
    case = clinic.done(flair_series(14))
    clinic.book.close()
    shutil.move(clinic.store.root, tmp_path / "elsewhere")
    moved = Clinic(tmp_path / "elsewhere", destinations=(PACS,))
    assert [path for path in find_files(moved.book, moved.store, case.id) if not path.is_relative_to(tmp_path / "elsewhere")] == []
    assert all(moved.store.open_output(row.path).read() for row in moved.book.outputs(case.id))
    assert moved.rebuild().is_sound
    moved.book.close()


def test_a_folder_without_instances_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="set LEUKOSCOPE_DATA_DIR"):
        run(Settings(data_dir=tmp_path / "wrong"))
    assert not (tmp_path / "wrong").exists()
