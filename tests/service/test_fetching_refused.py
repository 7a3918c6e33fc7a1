"""What a fetch does not take and what its case says: another series, too much, a PACS that has it not, does not let us or does none."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import fetching
from service.errors import Unavailable
from service.fetching import taking
from service.fetching.node import FIND, MOVE
from service.records import State
from tests.pacs import pacs
from tests.service.fetched import COUNT, NOWHERE, ask, case_of, eventually, fetch, fetcher_of, held, soon
from tests.service.house import MR, House, associate, listening
from tests.service.series import flair_series

__all__ = ["soon"]  # an autouse fixture, here too


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
