"""Headers: read tolerantly, never past Pixel Data, and what is cut short is told."""

from __future__ import annotations

import json
import resource
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from service.headers import Header, Unreadable, read_file, read_header
from tests.service.series import flair_series, part10, with_meta


def encoded(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The file of a data set, in a transfer syntax."""
    with_meta(dataset, transfer_syntax_uid)
    if transfer_syntax_uid == ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OW"
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def one(**changes: Any) -> Dataset:
    return flair_series(1, **changes)[0]


def test_a_uid_that_is_none_is_named_for_what_it_is() -> None:
    data = encoded(one(StudyInstanceUID="1.2.826.0.1.3680043.8.498.77"))
    for bad in (b"1.2.826.0.1.3680043.8.498.7x", b"\0" * 28):
        with pytest.raises(Unreadable, match=r"^StudyInstanceUID missing or not a valid UID$"):
            read_file(BytesIO(data.replace(b"1.2.826.0.1.3680043.8.498.77", bad)))


@pytest.mark.parametrize("uid", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_the_same_header_in_every_encoding(uid: str) -> None:
    header, _ = read_file(BytesIO(encoded(one(), uid)))
    assert header.transfer_syntax_uid == uid
    assert (header.rows, header.echo_time_ms, header.inversion_time_ms) == (64, 120.0, 2500.0)
    assert header.frames[0].position_lps == (-112.0, -112.0, 0.0)
    assert header.frames[0].orientation_lps == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert header.has_pixels


def test_a_header_survives_the_case_book() -> None:
    header, _ = read_file(BytesIO(part10(one())))
    assert Header.from_json(json.loads(json.dumps(header.as_json()))) == header
    assert Header.from_json({**header.as_json(), "of a later version": 1}) == header


def in_repertoire(name: str, python: str) -> bytes:
    """GB 2312 comes with an escape sequence that no codec of Python writes (PS3.5 6.1.2.5.3)."""
    return b"\x1b$)A" + name.encode("gb2312") if python == "iso2022_gb" else name.encode(python)


@pytest.mark.parametrize(
    ("charset", "python", "name"),
    [
        ("ISO_IR 100", "latin-1", "Gehirn für später"),
        ("ISO_IR 192", "utf-8", "大脑 FLAIR"),
        ("ISO_IR 126", "iso8859_7", "εγκέφαλος"),
        ("GB18030", "gb18030", "大脑"),
        ("\\ISO 2022 IR 87", "iso2022_jp", "脳 FLAIR"),
        ("\\ISO 2022 IR 58", "iso2022_gb", "脑 FLAIR"),
        ("ISO_IR 999", "latin-1", "né"),
    ],
)
def test_descriptions_in_every_repertoire(charset: str, python: str, name: str) -> None:
    dataset = one(SpecificCharacterSet="ISO_IR 100", SeriesDescription="x" * 40)
    content = part10(dataset).replace(b"x" * 40, in_repertoire(name, python).ljust(40))
    plain = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"
    assert plain in content
    declared = charset.encode().ljust(len(charset) + len(charset) % 2)
    content = content.replace(plain, b"\x08\x00\x05\x00CS" + len(declared).to_bytes(2, "little") + declared)
    assert read_file(BytesIO(content))[0].series_description == name


@pytest.mark.parametrize("bad", [b"12,5", b"abc", b"", b"nan", b"1e999", b"\xff\xfe", b"1\\2\\x"])
def test_a_number_that_is_none_is_missing_and_nothing_more(bad: bytes) -> None:
    content = part10(one(EchoTime="123456789012")).replace(b"123456789012", bad.ljust(12))
    assert read_file(BytesIO(content))[0].echo_time_ms is None


@pytest.mark.parametrize(("value", "wanted"), [(b"-2147483648", -(2**31)), (b"2147483648", None), (b"202611281151", None)])
def test_an_integer_string_has_32_bits(value: bytes, wanted: int | None) -> None:
    content = part10(one(SeriesNumber="1234567890")).replace(b"\x0a\x001234567890", b"\x0c\x00" + value.ljust(12))
    assert read_file(BytesIO(content))[0].series_number == wanted


def test_frames_of_an_enhanced_object_have_their_own_places_and_shared_values() -> None:
    dataset = one(NumberOfFrames=3, PixelData=bytes(3 * 64 * 64 * 2))
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime", "RepetitionTime", "InversionTime"):
        delattr(dataset, keyword)
    shared, timing, modifier, echo, plane, measures = (Dataset() for _ in range(6))
    timing.RepetitionTime, modifier.InversionTimes, modifier.InversionRecovery, echo.EffectiveEchoTime = "9000", [2500.0], "YES", 120.0
    plane.ImageOrientationPatient, measures.PixelSpacing, measures.SliceThickness = [0, 1, 0, 0, 0, -1], [3.5, 3.5], "3"
    shared.MRTimingAndRelatedParametersSequence, shared.MRModifierSequence, shared.MREchoSequence = [timing], [modifier], [echo]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in range(3):
        position, own = Dataset(), Dataset()
        position.ImagePositionPatient = [3.0 * k, 0, 0]
        own.PlanePositionSequence = [position]
        groups.append(own)
    dataset.PerFrameFunctionalGroupsSequence = groups
    header, _ = read_file(BytesIO(encoded(dataset)))
    assert header.enhanced
    assert [frame.position_lps for frame in header.frames] == [(0.0, 0.0, 0.0), (3.0, 0.0, 0.0), (6.0, 0.0, 0.0)]
    assert {frame.orientation_lps for frame in header.frames} == {(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)}
    assert (header.repetition_time_ms, header.echo_time_ms, header.inversion_time_ms) == (9000.0, 120.0, 2500.0)


def test_compressed_fragments_are_walked_and_not_decoded() -> None:
    fragment = b"\xfe\xff\x00\xe0\x08\x00\x00\x00compress"
    dataset = one()
    dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + fragment + b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    content = encoded(dataset, JPEG2000Lossless)
    assert read_file(BytesIO(content))[0].has_pixels
    assert read_file(BytesIO(content[:-8]))[0].has_pixels  # some writers leave the last delimiter out
    for cut in (10, 14, 20):
        with pytest.raises(Unreadable, match="cut short"):
            read_file(BytesIO(content[:-cut]))
    with pytest.raises(Unreadable, match="without a fragment"):
        read_file(BytesIO(content.replace(fragment, b"")))


def test_an_image_without_all_its_pixels_is_cut_short() -> None:
    with pytest.raises(Unreadable, match="cut short: 100 bytes of pixel data for an image of 8192"):
        read_file(BytesIO(part10(one(PixelData=bytes(100)))))


def deflated(head: bytes, zeros: int) -> bytes:
    """A deflated data set: its first bytes, and then nothing but zeros."""
    squeeze = zlib.compressobj(9, wbits=-15)
    begin = squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    step = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return begin + step * (zeros >> 20) + squeeze.flush()


def head_of(pixel_bytes: int) -> bytes:
    """A data set as far as the head of its Pixel Data."""
    content = part10(one())
    at = content.index(b"\xe0\x7f\x10\x00OW")
    _, start = read_file(BytesIO(content))
    return content[start : at + 8] + pixel_bytes.to_bytes(4, "little")


def test_a_deflated_object_may_be_as_large_as_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BytesIO(deflated(head_of(80 << 20), 80 << 20))
    assert read_header(whole, DeflatedExplicitVRLittleEndian).has_pixels
    short = BytesIO(deflated(head_of(90 << 20), 80 << 20))
    with pytest.raises(Unreadable, match="cut short: 94371840 bytes of pixel data announced, 83886080 there"):
        read_header(short, DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr("service.headers.inflating.INFLATE_LIMIT", 79 << 20)
    whole.seek(0)
    with pytest.raises(Unreadable, match="too large once inflated"):
        read_header(whole, DeflatedExplicitVRLittleEndian)


def test_a_deflated_bomb_is_no_more_than_counted() -> None:
    bomb = BytesIO(deflated(head_of(8192), 1 << 30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unreadable, match="too large once inflated"):
        read_header(bomb, DeflatedExplicitVRLittleEndian)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, "kilobytes"


def test_an_element_of_no_representation_is_refused() -> None:
    content = part10(one())
    at = content.index(b"\x08\x00\x18\x00UI", 300)
    with pytest.raises(Unreadable):
        read_file(BytesIO(content[: at + 4] + b"U\x03" + bytes(4) + content[at + 10 :]))


def test_sequences_nested_without_end_are_refused() -> None:
    begin = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(Unreadable, match="not a DICOM dataset"):
        read_header(BytesIO(begin * 5000), ExplicitVRLittleEndian)


CONTENT = part10(one())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, 1400))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(100, len(content) - 1)) :]
    try:
        header, _ = read_file(BytesIO(bytes(content)))
    except Unreadable as error:
        assert str(error)
    else:
        assert header.sop_instance_uid
        assert np.isfinite([frame.echo_time_ms or 0.0 for frame in header.frames]).all()
        json.dumps(header.as_json())
