"""The listener and DCMTK's own senders."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.listener import Listener
from service.records import State
from tests.service.house import House, listening
from tests.service.series import flair_series, part10

Find = Callable[[str], str]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "data")
    yield house
    house.book.close()


@pytest.fixture
def listener(house: House) -> Iterator[Listener]:
    with listening(house) as running:
        yield running


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=150, check=False)


def write(folder: Path, count: int = 14) -> Path:
    """A series as files."""
    folder.mkdir()
    for k, dataset in enumerate(flair_series(count)):
        (folder / f"{k}.dcm").write_bytes(part10(dataset))
    return folder


def test_echoscu(peer: Find, listener: Listener) -> None:
    assert run(peer("echoscu"), "-aec", "LEUKOSCOPE", "127.0.0.1", str(listener.port)).returncode == 0


def test_storescu_pushes_a_series(peer: Find, listener: Listener, house: House, tmp_path: Path) -> None:
    sent = run(peer("storescu"), "-aec", "LEUKOSCOPE", "127.0.0.1", str(listener.port), "+sd", write(tmp_path / "series"))
    assert sent.returncode == 0, sent.stderr
    assert house.case.state is State.QUEUED
    assert house.case.instances == 14


def test_storescu_aborts_at_its_end(peer: Find, listener: Listener, house: House, tmp_path: Path) -> None:
    run(peer("storescu"), "--abort", "-aec", "LEUKOSCOPE", "127.0.0.1", str(listener.port), "+sd", write(tmp_path / "series"))
    assert house.case.instances == 14
    house.wait(31)
    assert house.case.state is State.QUEUED


@pytest.mark.parametrize(
    ("folder", "option"),
    [
        ("generic/compressed_jpeg/001", "-xs"),
        ("generic/compressed_jpegls/001", "-xt"),
        ("generic/compressed_j2k/001", "-xv"),
        ("generic/compressed_rle/001", "-xr"),
        ("siemens/anatomical/001", "-xe"),
        ("siemens/anatomical/001", "-xb"),
        ("philips/anatomical/001_implicit", "-xi"),
        ("hyperfine/anatomical/001", "-xe"),
    ],
)
def test_storescu_in_every_transfer_syntax(peer: Find, shared_data: Path, tmp_path: Path, folder: str, option: str) -> None:
    house = House(tmp_path / "few", minimum_slices=2, quiet_time_s=1)
    files = shared_data / "dicom" / "vendors" / folder
    with listening(house) as listener:
        sent = run(peer("storescu"), option, "-aec", "LEUKOSCOPE", "127.0.0.1", str(listener.port), "+sd", files)
        assert sent.returncode == 0, sent.stderr
        house.wait(2)
        assert house.case.state is State.QUEUED, house.case.reason
    house.book.close()


def test_a_called_title_of_any_spelling_is_answered(peer: Find, listener: Listener) -> None:
    assert run(peer("echoscu"), "-aec", "ANYTHING", "127.0.0.1", str(listener.port)).returncode == 0
