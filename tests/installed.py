"""A service on either set of parts, with the servers it stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.running import Running, Service
from tests.separate import Separate
from tests.servers import PostgresServer, RedisServer, find_port, find_program

SETS = ("embedded", "full")


@dataclass(frozen=True)
class Installation:
    """A running service; the full set has a broker and a database server of its own, that may be broken."""

    service: Service
    broker: RedisServer | None = None
    postgresql: PostgresServer | None = None


def program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise SystemExit(f"{name} is not installed: make peers")
    return found


@contextmanager
def installed(
    name: str, folder: Path, find: Callable[[str], str] = program, environ: dict[str, str] | None = None, **settings: object
) -> Iterator[Installation]:
    """Run `serve`, or every part alone on PostgreSQL and Redis, until the block ends."""
    with ExitStack() as stack:
        if name == "embedded":
            made = Installation(Running(folder / "data", dicom_port=find_port(), http_port=find_port(), **settings))
        else:
            broker = RedisServer(find("redis-server"), find_port()).start()
            stack.callback(broker.stop)
            postgresql = PostgresServer(find).start()
            stack.callback(postgresql.remove)
            parts = {"database_url": postgresql.create_database("own"), "broker_url": broker.url}
            made = Installation(Separate(folder / "data", find_port, **parts, **settings), broker, postgresql)
        made.service.extra = environ or {}
        stack.callback(made.service.stop)
        made.service.start()
        yield made
