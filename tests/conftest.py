"""What every test may ask for: the real programs it talks to, real data beside the project, free ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.running import Running, Service
from tests.separate import Separate
from tests.servers import PostgresServer, RedisServer, find_port, find_program

if TYPE_CHECKING:
    from model.phantom import Phantom

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out file by file, those that share a running service to one process."""
    from tests.together import Together

    return Together(config, log)


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Give the path of a real program; without it the test skips with the reason, and with CI=true it fails."""

    def find(name: str) -> str:
        found = find_program(name)
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
def free_port() -> Callable[[], int]:
    """Give port numbers nobody listens on, never the same twice."""
    return find_port


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
def small_head() -> Phantom:
    """Make a head of 20 slices, as coarse as may be, for tests of what is done with a series and not of what is found in it."""
    from model.phantom import make_phantom

    return make_phantom(3, shape=(80, 100, 20), spacing_mm=(2.4, 2.4, 8.0), plane="axial")


@pytest.fixture
def write_head(small_head: Phantom, tmp_path: Path) -> Callable[..., list[Path]]:
    """Write the small head as a series of its own (by `seed`); other arguments are `write_series`'s."""
    from worker.phantom import write_series

    def write(seed: str, **arguments: Any) -> list[Path]:
        return write_series(small_head.flair, tmp_path / f"head-{seed}", uid_seed=seed, patient_id=f"P-{seed}", **arguments)

    return write


@pytest.fixture(scope="session")
def tiny_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a release that takes no time."""
    from tests.tiny import write_release

    return write_release(tmp_path_factory.mktemp("release") / "tiny").folder


@pytest.fixture(scope="session")
def postgresql(peer: Callable[[str], str]) -> Iterator[PostgresServer]:
    """Run one PostgreSQL server for all tests that do not break it."""
    server = PostgresServer(peer)
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def redis_server(peer: Callable[[str], str], free_port: Callable[[], int]) -> Iterator[RedisServer]:
    """Run an empty Redis, for one test."""
    server = RedisServer(peer("redis-server"), free_port())
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def embedded_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run `serve` for all tests that do not break it: short quiet time, no destination."""
    service = Running(tmp_path_factory.mktemp("embedded") / "data", quiet_time_s=1.5)
    yield service.start()
    assert service.stop() == 0, service.last_words()


@pytest.fixture(scope="session")
def full_service(tmp_path_factory: pytest.TempPathFactory, peer: Callable[[str], str], postgresql: PostgresServer) -> Iterator[Service]:
    """Run the same on the full set, every part alone."""
    broker = RedisServer(peer("redis-server"), find_port()).start()
    parts = {"database_url": postgresql.create_database("running"), "broker_url": broker.url}
    service = Separate(tmp_path_factory.mktemp("full") / "data", find_port, quiet_time_s=1.5, **parts)
    yield service.start()
    code = service.stop()
    broker.stop()
    assert code == 0, service.last_words()


@pytest.fixture(params=["embedded", "full"])
def running(request: pytest.FixtureRequest) -> Service:
    """Give a service that no test breaks, on each set of parts."""
    service: Service = request.getfixturevalue(f"{request.param}_service")
    return service


@pytest.fixture(params=["embedded", "full"])
def make_service(request: pytest.FixtureRequest, tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Service]]:
    """Give a maker of services that are there to be broken, on each set of parts; what is made is ended with the test."""
    made: list[Service] = []

    def make(**settings: object) -> Service:
        data = tmp_path / f"data-{len(made)}"
        if request.param == "embedded":
            service: Service = Running(data, **settings)
        else:
            database = request.getfixturevalue("postgresql").create_database(f"s{abs(hash(str(data))):x}")
            broker = request.getfixturevalue("redis_server").url
            service = Separate(data, free_port, **({"database_url": database, "broker_url": broker} | settings))
        made.append(service)
        return service

    yield make
    for service in made:
        service.stop()
