"""One service, and the whole table of bad input brought to two of its doors at once: quiet times pass together, not one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.phantom import make_phantom
from model.volume import Volume
from service.errors import Unavailable
from service.headers import read_file
from service.store import Store
from tests.flow.bad_input.rows import ROWS, SLICES, Bench, Row
from tests.running import Running
from tests.service.house import files_of
from worker.phantom import make_uid
from worker.send import read_outgoing, send

TITLE = "SCANNER"


@dataclass
class Brought:
    """What one row's files are, and what a door said of each."""

    row: Row
    series_uid: str
    files: list[Path]
    statuses: dict[Path, int | None] = field(default_factory=dict)
    response: httpx.Response | None = None

    def data_sets(self) -> set[bytes]:
        return {data_set(path) for path in self.files}


@dataclass
class House:
    """The service and what was brought to it."""

    running: Running
    release: Path
    volume: Volume
    store: dict[str, Brought]
    rest: dict[str, Brought]

    @property
    def kept(self) -> Store:
        return Store(self.running.data)

    def push(self, files: list[Path]) -> dict[Path, int | None]:
        peer = replace(self.running.node, calling_ae=TITLE)
        try:
            return {answer.path: answer.status for answer in send(peer, read_outgoing(files))}
        except Unavailable:
            return dict.fromkeys(files)

    def upload(self, files: list[Path]) -> httpx.Response:
        parts = [("files", (path.name, path.read_bytes(), "application/dicom")) for path in files]
        return self.running.client.post("/cases", files=parts)

    def half_taken(self) -> list[Path]:
        """What the doors have begun to write and not finished (the workers write beside it)."""
        return list((self.running.data / "incoming").glob(f"*-{self.running.ports['pid']}-*"))

    def wait(self, series_uid: str) -> dict[str, Any]:
        """The case once it is final."""
        case = self.running.case_of(series_uid)
        found: dict[str, Any] = self.running.client.get(f"/cases/{case['id']}", params={"wait": 100}).raise_for_status().json()
        return found


def data_set(path: Path) -> bytes:
    """A file without its preamble and meta information; where it cannot be read, the length says where that ends (PS3.10 7.1)."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def bring(house: House, row: Row, folder: Path, door: str) -> Brought:
    seed = f"{door}/{row.name}"
    files = row.make(Bench(house.volume, folder, seed))
    brought = Brought(row, str(make_uid(seed, "series")), files)
    if door == "store":
        brought.statuses = house.push(files)
    else:
        brought.response = house.upload(files)
    return brought


@pytest.fixture(scope="session")
def small_volume() -> Volume:
    """A head small enough to be done in no time."""
    return make_phantom(3, shape=(72, 90, SLICES), spacing_mm=(2.6, 2.6, 11.5), plane="axial", oblique_degrees=(5.0, -4.0, 7.0)).flair


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, small_volume: Volume, tiny_release: Path) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("bad-input")
    senders = json.dumps([{"title": TITLE, "address": "127.0.0.1"}])
    running = Running(folder / "data", release=tiny_release, quiet_time_s=1, calling_ae=senders, engine="onnxruntime-cpu")
    try:
        running.start()
        made = House(running, tiny_release, small_volume, {}, {})
        for number, row in enumerate(ROWS):
            for door in row.doors:
                getattr(made, door)[row.name] = bring(made, row, folder / f"{door}-{number}", door)
        yield made
    finally:
        assert running.stop() == 0, running.last_words()


def assert_nothing_lost(house: House, brought: Brought, taken: list[Path]) -> None:
    """What was acknowledged is on disk byte for byte and counted in its case; of what was refused nothing is left."""
    kept = files_of(house.kept, brought.series_uid)
    wanted = {data_set(path) for path in taken} if brought.row.stored else set()
    assert {data_set(path) for path in kept} == wanted
    assert len(kept) == len(wanted)
    cases = house.running.cases(series_uid=brought.series_uid)
    assert [case["instances"] for case in cases] == ([len(taken)] if taken else [])
    for path in kept:
        with path.open("rb") as stream:
            assert read_file(stream)[0].series_uid == brought.series_uid


def assert_end(house: House, brought: Brought) -> None:
    """The case ends as the table says, with its reason; results only where it is done."""
    row = brought.row
    case = house.wait(brought.series_uid)
    assert (case["state"], case["attempts"]) == (row.state, 0), case
    assert bool(case["outputs"]) == (row.state == "done")
    if row.state != "done":
        assert re.search(row.reason, case["reason"]), case["reason"]
        assert f"P-{brought.row.name}" not in case["reason"]
        assert "\n" not in case["reason"]
