"""When the intake asks for a comparison, and what it leaves undecided until there is one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from service.comparisons import Comparisons
from service.errors import Unavailable
from service.records import Judged, State, Verdict, utc_now
from tests.service.house import House
from tests.service.series import flair_series


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.book.close()


def corrected(series: list[Dataset], **changes: str) -> list[Dataset]:
    found = [copy.deepcopy(dataset) for dataset in series]
    for dataset in found:
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
    return found


def judge(house: House, verdict: Verdict = Verdict.CORRECTED) -> None:
    """Do what the worker does."""
    case_id = house.case.id
    house.book.judge_resends(case_id, [Judged(one, verdict, ("PatientID",)) for one in house.book.uncompared(case_id)])


def test_a_comparison_is_asked_for_once_when_the_association_ends(house: House) -> None:
    series = flair_series()
    house.send(series)
    house.send(corrected(series, PatientID="P2"), "a2", close=None)
    house.wait(20)
    assert house.compared == []
    house.intake.close_source("a2", clean=False)
    assert house.compared == [house.case.id]
    house.wait(5)
    assert house.compared == [house.case.id]


def test_the_same_bytes_ask_for_nothing(house: House) -> None:
    series = flair_series()
    house.send(series)
    house.send(series, "a2")
    house.wait(60)
    assert house.compared == []


def test_one_association_per_instance_asks_once_after_the_last(house: House) -> None:
    series = flair_series()
    house.send(series)
    for number, dataset in enumerate(corrected(series, PatientID="P2")):
        house.send([dataset], f"b{number}")
        house.wait(1.0)
    assert house.compared == []
    house.wait(2.0)
    assert house.compared == [house.case.id]


def test_an_open_association_that_brought_such_instances_is_waited_for(house: House) -> None:
    series = flair_series()
    house.send(series)
    again = corrected(series, PatientID="P2")
    house.send(again[:5], "a2", close=None)
    house.send(again[5:], "a3")
    house.wait(20)
    assert house.compared == []
    house.intake.close_source("a2")
    assert house.compared == [house.case.id]


def test_a_corrected_series_runs_again_after_the_quiet_time_as_one_revision(house: House) -> None:
    series = flair_series()
    house.send(series)
    house.send(corrected(series, PatientID="P2"), "a2")
    judge(house)
    assert (house.case.state, house.case.patient_id) == (State.RECEIVING, "P2")
    house.wait(36)
    assert (house.case.state, house.case.revision) == (State.QUEUED, 2)
    assert house.submitted == [house.case.id] * 2


def test_a_correction_in_parts_is_held_until_the_rest_comes(house: House) -> None:
    series = flair_series()
    house.send(series)
    again = corrected(series, PatientID="P2")
    house.send(again[:8], "a2")
    judge(house)
    house.wait(36)
    assert house.case.state is State.HELD
    assert "patient" in str(house.case.reason)
    house.send(again[8:], "a3")
    judge(house)
    house.wait(36)
    assert (house.case.state, house.case.revision, house.case.instances) == (State.QUEUED, 2, 20)


def test_nothing_is_decided_while_something_waits_to_be_compared(house: House) -> None:
    series = flair_series()
    house.send(series + corrected(series[:1], PatientID="P2"), "a1")
    assert house.compared == []
    house.wait(40)
    assert house.compared[:1] == [house.case.id]
    assert house.case.state is State.RECEIVING
    judge(house, Verdict.OTHER_PIXELS)
    house.wait(2)
    assert (house.case.state, house.case.revision) == (State.QUEUED, 1)
    assert house.case.quality == ("other-pixels: 1 instance came again with other pixels, the first was used",)


def test_a_correction_can_make_a_refused_series_wanted(house: House) -> None:
    series = flair_series(20, SeriesDescription="T1 SE", InversionTime="600", EchoTime="12")
    house.send(series)
    assert house.case.state is State.REJECTED
    house.send(corrected(series, SeriesDescription="AX T2 FLAIR", InversionTime="2500", EchoTime="120"), "a2")
    judge(house)
    house.wait(36)
    assert (house.case.state, house.case.revision, house.case.series_description) == (State.QUEUED, 1, "AX T2 FLAIR")


def test_what_was_forgotten_in_a_crash_the_sweep_asks_for(house: House) -> None:
    series = flair_series()
    house.send(series)
    house.send(corrected(series, PatientID="P2"), "a2", close=None)
    house.intake = house.new_intake()
    house.book.cases_to_compare = lambda quiet_s: type(house.book).cases_to_compare(house.book, quiet_s, utc_now() + timedelta(minutes=1))
    house.wait(6)
    assert house.compared == [house.case.id]
    house.wait(100)
    assert 2 <= len(house.compared) <= 4, "each further ask waits twice as long"
    judge(house, Verdict.SAME)
    asked = len(house.compared)
    house.wait(300)
    assert len(house.compared) == asked


def test_a_broker_that_is_away_is_tried_once_and_by_the_sweep_later() -> None:
    now = 0.0
    asked: list[str] = []
    away = True

    def ask(case_id: str) -> None:
        asked.append(case_id)
        if away:
            raise Unavailable("the broker: gone")

    comparisons = Comparisons(ask, lambda: now)
    for case_id in ("1", "2"):
        for _ in range(5):
            comparisons.note("a", case_id)
    comparisons.close("a")
    assert asked == ["1"]
    away = False
    comparisons.ask_again(["1", "2"])
    assert asked == ["1", "1", "2"]
