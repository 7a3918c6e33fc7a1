"""A reader's acceptance or rejection: in the case book, and beside the results for a case book that is made anew from the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from service.records import Book, ReaderVerdict, UnknownCase, VerdictKind, VerdictRefused
from service.store import Store

KIND: Final = "verdict"
_FORM: Final = 1


@dataclass(frozen=True)
class Said:
    """What the file says; the time is that of the file, so that the same words are the same file."""

    study_uid: str
    series_uid: str
    revision: int
    verdict: str
    reader: str
    comment: str

    def as_bytes(self) -> bytes:
        """Encode; the same verdict is the same bytes."""
        return json.dumps(asdict(self) | {"form": _FORM}, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Undo `as_bytes`. Raises ValueError, TypeError, KeyError."""
        values = json.loads(data)
        if values.pop("form") != _FORM:
            raise ValueError("a verdict of another version")
        return cls(**values)


def judge(book: Book, store: Store, case_id: str, kind: VerdictKind, reader: str, comment: str, revision: int | None) -> ReaderVerdict:
    """
    Accept or reject a result; see `ReaderVerdicts.judge`.

    Raises
    ------
    UnknownCase, VerdictRefused
        Nothing was written but perhaps a file without a row.
    Unavailable
    """
    case = book.case(case_id)
    if case is None:
        raise UnknownCase(case_id)
    judged = revision or case.revision
    said = Said(case.study_uid, case.series_uid, judged, kind.value, reader, comment)
    path = store.put_output(case_id, KIND, said.as_bytes())
    return book.judge(case_id, kind, reader, comment, revision=judged, path=path)


def restore_verdicts(book: Book, store: Store) -> int:
    """Judge again by the files, in the order they were written; one that is not about a current revision is passed over. Gives how many."""
    count = 0
    for at, path, said in sorted(_read(store), key=lambda one: one[:2]):
        for case in book.find_cases(study_uid=said.study_uid, series_uid=said.series_uid).items:
            known = [one.path for one in book.verdicts_of([case.id])[case.id]]
            if path in known:
                continue
            try:
                book.judge(case.id, VerdictKind(said.verdict), said.reader, said.comment, revision=said.revision, at=at, path=path)
            except (UnknownCase, VerdictRefused):
                continue
            count += 1
    return count


def _read(store: Store) -> Iterator[tuple[datetime, str, Said]]:
    for path in store.every_output(KIND):
        said = _said(path)
        if said is not None:
            yield datetime.fromtimestamp(path.stat().st_mtime, UTC), store.relative(path), said


def _said(path: Path) -> Said | None:
    try:
        found = Said.from_bytes(path.read_bytes())
        VerdictKind(found.verdict)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found
