"""Finished cases with results on disk, to be sent."""

from __future__ import annotations

import hashlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from service.commitment import Reports
from service.listener import start_listener
from service.presence import Counts
from service.records import Book, OutputRow
from service.store import Store
from tests.provider import CLASSES, SEGMENTATION
from tests.service.casebook import FINDINGS, queue
from tests.service.house import House, join_network_threads
from worker.deliver import Sender


def part10(uid, sop_class=SEGMENTATION, **elements):
    """A small instance as a file's bytes."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = sop_class, uid, "P"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = sop_class, uid, ExplicitVRLittleEndian
    file = FileDataset("", dataset, file_meta=meta, preamble=bytes(128))
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def done_case(book, folder, number=1, kinds=("segmentation",), images=(), **elements):
    """Take a case through to done; its results are 2.25.{number}{place}, `images` the files of an axial series beside them."""
    case_id = queue(book, series=f"1.2.{number}", study=f"1.{number}")
    rows = []
    for place, kind in enumerate(kinds):
        uid = f"2.25.{number}{place or ''}"
        data = part10(uid, CLASSES[kind], **elements)
        path = Store(folder).put_output(case_id, kind, data)
        rows.append(OutputRow(kind, "application/dicom", path, hashlib.sha256(data).hexdigest(), len(data), 1, CLASSES[kind], uid))
    if images:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for place, image in enumerate(images, start=1):
                archive.writestr(f"{place:04d}.dcm", image)
        path = Store(folder).put_output(case_id, "resampled.zip", data.getvalue())
        rows.append(OutputRow("resampled.zip", "application/zip", path, "a" * 64, len(data.getvalue()), 1))
    book.finish(book.claim(case_id, "w"), outputs=rows, findings=FINDINGS)
    return case_id


@contextmanager
def sending(folder, *destinations, listening=False, kinds=("segmentation",), images=(), **elements):
    """A done case, its book, its sender, and the port of a listener that peers can call back where `listening`."""
    house = House(folder, destinations=destinations)
    reports = Reports(house.book, house.settings.destinations, Counts())
    listener = start_listener(house.settings, house.intake, None, reports) if listening else None
    try:
        case_id = done_case(house.book, folder, kinds=kinds, images=images, **elements)
        sender = Sender(house.settings, house.book, house.store, "test:1:")
        yield Sending(house.book, sender, case_id, listener.port if listener else 0, folder)
    finally:
        if listener:
            listener.stop(2.0)
            join_network_threads()
        house.book.close()


@dataclass(frozen=True)
class Sending:
    book: Book
    sender: Sender
    case_id: str
    port: int
    folder: Path
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    def another(self):
        """One more case that is done."""
        return done_case(self.book, self.folder, next(self.numbers))

    def __iter__(self):
        return iter((self.book, self.sender, self.case_id))


def states(book, case_id):
    return {one.output: one.state.value for one in book.deliveries(case_id)}
