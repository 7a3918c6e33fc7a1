"""What makes a later version another picture, or nothing that can be compared."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    RLELossless,
)

from tests.service.series import part10
from tests.worker.compare.conftest import OTHER_GEOMETRY, OTHER_PIXELS, SAME, UNREADABLE, corrected, pixels
from worker.compare import Comparison, compare
from worker.phantom import write_series


def test_one_different_pixel_is_another_picture(judge, slice_):
    values = pixels(slice_).copy()
    values[63, 63] ^= 1
    slice_.PixelData = values.tobytes()
    slice_.PatientName = "Other^Name"
    slice_.ImagePositionPatient = [0, 0, 0]
    assert judge(slice_) == OTHER_PIXELS


def test_the_same_values_in_another_shape_are_another_picture(judge, slice_):
    slice_.Rows, slice_.Columns = 32, 128
    assert judge(slice_) == OTHER_PIXELS


@pytest.mark.parametrize(
    ("keyword", "value"), [("PhotometricInterpretation", "MONOCHROME1"), ("RescaleSlope", "2"), ("RescaleIntercept", "-1")]
)
def test_the_same_values_that_mean_other_greys_are_another_picture(judge, slice_, keyword, value):
    setattr(slice_, keyword, value)
    assert judge(slice_) == OTHER_PIXELS


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", [-112, -112, 9.001]),
        ("ImageOrientationPatient", [-1, 0, 0, 0, 1, 0]),
        ("PixelSpacing", [3.5, 3.4]),
        ("FrameOfReferenceUID", "1.2.3.4"),
    ],
)
def test_another_place_is_told_from_a_corrected_attribute(judge, slice_, keyword, value):
    setattr(slice_, keyword, value)
    slice_.PatientName = "Other^Name"
    assert judge(slice_) == OTHER_GEOMETRY


def test_what_cannot_be_decoded_is_unreadable(judge, slice_):
    slice_.compress(RLELossless, generate_instance_uid=False)
    good = part10(slice_)
    damaged = bytearray(good)
    at = good.rindex(b"\xfe\xff\x00\xe0") + 8
    damaged[at : at + 64] = b"\xff" * 64
    assert judge(bytes(damaged)) == UNREADABLE
    assert judge(b"no DICOM at all") == UNREADABLE
    assert judge(_in_no_known_syntax(good)) == UNREADABLE


def _in_no_known_syntax(encoded: bytes) -> bytes:
    return encoded.replace(b"1.2.840.10008.1.2.5\x00", b"1.2.840.10008.1.2.9\x00").replace(
        b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.9\x00"
    )


def test_a_version_that_can_be_read_takes_the_place_of_one_that_cannot(slice_, tmp_path):
    good, bad = tmp_path / "good.dcm", tmp_path / "bad.dcm"
    good.write_bytes(part10(slice_))
    bad.write_bytes(_in_no_known_syntax(part10(slice_)))
    assert compare(bad, good) == corrected("PixelData")
    assert compare(bad, bad) == UNREADABLE
    assert compare(good, tmp_path / "missing.dcm") == UNREADABLE


@pytest.fixture
def failing_disk(monkeypatch):
    """Let the system fail to open one file."""

    def fail(path: Path, code: int) -> None:
        real = pydicom.filereader.open

        def opened(name, *arguments, **more):
            if Path(name) == path:
                raise OSError(code, os.strerror(code))
            return real(name, *arguments, **more)

        monkeypatch.setattr(pydicom.filereader, "open", opened)

    monkeypatch.setattr(pydicom.filereader, "open", open, raising=False)
    return fail


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("which", ["good.dcm", "later.dcm"])
def test_a_disk_that_fails_is_no_verdict(slice_, tmp_path, failing_disk, code, which):
    for name in ("good.dcm", "later.dcm"):
        (tmp_path / name).write_bytes(part10(slice_))
    failing_disk(tmp_path / which, code)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        compare(tmp_path / "good.dcm", tmp_path / "later.dcm")


def test_one_that_came_first_as_a_discarded_class_has_no_file_and_gives_its_place(slice_, tmp_path):
    (tmp_path / "later.dcm").write_bytes(part10(slice_))
    assert compare(tmp_path / "", tmp_path / "later.dcm") == corrected("PixelData")


def test_colour_images_are_compared_too(slice_, tmp_path):
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation, slice_.PlanarConfiguration = 3, "RGB", 0
    slice_.BitsAllocated = slice_.BitsStored = 8
    slice_.HighBit = 7
    values = np.random.default_rng(2).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    slice_.PixelData = values.tobytes()
    (tmp_path / "a.dcm").write_bytes(part10(slice_))
    slice_.PlanarConfiguration, slice_.PixelData = 1, values.transpose(2, 0, 1).tobytes()
    (tmp_path / "b.dcm").write_bytes(part10(slice_))
    assert compare(tmp_path / "a.dcm", tmp_path / "b.dcm") == SAME
    slice_.PixelData = values.tobytes()
    (tmp_path / "b.dcm").write_bytes(part10(slice_))
    assert compare(tmp_path / "a.dcm", tmp_path / "b.dcm") == OTHER_PIXELS


def test_of_an_enhanced_object_every_frame_counts(phantom, tmp_path):
    (path,) = write_series(phantom.flair, tmp_path / "series", enhanced=True)
    original = pydicom.dcmread(path)
    assert original.SOPClassUID == EnhancedMRImageStorage
    later = tmp_path / "later.dcm"

    def after(change) -> Comparison:
        copy = pydicom.dcmread(path)
        change(copy)
        copy.save_as(later)
        return compare(path, later)

    def move(copy: Dataset) -> None:
        position = copy.PerFrameFunctionalGroupsSequence[7].PlanePositionSequence[0]
        position.ImagePositionPatient = [*position.ImagePositionPatient[:2], float(position.ImagePositionPatient[2]) + 1]

    def brighten(copy: Dataset) -> None:
        data = bytearray(copy.PixelData)
        data[-2] ^= 1
        copy.PixelData = bytes(data)

    assert after(lambda copy: None) == SAME
    assert after(lambda copy: copy.compress(RLELossless, generate_instance_uid=False)) == SAME
    assert after(lambda copy: setattr(copy, "PatientName", "Other^Name")) == corrected("PatientName")
    assert after(move) == OTHER_GEOMETRY
    assert after(brighten) == OTHER_PIXELS
