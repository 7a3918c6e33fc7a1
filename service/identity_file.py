"""A patient's identity corrected by hand, as a file beside the results: a case book made anew from the files knows whose series it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from service.errors import Unavailable
from service.filed import Altered, canonical, named_digest, read_unaltered, why_not
from service.records import Actor, AuditEvent, Book, Case, State, utc_now
from service.records.moves import plain
from service.records.result_record import ResultRecord
from service.records.rows import CorrectedIdentity
from service.store import Store

LOG = logging.getLogger(__name__)
KIND: Final = "identity"
UNCONFIRMED: Final = "unconfirmed-identity"
_FORM: Final = 1
_NOT_CONFIRMED: Final = "a correction of an identity that was refused or cut off, not said again; correct it again if it is meant"


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
    revision, in_force : of a file written later than it was said: the results that knew of it then, and whether they were made with it
    """

    study_uid: str
    series_uid: str
    at: datetime
    by: str
    reason: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    instances: tuple[str, ...]
    revision: int | None = None
    in_force: bool = True

    def as_bytes(self) -> bytes:
        """Encode; the same correction is the same bytes."""
        values = asdict(self) | {"form": _FORM, "at": self.at.astimezone(UTC).isoformat()}
        return canonical(values)

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
            if not isinstance(said.revision, int | None) or not isinstance(said.in_force, bool):
                raise NotAnIdentity("damaged")
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

    The file has another name until the row is there: what was refused, or cut off in between, is not said again by a rebuild.

    Raises
    ------
    UnknownCase, Unavailable
        Nothing was corrected.
    """
    at = utc_now()
    waiting, path = _put(book, store, case, at=at, by=by, reason=reason, before=before, after=after)
    try:
        book.correct_identity(case.id, before, after, by=by, reason=reason, at=at, path=path)
    except BaseException:
        with suppress(Unavailable):
            store.remove([waiting])
        raise
    try:
        _confirm(store, path)
    except Unavailable as error:  # it is corrected all the same
        LOG.error("the file of a corrected identity is not confirmed, the next start does it: %s", error, extra={"case_id": case.id})


def file_identities(book: Book, store: Store) -> None:
    """
    Give every correction in the case book its file: those said before there were files, and those whose file a kill left unconfirmed.

    Repeated, or begun again after an interruption, it gives the same; any number of processes may do it at once.

    Raises
    ------
    Unavailable
    """
    for known in book.corrected_identities():
        if known.path is None or not (store.has_file(known.path) or _confirm(store, known.path)):
            _file(book, store, known)


def _file(book: Book, store: Store, known: CorrectedIdentity) -> None:
    case = book.case(known.case_id)
    if case is None:
        return
    words = {"at": known.at, "by": known.by, "reason": known.reason, "before": known.before, "after": known.after}
    revision = case.revision if case.state is State.DONE else None
    waiting, path = _put(book, store, case, **words, revision=revision, in_force=known.active)
    if book.file_identity(known, path):
        _confirm(store, path)
    else:
        store.remove([waiting])


def _put(book: Book, store: Store, case: Case, **said: Any) -> tuple[str, str]:
    """Write what is said of a case under the name that waits; gives that, and the one it gets once there is a row."""
    seen = tuple(sorted(row.sop_instance_uid for row in book.headers(case.id)))
    waiting = store.put_output(case.id, UNCONFIRMED, SaidIdentity(case.study_uid, case.series_uid, instances=seen, **said).as_bytes())
    return waiting, _renamed(waiting, KIND)


def _renamed(path: str, kind: str) -> str:
    return f"{path.rpartition('/')[0]}/{kind}-{named_digest(path)}"


def _confirm(store: Store, path: str) -> bool:
    """Give a file its name, now that there is a row; False: it is not there, or another process did it."""
    try:
        store.rename_output(_renamed(path, UNCONFIRMED), path)
    except FileNotFoundError:
        return False
    return True


def restore_identities(book: Book, store: Store, newest: Mapping[tuple[str, str], ResultRecord], damaged: dict[str, str]) -> int:
    """
    Say again what the files say and the case book does not know, in the order in which it was said; gives how many that were.

    What the newest results were made with is in force again. What they were made after, and without, was corrected by the sender since and
    is only written down. What was said after them makes another revision, as it did when it was said. Each is told to the audit trail.

    Parameters
    ----------
    newest : by study and series, the record of the newest revision there is
    damaged : is told which files are not what they should be or were not confirmed, and why

    Raises
    ------
    Unavailable
    """
    count = 0
    for left in store.every_output(UNCONFIRMED):
        damaged[store.relative(left)] = _NOT_CONFIRMED
    for path, said in sorted(_read(store, damaged), key=lambda one: (one[1].at, one[0])):
        for case in book.find_cases(study_uid=said.study_uid, series_uid=said.series_uid).items:
            if said.at not in {at for at, *_ in book.identity_corrections(case.id)}:
                _restore(book, case, said, path, newest.get((said.study_uid, said.series_uid)))
                count += 1
    return count


def _restore(book: Book, case: Case, said: SaidIdentity, path: str, record: ResultRecord | None) -> None:
    known = None if record is None else _known(record, said, named_digest(path))
    values: dict[str, Any] = {"by": said.by, "reason": said.reason, "at": said.at, "path": path}
    made_with_it = record is not None and known is True and (case.state, case.revision) == (State.DONE, record.revision)
    if made_with_it or known is False or _is_of_others(book, case, said):
        book.restore_identity(case.id, said.before, said.after, in_force=made_with_it, **values)
    else:
        book.correct_identity(case.id, said.before, said.after, **values)
    what = f"identity corrected by {said.by}, said again by index rebuild: {said.reason}"
    book.audit(AuditEvent.PATIENT_RECORD, what, Actor.at_the_command_line(), case_id=case.id, study_uid=case.study_uid)


def _known(record: ResultRecord, said: SaidIdentity, digest: str) -> bool | None:
    """Tell whether the results were made with a correction (True), after and without it (False), or before it was said (None)."""
    if said.revision == record.revision:
        return record.identities.get(digest, said.in_force)
    return record.identities.get(digest)


def _is_of_others(book: Book, case: Case, said: SaidIdentity) -> bool:
    """Tell whether a rejection note took all that it was said of, and what there is came later and says itself whose it is."""
    there = {row.sop_instance_uid for row in book.headers(case.id)}
    return bool(there) and there.isdisjoint(said.instances)


def _read(store: Store, damaged: dict[str, str]) -> Iterator[tuple[str, SaidIdentity]]:
    for path in store.every_output(KIND):
        try:
            yield store.relative(path), SaidIdentity.from_bytes(read_unaltered(path))
        except (OSError, Altered, NotAnIdentity) as error:
            damaged[store.relative(path)] = why_not(error)
