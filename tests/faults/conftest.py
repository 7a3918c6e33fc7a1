"""Small series, a tiny release, and services that die of them in no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model.phantom import Phantom, make_phantom
from tests.tiny import write_release
from worker.phantom import write_series

SLICES = 20
SHORT = {"quiet_time_s": 2.5, "sweep_s": 0.5, "lease_s": 3, "time_limit_s": 8, "engine": "onnxruntime-cpu", "threads": 1}


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "tiny").folder


@pytest.fixture(scope="session")
def small_head() -> Phantom:
    return make_phantom(3, shape=(80, 100, SLICES), spacing_mm=(2.4, 2.4, 8.0), plane="axial")


@pytest.fixture
def write_small(small_head: Phantom, tmp_path: Path) -> Callable[[int], list[list[Path]]]:
    """Write that many small series, each of a patient of its own."""

    def write(count: int) -> list[list[Path]]:
        return [
            write_series(small_head.flair, tmp_path / f"small-{n}", uid_seed=f"{tmp_path.name}-{n}", patient_id=f"S-{n}")
            for n in range(count)
        ]

    return write


@pytest.fixture
def make_fragile(make_service, tiny_release, free_port):
    """Make a service on the tiny release whose waits are short and whose ports stay when it is started again."""

    def make(**settings: object):
        ports = {"dicom_port": free_port(), "http_port": free_port()}
        return make_service(**(SHORT | ports | {"release": tiny_release} | settings))

    return make
