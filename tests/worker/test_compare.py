"""Which differences between two versions of an instance count, and as what."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from service.records import Verdict
from tests.service.series import flair_slice, part10
from worker.compare import Comparison, compare
from worker.phantom import write_series

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


def test_the_same_bytes_are_the_same(judge, slice_):
    assert judge(slice_) == SAME


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless, JPEG2000Lossless])
def test_lossless_compression_changes_nothing(judge, slice_, syntax):
    slice_.compress(syntax, generate_instance_uid=False)
    assert slice_.file_meta.TransferSyntaxUID == syntax
    assert judge(slice_) == SAME


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_another_uncompressed_encoding_changes_nothing(judge, slice_, syntax):
    encoded = recoded(slice_, syntax)
    assert pydicom.dcmread(BytesIO(encoded)).file_meta.TransferSyntaxUID == syntax
    assert judge(encoded) == SAME


@pytest.mark.parametrize(
    "command", [["dcmcjpeg"], ["dcmcjpeg", "+e1"], ["dcmcjpls"], ["dcmcrle"], ["dcmconv", "+tb"], ["dcmconv", "+ti"], ["dcmconv", "+g"]]
)
def test_what_dcmtk_makes_of_it_is_the_same(judge, slice_, tmp_path, peer, command):
    (tmp_path / "in.dcm").write_bytes(part10(slice_))
    subprocess.run([peer(command[0]), *command[1:], tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, timeout=60)
    assert judge((tmp_path / "out.dcm").read_bytes()) == SAME


def test_signed_values_survive_a_lossless_compression(slice_, tmp_path, peer):
    slice_.PixelRepresentation, slice_.BitsStored, slice_.HighBit = 1, 12, 11
    slice_.PixelData = (np.arange(64 * 64, dtype=np.int16) - 2048).tobytes()
    del slice_.SmallestImagePixelValue, slice_.LargestImagePixelValue
    (tmp_path / "in.dcm").write_bytes(part10(slice_))
    for command in ("dcmcjpls", "dcmcrle"):
        subprocess.run([peer(command), tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, timeout=60)
        assert compare(tmp_path / "in.dcm", tmp_path / "out.dcm") == SAME


def test_compression_with_loss_gives_other_pixels(judge, slice_):
    noise = np.random.default_rng(1).integers(0, 4000, (64, 64)).astype(np.uint16)
    slice_.PixelData = noise.tobytes()
    assert judge(slice_) == OTHER_PIXELS
    kept = part10(slice_)
    slice_.compress(JPEGLSNearLossless, jls_error=5, generate_instance_uid=False)
    judge(kept)  # leaves nothing behind
    assert judge(slice_) == OTHER_PIXELS


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "Other^Name"),
        ("PatientID", "P2"),
        ("PatientBirthDate", "19700102"),
        ("PatientSex", "M"),
        ("IssuerOfPatientID", "HOSPITAL"),
        ("AccessionNumber", "A-1"),
        ("StudyDate", "20260101"),
        ("SeriesDescription", "AX T2 FLAIR FS"),
        ("InstanceNumber", 5),
        ("EchoTime", "121"),
        ("SliceThickness", "3.5"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "M", "NORM"]),
        ("PatientAge", "056Y"),
        ("EffectiveDuration", 1.5),
        ("PatientSpeciesCodeSequence", Sequence([Dataset()])),
    ],
)
def test_a_corrected_attribute_is_named(judge, slice_, keyword, value):
    if keyword.endswith("Sequence"):
        value[0].CodeValue = "L-85B00"
    setattr(slice_, keyword, value)
    assert judge(slice_) == corrected(keyword)


def test_several_corrections_are_named_in_the_order_of_their_tags(judge, slice_):
    slice_.PatientBirthDate, slice_.PatientName, slice_.StudyDescription = "19800101", "Right^Name", "Head"
    del slice_.PatientSex
    slice_.AnatomicRegionSequence[0].CodeMeaning = "Brain"
    assert judge(slice_) == corrected("StudyDescription", "AnatomicRegionSequence", "PatientName", "PatientBirthDate", "PatientSex")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("LossyImageCompression", "00"),
        ("DerivationDescription", "Lossless JPEG compression"),
        ("RetrieveAETitle", "ARCHIVE"),
        ("InstanceAvailability", "ONLINE"),
        ("SmallestImagePixelValue", 0),
        ("OtherPatientIDs", ""),
        ("EchoTime", "120.0"),
        ("RepetitionTime", "9.0E3"),
        ("PatientName", "Test^Ünï^^^"),
        ("SeriesDescription", "AX T2 FLAIR "),
        ("ImagePositionPatient", ["-112.0", "-112.00000000001", "9"]),
        ("RescaleSlope", "1"),
        ("RescaleIntercept", "0.0"),
    ],
)
def test_what_an_archive_writes_its_own_way_changes_nothing(judge, slice_, keyword, value):
    setattr(slice_, keyword, value)
    assert judge(slice_) == SAME


def test_private_elements_and_group_lengths_change_nothing(judge, slice_):
    slice_[0x00091001].value = "another"
    slice_.add_new(0x00110010, "LO", "PACS")
    slice_.add_new(0x00111001, "LO", "sent 12:00")
    del slice_[0x00080000]
    assert judge(slice_) == SAME


@pytest.mark.parametrize("repertoire", ["ISO_IR 100", "ISO_IR 192"])
def test_the_same_text_in_another_repertoire_changes_nothing(judge, slice_, repertoire):
    slice_.SpecificCharacterSet = repertoire
    slice_.PatientName, slice_.AnatomicRegionSequence[0].CodeMeaning = "Test^Ünï", "Gehirn äöü"
    assert judge(slice_) == SAME
    slice_.PatientName = "Test^Unï"
    assert judge(slice_) == corrected("PatientName")


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


def test_what_no_number_can_be_made_of_is_compared_as_it_is(judge, slice_, tmp_path):
    encoded = part10(slice_)
    odd = encoded.replace(b"\x18\x00\x81\x00DS\x04\x00120 ", b"\x18\x00\x81\x00DS\x04\x0012x ")
    assert odd != encoded
    assert judge(odd) == corrected("EchoTime")
    (tmp_path / "odd.dcm").write_bytes(odd)
    assert compare(tmp_path / "odd.dcm", tmp_path / "odd.dcm") == SAME


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
