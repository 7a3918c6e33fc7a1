"""What is no series of one volume is refused with words that say why."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.worker.convert.conftest import SHAPE, edit, refusal
from worker import convert
from worker.convert import read_series
from worker.frames import Limits
from worker.phantom import make_uid, write_series


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
