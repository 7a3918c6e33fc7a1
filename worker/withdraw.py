"""Writes the rejection notes that destinations are owed, before anything is sent."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from datetime import timedelta

from pydicom.dataset import Dataset

from service.errors import Rejected, Unavailable
from service.headers import Unreadable
from service.records import Book, LeaseLost, OutputRow, OwedNote, utc_now
from service.records.outbox import pause_after
from service.store import Store
from worker.rejection import as_bytes, choose_title, encode_note, read_results

LOG = logging.getLogger(__name__)
_RESULT = "a result that is to be withdrawn"


def write_notes(book: Book, store: Store, case_id: str | None = None) -> None:
    """Write every note that can be written now. Raises Unavailable where the case book is away.

    One of whose results is just being sent waits. One whose results cannot be read is put off, and given up where they are gone.
    """
    for owed in book.owed_notes(case_id):
        if owed.waits:
            continue
        try:
            output = _make(store, owed)
        except Rejected as error:
            _give_up(book, owed, error.reason)
        except Unavailable as error:
            _postpone(book, owed, error.reason)
        else:
            book.write_note(owed, output)
            if output is not None:
                LOG.info("rejection note written", extra=_fields(owed) | {"revision": owed.revision})


def _make(store: Store, owed: OwedNote) -> OutputRow | None:
    """Keep the note; None where there is nothing to withdraw. Raises Unavailable; Rejected where a result is gone for good."""
    results = [result for path in owed.paths for result in _read(store, path)]
    if not results:
        return None
    note = encode_note(results, choose_title(results, owed.patient_id, owed.source_title))
    data = as_bytes(note)
    path = store.put_output(owed.case_id, owed.kind, data)
    uids = str(note.SOPClassUID), str(note.SOPInstanceUID)
    return OutputRow(owed.kind, "application/dicom", path, hashlib.sha256(data).hexdigest(), len(data), owed.revision, *uids)


def _read(store: Store, path: str) -> list[Dataset]:
    try:
        return read_results(store.path_of(path))
    except FileNotFoundError as error:
        store.demand_instances()
        raise Rejected(f"{_RESULT} is not in the store") from error
    except OSError as error:
        raise Unavailable(f"{_RESULT} cannot be read: {error.strerror}") from error
    except Unreadable as error:
        raise Unavailable(f"{_RESULT} cannot be read: {error.reason}") from error


def _give_up(book: Book, owed: OwedNote, why: str) -> None:
    with suppress(LeaseLost):
        book.delivery_dead(owed.delivery_id, why, fence=owed.fence)
        LOG.error("rejection note given up: %s", why, extra=_fields(owed))


def _postpone(book: Book, owed: OwedNote, why: str) -> None:
    pause_s = pause_after(owed.attempts)
    with suppress(LeaseLost):
        state = book.delivery_failed(owed.delivery_id, why, utc_now() + timedelta(seconds=pause_s), fence=owed.fence)
        LOG.warning("rejection note not written: %s", why, extra=_fields(owed) | {"state": state.value, "seconds": pause_s})


def _fields(owed: OwedNote) -> dict[str, object]:
    return {"case_id": owed.case_id, "kind": owed.kind}
