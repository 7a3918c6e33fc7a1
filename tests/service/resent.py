"""Versions of one instance in the case book, and verdicts on all that wait."""

from __future__ import annotations

from sqlalchemy import text

from service.records import Book, InstanceRow, Judged, Verdict, utc_now
from tests.service.casebook import instance

A, B, C, D = (letter * 64 for letter in "abcd")


def version(number: int = 1, digest: str = A, *, name: str = "P/1", **fields: object) -> InstanceRow:
    header = {"patient_id": name, "patient_id_issuer": "HOSPITAL", "series_description": f"FLAIR {name}"}
    return instance(number, digest=digest, header=header, **{"received_at": utc_now(), **fields})


def judge(book: Book, case_id: str, verdict: Verdict, *changed: str) -> int:
    """Give everything that waits the same verdict."""
    return book.judge_resends(case_id, [Judged(one, verdict, changed) for one in book.uncompared(case_id)])


def current(book: Book, case_id: str) -> set[str]:
    return {row.digest for row in book.headers(case_id)}


def rows(book: Book, case_id: str) -> dict[str, tuple[bool, str | None]]:
    with book._reading() as connection:
        found = connection.execute(text("SELECT digest, aside, verdict FROM instances WHERE case_id = :id"), {"id": case_id})
        return {digest: (bool(aside), verdict) for digest, aside, verdict in found}
