"""Corrections that wait, from the case book to a revision of their own or a reason why not."""

from __future__ import annotations

import gzip
import logging
import zlib

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from model.volume import UnusableVolume
from service.errors import Rejected, Unavailable
from service.records import Book, ReaderVerdict
from service.store import Store
from worker import convert
from worker.encode import nifti
from worker.frames import Limits, is_of_the_disk
from worker.keeping import FilesMissing, find_files
from worker.reader_mask import CORRECTION_FLAG, NAME, Correction, Labels, read_mask

LOG = logging.getLogger(__name__)
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError)


def take_corrections(book: Book, store: Store, case_id: str, limits: Limits) -> bool:
    """
    Look at the pending corrections of a case, each on its own; tells whether one is taken, so that the case is queued again.

    A correction that cannot be used is refused with the reason, and the results stay as they are. Where database or disk is away,
    the sweep asks again.
    """
    taken = False
    try:
        for verdict in book.pending_corrections(case_id):
            try:
                _demand_usable(book, store, verdict, limits)
            except (Rejected, UnusableVolume, FilesMissing) as error:
                book.refuse_correction(verdict.id, str(error))
                LOG.info("a correction was refused", extra={"case_id": case_id, "revision": verdict.revision})
            else:
                taken |= book.take_correction(verdict, CORRECTION_FLAG)
    except (Unavailable, OSError) as error:
        LOG.warning("correction put off: %s", type(error).__name__, extra={"case_id": case_id})
    return taken


def find_correction(book: Book, store: Store, case_id: str) -> Correction | None:
    """
    Give what the results of a case are to be made from instead of the release's own mask, if a reader corrected it.

    Raises
    ------
    FilesMissing, Unavailable
    """
    verdict = book.correction_of(case_id)
    if verdict is None or verdict.path is None or verdict.digest is None:
        return None
    if not store.has_file(verdict.path):
        raise FilesMissing("the file of the reader's correction is missing from the store; send it again")
    about = (verdict.reader, verdict.at, verdict.revision, frozenset(verdict.seen))
    return Correction(store.path_of(verdict.path), verdict.digest, *about)


def _demand_usable(book: Book, store: Store, verdict: ReaderVerdict, limits: Limits) -> None:
    """Raise Rejected with the reason where the mask cannot be used, or corrects nothing; the mask of what was rejected undoes that."""
    if verdict.path is None or not store.has_file(verdict.path):
        raise Rejected(f"{NAME}: its file is gone; send it again")
    series = convert.read_series(find_files(book, store, verdict.case_id), limits)
    labels = read_mask(store.path_of(verdict.path), series).labels
    if (verdict.case_id, verdict.revision) in book.rejected_revisions([verdict.case_id]):
        return
    current = _current(book, store, verdict)
    if current is not None and np.array_equal(labels, current):
        raise Rejected(f"{NAME}: is that of revision {verdict.revision}, nothing is corrected; accept it instead")


def _current(book: Book, store: Store, verdict: ReaderVerdict) -> Labels | None:
    """The mask that was corrected; None where it is no longer the current one, which the case book says next, or cannot be read."""
    for row in book.outputs(verdict.case_id):
        if row.kind == nifti.KIND and row.revision == verdict.revision:
            return _read_labels(store, row.path)
    return None


def _read_labels(store: Store, path: str) -> Labels | None:
    """A result's mask; None where its file is gone or damaged. Raises OSError where the disk fails."""
    try:
        with store.open_output(path) as file:
            image = nibabel.Nifti1Image.from_bytes(gzip.decompress(file.read()))
        return np.asarray(image.dataobj, np.uint8)
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        if is_of_the_disk(error):
            raise
        return None
