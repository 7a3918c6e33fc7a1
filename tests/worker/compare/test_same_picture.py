"""Which differences between two versions of one picture count, and as what."""

from __future__ import annotations

import subprocess
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.service.series import part10
from tests.worker.compare.conftest import OTHER_PIXELS, SAME, corrected, recoded
from worker.compare import compare


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


def test_what_no_number_can_be_made_of_is_compared_as_it_is(judge, slice_, tmp_path):
    encoded = part10(slice_)
    odd = encoded.replace(b"\x18\x00\x81\x00DS\x04\x00120 ", b"\x18\x00\x81\x00DS\x04\x0012x ")
    assert odd != encoded
    assert judge(odd) == corrected("EchoTime")
    (tmp_path / "odd.dcm").write_bytes(odd)
    assert compare(tmp_path / "odd.dcm", tmp_path / "odd.dcm") == SAME
