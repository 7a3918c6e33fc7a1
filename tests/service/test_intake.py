"""When a series runs, waits, is held or refused, told over the intake with a real store, a real case book and a clock of our own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, RawDataStorage, generate_uid

from service.intake.handover import Source
from service.records import InvalidTransition, State
from tests.service.house import House, files_of
from tests.service.series import flair_series, part10


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.book.close()


def test_a_complete_series_is_queued_and_submitted_at_the_release(house: House) -> None:
    house.send(flair_series())
    assert house.case.state is State.QUEUED
    assert house.case.rule == "flair-by-name"
    assert house.submitted == [house.case.id]


def test_bytes_are_kept_as_they_came(house: House) -> None:
    (dataset, *_) = flair_series(1)
    encoded = part10(dataset)
    house.intake.receive(encoded, Source("a1", "SCANNER"))
    (path,) = files_of(house.store, dataset.SeriesInstanceUID)
    group_2 = 132 + 12 + int.from_bytes(encoded[140:144], "little")
    stored = path.read_bytes()
    assert stored.endswith(encoded[group_2:])
    assert stored[128:132] == b"DICM"


def test_ten_pushes_in_any_order_with_duplicates_are_one_case_of_one_revision(house: House) -> None:
    series = flair_series()
    for push in range(10):
        shuffled = series + series[:5]
        random.Random(push).shuffle(shuffled)
        house.send(shuffled, f"a{push}")
        house.wait(1)
    assert house.case.revision == 1
    assert house.case.instances == len(series)
    assert house.submitted == [house.case.id]


def test_an_abort_makes_it_wait_for_the_quiet_time(house: House) -> None:
    house.send(flair_series(), close=False)
    assert house.case.state is State.RECEIVING
    house.wait(29)
    assert house.case.state is State.RECEIVING
    house.wait(2)
    assert house.case.state is State.QUEUED
    assert house.submitted == [house.case.id]


def test_half_a_series_after_an_abort_is_gap_free_and_the_rest_comes_in_time(house: House) -> None:
    series = flair_series(40)
    house.send(series[:20], "a1", close=False)
    house.wait(10)
    house.send(series[20:], "a2")
    assert house.case.state is State.QUEUED
    assert house.case.instances == 40
    assert house.case.revision == 1


def test_a_gap_is_held_with_its_place_and_the_late_slice_sets_it_free(house: House) -> None:
    series = flair_series(20)
    late = series.pop(7)
    house.send(series)
    assert house.case.state is State.RECEIVING
    house.wait(31)
    assert house.case.state is State.HELD
    assert house.case.reason == "gap after slice 7: 6.0 mm, expected 3.0 mm"
    house.send([late], "a2")
    assert house.case.state is State.RECEIVING
    house.wait(6)
    assert house.case.state is State.QUEUED
    assert house.case.revision == 1


def test_a_slice_that_arrives_after_the_start_makes_one_new_revision(house: House) -> None:
    series = flair_series(21)
    house.send(series[:20], "a1")
    house.send(series[20:], "a2")
    house.wait(31)
    assert house.case.revision == 2
    assert house.case.state is State.QUEUED
    assert house.submitted == [house.case.id] * 2


def test_an_open_association_that_sent_to_the_series_makes_a_release_wait(house: House) -> None:
    series = flair_series(40)
    house.send(series[20:22], "a2", close=None)
    house.send(series[:20], "a1")
    assert house.case.state is State.RECEIVING
    house.send(series[22:], "a2")
    assert house.case.state is State.QUEUED
    assert house.case.instances == 40


def test_interleaved_series_over_one_association_both_run(house: House) -> None:
    study_uid = generate_uid()
    first, second = flair_series(15, study_uid=study_uid), flair_series(15, study_uid=study_uid)
    house.send([dataset for pair in zip(first, second, strict=True) for dataset in pair])
    assert {case.state for case in house.cases} == {State.QUEUED}
    assert len(house.submitted) == 2


def test_one_association_per_instance_starts_once_and_not_before_the_last(house: House) -> None:
    for n, dataset in enumerate(flair_series(20)):
        house.send([dataset], f"a{n}")
        house.wait(0.5)
    house.wait(6)
    assert house.case.state is State.QUEUED
    assert house.case.revision == 1
    assert house.submitted == [house.case.id]


def test_one_association_per_instance_needs_no_wait_where_the_count_is_declared(house: House) -> None:
    for n, dataset in enumerate(flair_series(20, ImagesInAcquisition=20)):
        house.send([dataset], f"a{n}")
    assert house.case.state is State.QUEUED
    assert house.case.revision == 1


def test_a_larger_declared_count_only_postpones_the_start(house: House) -> None:
    house.send(flair_series(20, ImagesInAcquisition=200))
    assert house.case.state is State.RECEIVING
    house.wait(31)
    assert house.case.state is State.QUEUED
    assert house.case.quality == ("images-in-acquisition: 200 announced, 20 came",)


def test_after_a_restart_what_was_receiving_waits_for_the_quiet_time(house: House) -> None:
    house.send(flair_series(), close=None)
    house.intake = house.new_intake()
    house.wait(29)
    assert house.case.state is State.RECEIVING
    house.wait(2)
    assert house.case.state is State.QUEUED


def test_what_is_refused_by_its_header_is_refused_at_the_release(house: House) -> None:
    house.send(flair_series(3, SeriesDescription="3-plane localizer"))
    assert house.case.state is State.REJECTED
    assert house.case.rule == "localizer"


def test_too_few_slices_are_refused_only_when_no_more_come(house: House) -> None:
    house.send(flair_series(5))
    assert house.case.state is State.RECEIVING
    house.wait(31)
    assert house.case.state is State.REJECTED
    assert house.case.reason == "5 slices, at least 12 are needed"


def test_unwanted_classes_are_recorded_and_not_kept(house: House) -> None:
    receipts = house.send(flair_series(3, SOPClassUID=CTImageStorage, Modality="CT"))
    assert {receipt.outcome for receipt in receipts} == {"discarded"}
    assert house.case.state is State.REJECTED
    assert house.case.reason == "not an MR image: CT Image Storage"
    assert not list(house.store.every_instance())


def test_a_class_that_the_toolkit_does_not_know_is_named(house: House) -> None:
    house.send(flair_series(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.7", Modality="SEG"))
    assert house.case.reason == "not an MR image: Label Map Segmentation Storage"


def test_raw_data_beside_the_images_of_a_series_does_not_speak_for_them(house: House) -> None:
    series = flair_series()
    raw = flair_series(
        1, SOPClassUID=RawDataStorage, SeriesInstanceUID=series[0].SeriesInstanceUID, StudyInstanceUID=series[0].StudyInstanceUID
    )
    house.send(raw + series)
    assert house.case.state is State.QUEUED
    assert len(house.book.instance_paths(house.case.id)) == 20


def test_other_bytes_under_a_known_uid_are_kept_aside(house: House) -> None:
    series = flair_series()
    house.send(series)
    series[3].PixelData = bytes(len(series[3].PixelData))
    (receipt,) = house.send([series[3]], "a2")
    assert receipt.outcome == "conflict"
    assert house.case.revision == 1
    assert len(files_of(house.store, series[0].SeriesInstanceUID)) == 21


def test_a_retry_of_a_held_case_looks_again_at_once(house: House) -> None:
    series = flair_series(20)
    del series[7]
    house.send(series)
    house.wait(31)
    assert house.case.state is State.HELD
    house.intake.retry(house.case.id)
    assert house.case.state is State.HELD
    house.send(flair_series(), "a2")
    (done,) = [case for case in house.cases if case.state is State.QUEUED]
    with pytest.raises(InvalidTransition):
        house.intake.retry(done.id)


def test_of_two_flair_series_the_3d_one_is_primary(house: House) -> None:
    study_uid = generate_uid()
    house.send(flair_series(20, study_uid=study_uid), "a1")
    house.send(flair_series(40, study_uid=study_uid, MRAcquisitionType="3D"), "a2")
    assert [case.primary for case in sorted(house.cases, key=lambda case: case.instances)] == [False, True]


def test_names_and_ids_in_any_repertoire_survive(house: House) -> None:
    house.send(flair_series(12, SpecificCharacterSet="ISO_IR 144", SeriesDescription="T2 FLAIR голова", PatientID="Ж-1"))
    assert house.case.patient_id == "Ж-1"
    assert house.case.series_description == "T2 FLAIR голова"
