"""Writes the rejection notes that destinations are owed, before anything is sent."""

from __future__ import annotations

import hashlib
import logging

from service.records import Book, OutputRow, OwedNote
from service.store import Store
from worker.rejection import as_bytes, choose_title, encode_note, read_result

LOG = logging.getLogger(__name__)


def write_notes(book: Book, store: Store, case_id: str | None = None) -> None:
    """Write every note that can be written now; one of whose results is just being sent waits. Raises Unavailable."""
    for owed in book.owed_notes(case_id):
        if not owed.waits:
            _write(book, store, owed)


def _write(book: Book, store: Store, owed: OwedNote) -> None:
    try:
        results = [read_result(store.path_of(path)) for path in owed.paths]
    except OSError as error:
        book.delivery_dead(owed.delivery_id, f"a result that is to be withdrawn cannot be read: {error.strerror}")
        LOG.error("a rejection note cannot be written", extra={"case_id": owed.case_id, "kind": owed.kind})
        return
    if not results:
        book.write_note(owed, None)
        return
    note = encode_note(results, choose_title(results, owed.patient_id, owed.source_title))
    data = as_bytes(note)
    path = store.put_output(owed.case_id, owed.kind, data)
    uids = str(note.SOPClassUID), str(note.SOPInstanceUID)
    book.write_note(
        owed, OutputRow(owed.kind, "application/dicom", path, hashlib.sha256(data).hexdigest(), len(data), owed.revision, *uids)
    )
    LOG.info("rejection note written", extra={"case_id": owed.case_id, "kind": owed.kind, "revision": owed.revision})
