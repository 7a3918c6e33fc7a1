"""One real server for all tests of DICOMweb, with a few small studies in it, and the client of another house as the judge."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from service.records import OutputRow
from tests.service.api.conftest import Host, hosts_in, make_series

SEG, PDF = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.104.1"
FLAIR, RLE, ODD = "1.2.3.1", "1.2.3.2", "1.2.3.3"
STUDY = {uid: f"{uid}.900" for uid in (FLAIR, RLE, ODD)}
RESULTS = f"{FLAIR}.77"
PDF_BYTES = b"%PDF-1.4 " + bytes(range(256)) * 300
MASK = np.random.default_rng(5).integers(0, 2, (4, 5, 7), dtype=np.uint8)
"""Four frames of 35 bits: none but the first begins at a byte."""


def part10(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def result(sop_class_uid: str, number: int, **elements: object) -> bytes:
    """A result as a worker makes it, with the patient and study of the FLAIR."""
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 192"
    one.SOPClassUID, one.SOPInstanceUID = sop_class_uid, f"{RESULTS}.{number}.1"
    one.StudyInstanceUID, one.SeriesInstanceUID = STUDY[FLAIR], f"{RESULTS}.{number}"
    one.PatientID, one.PatientName, one.StudyDate = "ANON 7/1", "Zz^Poirot^Hercule", "20261101"
    one.SeriesNumber, one.InstanceNumber = 9100 + number, 1
    for keyword, value in elements.items():
        setattr(one, keyword, value)
    one.file_meta = FileMetaDataset()
    one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return part10(one)


def make_results() -> dict[str, bytes]:
    bits = np.packbits(MASK.reshape(-1), bitorder="little").tobytes()
    mask = {
        "Rows": 5,
        "Columns": 7,
        "NumberOfFrames": 4,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "PixelData": bits,
    }
    return {
        "segmentation": result(SEG, 0, Modality="SEG", SeriesDescription="WMH ≥ 3 voxels", **mask),
        "report": result(PDF, 3, Modality="DOC", EncapsulatedDocument=PDF_BYTES, MIMETypeOfEncapsulatedDocument="application/pdf"),
    }


def rewritten(data: bytes, transfer_syntax_uid: str) -> bytes:
    """The same object in another encoding."""
    one = dcmread(io.BytesIO(data))
    if transfer_syntax_uid == RLELossless:
        one.compress(RLELossless, generate_instance_uid=False)
        return part10(one)
    meta, one = one.file_meta, Dataset({element.tag: element for element in one})  # decoded, with no memory of how it was encoded
    one.file_meta = meta
    if transfer_syntax_uid == ExplicitVRBigEndian:
        one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
    one.file_meta.TransferSyntaxUID = transfer_syntax_uid
    return part10(one)


@dataclass
class Archive:
    """The server, the client, and what was sent to it."""

    host: Host
    client: DICOMwebClient
    sent: dict[str, list[bytes]]
    results: dict[str, bytes]

    @property
    def url(self) -> str:
        return f"{self.host.server.url}/dicomweb"

    def instance_url(self, series_uid: str, number: int = 1, sop_instance_uid: str = "") -> str:
        place = f"/dicomweb/studies/{STUDY[series_uid]}/series/{series_uid}/instances/"
        return place + (sop_instance_uid or f"{series_uid}.{number}")


def finish(host: Host, case_id: str, results: dict[str, bytes]) -> None:
    """Do what a worker does, with real DICOM for results, and one that is none."""
    lease = host.book.claim(case_id, "test")
    assert lease is not None
    kinds = dict.fromkeys(results, "application/dicom") | {"report.json": "application/json"}
    rows = []
    for name, media_type in kinds.items():
        data = results.get(name, b"{}")
        path = host.store.put_output(case_id, name, data)
        rows.append(OutputRow(name, media_type, path, hashlib.sha256(data).hexdigest(), len(data), lease.revision))
    host.book.finish(lease, outputs=rows, findings={}, quality=[], model={}, stages={})


def open_client(host: Host) -> DICOMwebClient:
    session = requests.Session()
    session.trust_env = False
    client = DICOMwebClient(f"{host.server.url}/dicomweb", session=session)
    client.set_http_retry_params(retry=False)
    return client


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with hosts_in(tmp_path_factory.mktemp("dicomweb")) as make:
        host = make(minimum_slices=3)
        study = {"StudyTime": "101500", "StudyID": "S1", "ReferringPhysicianName": "Müller^A", "SpecificCharacterSet": "ISO_IR 100"}
        sent = {
            FLAIR: make_series(FLAIR, 6, StudyDate="20261101", AccessionNumber="ACC1", SeriesNumber=3, SliceThickness=25, **study),
            RLE: [
                rewritten(one, RLELossless)
                for one in make_series(RLE, 3, 16, "Other", StudyDate="20261103", SeriesDescription="localizer", AccessionNumber="A*C[2]")
            ],
            ODD: [
                rewritten(one, syntax)
                for one, syntax in zip(
                    make_series(ODD, 3, 16, "Third", SeriesDescription="localizer"),
                    (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
                    strict=True,
                )
            ],
        }
        case_ids = {uid: host.send(files) for uid, files in sent.items()}
        results = make_results()
        finish(host, case_ids[FLAIR], results)
        client = open_client(host)
        yield Archive(host, client, sent, results)
        client._session.close()


@pytest.fixture
def make_client(make_host: Callable[..., Host], tmp_path: Path) -> Iterator[Callable[..., tuple[Host, DICOMwebClient]]]:
    """A server of one test's own."""
    clients = []

    def make(**settings: object) -> tuple[Host, DICOMwebClient]:
        host = make_host(**settings)
        clients.append(open_client(host))
        return host, clients[-1]

    yield make
    for client in clients:
        client._session.close()
