"""A case's files: those it is made from, and those that are its results, in the store before the case book knows of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from service.errors import Unavailable
from service.records import Book, Lease, LeaseLost, OutputRow, told_correction
from service.records.result_record import RECORD, ResultRecord
from service.store import Store
from worker.encode import Output, Predecessor, sr
from worker.frames import MALFORMED, is_of_the_disk


class FilesMissing(Exception):
    """The case book knows of files that are not there: a restore of files older than the database, or a damaged disk."""


def find_files(book: Book, store: Store, case_id: str) -> list[Path]:
    """Give the files of the series. Raises FilesMissing, Unavailable."""
    paths = book.instance_paths(case_id)
    missing = sum(not store.has_file(path) for path in paths)
    if missing:
        store.demand_instances()  # where all of them are away, none is missing
        raise FilesMissing(f"{missing} of {len(paths)} files are missing from the store; send the series again, then retry the case")
    return [store.path_of(path) for path in paths]


def find_predecessor(book: Book, store: Store, lease: Lease) -> Predecessor | None:
    """
    Give the structured report of the revision that the leased one takes the place of; None where there is none.

    Raises
    ------
    FilesMissing
        The case book has it and the store does not, or it is damaged.
    Unavailable
    """
    row = next((row for row in book.outputs(lease.case_id) if row.kind == sr.KIND and row.revision < lease.revision), None)
    if row is None:
        return None
    try:
        found = dcmread(store.path_of(row.path), stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
        study_uid, series_uid = str(found.StudyInstanceUID), str(found.SeriesInstanceUID)
    except (InvalidDicomError, *MALFORMED) as error:
        if isinstance(error, OSError) and is_of_the_disk(error) and not isinstance(error, FileNotFoundError):
            raise Unavailable(f"the object store: {error.strerror}") from error
        why = "the report of the revision before is missing from the store, or damaged; restore it, then retry the case"
        raise FilesMissing(why) from None
    return Predecessor(study_uid, series_uid, str(row.sop_class_uid), str(row.sop_instance_uid))


def keep_outputs(store: Store, lease: Lease, outputs: Sequence[Output]) -> list[OutputRow]:
    """Write the results; gives what the case book is to say of them. Raises Unavailable."""
    return [
        _keep(store, lease, output.kind, output.media_type, output.data, output.sop_class_uid, output.sop_instance_uid)
        for output in outputs
    ]


def keep_record(
    book: Book,
    store: Store,
    lease: Lease,
    files: Sequence[Path],
    rows: Sequence[OutputRow],
    *,
    quality: Sequence[str],
    identities: Mapping[str, bool],
    corrected: bool = False,
    **found: Any,
) -> OutputRow:
    """
    Write beside the results what the case book will say of them, for `leukoscope index rebuild`.

    Parameters
    ----------
    files, rows : what the results were made from, and the results
    found : findings, model and stages as given to `Book.finish`
    identities : the corrections of the patient's identity that were known when the work began: a later one makes another revision
    corrected : the results are made from a reader's correction

    Raises
    ------
    LeaseLost, Unavailable
    """
    book.settle(lease)
    case = book.case(lease.case_id)
    if case is None:
        raise LeaseLost(lease.case_id)
    verdict = book.correction_of(lease.case_id) if corrected else None
    record = ResultRecord(
        study_uid=case.study_uid,
        series_uid=case.series_uid,
        revision=lease.revision,
        digests=tuple(sorted(path.stem for path in files)),
        received_at=case.received_at,
        rule=case.rule,
        rank=case.rank,
        series_shift=case.series_shift,
        likeness=case.likeness,
        likened_to=case.likened_to,
        quality=tuple(dict.fromkeys((*case.quality, *quality))),
        outputs=tuple(rows),
        identities=identities,
        correction=told_correction(verdict) if verdict is not None else None,
        **found,
    )
    return _keep(store, lease, RECORD, "application/json", record.as_bytes())


def _keep(store: Store, lease: Lease, kind: str, media_type: str, data: bytes, *uids: str | None) -> OutputRow:
    path = store.put_output(lease.case_id, kind, data)
    return OutputRow(kind, media_type, path, hashlib.sha256(data).hexdigest(), len(data), lease.revision, *uids)
