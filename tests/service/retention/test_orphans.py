"""Files that no row names: when they go, and that nobody who needs one loses it."""

from __future__ import annotations

import os
from collections.abc import Callable

from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select, update

from service.orphans import Orphans, find_orphans, remove_orphans
from service.records.schema import instances, outputs
from service.retention import make_plan
from tests.service.retention.conftest import AGE, House, read
from tests.service.series import flair_series, part10


def test_files_without_rows_go_only_when_asked_for_and_a_day_old(make: Callable[..., House]) -> None:
    house = make(**AGE)
    case_id = house.done()
    stranger = flair_series(2)
    for dataset in stranger:
        data = part10(dataset)
        house.store.put_instance(
            data[400:],
            series_uid=dataset.SeriesInstanceUID,
            sop_class_uid="1.2",
            sop_instance_uid="1.3",
            transfer_syntax_uid="1.2.840.10008.1.2",
        )
    house.send(flair_series(3), close=False)
    readable = house.intake._keep(*read(flair_series(1)[0]))
    lost = house.store.put_output("feedbeef", "segmentation", b"of a worker that lost its lease")
    again = house.store.put_output(case_id, "segmentation", b"of an attempt that failed")
    named = house.named()
    assert find_orphans(house.book, house.store).files == 0, "too young"
    house.run()
    for path in house.files:
        os.utime(house.store.path_of(path), (1e9, 1e9))
    house.run()
    found = find_orphans(house.book, house.store)
    assert found.files == 5
    assert found.size_bytes == sum(house.store.path_of(path).stat().st_size for path in house.files - named)
    running = house.send(flair_series(14))
    house.book.claim(running, "w")
    at_work = house.store.put_output(running, "segmentation", b"about to be named")
    os.utime(house.store.path_of(at_work), (1e9, 1e9))
    assert {readable.path, lost, again} <= house.files
    remove_orphans(find_orphans(house.book, house.store), house.book, house.store)
    assert house.files == house.named() | {at_work}


def test_an_orphan_that_is_sent_again_while_it_is_removed_stays(make: Callable[..., House]) -> None:
    house = make()
    dataset = flair_series(1)[0]
    row = house.intake._keep(*read(dataset))
    os.utime(house.store.path_of(row.path), (1e9, 1e9))
    found = find_orphans(house.book, house.store)
    assert found.instances == [row.path]
    house.send([dataset], close=False)
    remove_orphans(found, house.book, house.store)
    assert house.files == house.named() == {row.path}


def test_a_damaged_orphan_that_is_sent_again_before_it_is_removed_stays(make: Callable[..., House]) -> None:
    house = make()
    dataset = flair_series(1)[0]
    path = house.intake._keep(*read(dataset)).path
    house.store.path_of(path).write_bytes(b"nothing that could be read")
    os.utime(house.store.path_of(path), (1e9, 1e9))
    found = find_orphans(house.book, house.store)
    assert found.files == 1
    house.send([dataset], close=False)
    remove_orphans(found, house.book, house.store)
    assert house.files == house.named() == {path}


def test_results_that_a_row_names_under_an_older_case_id_are_no_orphans(make: Callable[..., House]) -> None:
    house = make()
    case_id = house.done()
    with house.book._writing() as connection:  # as the index is made anew where the installation's key is another
        for number, path in connection.execute(select(outputs.c.id, outputs.c.path).where(outputs.c.case_id == case_id)).all():
            older = path.replace(case_id, "01d")
            house.store.path_of(older).parent.mkdir(exist_ok=True)
            house.store.path_of(path).rename(house.store.path_of(older))
            connection.execute(update(outputs).where(outputs.c.id == number).values(path=older))
    nobodys = house.store.put_output("01d", "segmentation", b"of an attempt that failed")
    named = house.named()
    for path in house.files:
        os.utime(house.store.path_of(path), (1e9, 1e9))
    assert find_orphans(house.book, house.store).outputs == {"01d": [nobodys]}
    remove_orphans(
        Orphans([], {"01d": sorted(path for path in house.files if path.startswith("outputs/01d/"))}, 0), house.book, house.store
    )
    assert house.files == named


def test_what_came_again_and_was_not_kept_waits_for_no_comparison(make: Callable[..., House]) -> None:
    house = make(**AGE)
    first, second = (flair_series(1)[0] for _ in range(2))
    for dataset in (first, second):
        dataset.SOPClassUID = SecondaryCaptureImageStorage
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(second, keyword, first[keyword].value)
    second.PatientName = "Corrected"
    case_id = house.age(house.send([first, second]), 20)
    with house.book._writing() as connection:  # earlier versions left no verdict
        older = update(instances).where(instances.c.aside, instances.c.path == "").values(verdict=None)
        assert connection.execute(older).rowcount == 1
    plan = make_plan(house.settings, house.book, house.store)
    assert plan.reasons == {}
    assert [one.case.case_id for one in plan.going] == [case_id]
