"""Frames as pictures: the object's window, the one asked for, Enhanced objects, compressed ones, and what cannot be shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless

from service.errors import Rejected
from tests.service.series import flair_series, part10
from worker.render import Wish, answer, draw


def object_of(values: np.ndarray, **changes: Any) -> Dataset:
    """A grey object whose frames have these values."""
    (dataset,) = flair_series(1)
    frames = values if values.ndim == 3 else values[None]
    dataset.Rows, dataset.Columns = frames.shape[1:]
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    dataset.PixelData = frames.astype("<u2").tobytes()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def shown(folder: Path, dataset: Dataset, frame: int = 0, **wish: Any) -> np.ndarray:
    (folder / "one.dcm").write_bytes(part10(dataset))
    picture = draw(Wish(str(folder / "one.dcm"), frame, "image/png", 1 << 20, **wish))
    return np.asarray(Image.open(io.BytesIO(picture)))


RAMP = np.arange(1000, 1256).reshape(16, 16)


@pytest.mark.parametrize(
    ("window", "function", "expected"),
    [
        # PS3.3 C.11.2.1.2.1: at most centre - 0.5 - (width - 1) / 2 is black
        ((1128, 256), None, np.arange(256)),
        ((1128, 128), "LINEAR_EXACT", np.clip((np.arange(256) - 64) * 255 / 128, 0, 255).round()),
        ((1128, 128), "SIGMOID", (255 / (1 + np.exp(-4 * (np.arange(256) - 128) / 128))).round()),
        (None, None, np.arange(256)),
    ],
)
def test_the_window_of_the_object_makes_the_grey_values(tmp_path: Path, window: Any, function: str | None, expected: np.ndarray) -> None:
    dataset = object_of(RAMP)
    if window:
        dataset.WindowCenter, dataset.WindowWidth = window
    if function:
        dataset.VOILUTFunction = function
    found = shown(tmp_path, dataset)
    assert found.shape == (16, 16)
    assert np.abs(found.reshape(-1).astype(int) - expected).max() <= 1
    dataset.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(shown(tmp_path, dataset), 255 - found)


def test_a_window_that_is_asked_for_comes_before_the_object_s_and_counts_rescaled_values(tmp_path: Path) -> None:
    dataset = object_of(RAMP, WindowCenter=0, WindowWidth=10, RescaleSlope=2, RescaleIntercept=-2000)
    found = shown(tmp_path, dataset, window=(255.0, 510.0, "LINEAR_EXACT"))
    assert np.abs(found.reshape(-1).astype(int) - np.arange(256)).max() <= 1


def test_frames_of_an_enhanced_object_have_windows_of_their_own(tmp_path: Path) -> None:
    dataset = object_of(np.stack([RAMP, RAMP]))

    def group(centre: float) -> Dataset:
        voi, item = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 256
        item.FrameVOILUTSequence = Sequence([voi])
        return item

    dataset.PerFrameFunctionalGroupsSequence = Sequence([group(1128), group(1228)])
    first, second = shown(tmp_path, dataset, 1), shown(tmp_path, dataset, 2)
    assert abs(int(first[8, 0]) - 128) <= 1
    assert abs(int(second[8, 0]) - 28) <= 1
    with pytest.raises(Rejected, match="has 2 frames: ask for one of them"):
        shown(tmp_path, dataset)
    with pytest.raises(Rejected, match="has 2 frames"):
        shown(tmp_path, dataset, 3)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_frames_are_decoded(tmp_path: Path, syntax: str) -> None:
    dataset = object_of(np.kron(RAMP, np.ones((4, 4))))
    plain = shown(tmp_path, dataset)
    (tmp_path / "two.dcm").write_bytes(part10(dataset))
    packed = dcmread(tmp_path / "two.dcm")
    packed.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(shown(tmp_path, packed), plain)


def test_a_picture_fits_the_viewport_and_colour_stays_colour(tmp_path: Path) -> None:
    assert shown(tmp_path, object_of(np.zeros((20, 40))), size=(80, 80)).shape == (40, 80)
    red = object_of(
        RAMP, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7
    )
    red.PixelData = bytes([255, 0, 0]) * 256
    assert shown(tmp_path, red)[3, 3].tolist() == [255, 0, 0]


def test_a_segmentation_s_bits_are_black_and_white(tmp_path: Path) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (16, 16))
    one = object_of(RAMP, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=np.packbits(bits.reshape(-1), bitorder="little").tobytes())
    assert np.array_equal(shown(tmp_path, one), bits * 255)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"PixelData": None}, "the object has no pixels to show"),
        ({"Rows": 2000, "Columns": 2000}, "a frame of 2000 × 2000 is larger than any that is shown"),
        ({"PixelData": b"\0" * 100}, "its pixels cannot be shown"),
    ],
)
def test_what_cannot_be_shown_is_told_and_kills_nothing(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    dataset = object_of(RAMP)
    for keyword, value in change.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    (tmp_path / "one.dcm").write_bytes(part10(dataset))
    wish = {"path": str(tmp_path / "one.dcm"), "frame": 0, "media_type": "image/png", "most_pixels": 1 << 20}
    head, picture = answer(json.dumps(wish).encode())
    assert head["refused"].startswith(why)
    assert picture == b""
