"""A house that fetches from a PACS, one try after the other, without pauses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from service import fetching
from service.fetching import Fetcher
from service.records import Case, State
from tests.service import house as houses
from tests.service.house import House, join_network_threads

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


def case_of(house: House, case_id: str) -> Case:
    case = house.book.case(case_id)
    assert case is not None
    return case
