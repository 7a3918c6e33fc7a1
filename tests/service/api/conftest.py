"""A real HTTP server on port 0 over a real case book, store and intake in a temporary folder; no worker."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from service import queue, records
from service.api import ApiServer, make_api, start_api
from service.intake import Intake
from service.log import JsonFormatter
from service.records import Book, OutputRow, State
from service.settings import Settings
from service.store import Store
from tests.browser import Browser

MR = UID("1.2.840.10008.5.1.4.1.1.4")
PATIENT = "Zz^Poirot^Hercule"
OUTPUTS = {
    "segmentation": ("application/dicom", b"\0" * 128 + b"DICM" + bytes(range(256)) * 8),
    "structured-report": ("application/dicom", b"\0" * 128 + b"DICM SR"),
    "rtstruct": ("application/dicom", b"\0" * 128 + b"DICM" + bytes(100)),
    "resampled.zip": ("application/zip", b"PK\x03\x04 slices"),
    "report.dcm": ("application/dicom", b"\0" * 128 + b"DICM DOC"),
    "preview.dcm": ("application/dicom", b"\0" * 128 + b"DICM OT"),
    "segmentation.nii.gz": ("application/gzip", b"\x1f\x8b nifti"),
    "report.json": ("application/json", b'{"lesion_count": 7}'),
    "report.pdf": ("application/pdf", b"%PDF-1.4"),
    "preview.png": ("image/png", b"\x89PNG\r\n\x1a\n"),
}


def make_series(uid: str = "1.2.3.4.5", slices: int = 20, size: int = 48, patient_id: str = "ANON 7/1", **elements: object) -> list[bytes]:
    """A classic axial FLAIR whose geometry is whole, each slice as a Part-10 file."""
    return [_slice(uid, index, size, patient_id, elements) for index in range(slices)]


def _slice(uid: str, index: int, size: int, patient_id: str, elements: dict[str, object]) -> bytes:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = MR, UID(f"{uid}.{index + 1}")
    one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = f"{uid}.900", uid, f"{uid}.901"
    one.PatientID, one.PatientName, one.PatientBirthDate, one.PatientSex = patient_id, PATIENT, "19010203", "O"
    one.Modality, one.SeriesDescription, one.ImageType = "MR", "FLAIR ax", ["ORIGINAL", "PRIMARY"]
    one.ScanningSequence, one.SequenceVariant, one.MRAcquisitionType = ["SE", "IR"], "SK", "2D"
    one.RepetitionTime, one.EchoTime, one.InversionTime = 9000, 120, 2500
    one.Rows = one.Columns = size
    one.PixelSpacing, one.SliceThickness = [240 / size, 240 / size], 150 / 20
    one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-120, -120, index * 150 / 20]
    one.InstanceNumber, one.SamplesPerPixel, one.PhotometricInterpretation = index + 1, 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    rows, columns = np.mgrid[:size, :size]
    radius = np.hypot(rows - size / 2, columns - size / 2)
    one.PixelData = np.where(radius < size / 3, 400 + 10 * index + rows, 0).astype("<u2").tobytes()
    for keyword, value in elements.items():
        setattr(one, keyword, value)
    one.file_meta = FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def as_parts(files: list[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The files as httpx wants a multipart body."""
    return [("files", (f"IM{number:04d}", data, "application/dicom")) for number, data in enumerate(files)]


def as_zip(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of the entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@dataclass
class Host:
    """The running service of one test, and what it is made of."""

    settings: Settings
    book: Book
    store: Store
    intake: Intake
    app: FastAPI
    server: ApiServer
    client: httpx.Client
    log: io.StringIO

    def send(self, files: list[bytes]) -> str:
        """Upload a series and give its case id."""
        answer = self.client.post("/cases", files=as_parts(files))
        assert answer.status_code == 202, answer.text
        case_id: str = answer.json()["items"][0]["id"]
        return case_id

    def finish(self, case_id: str) -> None:
        """Do what a worker does: claim, files, finish."""
        lease = self.book.claim(case_id, "test")
        assert lease is not None
        rows = [
            OutputRow(
                kind, media_type, self.store.put_output(case_id, kind, data), hashlib.sha256(data).hexdigest(), len(data), lease.revision
            )
            for kind, (media_type, data) in OUTPUTS.items()
        ]
        findings = {"lesion_count": 7, "lesion_volume_ml": 5.3, "tumour_like_volume_ml": 0.0, "brain_volume_ml": 1300.0}
        model = {"name": "m", "version": "1", "sha256": "ab", "engine": "openvino-cpu", "precision": "bf16"}
        stages = {"convert": (1.7e9, 0.4), "predict": (1.7e9 + 0.4, 1.2)}
        self.book.finish(lease, outputs=rows, findings=findings, quality=["after contrast"], model=model, stages=stages)

    def state(self, case_id: str) -> State:
        """What the book says."""
        case = self.book.case(case_id)
        assert case is not None
        return case.state

    def stored(self) -> list[Path]:
        """Every file of an instance or an upload on disk."""
        return [path for name in ("instances", "incoming") for path in (self.store.root / name).rglob("*")]


@contextmanager
def hosts_in(folder: Path) -> Iterator[Callable[..., Host]]:
    """Start services with settings of one's own, and stop them."""
    hosts: list[Host] = []
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)

    def make(**values: object) -> Host:
        settings = Settings.model_validate({"data_dir": folder, "http_port": 0, "quiet_time_s": 0.2, "minimum_free_mb": 0, **values})
        records.upgrade(settings.database)
        book = records.open_book(settings)
        store = Store(settings.data_dir, settings.minimum_free_mb)
        intake = Intake(settings, store, book, queue.make_app(settings))
        app = make_api(settings, book, store, intake)
        server = start_api(app, settings)
        client = httpx.Client(base_url=server.url, timeout=20, trust_env=False)
        host = Host(settings, book, store, intake, app, server, client, text)
        hosts.append(host)
        return host

    try:
        yield make
    finally:
        for host in hosts:
            host.client.close()
            host.server.stop()
            host.book.close()
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Start services with settings of one's own."""
    with hosts_in(tmp_path) as make:
        yield make


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    """The service with its defaults."""
    return make_host()


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One service for all the tests of a module that leave nothing behind."""
    with hosts_in(tmp_path_factory.mktemp("shared")) as make:
        yield make()


@pytest.fixture(scope="session")
def browser(peer: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Open one Chromium for all tests of the page."""
    peer("chromium")
    made = Browser(peer("chromedriver"), tmp_path_factory.mktemp("browser"))
    yield made
    made.stop()
