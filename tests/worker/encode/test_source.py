"""What a source got wrong is put right in our objects, named in the quality flags, and never fatal."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pydicom
import pytest

from model.volume import Volume
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_seg import PLANES, SHAPE, blobs, errors_of
from worker.encode import report_json, seg
from worker.encode.source import Header, normalised, read_header
from worker.encode.typeset import runs

NAMES = {
    "japanese": ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"]),
    "korean": ("Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"]),
    "russian": ("Люкceмбypг^Иван", ["ISO_IR 144"]),
    "greek": ("Διονυσιος^Σοφια", ["ISO_IR 126"]),
    "chinese": ("Zhang^XiaoDong=张^小东", ["GB18030"]),
    "hebrew": ("שרון^דבורה", ["ISO_IR 138"]),
    "arabic": ("قباني^لنزار", ["ISO_IR 127"]),
    "thai": ("นามสกุล^ชื่อ", ["ISO_IR 192"]),
    "western": ("Ærø^Zoë ≥ mm³", ["ISO_IR 192"]),
    "no caret": ("Mononym", ["ISO_IR 100"]),
}


def source(tmp_path, **headers):
    return series_of(Volume(textured(SHAPE), affine(PLANES["axial"], (1, 1, 3))), tmp_path / "in", headers=headers)


@pytest.mark.parametrize(("name", "charset"), NAMES.values(), ids=NAMES)
def test_names_of_every_charset_survive(peer, tmp_path, name, charset):
    series = source(tmp_path, SpecificCharacterSet=charset, PatientName=name)
    context = context_of(series, blobs(SHAPE))
    data = seg.encode(context).data
    dataset = pydicom.dcmread(BytesIO(data))
    assert str(dataset.PatientName) == name
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    assert report_json.report(context).subject.patient_name == name


WRONG = {
    "PatientSex": "0000",
    "PatientBirthDate": "20251301",
    "StudyTime": "25:99",
    "PatientAge": "42",
    "StudyDescription": "x" * 80,
    "AccessionNumber": "1234567890123456789",
    "PatientID": "A\\B",
    "PatientWeight": "heavy",
}


def test_invalid_values_are_normalised_and_named(peer, tmp_path):
    series = source(tmp_path)
    for dataset in series.datasets:
        for keyword, value in WRONG.items():
            tag = pydicom.datadict.tag_for_keyword(keyword)
            dataset[tag] = pydicom.DataElement(tag, "LO", value, validation_mode=pydicom.config.IGNORE)
    context = context_of(series, blobs(SHAPE))
    data = seg.encode(context).data
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    written = pydicom.dcmread(BytesIO(data))
    assert written.PatientSex == ""
    assert written.PatientBirthDate == ""
    assert len(written.StudyDescription) == 64
    (flag,) = [flag for flag in context.quality if flag.startswith("header-corrected")]
    assert all(keyword in flag for keyword in WRONG)
    assert "heavy" not in flag


def test_what_was_not_typed_beside_a_corrected_identity_is_normalised_too(tmp_path):
    series = source(tmp_path)
    identity = {"PatientID": "RIGHT 7", "PatientName": "علی\u200cرضا", "PatientBirthDate": "1961.02.30", "PatientSex": "0000"}
    header = read_header(series, identity)
    assert [header.get(keyword) for keyword in identity] == ["RIGHT 7", "علی\u200cرضا", "", ""]
    assert header.corrected == ("PatientBirthDate", "PatientSex")
    written = pydicom.dcmread(BytesIO(seg.encode(replace(context_of(series, blobs(SHAPE)), header=header)).data))
    assert (written.PatientID, written.PatientName, written.PatientSex) == ("RIGHT 7", "علی\u200cرضا", "")


def test_an_unreadable_element_is_blank(tmp_path):
    series = source(tmp_path)
    tag = pydicom.datadict.tag_for_keyword("PatientWeight")
    for dataset in series.datasets:
        dataset[tag] = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), "DS", 6, b"heavy ", 0, False, True)
    header = read_header(series)
    assert header.get("PatientWeight") == ""
    assert "PatientWeight" in header.corrected


def test_a_source_without_identity_or_dates_still_gives_a_valid_object(peer, tmp_path):
    gone = ("FrameOfReferenceUID", "PatientSex", "PatientID", "PatientName", "Manufacturer")
    series = source(tmp_path, **dict.fromkeys((*gone, "StudyDate", "SeriesDate", "AcquisitionDate", "StudyID")))
    data = seg.encode(context_of(series, blobs(SHAPE))).data
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []
    assert pydicom.dcmread(BytesIO(data)).ContentDate == "19000101"


def test_lossy_sources_make_lossy_objects(peer, tmp_path):
    ratio = {"LossyImageCompressionRatio": ["10", "5"], "LossyImageCompressionMethod": ["ISO_15444_1", "ISO_10918_1"]}
    data = seg.encode(context_of(source(tmp_path, LossyImageCompression="01", **ratio), blobs(SHAPE))).data
    dataset = pydicom.dcmread(BytesIO(data))
    assert dataset.LossyImageCompression == "01"
    assert list(dataset.LossyImageCompressionRatio) == [10, 5]
    assert errors_of(peer("dciodvfy"), data, tmp_path) == []


@pytest.mark.parametrize(
    ("keyword", "given", "wanted"),
    [
        ("StudyDate", "2024.02.29", "20240229"),
        ("StudyDate", "20230229", ""),
        ("StudyTime", "12:34:56", "123456"),
        ("StudyTime", "2460", ""),
        ("PatientSex", "f", "F"),
        ("PatientAge", "45Y", "045Y"),
        ("PatientAge", "45", ""),
        ("PatientName", "A^B\x1b", "A^B"),
        ("PatientName", "a" * 70 + "=" + "b" * 70, "a" * 64 + "=" + "b" * 64),
        ("StudyInstanceUID", "1.2.03.4", "1.2.03.4"),
        ("StudyInstanceUID", "1.2.x", ""),
        ("SoftwareVersions", "a\\b", "a\\b"),
        ("SliceThickness", "1e0", "1e0"),
        ("SliceThickness", "1 mm", ""),
    ],
)
def test_normalising(keyword, given, wanted):
    assert normalised(keyword, given) == wanted


def test_content_moment_is_the_latest_acquisition(tmp_path):
    series = source(tmp_path)
    series.datasets[3].AcquisitionTime = "235959.5"
    assert read_header(series).content_moment == ("20200101", "235959.5")
    enhanced = series_of(
        Volume(textured(SHAPE), affine(PLANES["axial"], (1, 1, 3))),
        tmp_path / "e",
        enhanced=True,
        headers={"AcquisitionDateTime": "20210304050607+0100"},
    )
    assert read_header(enhanced).content_moment == ("20210304", "050607")


def test_no_series_no_header():
    assert read_header(None) == Header()


def test_every_letter_gets_a_type_or_a_box():
    text = "é≥mm³ 山田 홍길동 Люк שרון ก"
    fonts = {font for font, _ in runs(text)}
    assert fonts == {"LeukoscopeSans", "LeukoscopeSans-Asian"}
    assert "".join(piece for _, piece in runs(text)).endswith("□")
    assert ("LeukoscopeSans", "ןורש") in runs("שרון")


def test_the_mask_changes_the_identity_and_the_memory_order_does_not(tmp_path):
    series = source(tmp_path)
    labels = blobs(SHAPE)
    base = context_of(series, labels).identity
    assert context_of(series, np.asfortranarray(labels)).identity == base
    other = labels.copy()
    other[5, 5, 5] ^= 1
    assert context_of(series, other).identity.seed != base.seed
    assert base.uid("segmentation") != base.uid("segmentation series")
    assert len(base.uid("segmentation")) <= 64
