"""Fetching: a series comes whole and starts, is tried again, and is not forgotten whatever happens meanwhile."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from service.errors import Rejected, Unavailable
from service.fetching import Fetcher
from service.fetching.finding import find_study
from service.fetching.node import GET, NotThere
from service.records import State, utc_now
from service.records.fetches import FETCH_LEASE
from tests.pacs import Pacs, pacs
from tests.service.fetched import COUNT, NOWHERE, ask, case_of, eventually, fetch, fetcher_of, held, soon
from tests.service.house import House, listening
from tests.service.series import flair_series

__all__ = ["soon"]  # an autouse fixture, here too


@pytest.mark.parametrize("way", ["C-GET", "C-MOVE"])
def test_a_series_comes_and_starts_by_either_way(tmp_path: Path, way: str) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings | {"ways": [way]}) as (house, fetcher), listening(house) as listener:
        node.node = ("127.0.0.1", listener.port)
        case_id = ask(house, series)
        assert (house.case.id, house.case.state, house.case.reason) == (case_id, State.RECEIVING, "to be fetched from pacs")
        fetch(fetcher)
        assert node.asked == [way]
    assert (house.case.id, house.case.instances, house.case.reason) == (case_id, COUNT, None)
    assert house.case.state is State.QUEUED
    assert house.submitted == [case_id]
    assert (house.case.patient_id, house.case.series_description) == ("P1", "AX T2 FLAIR")


def test_the_case_is_that_of_a_push_and_asking_again_changes_nothing(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    pushed = House(tmp_path / "pushed")
    pushed.send(series)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        (tmp_path / "data" / "installation.key").write_bytes((tmp_path / "pushed" / "installation.key").read_bytes())
        case_id = ask(house, series)
        assert ask(house, series) == case_id
        fetch(fetcher)
        assert ask(house, series) == case_id
        fetch(fetcher)
        assert (house.case.instances, house.case.revision, house.case.state) == (COUNT, 1, State.QUEUED)
        assert node.asked == ["C-GET"] * 2
    pushed.book.close()


def test_a_series_that_comes_slowly_is_not_judged_in_the_middle(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        ask(house, series)
        node.gate.clear()
        fetcher.look()
        assert eventually(lambda: house.case.reason == "being fetched from pacs")
        house.send(series[: COUNT - 1], "pushed meanwhile")
        house.wait(40)
        assert house.case.state is State.RECEIVING
        node.gate.set()
        assert eventually(lambda: house.case.state is State.QUEUED)
        assert house.case.instances == COUNT


def test_a_pacs_that_is_away_is_tried_three_times_and_asking_again_fetches(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with fetcher_of(tmp_path, NOWHERE) as (house, fetcher):
        ask(house, series)
        fetch(fetcher)
        assert held(house).startswith("not fetched from pacs: C-GET: PACS at 127.0.0.1:1: no connection; C-MOVE: PACS at")
        assert held(house).endswith("Ask again, or run the case again, when that is mended")
        reasons = [str(row.reason) for row in house.case.history]
        with pacs(series) as node:
            fetcher._sources["pacs"] = house.settings.sources[0].model_copy(update={"port": node.settings["port"]})
            ask(house, series)
            assert (house.case.state, house.case.reason) == (State.RECEIVING, "to be fetched from pacs")
            fetch(fetcher)
    assert house.case.state is State.QUEUED
    assert reasons[0] == "asked for"


def test_to_run_a_held_case_again_fetches_again(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings | {"ways": ["C-GET"]}) as (house, fetcher):
        node.die_after = 4
        case_id = ask(house, series)
        fetch(fetcher)
        # four slices without a gap would pass for a series: it is the fetch that knows better
        assert held(house).startswith("not fetched from pacs: C-GET: the association ended in the middle")
        assert (house.case.instances, len(node.asked)) == (4, 3)
        house.wait(40)
        assert house.case.state is State.HELD
        node.die_after = None
        assert house.intake.retry(case_id) is State.RECEIVING
        fetch(fetcher)
    assert (house.case.state, house.case.instances) == (State.QUEUED, COUNT)


def test_a_pacs_that_dies_once_in_the_middle_is_asked_again(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings | {"ways": ["C-GET"]}) as (house, fetcher):
        node.die_after, node.deaths = 4, 1
        ask(house, series)
        fetch(fetcher)
    assert (house.case.state, house.case.instances, len(node.asked)) == (State.QUEUED, COUNT, 2)


def test_a_move_that_brings_nothing_does_not_complete_what_a_get_began(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher), listening(house) as listener:
        node.node, node.die_after, node.moves = ("127.0.0.1", listener.port), 4, 0
        ask(house, series)
        fetch(fetcher)
        assert node.asked == ["C-GET", "C-MOVE"] * 3
    assert "C-MOVE: it gave nothing of the series, and an earlier way a part" in held(house)
    assert house.case.instances == 4


def test_a_stop_in_the_middle_leaves_it_to_the_next_process_and_counts_nothing(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        ask(house, series)
        node.gate.clear()
        fetcher.look()
        assert eventually(lambda: bool(node.asked))
        stopping = threading.Thread(target=fetcher.stop)
        stopping.start()
        time.sleep(0.05)
        node.gate.set()
        stopping.join()
        assert (house.case.state, house.case.reason) == (State.RECEIVING, "to be fetched from pacs again: the service was stopped")
        claimed = house.book.claim_fetch("next")
        assert claimed is not None
        assert claimed.attempts == 1
        Fetcher(house.settings, house.book, house.store, house.intake).run(claimed)
    assert (house.case.state, house.case.instances) == (State.QUEUED, COUNT)


def test_a_fetch_of_a_process_that_was_killed_is_taken_up_when_its_lease_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        ask(house, series)
        killed = house.book.claim_fetch("serve:here:1")
        assert killed is not None
        assert house.book.claim_fetch("other") is None
        later = utc_now() + FETCH_LEASE + timedelta(seconds=1)
        monkeypatch.setattr("service.records.fetches.utc_now", lambda: later)
        fetch(fetcher)
        assert house.case.state is State.QUEUED
        fetcher.run(killed)  # not dead after all: it writes nothing any more
    assert (house.case.state, house.case.instances) == (State.QUEUED, COUNT)


def test_a_fetch_that_kills_its_process_three_times_is_given_up(tmp_path: Path) -> None:
    with fetcher_of(tmp_path, NOWHERE) as (house, fetcher):
        ask(house, flair_series(1))
        for number in range(3):
            assert house.book.claim_fetch(f"serve:here:{number}") is not None
            house.book.reclaim("serve:here:")
        fetch(fetcher)
    assert "ended three times in the middle" in held(house)


def test_a_series_that_is_sent_while_its_pacs_is_away_is_judged_when_it_is_quiet(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with fetcher_of(tmp_path, NOWHERE) as (house, fetcher):
        case_id = ask(house, series)
        house.send(series[:2] + series[3:], "pushed meanwhile")
        fetch(fetcher)
        assert house.case.state is State.RECEIVING
        house.wait(40)
        assert "not fetched" not in held(house)  # a gap
        assert house.intake.retry(case_id) is State.RECEIVING
        fetch(fetcher)
        house.wait(40)
        assert "not fetched" not in held(house)
        house.send(series[2:3], "and the last")
        house.wait(10)
        assert house.case.state is State.QUEUED
        assert house.submitted == [case_id]


def study_of(node: Pacs, house: House, series_uid: str) -> str:
    return find_study(house.settings, house.settings.sources[0], series_uid)


def test_the_study_of_a_series_is_found(tmp_path: Path) -> None:
    one, other = flair_series(2), flair_series(2)
    other[1].SeriesInstanceUID = other[0].SeriesInstanceUID
    other[1].StudyInstanceUID = "1.2.3"
    with pacs([*one, *other]) as node, fetcher_of(tmp_path, node.settings) as (house, _):
        assert study_of(node, house, one[0].SeriesInstanceUID) == one[0].StudyInstanceUID
        with pytest.raises(NotThere, match="pacs finds no such series"):
            study_of(node, house, "1.2.3.4")
        with pytest.raises(Rejected, match="in 2 studies"):
            study_of(node, house, other[0].SeriesInstanceUID)
    with pacs(one, offers=(GET,)) as node, fetcher_of(tmp_path, node.settings) as (house, _):
        with pytest.raises(Unavailable, match=r"pacs: PACS at .* not accepted there"):
            study_of(node, house, one[0].SeriesInstanceUID)


def test_a_case_that_is_decided_keeps_its_state_until_something_new_comes(tmp_path: Path) -> None:
    series = flair_series(COUNT + 1)
    with pacs(series[:COUNT]) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        house.send(series[:COUNT])
        case_id = ask(house, series)
        fetch(fetcher)
        assert (case_of(house, case_id).state, case_of(house, case_id).revision) == (State.QUEUED, 1)
        node.held = series
        ask(house, series)
        fetch(fetcher)
        assert (case_of(house, case_id).state, case_of(house, case_id).revision, case_of(house, case_id).instances) == (
            State.QUEUED,
            2,
            COUNT + 1,
        )
