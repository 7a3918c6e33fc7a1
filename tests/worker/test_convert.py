"""What a series may come as, what is refused with which words, and what is flagged."""

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
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from model.volume import Volume
from service.errors import Rejected
from worker import convert
from worker.convert import read_series
from worker.frames import Limits
from worker.phantom import make_uid, write_series

SHAPE = (37, 34, 9)
SAGITTAL = np.array([[0.0, 0.0, 1.2, -5.0], [-0.9, 0.0, 0.0, 6.0], [0.0, -0.9, 0.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
BLANK = {"PatientSex": "0000", "PatientAge": "999Z", "StudyDate": "20209999"}


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


@pytest.mark.parametrize(
    ("keyword", "value", "refused"),
    [
        ("InstanceNumber", b"no number ", None),
        ("EchoTime", b"390 ms", None),
        ("SliceThickness", b"thin", None),
        ("ContrastBolusAgent", b"a\\b ", None),
        ("SeriesDescription", b"\xff\xfeFLAIR", None),
        ("ImageType", b"ORIGINAL", None),
        ("RescaleSlope", b"0 ", "no usable rescale slope"),
        ("RescaleSlope", b"1\\2 ", "no usable rescale slope"),
        ("ImagePositionPatient", b"1\\2\\x ", "no usable ImagePositionPatient"),
        ("ImagePositionPatient", b"1\\2 ", "no usable ImagePositionPatient"),
        ("PixelSpacing", b"1\\0 ", "not positive"),
        ("NumberOfFrames", b"many", "not readable"),
    ],
)
def test_malformed_values_never_crash(files, keyword, value, refused):
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.pop(keyword, None)
        tag = pydicom.datadict.tag_for_keyword(keyword)
        raw = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)
        dataset._dict[raw.tag] = raw
        dataset.save_as(path)
    if refused is None:
        assert read_series(files).volume.shape == SHAPE
    else:
        assert refused in refusal(files)


def test_positions_rounded_by_the_scanner_are_taken(volume, files):
    for path in files:
        position = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[f"{float(value) + 0.001:.2f}" for value in position])
    assert read_series(files).volume.shape == SHAPE


def test_gap(volume, tmp_path):
    files = write_series(volume, tmp_path, order=[0, 1, 2, 3, 4, 6, 7, 8])
    assert refusal(files) == "gap after slice 5: 2.4 mm, expected 1.2 mm"


def test_one_position_twice(volume, tmp_path):
    assert "two slices at one position" in refusal(write_series(volume, tmp_path / "a", order=[0, 1, 2, 2, 3]))
    assert "two slices at one position" in refusal(write_series(volume, tmp_path / "b", order=[0, 1, 2, 2, 3], enhanced=True))


def test_one_uid_with_two_pictures(volume, tmp_path):
    files = write_series(volume, tmp_path, repeat=[4])
    edit(tmp_path / "0005-again.dcm", PixelData=bytes(SHAPE[0] * SHAPE[1] * 2))
    assert "different pixels under one SOPInstanceUID" in refusal(files)


def test_mixed_stacks(files):
    kept = files[4].read_bytes()
    for elements, words in [
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}, "different orientation"),
        ({"PixelSpacing": ["0.9", "0.8"]}, "different pixel spacing"),
        ({"EchoTime": "90"}, "several echoes"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "different kinds"),
        ({"SeriesInstanceUID": make_uid("x")}, "more than one series"),
        ({"ImagePositionPatient": None}, "no usable ImagePositionPatient"),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, "not two perpendicular unit vectors"),
        ({"PixelSpacing": None}, "no usable PixelSpacing"),
        ({"Rows": SHAPE[0], "Columns": SHAPE[1]}, "different sizes"),
        ({"PixelData": None}, "no pixels in instance 5"),
        ({"PixelData": bytes(100)}, "truncated: 100 bytes, expected 2516"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour image"),
        ({"HighBit": 15}, "unsupported pixel layout"),
    ]:
        edit(files[4], **elements)
        assert words in refusal(files), elements
        files[4].write_bytes(kept)
    read_series(files)


