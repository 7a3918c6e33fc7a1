"""What a series may come as, and what is flagged."""

from __future__ import annotations

import random

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from model.volume import Volume
from tests.worker.convert.conftest import SAGITTAL, SHAPE, codes, edit, refusal
from worker import convert
from worker.convert import read_series
from worker.phantom import write_series

BLANK = {"PatientSex": "0000", "PatientAge": "999Z", "StudyDate": "20209999"}


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("enhanced", [False, True])
def test_uncompressed_syntaxes_give_the_same_volume(volume, files, tmp_path, syntax, enhanced):
    other = read_series(write_series(volume, tmp_path / "other", transfer_syntax=syntax, enhanced=enhanced))
    np.testing.assert_array_equal(other.volume.data, read_series(files).volume.data)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("enhanced", [False, True])
def test_lossless_compression_gives_the_same_volume(volume, tmp_path, syntax, enhanced):
    files = write_series(volume, tmp_path, enhanced=enhanced)
    plain = read_series(files)
    for path in files:
        dataset = pydicom.dcmread(path)
        if syntax == DeflatedExplicitVRLittleEndian:
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    series = read_series(files)
    np.testing.assert_array_equal(series.volume.data, plain.volume.data)
    assert "lossy-input" not in codes(series)


def test_lossy_input_is_flagged(files):
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.compress(JPEGLSNearLossless, jls_error=3, generate_instance_uid=False)
        dataset.save_as(path)
    assert "lossy-input" in codes(read_series(files))


def test_an_earlier_lossy_compression_is_flagged(files):
    edit(files[3], LossyImageCompression="01", LossyImageCompressionRatio="10")
    assert "lossy-input" in codes(read_series(files))


def test_interleaved_enhanced_flair_of_24_frames(tmp_path):
    volume = Volume(np.random.default_rng(2).integers(0, 3000, (20, 18, 24)).astype(np.uint16), SAGITTAL)
    order = [*range(0, 24, 2), *range(1, 24, 2)]
    series = read_series(write_series(volume, tmp_path, enhanced=True, order=order))
    np.testing.assert_allclose(series.volume.affine_ras, volume.affine_ras, atol=1e-9)
    np.testing.assert_array_equal(series.volume.data, volume.data)
    assert [frame.frame_number for frame in series.frames] == [order.index(k) + 1 for k in range(24)]


def test_order_of_files_and_repeats_change_nothing(volume, tmp_path):
    files = write_series(volume, tmp_path, repeat=[2, 5])
    first = read_series(files)
    random.Random(0).shuffle(files)
    again = read_series(files)
    assert [frame.sop_instance_uid for frame in again.frames] == [frame.sop_instance_uid for frame in first.frames]
    np.testing.assert_array_equal(again.volume.data, first.volume.data)


def test_rescale_of_its_own_for_every_slice_is_applied(volume, files):
    for number, path in enumerate(files):
        edit(path, RescaleSlope=str(1.5 + number), RescaleIntercept="-20")
    series = read_series(files)
    assert "rescale-varies" in codes(series)
    np.testing.assert_allclose(series.volume.data, volume.data * (1.5 + np.arange(SHAPE[2])) - 20, rtol=1e-6)


def test_signed_values_of_twelve_stored_bits_keep_their_sign(volume, files):
    for path in files:
        values = pydicom.dcmread(path).pixel_array.astype(np.int16) - 1500
        packed = np.bitwise_and(values, 0x0FFF).astype(np.uint16)
        edit(path, PixelRepresentation=1, BitsStored=12, HighBit=11, PixelData=packed.tobytes())
    series = read_series(files)
    np.testing.assert_array_equal(series.volume.data, volume.data.astype(int) - 1500)


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_is_turned_to_what_is_displayed(volume, files, signed):
    for path in files:
        values = 2999 - pydicom.dcmread(path).pixel_array.astype(np.int32) - (1500 if signed else 0)
        bits = {"BitsStored": 16, "HighBit": 15, "PixelRepresentation": int(signed)}
        edit(path, PhotometricInterpretation="MONOCHROME1", PixelData=values.astype(np.int16).tobytes(), **bits)
    series = read_series(files)
    np.testing.assert_array_equal(series.volume.data, volume.data - volume.data.min())
    assert "inverted-display" in codes(series)
    edit(files[2], PhotometricInterpretation="MONOCHROME2")
    assert refusal(files) == "some slices are MONOCHROME1, others MONOCHROME2"


def test_wrong_values_elsewhere_in_the_header_do_no_harm(volume, tmp_path):
    with pydicom.config.disable_value_validation():
        files = write_series(volume, tmp_path, headers=BLANK)
    assert read_series(files).volume.shape == SHAPE


def test_positions_rounded_by_the_scanner_are_taken(volume, files):
    for path in files:
        position = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[f"{float(value) + 0.001:.2f}" for value in position])
    assert read_series(files).volume.shape == SHAPE


def test_spacing_contrast_and_derivation_are_flagged(volume, tmp_path):
    thick = Volume(volume.data, volume.affine_ras @ np.diag([1, 1, 4, 1]))
    headers = {"SliceThickness": "3.6", "ContrastBolusAgent": "Gadobutrol", "ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    series = read_series(write_series(thick, tmp_path, headers=headers))
    assert {"thick-slices", "slice-gap", "contrast-agent", "derived-images"} <= codes(series)
    assert "slice-gap: 1.20 mm between slices of 3.60 mm are not imaged" in series.quality


def test_contrast_by_description_and_saturation_are_flagged(volume, tmp_path):
    clipped = volume.with_data(np.minimum(volume.data, 2000))
    series = read_series(write_series(clipped, tmp_path, description="t2_flair_post_gd"))
    assert {"contrast-agent", "saturation"} <= codes(series)


def test_a_whole_head_has_no_flag(tmp_path):
    i, j, k = np.indices((40, 44, 42))
    head = (((i - 20) / 16) ** 2 + ((j - 22) / 18) ** 2 + ((k - 21) / 17) ** 2) < 1
    values = head * np.random.default_rng(3).normal(600, 80, head.shape)
    assert read_series(write_series(Volume(values, np.diag([4.0, 4.0, 1.0, 1.0])), tmp_path)).quality == ()


def test_a_head_cut_at_the_top_is_flagged(tmp_path):
    i, j, k = np.indices((40, 44, 42))
    head = (((i - 20) / 16) ** 2 + ((j - 22) / 18) ** 2 + ((k - 35) / 17) ** 2) < 1
    values = head * np.random.default_rng(3).normal(600, 80, head.shape)
    series = read_series(write_series(Volume(values, np.diag([1.0, 1.0, 1.0, 1.0])), tmp_path))
    assert series.quality == ("coverage: the head is cut at the last slice (superior end)",)


def test_process_wide_settings_are_left_as_they_were(files):
    before = vars(convert.settings).copy()
    read_series(files)
    assert {name: vars(convert.settings)[name] for name in before} == before
    assert pydicom.charset.python_encoding["ISO 2022 IR 159"] == "iso2022_jp_2"
    assert "ISO_IR 58" not in pydicom.charset.python_encoding
