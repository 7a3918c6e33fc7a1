"""Orthanc as the PACS that a series is fetched from: by C-GET, by C-MOVE to our listener, by WADO-RS."""

from __future__ import annotations

import pytest

from service import fetching
from service.fetching import Fetcher
from service.fetching.finding import find_study
from service.fetching.node import NotThere
from service.records import State
from tests.peers.conftest import Orthanc, demand_web_plugin
from tests.relay import relay
from tests.servers import find_port
from tests.service.house import House, join_network_threads, listening
from tests.service.series import flair_series, part10

WAYS = ("C-GET", "C-MOVE", "WADO-RS")
WILLING = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True, "DicomAlwaysAllowFind": True, "HttpCompressionEnabled": False}


@pytest.fixture(scope="module")
def archive(peer, tmp_path_factory):
    """One Orthanc for all tests, with DICOMweb where the plugin is there; answers as long as what is in them."""
    pacs = Orthanc(peer("Orthanc"), tmp_path_factory.mktemp("archive"), find_port(), find_port(), **WILLING)
    yield pacs
    pacs.stop()


@pytest.fixture
def house(archive, tmp_path, monkeypatch):
    """Everything that takes in, with Orthanc as the only source, by way of `port` where one is given."""
    monkeypatch.setattr(fetching, "PAUSES_S", (0.0, 0.0))
    houses = []

    def make(way, port=None):
        if way == "WADO-RS":
            demand_web_plugin()
        source = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port or archive.dicom_port, "ways": [way]}
        source |= {"url": f"http://127.0.0.1:{port or archive.client.base_url.port}/dicom-web"}
        house = House(tmp_path / f"data-{len(houses)}", sources=[source], minimum_slices=2)
        houses.append(house)
        return house

    yield make
    join_network_threads()
    for one in houses:
        one.book.close()


def fetch(house):
    fetcher = Fetcher(house.settings, house.book, house.store, house.intake)
    while (claimed := house.book.claim_fetch("test")) is not None:
        fetcher.run(claimed)


def stored(archive, count=6):
    series = flair_series(count)
    for dataset in series:
        archive.client.post("/instances", content=part10(dataset)).raise_for_status()
    return series


@pytest.mark.parametrize("way", WAYS)
def test_a_series_of_orthanc_comes_and_starts_and_an_unknown_one_is_told(archive, house, way):
    series, one = stored(archive), house(way)
    with listening(one) as listener:
        node = {"AET": "LEUKOSCOPE", "Host": "127.0.0.1", "Port": listener.port}
        archive.client.put("/modalities/us", json=node).raise_for_status()
        one.book.ask_fetch(series[0].StudyInstanceUID, series[0].SeriesInstanceUID, "pacs")
        fetch(one)
        assert (one.case.state, one.case.instances) == (State.QUEUED, 6), one.case.reason
        one.book.ask_fetch("1.2.3", "1.2.3.4", "pacs")
        fetch(one)
    (unknown,) = (case for case in one.cases if case.series_uid == "1.2.3.4")
    assert unknown.state is State.HELD
    assert "no such series" in unknown.reason


def test_a_destination_that_orthanc_does_not_know_is_told(archive, house):
    series, one = stored(archive, 2), house("C-MOVE")
    archive.client.delete("/modalities/us")
    one.book.ask_fetch(series[0].StudyInstanceUID, series[0].SeriesInstanceUID, "pacs")
    fetch(one)
    assert one.case.state is State.HELD
    assert "is LEUKOSCOPE known there with our host and port" in one.case.reason


@pytest.mark.parametrize("way", ["C-GET", "WADO-RS"])
def test_orthanc_finds_the_study_of_a_series(archive, house, way):
    series, one = stored(archive, 2), house(way)
    source = one.settings.sources[0]
    if way == "WADO-RS":
        source = source.model_copy(update={"ae_title": None, "host": None, "port": None})
    assert find_study(one.settings, source, series[0].SeriesInstanceUID) == series[0].StudyInstanceUID
    with pytest.raises(NotThere):
        find_study(one.settings, source, "1.2.3.4")


@pytest.mark.parametrize("way", ["C-GET", "WADO-RS"])
def test_a_fetch_from_an_orthanc_that_is_killed_is_taken_up_again_or_says_why_not(archive, house, way):
    series = stored(archive)
    size = sum(len(part10(dataset)) for dataset in series)
    killed = []

    def kill():
        killed.append(True)
        archive.kill()

    def kill_and_start():
        kill()
        archive.start()

    with relay(archive.dicom_port if way == "C-GET" else archive.client.base_url.port) as between:
        one = house(way, between.port)
        between.at(size // 2, kill, back=True)
        case_id = one.book.ask_fetch(series[0].StudyInstanceUID, series[0].SeriesInstanceUID, "pacs")
        fetch(one)
        assert len(killed) == 1
        assert one.case.state is State.HELD
        assert 0 < one.case.instances < len(series) if way == "C-GET" else one.case.instances == 0
        assert f"{way}: " in one.case.reason
        archive.start()
        between.at(size // 2, kill_and_start, back=True)
        one.intake.retry(case_id)
        fetch(one)
        assert len(killed) == 2
        assert (one.case.state, one.case.instances) == (State.QUEUED, len(series)), one.case.reason
