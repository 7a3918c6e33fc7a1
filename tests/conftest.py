"""What every test may ask for: the real programs it talks to, real data beside the project, free ports."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# programs that are not on PATH under their own name
_ELSEWHERE = {
    name: tuple(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)) for name in ("initdb", "postgres", "pg_ctl")
}


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Give the path of a real program; without it the test skips with the reason, and with CI=true it fails."""

    def find(name: str) -> str:
        found = shutil.which(name) or next((str(path) for path in _ELSEWHERE.get(name, ())), None)
        if found is None:
            reason = f"{name} is not installed (make peers installs it where apt-get is there)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return found

    return find


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real public scans beside the project, or skip with the reason."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not here")
    return folder


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """Give port numbers nobody listens on, never the same twice in a test."""
    given: set[int] = set()

    def take() -> int:
        while True:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

    yield take
