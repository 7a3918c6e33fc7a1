"""Small series, a tiny release, and services that die of them in no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SHORT = {"quiet_time_s": 2.5, "sweep_s": 0.5, "lease_s": 3, "time_limit_s": 8, "engine": "onnxruntime-cpu", "threads": 1}


@pytest.fixture
def write_small(write_head: Callable[..., list[Path]], tmp_path: Path) -> Callable[[int], list[list[Path]]]:
    """Write that many small series, each of a patient of its own."""

    def write(count: int) -> list[list[Path]]:
        return [write_head(f"{tmp_path.name}-{number}") for number in range(count)]

    return write


@pytest.fixture
def make_fragile(make_service, tiny_release, free_port):
    """Make a service on the tiny release whose waits are short and whose ports stay when it is started again."""

    def make(**settings: object):
        ports = {"dicom_port": free_port(), "http_port": free_port()}
        return make_service(**(SHORT | ports | {"release": tiny_release} | settings))

    return make
