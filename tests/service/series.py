"""Series for the intake's tests: small classic MR FLAIR data sets, changed as a test needs."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid


def flair_slice(k: int, *, series_uid: str, study_uid: str, spacing_mm: float = 3.0, **changes: Any) -> Dataset:
    """One axial slice of a 2D FLAIR of 64 × 64 pixels of 3.5 mm."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = f"{series_uid}.{k + 1}"
    dataset.Modality = "MR"
    dataset.Manufacturer = "Phantom"
    dataset.SeriesDescription = "AX T2 FLAIR"
    dataset.PatientName = "Test^Ünï"
    dataset.PatientID = "P1"
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = series_uid
    dataset.ScanningSequence = ["SE", "IR"]
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime = "9000"
    dataset.EchoTime = "120"
    dataset.InversionTime = "2500"
    dataset.SliceThickness = "3"
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = [-112, -112, k * spacing_mm]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [3.5, 3.5]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = 64
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = (np.arange(64 * 64, dtype=np.uint16) + k).tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return with_meta(dataset)


def with_meta(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> Dataset:
    """Give the data set its file meta information."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
    return dataset


def flair_series(
    count: int = 20, *, change: Callable[[int, Dataset], None] | None = None, study_uid: str = "", **changes: Any
) -> list[Dataset]:
    """A gap-free series of its own, in order; `change` may alter the k-th slice."""
    series_uid, study_uid = generate_uid()[:48] + "1", study_uid or generate_uid()
    found = [flair_slice(k, series_uid=series_uid, study_uid=study_uid, **changes) for k in range(count)]
    for k, dataset in enumerate(found):
        if change is not None:
            change(k, dataset)
    return found


def part10(dataset: Dataset) -> bytes:
    """The data set as a file."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
