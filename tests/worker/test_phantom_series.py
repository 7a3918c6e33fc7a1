"""The scanner we play writes what the standard asks for, the same bytes every time."""

from __future__ import annotations

import subprocess
from datetime import date

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from model.volume import Volume
from worker.phantom import write_series

TURN = np.radians(12)
OBLIQUE = np.array(
    [
        [0.0, 0.0, 1.2, -10.123456789],
        [-np.cos(TURN), np.sin(TURN), 0.0, 90.5],
        [-np.sin(TURN), -np.cos(TURN), 0.0, 80.25],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


@pytest.fixture
def volume() -> Volume:
    return Volume(np.random.default_rng(0).integers(0, 1500, (21, 18, 5)).astype(np.int16), OBLIQUE)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("highest", [1500, 60000])
def test_dciodvfy_finds_no_error(peer, volume, tmp_path, enhanced, highest):
    bright = volume.with_data(volume.data.astype(np.uint16) * (highest // 1500))
    for path in write_series(bright, tmp_path, enhanced=enhanced, order=[3, 1, 0, 2, 4]):
        checked = subprocess.run([peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        said = checked.stdout + checked.stderr
        assert "EnhancedMRImage" in said if enhanced else "MRImage" in said
        assert "Error" not in said, said


@pytest.mark.parametrize("enhanced", [False, True])
def test_same_seed_same_bytes_other_seed_other_uids(volume, tmp_path, enhanced):
    first = write_series(volume, tmp_path / "a", enhanced=enhanced)
    again = write_series(volume, tmp_path / "b", enhanced=enhanced)
    other = write_series(volume, tmp_path / "c", enhanced=enhanced, uid_seed="other")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        one, two = (pydicom.dcmread(files[0])[keyword].value for files in (first, other))
        assert one != two
        assert one.startswith("2.25.")


def test_headers_are_those_of_a_flair_of_nobody(volume, tmp_path):
    dataset = pydicom.dcmread(write_series(volume, tmp_path)[0])
    assert dataset.SOPClassUID == MRImageStorage
    assert (dataset.Modality, dataset.PatientID, dataset.SeriesDescription) == ("MR", "LEUKOSCOPE-PHANTOM", "FLAIR 3D phantom")
    assert dataset.RepetitionTime > 4000
    assert dataset.EchoTime > 70
    assert 1500 < dataset.InversionTime < 3000
    assert dataset.PatientName == "PHANTOM^LEUKOSCOPE"
    assert date.fromisoformat(dataset.StudyDate).year == 2020
    assert all(len(str(value)) <= 16 for value in [*dataset.ImagePositionPatient, *dataset.ImageOrientationPatient])


def test_order_left_out_and_repeated_slices(volume, tmp_path):
    files = write_series(volume, tmp_path, order=[4, 0, 2], repeat=[0])
    assert [path.name for path in files] == ["0001.dcm", "0002.dcm", "0002-again.dcm", "0003.dcm"]
    assert files[1].read_bytes() == files[2].read_bytes()
    locations = [float(pydicom.dcmread(path).SliceLocation) for path in files]
    np.testing.assert_allclose(locations, [4.8, 0.0, 0.0, 2.4], atol=1e-9)
    assert [pydicom.dcmread(path).InstanceNumber for path in files] == [1, 2, 2, 3]


def test_enhanced_frames_come_in_the_order_asked_for(volume, tmp_path):
    (path,) = write_series(volume, tmp_path, enhanced=True, order=[2, 0, 1])
    dataset = pydicom.dcmread(path)
    assert dataset.SOPClassUID == EnhancedMRImageStorage
    ranks = [groups.FrameContentSequence[0].InStackPositionNumber for groups in dataset.PerFrameFunctionalGroupsSequence]
    assert ranks == [3, 1, 2]
    np.testing.assert_array_equal(dataset.pixel_array[0], volume.data[:, :, 2].T)


def test_headers_are_overridden_and_removed(volume, tmp_path):
    headers = {"SeriesDescription": "t2_tirm_dark-fluid", "EchoTime": None, "PatientID": "A/1"}
    dataset = pydicom.dcmread(write_series(volume, tmp_path, headers=headers)[0])
    assert (dataset.SeriesDescription, dataset.PatientID) == ("t2_tirm_dark-fluid", "A/1")
    assert "EchoTime" not in dataset


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_transfer_syntaxes(volume, tmp_path, syntax):
    dataset = pydicom.dcmread(write_series(volume, tmp_path, transfer_syntax=syntax)[1])
    assert dataset.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(dataset.pixel_array, volume.data[:, :, 1].T)


def test_what_cannot_be_written_is_said(volume, tmp_path):
    with pytest.raises(ValueError, match="cannot write Deflated"):
        write_series(volume, tmp_path, transfer_syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(ValueError, match="does not fit"):
        write_series(volume.with_data(volume.data * 100.0), tmp_path)
