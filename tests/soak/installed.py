"""A service on either set of parts, outside pytest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.running import Running, Service
from tests.separate import Separate
from tests.servers import PostgresServer, RedisServer, find_port, find_program

SETS = ("embedded", "full")


def program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise SystemExit(f"{name} is not installed: make peers")
    return found


@contextmanager
def installed(name: str, folder: Path, **settings: object) -> Iterator[Service]:
    """Run `serve`, or every part alone on PostgreSQL and Redis, until the block ends."""
    with ExitStack() as stack:
        service: Service
        if name == "embedded":
            service = Running(folder / "data", dicom_port=find_port(), http_port=find_port(), **settings)
        else:
            broker = RedisServer(program("redis-server"), find_port()).start()
            stack.callback(broker.stop)
            postgresql = PostgresServer(program).start()
            stack.callback(postgresql.remove)
            parts = {"database_url": postgresql.create_database("soak"), "broker_url": broker.url}
            service = Separate(folder / "data", find_port, **parts, **settings)
        stack.callback(service.stop)
        yield service.start()
