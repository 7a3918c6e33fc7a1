"""A folder's series, whatever else lies in it."""

from __future__ import annotations

import numpy as np
import pytest

from model.volume import Volume
from worker.phantom import write_series
from worker.select import list_series


def test_series_are_found_below_and_apart(tmp_path):
    volume = Volume(np.arange(60).reshape(5, 4, 3), np.eye(4))
    flair = write_series(volume, tmp_path / "a" / "b", uid_seed="one", headers={"SeriesNumber": 7})
    other = write_series(volume, tmp_path / "a", uid_seed="two", description="T1", headers={"SeriesNumber": 3})
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty").write_bytes(b"")
    found = list_series(tmp_path)
    assert [series.description for series in found] == ["T1", "FLAIR 3D phantom"]
    assert found[0].files == tuple(other)
    assert found[1].files == tuple(flair)
    assert {series.modality for series in found} == {"MR"}


def test_a_folder_of_nothing_and_no_folder(tmp_path):
    assert list_series(tmp_path) == ()
    with pytest.raises(NotADirectoryError):
        list_series(tmp_path / "missing")


def test_real_folders(shared_data):
    found = list_series(shared_data / "dicom" / "not_flair")
    assert len(found) >= 15
    assert len({series.series_uid for series in found}) == len(found)
