"""`leukoscope index rebuild`: the case book from the files alone, or a restored one completed with what the files know more.

Instances go through the same door as those that arrive, in the order in which they came, so the same rules hold. A series whose
results are there and were made from exactly its instances is done without running; every other is judged by the service at its
next start. Nothing is moved, changed or deleted on disk.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Final

from service.filed import Altered, named_digest, read_unaltered, why_not
from service.headers import Unreadable, read_file
from service.identity_file import restore_identities
from service.records import Book, InstanceRow, OutputRow
from service.records.rebuilding import Found
from service.records.result_record import RECORD, NotARecord, ResultRecord
from service.rejecting import KEY_OBJECTS, Rejection, read_rejection
from service.store import Store, series_key
from service.verdicts import acceptances, read_verdicts, restore_verdicts
from service.whose_results import hold_back_others

_BATCH: Final = 500
_SOURCE: Final = "index rebuild"

Step = Callable[[], None]
"""Told after every instance."""


@dataclass
class Tally:
    """What was found.

    Attributes
    ----------
    counts : series; instances new, known, aside (other bytes under a known UID); cases restored (done by their results), again (done, to
        be run again because results are gone); verdicts (of readers); identities (corrected by hand); audit (entries of the trail);
        orphans (results of no case)
    damaged : files that are not what their name says, or cannot be read, and why; they were left alone and out
    missing : by case, how many files the case book knows of are not there
    lost : done cases of which results are gone, and files they were made from too
    of_others : done cases whose results name another patient; they are not sent
    """

    counts: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    lost: set[str] = field(default_factory=set)
    of_others: set[str] = field(default_factory=set)

    @property
    def is_sound(self) -> bool:
        """Tell whether every file was what it should be, there, and of the right patient."""
        return not (self.damaged or self.missing or self.lost or self.of_others)


def rebuild(book: Book, store: Store, *, delivered: bool = False, step: Step = lambda: None) -> Tally:
    """
    Index what the files know and the case book does not. Repeated, or begun again after an interruption, it gives the same.

    Parameters
    ----------
    delivered : mark the results that come back as sent; otherwise they are sent again, and a PACS takes them as what it has already

    Raises
    ------
    Unavailable
        The database is away.
    """
    tally = Tally()
    notes: list[Rejection] = []
    results = _read_results(store, tally)
    for folder, paths in groupby(store.every_instance(), key=lambda path: path.parent):
        _note_series(book, store, tally, folder, list(paths), step)
        notes += _read_notes(folder)
    by_study = {study_uid: [files for _, files in these] for study_uid, these in groupby(sorted(results.items()), lambda one: one[0][0])}
    verdicts = read_verdicts(store)
    accepted = acceptances(verdicts)
    for study_uid, these in by_study.items():
        found = [one for files in these if (one := _choose(store, files, tally))]
        done = book.restore_results(study_uid, found)
        tally.counts["restored"] += len(done)
        # Before anything is called sent: what a reader accepted is the study's result.
        tally.counts["verdicts"] += restore_verdicts(book, store, accepted.get(study_uid, ()))
        if delivered:
            book.note_sent(done)
    tally.counts["verdicts"] += restore_verdicts(book, store, verdicts)
    for note in notes:  # after the results, so that those which destinations have are withdrawn there too
        book.reject_instances(note.note_uid, note.code, note.title, note.instances)
    # Last: what somebody said of an identity is about what is left, and makes the next revision of what is done.
    newest = {key: record for key, files in results.items() if (record := _read_record(store, files[0][1], tally)) is not None}
    tally.counts["identities"] = restore_identities(book, store, newest, tally.damaged)
    tally.counts["audit"] = book.restore_audit(tally.damaged)
    _look_for_gaps(book, store, tally)
    tally.of_others = hold_back_others(book, store)
    return tally


Results = dict[tuple[str, str], list[tuple[int, Path]]]
"""By study and series: the revisions there are records of, and these; the newest first."""


def _read_results(store: Store, tally: Tally) -> Results:
    found: Results = defaultdict(list)
    for path in store.every_output(RECORD):
        record = _read_record(store, path, tally)
        if record is not None:
            found[record.study_uid, record.series_uid].append((record.revision, path))
    for files in found.values():
        files.sort(key=lambda one: (one[0], one[1].stat().st_mtime, one[1].name), reverse=True)
    return found


def _read_record(store: Store, path: Path, tally: Tally) -> ResultRecord | None:
    try:
        return ResultRecord.from_bytes(read_unaltered(path))
    except (OSError, Altered, NotARecord) as error:
        tally.damaged[store.relative(path)] = why_not(error)
        return None


def _choose(store: Store, files: Sequence[tuple[int, Path]], tally: Tally) -> Found | None:
    """Give the newest results that are all there and undamaged."""
    for revision, path in files:
        record = _read_record(store, path, tally)
        if record is not None and all(_is_whole(store, row, tally) for row in record.outputs):
            own = OutputRow(RECORD, "application/json", store.relative(path), named_digest(path), path.stat().st_size, revision)
            return Found(record, own, _written_at(path), files[0][0])
    return None


def _is_whole(store: Store, row: OutputRow, tally: Tally) -> bool:
    try:
        with store.open_output(row.path) as file:
            if hashlib.sha256(file.read()).hexdigest() == row.sha256:
                return True
        tally.damaged[row.path] = "not what its name says"
    except FileNotFoundError:
        pass  # told by the case that is run again for it
    except (OSError, ValueError) as error:
        tally.damaged[row.path] = why_not(error)
    return False


def _note_series(book: Book, store: Store, tally: Tally, folder: Path, paths: Sequence[Path], step: Step) -> None:
    """Note what is not known yet, in the order in which it came: noting it again would count as sent again."""
    rows: list[InstanceRow] = []
    for path in paths:
        row = _read_instance(store, folder, path, tally)
        if row is not None:
            rows.append(row)
        step()
    series = {(row.study_uid, row.series_uid) for row in rows}
    known = {key: book.indexed_digests(*key) for key in series}
    fresh = [row for row in rows if row.digest not in known[row.study_uid, row.series_uid]]
    fresh.sort(key=lambda row: (row.received_at, row.digest))
    tally.counts.update(series=len(series), known=len(rows) - len(fresh))
    for start in range(0, len(fresh), _BATCH):
        tally.counts.update(
            "aside" if noted.outcome == "conflict" else "new" for noted in book.note_instances(fresh[start : start + _BATCH])
        )


def _read_notes(folder: Path) -> list[Rejection]:
    """The rejection notes of a series that were carried out and kept; one that is damaged is told as an instance."""
    found = []
    for path in sorted(folder.glob("*.dcm")):
        try:
            data = path.read_bytes()
            header, start = read_file(BytesIO(data))
            if header.sop_class_uid != KEY_OBJECTS:
                break  # a series is of one class
            stream = BytesIO(data)
            stream.seek(start)
            note = read_rejection(stream, header.transfer_syntax_uid)
        except (OSError, Unreadable):
            continue
        if note is not None:
            found.append(note)
    return found


def _read_instance(store: Store, folder: Path, path: Path, tally: Tally) -> InstanceRow | None:
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != path.stem:
            raise Unreadable("not what its name says")
        header, _ = read_file(BytesIO(data))
        if series_key(header.series_uid) != folder.name:
            raise Unreadable("in the folder of another series")
        received_at = _written_at(path)
    except (OSError, Unreadable) as error:
        tally.damaged[store.relative(path)] = why_not(error)
        return None
    return InstanceRow.of(
        header,
        digest=path.stem,
        path=store.relative(path),
        size=len(data),
        source=_SOURCE,
        association=_SOURCE,
        received_at=received_at,
    )


def _look_for_gaps(book: Book, store: Store, tally: Tally) -> None:
    """Files without rows among the results, and rows without files."""
    tally.missing.update(case_id for case_id, path in book.indexed_instances() if not store.path_of(path).is_file())
    known = set()
    gone = set()
    for case_id, path, is_current in book.indexed_outputs():
        known.add(path)
        if is_current and not store.path_of(path).is_file():
            gone.add(case_id)
    tally.counts["orphans"] = sum(store.relative(path) not in known for path in _results_on_disk(store))
    for case_id in sorted(gone):
        if case_id in tally.missing:
            tally.lost.add(case_id)
        else:
            tally.counts["again"] += book.run_again(case_id)


def _results_on_disk(store: Store) -> Iterator[Path]:
    return (path for path in store.every_output() if path.is_file())


def _written_at(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
