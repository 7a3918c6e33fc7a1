"""What every test may ask for: the real programs it talks to, real data beside the project, free ports."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from model.phantom import Phantom
    from tests.running import Running

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


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """Make one whole head of 40 thick axial slices, for every test that only needs a head."""
    from model.phantom import make_phantom

    return make_phantom(3, shape=(160, 200, 40), spacing_mm=(1.2, 1.2, 4.0), plane="axial", oblique_degrees=(5.0, -4.0, 7.0))


@pytest.fixture
def write_phantom(phantom: Phantom, tmp_path: Path) -> Callable[..., list[Path]]:
    """Write the phantom as a series of its own (by `seed`); other arguments are `write_series`'s."""
    from worker.phantom import write_series

    def write(seed: str, **arguments: Any) -> list[Path]:
        return write_series(phantom.flair, tmp_path / f"series-{seed}", uid_seed=seed, patient_id=f"P-{seed}", **arguments)

    return write


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run one service for all tests that do not break it: short quiet time, no destination."""
    from tests.running import Running

    service = Running(tmp_path_factory.mktemp("service") / "data", quiet_time_s=1.5)
    try:
        yield service.start()
    finally:
        assert service.stop() == 0, service.last_words()
