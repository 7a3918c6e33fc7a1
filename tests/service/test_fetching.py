"""Fetching: a series comes whole and starts, or its case says why not; nothing is forgotten, nothing is taken that nobody asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from service import fetching
from service.errors import Rejected, Unavailable
from service.fetching import Fetcher, taking
from service.fetching.finding import find_study
from service.fetching.node import FIND, GET, MOVE, NotThere
from service.records import Case, State, utc_now
from service.records.fetches import FETCH_LEASE
from tests.pacs import Pacs, pacs
from tests.service import house as houses
from tests.service.house import MR, House, associate, join_network_threads, listening
from tests.service.series import flair_series

COUNT = 6
eventually = partial(houses.eventually, limit_s=20.0)
NOWHERE = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSES_S", (0.0, 0.0))


@contextmanager
def fetcher_of(folder: Path, source: dict[str, Any], **settings: Any) -> Iterator[tuple[House, Fetcher]]:
    house = House(folder / "data", sources=[source], minimum_slices=2, **settings)
    fetcher = Fetcher(house.settings, house.book, house.store, house.intake)
    yield house, fetcher
    fetcher.stop()
    join_network_threads()
    house.book.close()


def ask(house: House, series: list[Dataset]) -> str:
    return house.book.ask_fetch(series[0].StudyInstanceUID, series[0].SeriesInstanceUID, "pacs")


def fetch(fetcher: Fetcher) -> None:
    """Do what is due, one try after the other, until nothing is."""
    while (claimed := fetcher._book.claim_fetch("test")) is not None:
        fetcher.run(claimed)


def held(house: House) -> str:
    """The reason of the only case, which is held."""
    assert house.case.state is State.HELD
    return str(house.case.reason)


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


def test_an_unknown_series_is_held_at_once_with_the_reason(tmp_path: Path) -> None:
    with pacs([]) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        ask(house, flair_series(1))
        fetch(fetcher)
        assert node.asked == ["C-GET"]
    assert held(house).startswith("not fetched from pacs: it has no such series.")


def test_a_destination_that_the_pacs_does_not_know_is_told_and_not_tried_again(tmp_path: Path) -> None:
    series = flair_series(COUNT)
    with pacs(series, offers=(MOVE,)) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        ask(house, series)
        fetch(fetcher)
        assert node.asked == ["C-MOVE"]
    assert "C-GET: it does not offer C-GET; C-MOVE: it does not know LEUKOSCOPE as a destination" in held(house)


def test_a_pacs_that_we_do_not_let_in_is_told(tmp_path: Path) -> None:
    series = flair_series(3)
    source = {"ways": ["C-MOVE"]}
    with pacs(series) as node, fetcher_of(tmp_path, node.settings | source, calling_ae=[{"title": "OTHER"}]) as (house, fetcher):
        with listening(house) as listener:
            node.node = ("127.0.0.1", listener.port)
            ask(house, series)
            fetch(fetcher)
    assert "was not let in: is LEUKOSCOPE known there with our host and port, and its title listed under [[calling_ae]] here?" in held(
        house
    )


def test_a_pacs_that_does_none_of_it_is_told_class_by_class(tmp_path: Path) -> None:
    with pacs([], offers=(FIND,)) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        ask(house, flair_series(1))
        fetch(fetcher)
    assert "C-GET: it does not offer C-GET" in held(house)
    assert "not accepted there: Study Root Query/Retrieve Information Model - MOVE" in held(house)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"SeriesInstanceUID": "1.2.3.4"}, "an instance of another series"),
        ({"StudyInstanceUID": "1.2.3.5"}, "an instance of another study"),
        ({"PatientID": "P2"}, "an instance of another patient"),
    ],
)
def test_what_nobody_asked_for_is_not_taken(tmp_path: Path, change: dict[str, str], why: str) -> None:
    series = flair_series(COUNT)
    for dataset in series[3:5]:
        for keyword, value in change.items():
            setattr(dataset, keyword, value)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings) as (house, fetcher):
        ask(house, series)
        fetch(fetcher)
    assert held(house).startswith(f"not fetched from pacs: not taken: 2 × {why}.")
    assert house.case.instances == COUNT - 2
    assert {row.patient_id for row in house.book.headers(house.case.id)} == {"P1"}


def test_what_nobody_asked_for_is_not_taken_from_a_move_either_and_a_push_beside_it_is(tmp_path: Path) -> None:
    series, other, pushed = flair_series(COUNT), flair_series(2), flair_series(2)
    with pacs([*series, *other]) as node, fetcher_of(tmp_path, node.settings | {"ways": ["C-MOVE"]}) as (house, fetcher):
        with listening(house) as listener:
            node.node = ("127.0.0.1", listener.port)
            case_id = ask(house, series)
            node.gate.clear()
            fetcher.look()
            assert eventually(lambda: bool(house.intake.moves))
            association = associate(listener, MR)
            assert [association.send_c_store(dataset).Status for dataset in pushed] == [0x0000] * 2
            association.release()
            node.gate.set()
            assert eventually(lambda: case_of(house, case_id).state is State.HELD)
    assert str(case_of(house, case_id).reason).startswith("not fetched from pacs: not taken: 2 × an instance of another series.")
    assert {case.series_uid for case in house.cases} == {series[0].SeriesInstanceUID, pushed[0].SeriesInstanceUID}
    assert not house.intake.moves


@pytest.mark.parametrize("limits", [{"maximum_upload_files": 4}, {"maximum_upload_bytes": 40_000}])
def test_a_series_beyond_the_limits_of_an_upload_is_refused(tmp_path: Path, limits: dict[str, int]) -> None:
    series = flair_series(COUNT)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings, **limits) as (house, fetcher):
        ask(house, series)
        fetch(fetcher)
        assert node.asked == ["C-GET"]
    assert f"it has more than {next(iter(limits.values()))}" in held(house)
    assert house.case.instances <= 4


def test_an_instance_that_is_too_large_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.fetching.taking.HEADER_BYTES", 0)
    taken = []
    monkeypatch.setattr(taking.Taking, "take", lambda *_: taken.append(1))
    series = flair_series(2)
    for dataset in series:
        dataset.PixelData = bytes(200_000)  # many PDUs
    with pacs(series) as node, fetcher_of(tmp_path, node.settings, maximum_series_bytes=4096) as (house, fetcher):
        ask(house, series)
        fetch(fetcher)
        assert node.asked == ["C-GET"]
    assert held(house).startswith("not fetched from pacs: an instance has more than 4096 bytes")
    assert not taken, "it was gathered to its end"


def test_a_full_disk_is_not_blamed_on_the_pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Unavailable("the disk is full")

    series = flair_series(3)
    with pacs(series) as node, fetcher_of(tmp_path, node.settings | {"ways": ["C-GET"]}) as (house, fetcher):
        monkeypatch.setattr(house.store, "put_instance", fail)
        ask(house, series)
        fetch(fetcher)
    assert held(house).startswith("not fetched from pacs: C-GET: the disk is full")


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


def test_a_source_that_is_no_longer_there_is_told(tmp_path: Path) -> None:
    with fetcher_of(tmp_path, NOWHERE | {"name": "new"}) as (house, fetcher):
        ask(house, flair_series(1))
        fetch(fetcher)
    assert held(house).startswith("not fetched from pacs: it is no longer in the settings")


def test_a_fetch_that_waits_is_given_up_where_no_source_is_left(tmp_path: Path) -> None:
    house = House(tmp_path)
    ask(house, flair_series(1))
    with fetching.fetching(house.settings, house.book, house.store, house.intake, name=None):
        assert eventually(lambda: house.case.state is State.HELD)
    assert held(house).startswith("not fetched from pacs: it is no longer in the settings")
    house.book.close()


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


def case_of(house: House, case_id: str) -> Case:
    case = house.book.case(case_id)
    assert case is not None
    return case


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
