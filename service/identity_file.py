"""A patient's identity corrected by hand, as a file beside the results: a case book made anew from the files knows whose series it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from service.records import Book, Case, State, utc_now
from service.records.moves import plain
from service.records.result_record import ResultRecord
from service.store import Store

KIND: Final = "identity"
_FORM: Final = 1


class NotAnIdentity(ValueError):
    """The bytes are no correction of an identity, or one of a later version."""


@dataclass(frozen=True)
class SaidIdentity:
    """
    What the file says. It holds the patient's name, as the instances do.

    Attributes
    ----------
    before, after : the whole identity, by DICOM keyword
    instances : SOP Instance UIDs of the series when it was said; of those it was said
    """

    study_uid: str
    series_uid: str
    at: datetime
    by: str
    reason: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    instances: tuple[str, ...]

    def as_bytes(self) -> bytes:
        """Encode; the same correction is the same bytes."""
        values = asdict(self) | {"form": _FORM, "at": self.at.astimezone(UTC).isoformat()}
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Undo `as_bytes`. Raises NotAnIdentity."""
        try:
            values = json.loads(data)
            if values.pop("form") != _FORM:
                raise NotAnIdentity("an identity of another version")
            at = datetime.fromisoformat(values.pop("at"))
            said = cls(at=at, instances=tuple(values.pop("instances")), **values)
            texts = (said.study_uid, said.series_uid, said.by, said.reason, *said.instances, *said.before.values(), *said.after.values())
            if at.tzinfo is None or not {"PatientID", "IssuerOfPatientID"} <= said.after.keys() or not all(map(_is_text, texts)):
                raise NotAnIdentity("damaged")
            return said
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise NotAnIdentity(str(error) if isinstance(error, NotAnIdentity) else "damaged") from None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and plain(value) == value


def keep_identity(book: Book, store: Store, case: Case, before: Mapping[str, str], after: Mapping[str, str], by: str, reason: str) -> None:
    """
    Write a correction beside the results, then into the case book; when this returns, both are durable.

    Raises
    ------
    UnknownCase, Unavailable
        Perhaps a file without a row was written.
    """
    seen = tuple(sorted(row.sop_instance_uid for row in book.headers(case.id)))
    said = SaidIdentity(case.study_uid, case.series_uid, utc_now(), by, reason, before, after, seen)
    path = store.put_output(case.id, KIND, said.as_bytes())
    book.correct_identity(case.id, before, after, by=by, reason=reason, at=said.at, path=path)


def restore_identities(book: Book, store: Store, newest: Mapping[tuple[str, str], ResultRecord], damaged: dict[str, str]) -> int:
    """
    Say again what the files say and the case book does not know, in the order in which it was said; gives how many that were.

    What the newest results were made with is in force again. What they were made after, and without, was corrected by the sender since and
    is only written down. What was said after them makes another revision, as it did when it was said.

    Parameters
    ----------
    newest : by study and series, the record of the newest revision there is
    damaged : is told which files are not what they should be, and why

    Raises
    ------
    Unavailable
    """
    count = 0
    for path, said in sorted(_read(store, damaged), key=lambda one: (one[1].at, one[0])):
        for case in book.find_cases(study_uid=said.study_uid, series_uid=said.series_uid).items:
            digest = path.rpartition("-")[2]
            if digest not in book.told_identities(case.id):
                _restore(book, case, said, path, newest.get((said.study_uid, said.series_uid)))
                count += 1
    return count


def _restore(book: Book, case: Case, said: SaidIdentity, path: str, record: ResultRecord | None) -> None:
    known = {} if record is None else record.identities
    digest = path.rpartition("-")[2]
    values: dict[str, Any] = {"by": said.by, "reason": said.reason, "at": said.at, "path": path}
    made_with_it = record is not None and known.get(digest, False) and (case.state, case.revision) == (State.DONE, record.revision)
    if made_with_it or not known.get(digest, True) or _is_of_others(book, case, said):
        book.restore_identity(case.id, said.before, said.after, in_force=made_with_it, **values)
    else:
        book.correct_identity(case.id, said.before, said.after, **values)


def _is_of_others(book: Book, case: Case, said: SaidIdentity) -> bool:
    """Tell whether a rejection note took all that it was said of, and what there is came later and says itself whose it is."""
    there = {row.sop_instance_uid for row in book.headers(case.id)}
    return bool(there) and there.isdisjoint(said.instances)


def _read(store: Store, damaged: dict[str, str]) -> Iterator[tuple[str, SaidIdentity]]:
    for path in store.every_output(KIND):
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != path.name.rpartition("-")[2]:
                raise NotAnIdentity("not what its name says")
            yield store.relative(path), SaidIdentity.from_bytes(data)
        except (OSError, NotAnIdentity) as error:
            damaged[store.relative(path)] = error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
