"""What goes wrong around the intake: objects cut short, parts that are away, defects, other processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.errors import Unavailable
from service.headers import Unreadable
from service.intake import Intake
from service.intake.handover import Source
from service.records import State, utc_now
from tests.service.house import House
from tests.service.series import flair_series, part10


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.book.close()


@pytest.mark.parametrize("cut", [0, 100, 300, 1000, -1])
def test_what_is_cut_short_is_refused_and_nothing_is_kept(house: House, cut: int) -> None:
    encoded = part10(flair_series(1)[0])
    with pytest.raises(Unreadable):
        house.intake.receive(encoded[:cut], Source("a1", "SCANNER"))
    assert not list(house.store.every_instance())
    assert not house.cases


def test_no_success_without_the_case_book(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_rows: object) -> None:
        raise Unavailable("the database: gone")

    monkeypatch.setattr(house.intake._commit, "_write", away)
    with pytest.raises(Unavailable):
        house.send(flair_series(1))


def test_a_case_book_that_is_away_at_the_release_is_asked_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_case_id: str) -> None:
        raise Unavailable("the database: gone")

    with monkeypatch.context() as patched:
        patched.setattr(house.book, "headers", away)
        house.send(flair_series())
    house.wait(2)
    assert house.case.state is State.QUEUED


def test_the_sweep_submits_what_the_broker_lost(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_app: object, _case_id: str) -> None:
        raise Unavailable("the broker: gone")

    with monkeypatch.context() as patched:
        patched.setattr(house.intake, "_submit_to", away)
        house.send(flair_series())
    assert house.case.state is State.QUEUED
    assert not house.submitted
    monkeypatch.setattr(house.book, "due", lambda _now, **_: [house.case.id])
    house.wait(6)
    assert set(house.submitted) == {house.case.id}


def test_the_sweep_asks_a_broker_that_is_away_once_and_not_for_every_case(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        house.send(flair_series(), f"a{number}")
    assert len(set(house.submitted)) == 3
    assert all(set(case_id) <= set("0123456789abcdef") for case_id in house.submitted)
    asked = []

    def gone(_app: object, case_id: str) -> None:
        asked.append(case_id)
        raise Unavailable("the broker: gone")

    monkeypatch.setattr(house.intake, "_submit_to", gone)
    house.intake.tick(now=utc_now() + timedelta(minutes=1))
    assert len(asked) == 1


def test_a_defect_in_judging_holds_that_series_and_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("service.intake.judge.examine", lambda *_, **__: 1 / 0)
        house.send(flair_series())
    assert house.case.state is State.HELD
    house.send(flair_series(), "a2")
    assert {case.state for case in house.cases} == {State.HELD, State.QUEUED}


def test_a_message_that_outlives_its_connection_leaves_nobody_sending_for_ever(house: House) -> None:
    series = flair_series()
    house.send(series[:-1], "a1", close=False)
    house.send(series[-1:], "a1", close=None)  # the last message was still in our hands when the connection went
    house.wait(31)
    assert house.case.state is State.QUEUED


def test_of_several_processes_one_sweeps_and_another_takes_over(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.settings = house.settings.model_copy(update={"sweep_s": 0.2})
    swept: list[str] = []
    monkeypatch.setattr(house.book, "due", lambda _now, **_: swept.append("due") or [])
    first, second = (Intake(house.settings, house.store, house.book, None, submit=lambda *_: None) for _ in range(2))
    first.tick()
    second.tick()
    assert len(swept) == 1, "the second left the sweep to the first"
    time.sleep(0.7)  # three sweeps without the first: it is gone
    second.tick()
    assert len(swept) == 2
