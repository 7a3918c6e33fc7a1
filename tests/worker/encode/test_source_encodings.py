"""Whatever a source is encoded in, classic or multi-frame: the same mask, and every object names the frames it comes from."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from model.volume import Volume
from service.contexts import TRANSFER_SYNTAXES
from service.errors import Rejected
from service.records import Verdict
from service.sections import RTStruct, Segmentation
from tests.worker.encode.cases import affine, context_of
from tests.worker.encode.test_objects import PAGE, PICTURE, uids_in
from tests.worker.encode.test_seg import PLANES, assert_references_every_frame
from worker.compare import Comparison, compare
from worker.convert import read_series
from worker.encode import capture, document, rtstruct, seg, sr
from worker.phantom import write_series
from worker.pixels import decode
from worker.render import Wish, draw

SHAPE = (34, 33, 6)  # JPEG 2000 wants 32 at least
BRIGHT = 150
BY_PYDICOM = {
    RLELossless: {},
    JPEGLSLossless: {},
    JPEGLSNearLossless: {"jls_error": 3},
    JPEG2000Lossless: {},
    JPEG2000: {"j2k_cr": [4]},
}
BY_DCMTK = {
    DeflatedExplicitVRLittleEndian: ["dcmconv", "+td"],
    JPEGLossless: ["dcmcjpeg", "+el"],
    JPEGLosslessSV1: ["dcmcjpeg", "+e1"],
    JPEGBaseline8Bit: ["dcmcjpeg", "+eb", "+un"],
    JPEGExtended12Bit: ["dcmcjpeg", "+ee", "+un"],
}
# No encoder of it is among the peers: code streams of the picture's slices that OpenJPH 0.9 has made, progression RPCL.
BY_OPENJPH = {HTJ2KLossless: "lossless", HTJ2KLosslessRPCL: "lossless", HTJ2K: "lossy"}
CODE_STREAMS = Path(__file__).parent / "htj2k"
LOSSY = (JPEGLSNearLossless, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, HTJ2K)
EIGHT_BITS = (JPEGBaseline8Bit, JPEGExtended12Bit)


def picture():
    """Values of eight bits: dim texture, and bright boxes that loss does not take away."""
    values = np.random.default_rng(4).integers(20, 60, SHAPE)
    values[3:9, 4:12, 1:4] += 170
    values[14:19, 2:7, 3:6] += 170
    return Volume(values.astype(np.uint16), affine(PLANES["axial"], (1.0, 1.2, 3.0)))


def encoded(peer, syntax, folder, *, enhanced, volume=None):
    """The files of the series in that transfer syntax, in an order of acquisition that is none of their places."""
    written = syntax if syntax in {ImplicitVRLittleEndian, ExplicitVRBigEndian} else ExplicitVRLittleEndian
    files = write_series(volume or picture(), folder, enhanced=enhanced, order=(4, 0, 3, 5, 1, 2), transfer_syntax=written)
    for path in files:
        if syntax in EIGHT_BITS and volume is None:
            halve(path)
        if syntax in BY_PYDICOM:
            dataset = pydicom.dcmread(path)
            dataset.compress(syntax, generate_instance_uid=False, **BY_PYDICOM[syntax])
            dataset.LossyImageCompression = "01" if syntax in LOSSY else "00"
            dataset.save_as(path)
        elif syntax in BY_DCMTK:
            program, *options = BY_DCMTK[syntax]
            subprocess.run([peer(program), *options, str(path), str(path)], check=True, capture_output=True, timeout=60)
        elif syntax in BY_OPENJPH:
            put_code_streams(path, syntax)
    return files


def put_code_streams(path, syntax):
    """Take the code stream of each slice in the place of its values."""
    dataset = pydicom.dcmread(path)
    slices = list(picture().data.transpose(2, 1, 0))
    planes = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    places = [next(k for k, values in enumerate(slices) if np.array_equal(values, plane)) for plane in planes]
    dataset.PixelData = encapsulate([(CODE_STREAMS / f"{BY_OPENJPH[syntax]}-{k}.j2c").read_bytes() for k in places])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.LossyImageCompression = "01" if syntax in LOSSY else "00"
    dataset.save_as(path)


def halve(path):
    """Store the values in eight bits."""
    dataset = pydicom.dcmread(path)
    values = dataset.pixel_array.astype(np.uint8)
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = values.tobytes() + b"\0" * (values.size % 2)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)


def read(output):
    return pydicom.dcmread(BytesIO(output.data))


def case(series, **choices):
    return context_of(series, (series.volume.data > BRIGHT).astype(np.uint8), **choices)


def assert_contours_name_their_frames(output, series):
    places = {
        (frame.sop_instance_uid, frame.frame_number): float((series.volume.affine_ras @ (0, 0, frame.k, 1))[2]) for frame in series.frames
    }
    contours = [contour for drawn in read(output).ROIContourSequence for contour in drawn.ContourSequence]
    assert {contour.ContourData[2] for contour in contours} == {places[key] for key in map(image_of, contours)}
    assert all(contour.ContourData[2] == pytest.approx(places[image_of(contour)]) for contour in contours)


def image_of(contour):
    (image,) = contour.ContourImageSequence
    return str(image.ReferencedSOPInstanceUID), image.get("ReferencedFrameNumber")


def test_every_syntax_that_is_accepted_is_tried():
    plain = {ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian}
    assert plain | BY_PYDICOM.keys() | BY_DCMTK.keys() | BY_OPENJPH.keys() == set(TRANSFER_SYNTAXES)


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "enhanced"])
def plain(request, peer, tmp_path_factory):
    series = read_series(encoded(peer, ExplicitVRLittleEndian, tmp_path_factory.mktemp("plain"), enhanced=request.param))
    return request.param, series, read(seg.encode(case(series))).PixelData


@pytest.mark.parametrize("syntax", [syntax for syntax in TRANSFER_SYNTAXES if syntax != ExplicitVRLittleEndian], ids=TRANSFER_SYNTAXES.get)
def test_the_mask_is_the_same_and_every_frame_is_named(peer, plain, tmp_path, syntax):
    enhanced, expected, mask = plain
    series = read_series(encoded(peer, syntax, tmp_path, enhanced=enhanced))
    assert series.datasets[0].file_meta.TransferSyntaxUID == syntax
    assert series.frames == expected.frames
    assert any(flag.startswith("lossy-input") for flag in series.quality) == (syntax in LOSSY)
    assert np.array_equal(series.volume.affine_ras, expected.volume.affine_ras)
    assert np.array_equal(series.volume.data, expected.volume.data) == (syntax not in LOSSY)
    context = case(series)
    output = seg.encode(context)
    assert read(output).PixelData == mask
    assert_references_every_frame(output.data, series)
    assert_contours_name_their_frames(rtstruct.encode(context), series)


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_jpeg_of_twelve_bits_is_what_dcmtk_decodes(peer, tmp_path, enhanced):
    volume = picture()
    bright = volume.with_data((volume.data * 16 + np.arange(SHAPE[0])[:, None, None]).astype(np.uint16))
    files = encoded(peer, JPEGExtended12Bit, tmp_path, enhanced=enhanced, volume=bright)
    series = read_series(files)
    assert any(flag.startswith("lossy-input") for flag in series.quality)
    assert 1 < np.abs(series.volume.data.astype(int) - bright.data).max() < 400, "compressed with loss, and still the picture"
    for path in files[:2]:
        plain = tmp_path / "plain.dcm"
        subprocess.run([peer("dcmdjpeg"), str(path), str(plain)], check=True, capture_output=True, timeout=60)
        dataset, expected = pydicom.dcmread(path), pydicom.dcmread(plain)
        assert b"\xff\xc1\x00\x0b\x0c" in dataset.PixelData, "extended sequential, 12 bits"
        assert np.array_equal(decode(dataset, "it"), expected.pixel_array.reshape(-1, SHAPE[1], SHAPE[0]))
        assert compare(path, plain) == Comparison(Verdict.SAME), "sent again decompressed it is the same"
        assert draw(Wish(str(path), 1, "image/png", 1 << 20)) == draw(Wish(str(plain), 1, "image/png", 1 << 20))


def test_jpeg_of_twelve_bits_that_is_cut_is_refused_in_words(peer, tmp_path):
    files = encoded(peer, JPEGExtended12Bit, tmp_path, enhanced=False, volume=picture())
    dataset = pydicom.dcmread(files[0])
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    dataset.save_as(files[0])
    with pytest.raises(Rejected, match="cannot be decoded"):
        read_series(files)


@pytest.mark.parametrize("syntax", [JPEG2000MC, "1.2.840.10008.1.2.4.110"])
def test_what_nobody_decodes_is_refused_in_words(peer, tmp_path, syntax):
    """JPEG 2000 Part 2 and JPEG XL: not offered by the listener, and rejected where they come over the web."""
    assert syntax not in TRANSFER_SYNTAXES
    files = encoded(peer, JPEG2000Lossless, tmp_path, enhanced=False)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    with pytest.raises(Rejected, match="unsupported transfer syntax"):
        read_series(files)


@pytest.fixture(scope="module", params=[((4, 0, 3, 5, 1, 2),), ((4, 0, 2), (3, 1, 5))], ids=["one object", "two objects"])
def frames(request, tmp_path_factory):
    """Enhanced sources, the second in two objects whose frames alternate."""
    folder = tmp_path_factory.mktemp("frames")
    files = [path for n, order in enumerate(request.param) for path in write_series(picture(), folder / str(n), enhanced=True, order=order)]
    series = read_series(files)
    assert len({frame.sop_instance_uid for frame in series.frames}) == len(request.param)
    return series


@pytest.mark.parametrize("encoding", ["binary", "labelmap", "fractional"])
def test_every_kind_of_segmentation_names_the_frames_of_a_multi_frame_source(frames, encoding):
    for chosen in (Segmentation(encoding=encoding), Segmentation(encoding=encoding, lesion_segments=1, brain=True)):
        context = case(frames, segmentation=chosen)
        assert_references_every_frame(seg.encode(context).data, frames)


def test_every_other_object_names_the_objects_of_a_multi_frame_source(frames):
    context = case(frames, rtstruct=RTStruct(lesion_rois=2))
    uids = {frame.sop_instance_uid for frame in frames.frames}
    assert_contours_name_their_frames(rtstruct.encode(context), frames)
    assert uids_in(read(document.encode(context, PAGE)).SourceInstanceSequence) == uids
    assert uids_in(read(capture.encode(context, PICTURE)).SourceImageSequence) == uids
    (study,) = read(sr.encode(context)).CurrentRequestedProcedureEvidenceSequence
    assert uids < {uid for series in study.ReferencedSeriesSequence for uid in uids_in(series.ReferencedSOPSequence)}
