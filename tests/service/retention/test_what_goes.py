"""What the retention removes, and what it never does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from service.records import State
from service.records.schema import cases, deliveries, instances, outputs
from service.retention import apply_plan, make_plan
from tests.service.retention.conftest import AGE, House
from tests.service.series import flair_series


def test_without_rules_everything_is_kept(make: Callable[..., House]) -> None:
    house = make()
    house.age(house.done(), 4000)
    assert house.run() == 0
    assert len(house.files) == 16


def test_what_is_old_and_over_goes_with_its_files_and_folders(make: Callable[..., House]) -> None:
    house = make(**AGE)
    old, young = house.age(house.done(), 11), house.age(house.done(), 9)
    before = house.files
    plan = make_plan(house.settings, house.book, house.store)
    assert [one.case.case_id for one in plan.going] == [old]
    assert plan.size_bytes == sum((house.store.root / path).stat().st_size for path in before) // 2
    assert house.files == before, "a plan changes nothing"
    assert house.run() == 1
    assert house.ids == {young}
    assert house.files == house.named()
    assert house.folders == 2
    assert house.book.unfinished_removals() == []
    assert house.counts.take() == {("retention_cases", ()): 1, ("retention_bytes", ()): plan.size_bytes}


def test_what_is_undelivered_at_work_or_just_held_stays_however_old(make: Callable[..., House]) -> None:
    house = make(**AGE)
    t1 = {"SeriesDescription": "MPRAGE", "EchoTime": "3", "InversionTime": "900"}
    kept = {
        "pending": house.done(sent=False),
        "dead": house.done(sent=False),
        "queued": house.send(flair_series(14)),
        "receiving": house.send(flair_series(5), close=False),
    }
    running = kept["running"] = house.send(flair_series(14))
    house.book.claim(running, "w")
    (delivery,) = house.book.deliveries(kept["dead"])
    house.book.delivery_dead(delivery.id, "no")
    gone = {"refused": house.send(flair_series(14, **t1)), "held": house.send(flair_series(14))}
    with house.book._writing() as connection:
        connection.execute(update(cases).where(cases.c.id == gone["held"]).values(state="held"))
    for case_id in (*kept.values(), *gone.values()):
        house.age(case_id, 400)
    plan = make_plan(house.settings, house.book, house.store)
    assert {one.case.case_id for one in plan.going} == set(gone.values())
    assert plan.reasons == {"results not delivered": 2, "is queued": 1, "is receiving": 1, "is running": 1}
    assert house.run() == 2
    assert house.ids == set(kept.values())
    assert house.named() == house.files


def test_what_is_still_to_be_committed_stays_and_goes_when_it_is(make: Callable[..., House]) -> None:
    house = make(**AGE)
    case_id = house.age(house.done(), 400)
    (delivery,) = house.book.deliveries(case_id)
    with house.book._writing() as connection:
        connection.execute(update(deliveries).values(next_attempt_at=delivery.created_at))
    assert make_plan(house.settings, house.book, house.store).reasons == {"results not committed": 1}
    assert house.run() == 0
    house.book.delivered(delivery.id, "committed")
    assert house.run() == 1


def test_a_study_is_not_broken_up_lest_another_series_became_its_result(make: Callable[..., House]) -> None:
    house = make(**AGE)
    study_uid = flair_series(1)[0].StudyInstanceUID
    first = house.done(flair_series(16, study_uid=study_uid))
    second = house.done(flair_series(14, study_uid=study_uid))
    scout = house.send(flair_series(3, study_uid=study_uid, SeriesDescription="localizer"))
    primary = next(one for one in (first, second) if house.book.case(one).primary)
    for case_id in (primary, scout):
        house.age(case_id, 20)
    assert house.run() == 1
    assert house.ids == {first, second}, "only what was refused goes alone"
    assert house.book.case(primary).primary
    for case_id in (first, second):
        house.age(case_id, 20)
    assert house.run() == 2


def test_refused_series_may_go_earlier(make: Callable[..., House]) -> None:
    house = make(keep_refused_days=2)
    scout, done = house.send(flair_series(3, SeriesDescription="localizer")), house.done()
    house.age(scout, 3)
    house.age(done, 3000)
    assert house.run() == 1
    assert house.ids == {done}


def test_for_space_the_oldest_go_until_enough_is_free_and_nothing_of_today(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(keep_free_mb=100)
    old = [house.age(house.done(), days) for days in (2, 5, 3, 4)]
    today = house.done()
    size = make_plan_size(house, old[0])
    missing = int(1.5 * size)
    monkeypatch.setattr(house.store, "free_bytes", lambda: 100 * 1024**2 - missing)
    plan = make_plan(house.settings, house.book, house.store)
    assert [(one.case.case_id, one.why) for one in plan.going] == [(old[1], "space"), (old[3], "space")]
    assert plan.missing_bytes == 0
    monkeypatch.setattr(house.store, "free_bytes", lambda: 0)
    plan = make_plan(house.settings, house.book, house.store)
    assert [one.case.case_id for one in plan.going] == [old[1], old[3], old[2], old[0]]
    assert plan.missing_bytes > 0
    assert house.run() == 4
    assert house.ids == {today}
    monkeypatch.setattr(house.store, "free_bytes", lambda: 200 * 1024**2)
    assert not make_plan(house.settings, house.book, house.store).going


def make_plan_size(house: House, case_id: str) -> int:
    with house.book._reading() as connection:
        sizes = [
            connection.execute(select(table.c.size).where(table.c.case_id == case_id)).scalars().all() for table in (instances, outputs)
        ]
    return sum(map(sum, sizes))


def test_a_plan_is_judged_again_when_it_is_carried_out(make: Callable[..., House]) -> None:
    house = make(**AGE)
    series = flair_series(14)
    case_id = house.age(house.done(series), 20)
    plan = make_plan(house.settings, house.book, house.store)
    house.send(series[:1])  # the same instance again: it was just acknowledged, so the case is young
    assert apply_plan(plan, house.book, house.store, house.counts) == 0
    assert house.ids == {case_id}
    house.age(case_id, 20)
    with house.book._writing() as connection:
        connection.execute(update(deliveries).values(state="pending"))
    assert apply_plan(plan, house.book, house.store, house.counts) == 0
    assert house.book.case(case_id).state is State.DONE
    assert house.named() == house.files
