"""Do the books balance: everything acknowledged is on disk and indexed, every series has one result set."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import select

from service.records import Book, Case
from service.records.database import make_engine
from service.records.schema import instances
from service.settings import Settings
from tests.running import FINAL, Service, series_uid


def settings_of(service: Service) -> Settings:
    named = {name.removeprefix("LEUKOSCOPE_").lower(): value for name, value in service.settings.items()}
    kept = {name: named[name] for name in ("database_url", "broker_url") if name in named}
    return Settings(data_dir=service.data, **kept)  # type: ignore[arg-type]


def book_of(service: Service) -> Book:
    from service.records import open_book

    return open_book(settings_of(service))


def history(service: Service, case_id: str) -> list[str]:
    with closing(book_of(service)) as book:
        case = book.case(case_id)
        assert case is not None
        return [line.event for line in case.history]


def wait_for_all(service: Service, series: Sequence[Sequence[Path]], limit_s: float = 150.0) -> dict[str, Case]:
    """Wait until the case of every series is final and whole, looking at the book itself; at most `limit_s` for one more that is."""
    wanted = {series_uid(files): len(files) for files in series}
    ended, deadline = 0, time.monotonic() + limit_s
    with closing(book_of(service)) as book:
        while True:
            found = {case.series_uid: case for case in book.find_cases(limit=500).items if case.series_uid in wanted}
            now = sum(case.state in FINAL and case.state != "held" and case.instances == wanted[uid] for uid, case in found.items())
            if now == len(wanted):
                return {uid: book.case(case.id) or case for uid, case in found.items()}
            if now > ended:
                ended, deadline = now, time.monotonic() + limit_s
            assert time.monotonic() < deadline, (
                {uid: (case.state, case.instances, case.attempts, case.reason) for uid, case in found.items() if case.state != "done"},
                service.last_words(),
            )
            time.sleep(0.1)


def assert_balance(service: Service, series: Sequence[Sequence[Path]], acknowledged: Mapping[str, Path]) -> None:
    """Every acknowledged instance is stored byte for byte and indexed once; every series is done, once, with one set of outputs."""
    cases = wait_for_all(service, series)
    assert {case.state for case in cases.values()} == {"done"}, [(case.state, case.reason) for case in cases.values()]
    for case in cases.values():
        finished = Counter(line.revision for line in case.history if line.event == "finish")
        assert finished[case.revision] == 1, [(line.event, line.revision) for line in case.history]
        assert max(finished.values()) == 1, "a revision was finished twice"
    assert_stored(service, acknowledged)
    with closing(book_of(service)) as book:
        for case in cases.values():
            outputs = book.outputs(case.id)
            assert len({one.kind for one in outputs}) == len(outputs) > 0
            assert {one.revision for one in outputs} == {case.revision}
            for one in outputs:
                assert hashlib.sha256((service.data / one.path).read_bytes()).hexdigest() == one.sha256


def assert_stored(service: Service, acknowledged: Mapping[str, Path]) -> None:
    """Each acknowledged instance is indexed once and on disk as it was sent."""
    engine = make_engine(service.database)
    with engine.connect() as connection, connection.begin():
        rows = connection.execute(select(instances.c.sop_instance_uid, instances.c.path, instances.c.digest, instances.c.aside)).all()
    engine.dispose()
    stored = {row.sop_instance_uid: row for row in rows if not row.aside}
    assert len(stored) == len(rows), "an instance is there twice"
    missing = acknowledged.keys() - stored.keys()
    assert not missing, f"{len(missing)} acknowledged instances are not indexed"
    for uid, sent in acknowledged.items():
        path = service.data / stored[uid].path
        assert hashlib.sha256(path.read_bytes()).hexdigest() == stored[uid].digest
        assert dcmread(path).PixelData == dcmread(sent).PixelData
