"""One slice, and the verdict on a later version of it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
)

from service.records import Verdict
from tests.service.series import flair_slice, part10
from worker.compare import Comparison, compare

SAME = Comparison(Verdict.SAME)

OTHER_PIXELS = Comparison(Verdict.OTHER_PIXELS)

OTHER_GEOMETRY = Comparison(Verdict.OTHER_GEOMETRY)

UNREADABLE = Comparison(Verdict.UNREADABLE)


def corrected(*keywords: str) -> Comparison:
    return Comparison(Verdict.CORRECTED, keywords)


@pytest.fixture
def slice_() -> Dataset:
    """A slice with something of every kind in it."""
    dataset = flair_slice(3, series_uid="1.2.3", study_uid="1.2", PatientSex="F", PatientBirthDate="19700101")
    dataset.SmallestImagePixelValue, dataset.LargestImagePixelValue = 3, 4098
    dataset.add_new(0x60000010, "US", 64)
    dataset.add_new(0x60000011, "US", 64)
    dataset.add_new(0x60003000, "OW", bytes(range(256)) * 2)
    dataset.add_new(0x00189073, "FD", 12.5)
    dataset.add_new(0x00090010, "LO", "ACME")
    dataset.add_new(0x00091001, "LO", "private")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-A0100", "SRT", "Gehirn äöü"
    dataset.AnatomicRegionSequence = Sequence([code])
    dataset.add_new(0x00080000, "UL", 1234)
    return dataset


@pytest.fixture
def judge(slice_: Dataset, tmp_path: Path):
    """Compare a changed copy of the slice with the slice."""
    kept = tmp_path / "kept.dcm"
    kept.write_bytes(part10(slice_))

    def against(copy: Dataset | bytes) -> Comparison:
        later = tmp_path / "later.dcm"
        later.write_bytes(copy if isinstance(copy, bytes) else part10(copy))
        return compare(kept, later)

    return against


def pixels(dataset: Dataset) -> np.ndarray:
    return np.frombuffer(dataset.PixelData, dtype="<u2").reshape(64, 64)


def recoded(dataset: Dataset, syntax: str) -> bytes:
    """The data set in another uncompressed transfer syntax."""
    copy = pydicom.dcmread(BytesIO(part10(dataset)))
    copy.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    if syntax == ExplicitVRBigEndian:
        for element in copy.iterall():
            if element.VR == "OW" and isinstance(element.value, bytes):  # pydicom leaves the order of words to its caller
                element.value = np.frombuffer(element.value, "<u2").astype(">u2").tobytes()
        dcmwrite(buffer, copy, implicit_vr=False, little_endian=False)
    else:
        dcmwrite(buffer, copy, enforce_file_format=True)
    return buffer.getvalue()
