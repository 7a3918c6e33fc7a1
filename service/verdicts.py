"""What a reader says of a result: in the case book, and beside the results for a case book that is made anew from the files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from service.filed import canonical, named_digest
from service.records import Book, Correction, ReaderVerdict, State, UnknownCase, VerdictKind, VerdictRefused
from service.store import Store

KIND: Final = "verdict"
_FORM: Final = 1


@dataclass(frozen=True)
class Said:
    """What the file says; the time is that of the file, so that the same words are the same file. `mask`: the file of a corrected one."""

    study_uid: str
    series_uid: str
    revision: int
    verdict: str
    reader: str
    comment: str
    mask: str | None = None

    def as_bytes(self) -> bytes:
        """Encode; the same verdict is the same bytes."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return canonical(values | {"form": _FORM})

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
        Nothing was written.
    Unavailable
    """
    path = _keep(book, store, case_id, kind, reader, comment, revision)
    return book.judge(case_id, kind, reader, comment, revision=revision, path=path)


def keep_words(book: Book, store: Store, case_id: str, reader: str, comment: str, revision: int | None, mask: str) -> str | None:
    """Write down whose corrected mask a file is, before the case book is told; gives the file. Raises UnknownCase, Unavailable."""
    return _keep(book, store, case_id, VerdictKind.CORRECT, reader, comment, revision, mask)


def _keep(
    book: Book, store: Store, case_id: str, kind: VerdictKind, reader: str, comment: str, revision: int | None, mask: str | None = None
) -> str | None:
    """Write the file; none where the case book will refuse the verdict, for a book made anew might take it."""
    case = book.case(case_id)
    if case is None:
        raise UnknownCase(case_id)
    if case.state is not State.DONE or revision not in (None, case.revision):
        return None
    said = Said(case.study_uid, case.series_uid, case.revision, kind.value, reader, comment, mask)
    return store.put_output(case_id, KIND, said.as_bytes())


@dataclass(frozen=True)
class SaidVerdict:
    """A file with a verdict: when it was written, where it lies in the store, what it says."""

    at: datetime
    path: str
    said: Said


def read_verdicts(store: Store) -> list[SaidVerdict]:
    """Read the files there are, in the order they were written; of the same moment a rejection is the last, for nothing follows it."""
    return sorted(_read(store), key=lambda one: (one.at, one.said.verdict == VerdictKind.REJECT, one.path))


def acceptances(verdicts: Iterable[SaidVerdict]) -> dict[str, list[SaidVerdict]]:
    """Give, by study, those that accept a revision which nobody rejected."""
    rejected = {(one.said.series_uid, one.said.revision) for one in verdicts if one.said.verdict == VerdictKind.REJECT}
    found: dict[str, list[SaidVerdict]] = defaultdict(list)
    for one in verdicts:
        if one.said.verdict == VerdictKind.ACCEPT and (one.said.series_uid, one.said.revision) not in rejected:
            found[one.said.study_uid].append(one)
    return found


def restore_verdicts(book: Book, store: Store, verdicts: Iterable[SaidVerdict]) -> int:
    """
    Judge again by the files, in the order they were written; gives how many that were.

    One that is not about a current revision is passed over: a correction that became a revision is told by the record of that. One that
    is waits for a worker again.
    """
    count = 0
    for one in verdicts:
        for case in book.find_cases(study_uid=one.said.study_uid, series_uid=one.said.series_uid).items:
            if not any(one.path in (known.path, known.said) for known in book.verdicts_of([case.id])[case.id]):
                count += _say_again(book, store, case.id, one.said, one.path, one.at)
    return count


def _say_again(book: Book, store: Store, case_id: str, said: Said, path: str, at: datetime) -> bool:
    try:
        if said.mask is None:
            book.judge(case_id, VerdictKind(said.verdict), said.reader, said.comment, revision=said.revision, at=at, path=path)
        elif not store.has_file(said.mask):
            return False
        else:
            mask = Correction(said.mask, named_digest(said.mask), path)
            book.note_correction(case_id, said.reader, mask, said.comment, revision=said.revision, at=at)
    except (UnknownCase, VerdictRefused):
        return False
    return True


def _read(store: Store) -> Iterator[SaidVerdict]:
    for path in store.every_output(KIND):
        said = _said(path)
        if said is not None:
            yield SaidVerdict(datetime.fromtimestamp(path.stat().st_mtime, UTC), store.relative(path), said)


def _said(path: Path) -> Said | None:
    try:
        found = Said.from_bytes(path.read_bytes())
        if (VerdictKind(found.verdict) is VerdictKind.CORRECT) != (found.mask is not None):
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found
