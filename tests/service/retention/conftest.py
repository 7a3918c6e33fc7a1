"""An installation whose cases are sent, worked on, aged and cleaned up."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select, text, update

from service.errors import Unavailable
from service.headers import read_file
from service.intake import Intake
from service.intake.handover import Source
from service.presence import Counts
from service.records import Book, OutputRow, utc_now
from service.records.schema import cases, instances, outputs
from service.retention import apply_plan, make_plan
from service.settings import Settings
from service.store import Store
from tests.service.casebook import FINDINGS
from tests.service.series import flair_series, part10

AGE = {"keep_days": 10}


class House:
    """A book, a store, an intake, and time that can be turned back."""

    def __init__(self, folder: Path, book: Book, **rules: Any) -> None:
        self.book = book
        self.settings = Settings(data_dir=folder, minimum_free_mb=0, retention=rules)
        self.store = Store(folder)
        self.submitted: list[str] = []
        self.intake = self.new_intake(book)
        self.counts = Counts()

    def new_intake(self, book: Book) -> Intake:
        return Intake(self.settings, Store(self.settings.data_dir), book, None, submit=lambda _, case_id: self.submitted.append(case_id))

    def send(self, series: list[Dataset], *, close: bool = True) -> str:
        association = secrets.token_hex(4)
        for dataset in series:
            receipt = self.intake.receive(part10(dataset), Source(association, "SCANNER"))
        if close:
            self.intake.close_source(association)
        return receipt.case_id

    def finish(self, case_id: str, *, before: Callable[[], object] = lambda: None) -> str:
        lease = self.book.claim(case_id, "w")
        assert lease is not None
        rows = []
        for kind in ("segmentation", "report.json"):
            data = f"{case_id} {kind}".encode()
            path = self.store.put_output(case_id, kind, data)
            rows.append(
                OutputRow(kind, "x/y", path, hashlib.sha256(data).hexdigest(), len(data), lease.revision, "1.2", f"2.25.{case_id[:5]}")
            )
        before()  # the files are there, the rows are not
        self.book.finish(lease, outputs=rows, findings=FINDINGS)
        return case_id

    def done(self, series: list[Dataset] | None = None, *, sent: bool = True) -> str:
        case_id = self.finish(self.send(series or flair_series(14)))
        for delivery in self.book.deliveries(case_id) if sent else ():
            self.book.delivered(delivery.id)
        return case_id

    def age(self, case_id: str, days: float) -> str:
        then = utc_now() - timedelta(days=days)
        with self.book._writing() as connection:
            chosen = update(cases).where(cases.c.id == case_id)
            connection.execute(chosen.values(received_at=then, last_received_at=then, changed_at=then))
            paths = [*connection.execute(select(instances.c.path).where(instances.c.case_id == case_id)).scalars()]
            paths += connection.execute(select(outputs.c.path).where(outputs.c.case_id == case_id)).scalars()
        for path in paths:
            os.utime(self.store.path_of(path), (then.timestamp(), then.timestamp()))
        return case_id

    def run(self) -> int:
        return apply_plan(make_plan(self.settings, self.book, self.store), self.book, self.store, self.counts)

    @property
    def ids(self) -> set[str]:
        return {case.id for case in self.book.find_cases(limit=500).items}

    @property
    def files(self) -> set[str]:
        roots = [self.store.root / name for name in ("instances", "outputs")]
        return {self.store.relative(path) for root in roots for path in root.rglob("*") if path.is_file()}

    @property
    def folders(self) -> int:
        return sum(1 for name in ("instances", "outputs") for _ in (self.store.root / name).iterdir())

    def named(self) -> set[str]:
        with self.book._reading() as connection:
            found = set(connection.execute(select(instances.c.path).where(instances.c.path != "")).scalars())
            return found | set(connection.execute(select(outputs.c.path)).scalars())

    def break_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the rows go, and be gone before the files are."""

        def die(paths: list[str]) -> int:
            raise Unavailable("gone")

        with monkeypatch.context() as patched:
            patched.setattr(self.store, "remove", die)
            with pytest.raises(Unavailable):
                self.run()


@pytest.fixture
def make(tmp_path: Path, book: Book) -> Iterator[Callable[..., House]]:
    with book._writing() as connection:
        connection.execute(text("DELETE FROM removals"))
    yield lambda **rules: House(tmp_path / "data", book, **rules)


def read(dataset: Dataset) -> tuple[Any, bytes]:
    """Its header, and the data set as a listener hands it over."""
    data = part10(dataset)
    header, start = read_file(BytesIO(data))
    return header, data[start:]
