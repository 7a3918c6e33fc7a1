"""A small oblique volume, and its series on disk."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from model.volume import Volume
from service.errors import Rejected
from worker.convert import read_series
from worker.phantom import write_series

SHAPE = (37, 34, 9)

SAGITTAL = np.array([[0.0, 0.0, 1.2, -5.0], [-0.9, 0.0, 0.0, 6.0], [0.0, -0.9, 0.0, 5.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def volume() -> Volume:
    return Volume(np.random.default_rng(1).integers(0, 3000, SHAPE).astype(np.uint16), SAGITTAL)


@pytest.fixture
def files(volume, tmp_path):
    return write_series(volume, tmp_path / "series")


def edit(path, **elements):
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    if "SOPInstanceUID" in elements:
        dataset.file_meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    dataset.save_as(path)


def refusal(files, **options) -> str:
    with pytest.raises(Rejected) as caught:
        read_series(files, **options)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def codes(series) -> set[str]:
    return {flag.partition(":")[0] for flag in series.quality}
