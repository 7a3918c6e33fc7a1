"""Who of many processes cleans up, how often, and what happens when two would."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from service import retention
from service.commands import administer
from service.errors import Unavailable
from service.records import utc_now
from service.records.schema import turns
from service.retention import Keeper
from service.settings import Settings
from tests.service.retention.conftest import AGE, House


def test_one_process_of_many_runs_it_once_an_hour_or_sooner_when_the_disk_is_low(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make(keep_days=10, keep_free_mb=1)
    now = [0.0]
    first, second = (Keeper(house.settings, house.book, house.store, house.counts, clock=lambda: now[0]) for _ in range(2))
    house.age(house.done(), 20)
    assert (first.tick(), second.tick()) == (1, 0)
    house.age(house.done(), 20)
    now[0] += retention.EVERY_S - 1
    assert (first.tick(), second.tick()) == (0, 0)
    now[0] += 2
    assert (second.tick(), first.tick()) == (0, 1), "the turn is still the first one's"
    house.age(house.done(), 20)
    now[0] += retention.AGAIN_WHEN_LOW_S + 1
    assert first.tick() == 0
    monkeypatch.setattr(house.store, "free_bytes", lambda: 1000)
    assert first.tick() == 1


def test_a_process_that_replaces_another_need_not_wait_for_its_turn_to_end(make: Callable[..., House]) -> None:
    house = make(**AGE)
    before, after, other = (
        Keeper(house.settings, house.book, house.store, house.counts, name=name) for name in ("serve:host", "serve:host", None)
    )
    house.age(house.done(), 20)
    assert before.tick() == 1
    house.age(house.done(), 20)
    assert (other.tick(), after.tick()) == (0, 1)


def test_a_long_run_keeps_its_turn_and_stops_where_it_lost_it(make: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    house = make(**AGE)
    for days in (23, 22, 21):
        house.age(house.done(), days)
    remove, left_s = house.book.remove, []

    def take_long(*arguments: Any) -> Any:
        now = utc_now()
        with house.book._writing() as connection:
            left_s.append((connection.execute(select(turns.c.until)).scalar_one() - now).total_seconds())
            lost = {"owner": "another"} if len(left_s) == 2 else {}
            until = now + timedelta(seconds=600 if lost else 1)
            connection.execute(update(turns).values(until=until, **lost))
        return remove(*arguments)

    monkeypatch.setattr(house.book, "remove", take_long)
    assert Keeper(house.settings, house.book, house.store, house.counts).tick() == 2, "the third is the other's"
    assert min(left_s) > retention.TURN_S - 120
    assert len(house.ids) == 1


def test_the_clean_up_by_hand_never_runs_beside_another(
    make: Callable[..., House], book_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house = make(**AGE)
    settings = Settings(data_dir=house.settings.data_dir, database_url=book_url, minimum_free_mb=0, retention=AGE)
    old = house.age(house.done(), 20)
    house.book.take_turn(retention.TURN, "another", 900)
    administer.clean_up(settings, apply=False, orphans=False)
    with pytest.raises(Unavailable, match="somebody else") as refused:
        administer.clean_up(settings, apply=True, orphans=False)
    assert "\n" not in str(refused.value)
    assert house.ids == {old}
    house.book.give_turn(retention.TURN, "a third")
    assert not house.book.take_turn(retention.TURN, "me", 900), "nobody gives away what he does not have"
    house.book.give_turn(retention.TURN, "another")
    administer.clean_up(settings, apply=True, orphans=False)
    assert not house.ids
    administer.clean_up(settings, apply=True, orphans=False)
    assert "0 cases removed" in capsys.readouterr().out, "the turn was given back"