def test_file_cut_short_and_no_dicom(files):
    whole = files[4].read_bytes()
    files[4].write_bytes(whole[:-50])
    assert "instance 5" in refusal(files) or "not readable" in refusal(files)
    files[4].write_bytes(b"no DICOM here" * 50)
    assert "not readable DICOM" in refusal(files)
    assert "no files" in refusal([])


def test_objects_of_two_classes_or_of_none(volume, files, tmp_path):
    other = write_series(volume, tmp_path / "other", enhanced=True)
    assert "objects of different classes in one series: Enhanced MR Image Storage, MR Image Storage" in refusal([*files, *other])
    edit(files[4], SOPClassUID=None)
    assert refusal(files) == "an instance has no SOPClassUID"


def test_a_damaged_deflated_file_and_a_file_whose_header_is_bent(files):
    kept = files[4].read_bytes()
    dataset = pydicom.dcmread(files[4])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(files[4])
    deflated = files[4].read_bytes()
    files[4].write_bytes(deflated[:400] + bytes(40) + deflated[440:-200])
    assert "not readable DICOM" in refusal(files)
    files[4].write_bytes(kept[:138] + b"\x6f" + kept[139:])  # the length of the file meta's first element
    assert "not readable DICOM" in refusal(files)


def test_damaged_compressed_pixels(files):
    dataset = pydicom.dcmread(files[4])
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51rubbish!"])
    dataset.save_as(files[4])
    assert "cannot be decoded" in refusal(files)


def test_unsupported_transfer_syntax(files):
    dataset = pydicom.dcmread(files[0])
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    dataset.save_as(files[0])
    assert refusal(files).startswith("unsupported transfer syntax: MPEG2")
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(files[0])
    assert "cannot be decoded" in refusal(files)


def test_pictures_that_are_none(volume, tmp_path):
    assert refusal(write_series(volume.with_data(np.full(SHAPE, 7)), tmp_path / "a")) == "all pixels have the value 7"
    mask = (np.indices(SHAPE).sum(axis=0) % 3).astype(np.uint16)
    assert "only 3 different pixel values" in refusal(write_series(volume.with_data(mask), tmp_path / "b"))


def test_limits(files):
    assert "at most 10 × 1024" in refusal(files, limits=Limits(columns=10))
    assert refusal(files, limits=Limits(slices=8)) == "9 slices, at most 8 are taken"
    assert "decoded" in refusal(files, limits=Limits(decoded_bytes=1000))
    assert "at least 12" in refusal(files, limits=Limits(minimum_slices=12))


def test_a_header_that_promises_too_much_is_refused_before_anything_is_decoded(files):
    for path in files:
        edit(path, Rows=65535, Columns=65535)
    assert "at most 1024 × 1024" in refusal(files)


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


@pytest.mark.parametrize("fault", ["dropped", "changed", "moved"])
def test_a_conversion_that_goes_wrong_is_caught(monkeypatch, files, fault):
    right = convert.convert_generic.dicom_to_nifti

    def wrong(slices, output):
        if fault == "dropped":
            return right(slices[:-1], output)
        result = right(slices, output)
        image = result["NII"]
        data, affine = np.array(image.dataobj), image.affine.copy()
        if fault == "changed":
            data[3, 4, 5] += 1
        else:
            affine[:3, 3] += [0, 0.9, 0]
        return {"NII": image.__class__(data, affine)}

    monkeypatch.setattr(convert.convert_generic, "dicom_to_nifti", wrong)
    assert refusal(files)


def test_process_wide_settings_are_left_as_they_were(files):
    before = vars(convert.settings).copy()
    read_series(files)
    assert {name: vars(convert.settings)[name] for name in before} == before
    assert pydicom.charset.python_encoding["ISO 2022 IR 159"] == "iso2022_jp_2"
    assert "ISO_IR 58" not in pydicom.charset.python_encoding
