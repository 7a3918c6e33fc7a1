"""Padding (PS3.3 C.7.5.1.1.2) is background to the network, whatever a scanner wrote there; a lack of memory is nobody's fault."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from model.volume import Volume
from service.errors import Rejected
from worker import pixels
from worker.convert import Series, read_series
from worker.phantom import write_series

SHAPE = (37, 34, 8)
SAGITTAL = np.array([[0.0, 0.0, 1.2, -5.0], [-0.9, 0.0, 0.0, 6.0], [0.0, -0.9, 0.0, 5.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def volume() -> Volume:
    return Volume(np.random.default_rng(1).integers(50, 3000, SHAPE).astype(np.uint16), SAGITTAL)


def padded(files: list[Path], value: int, *, limit: int | None = None, signed: bool = False, **changes: object) -> list[Path]:
    """Overwrite a wide frame of every slice with the padding value, and say so in the header."""
    for path in files:
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array.astype(np.int16 if signed else np.uint16)
        values[:5] = value
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, int(signed)
        dataset.PixelData = values.tobytes()
        dataset.PixelPaddingValue = value
        dataset["PixelPaddingValue"].VR = "SS" if signed else "US"
        if limit is not None:
            dataset.PixelPaddingRangeLimit = limit
            dataset["PixelPaddingRangeLimit"].VR = "SS" if signed else "US"
        for keyword, other in changes.items():
            setattr(dataset, keyword, other)
        dataset.save_as(path)
    return files


def codes(series: Series) -> set[str]:
    return {flag.partition(":")[0] for flag in series.quality}


@pytest.mark.parametrize(
    ("value", "limit", "signed"),
    [(32767, None, True), (-32768, None, True), (65535, None, False), (60000, 65535, False), (4095, 4000, False)],
)
def test_padding_that_would_pass_for_tissue_becomes_background(volume, tmp_path, value, limit, signed):
    series = read_series(padded(write_series(volume, tmp_path), value, limit=limit, signed=signed))
    data = np.asarray(series.volume.data)
    picture = np.asarray(volume.data)[:, 5:]
    assert (data[:, :5] == picture.min()).all()
    np.testing.assert_array_equal(data[:, 5:], picture)
    assert "pixel-padding" in codes(series)
    assert "saturation" not in codes(series)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_padding_is_found_in_compressed_images_too(volume, tmp_path, syntax):
    files = padded(write_series(volume, tmp_path), 65535)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)
    assert (np.asarray(read_series(files).volume.data)[:, :5] == volume.data[:, 5:].min()).all()


def test_padding_outside_the_stored_bits_does_not_turn_bright(volume, tmp_path):
    """-2000 in 16 allocated and 12 stored bits reads as 2096 once the unused bits are dropped."""
    files = padded(write_series(volume, tmp_path), -2000 % 65536)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.save_as(path)
    assert (np.asarray(read_series(files).volume.data)[:, :5] == volume.data[:, 5:].min()).all()


def test_padding_that_looks_like_air_is_left_alone(volume, tmp_path):
    series = read_series(padded(write_series(volume, tmp_path), 0))
    assert (np.asarray(series.volume.data)[:, :5] == 0).all()
    assert "pixel-padding" not in codes(series)


def test_padding_of_an_inverted_image_is_dark_as_well(volume, tmp_path):
    files = padded(write_series(volume, tmp_path), 0, PhotometricInterpretation="MONOCHROME1")
    data = np.asarray(read_series(files).volume.data)
    assert (data[:, :5] == 0).all()
    np.testing.assert_array_equal(data[:, 5:], volume.data[:, 5:].max() - volume.data[:, 5:].astype(int))


def test_slices_of_nothing_but_padding_are_background_and_a_series_of_it_is_refused(volume, tmp_path):
    files = write_series(volume, tmp_path / "a")
    padded(files[:1], 65535)
    first = pydicom.dcmread(files[0])
    first.PixelData = np.full((SHAPE[1], SHAPE[0]), 65535, np.uint16).tobytes()
    first.save_as(files[0])
    assert (np.asarray(read_series(files).volume.data)[:, :, 0] == volume.data[:, :, 1:].min()).all()
    empty = write_series(Volume(np.full(SHAPE, 7, np.uint16), SAGITTAL), tmp_path / "b", headers={"PixelPaddingValue": 7})
    with pytest.raises(Rejected, match="all pixels are padding"):
        read_series(empty)


@pytest.mark.parametrize("value", [b"", b"\x01", b"ab\\cd "])
def test_a_padding_value_that_is_none_is_none(volume, tmp_path, value):
    files = write_series(volume, tmp_path)
    for path in files:
        dataset = pydicom.dcmread(path)
        tag = pydicom.tag.Tag(0x00280120)
        dataset._dict[tag] = pydicom.dataelem.RawDataElement(tag, "US", len(value), value, 0, False, True)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_series(files).volume.data, volume.data)


SHORT = """
    import resource, sys
    from pathlib import Path
    from worker.convert import read_series
    from service.errors import Rejected

    files = [Path(name) for name in sys.argv[2:]]
    read_series(files)
    free = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (free, free))
    try:
        read_series(files)
    except MemoryError:
        print("MemoryError")
    except Rejected as error:
        print("Rejected", error)
"""


def test_running_out_of_memory_is_not_the_fault_of_the_data(tmp_path):
    volume = Volume(np.random.default_rng(3).integers(0, 4000, (1024, 1024, 6)).astype(np.uint16), np.eye(4))
    files = write_series(volume, tmp_path)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    command = [sys.executable, "-c", textwrap.dedent(SHORT), str(4 << 20), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "MemoryError", (done.stdout, done.stderr[-2000:])


@pytest.mark.parametrize("said", ["Unable to allocate 2.00 GiB for an array", "pylibjpeg: \n  gdcm: could not convert", "std::bad_alloc"])
def test_what_a_decoder_says_of_memory_is_heard(said):
    assert pixels._SHORT_OF_MEMORY.search(said)
    assert not pixels._SHORT_OF_MEMORY.search("pylibjpeg: invalid marker\n  gdcm: could not convert")
