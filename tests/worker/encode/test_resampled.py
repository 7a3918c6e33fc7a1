"""The axial series beside a structure set: the scan where it was, in values that fit, and never taken for a FLAIR."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from model.volume import Volume
from service.admission import Refuse, examine
from service.headers import read_file
from service.settings import Settings
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.rasterising import images_of, unzipped
from tests.worker.encode.test_rtstruct import SHAPE, assert_comes_back, blobs, case, made
from tests.worker.encode.test_seg import PLANES
from worker.encode import resampled


def test_the_axial_series_shows_the_scan_where_it_was(tmp_path):
    """A gradient along the patient's axes: every resampled pixel has the value of its place."""
    grid = affine(PLANES["oblique"], (1.0, 1.2, 2.0))
    place = np.einsum("ab,bijk->aijk", grid[:3, :3], np.indices((40, 36, 20))) + grid[:3, 3].reshape(3, 1, 1, 1)
    values = np.rint(1000 + 3 * place[0] + 5 * place[1] + 7 * place[2])
    series = series_of(Volume(values.astype(np.float32), grid), tmp_path / "in")
    labels = np.zeros(values.shape, np.uint8)
    labels[10:20, 10:20, 5:9] = 1
    beside = unzipped(resampled.encode(context_of(series, labels)).data)
    checked = 0
    for image, place_of in zip(beside, images_of(beside).values(), strict=True):
        x, y, z = np.moveaxis(place_of.centres, -1, 0)
        inside = image.pixel_array > 0
        assert np.abs(image.pixel_array - (1000 - 3 * x - 5 * y + 7 * z))[inside].max(initial=0) <= 1.5
        checked += int(inside.sum())
    assert checked > 0.8 * values.size * 1.2 * 2.0 / np.prod([*map(float, beside[0].PixelSpacing), float(beside[0].SliceThickness)])
    first = beside[0]
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "MPR"]
    assert [float(value) for value in first.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    assert first.PixelSpacing[0] == first.PixelSpacing[1]
    assert first.FrameOfReferenceUID == series.datasets[0].FrameOfReferenceUID
    assert len({image.SOPInstanceUID for image in beside}) == len(beside)
    steps = np.diff([float(image.ImagePositionPatient[2]) for image in beside])
    assert np.allclose(steps, float(first.SpacingBetweenSlices), atol=1e-3)


def test_a_straight_sagittal_scan_is_only_turned(tmp_path):
    volume = Volume(textured((30, 34, 28)), affine(PLANES["sagittal"], (1, 1, 1)))
    context = context_of(series_of(volume, tmp_path / "in"), blobs((30, 34, 28)))
    beside = unzipped(resampled.encode(context).data)
    assert sorted(np.stack([image.pixel_array for image in beside]).ravel()) == sorted(volume.data.ravel().astype(int))
    assert all(roi.grid_ml == pytest.approx(roi.mask_ml) for roi in context.structures.rois)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_any_range_of_values_fits_sixteen_bits(tmp_path, scale):
    volume = Volume(textured(SHAPE), affine(PLANES["sagittal"], (1, 1, 1)))
    series = series_of(volume, tmp_path / "in", headers={"RescaleSlope": str(scale), "RescaleIntercept": str(-100 * scale)})
    image = unzipped(resampled.encode(context_of(series, blobs(SHAPE))).data)[8]
    assert image.pixel_array.max() > 900
    assert len(np.unique(image.pixel_array)) > 100


def test_its_series_is_not_taken_for_a_flair_when_it_comes_back(tmp_path):
    context = case(tmp_path, "sagittal", spacing=(8, 9, 12))
    headers = []
    for image in unzipped(resampled.encode(context).data):
        buffer = BytesIO()
        image.save_as(buffer)
        buffer.seek(0)
        headers.append(read_file(buffer)[0])
    takes_all = Settings.model_validate({"admission": [{"name": "all", "accept": True, "modality": "MR"}]})
    for settings in (Settings(), takes_all):
        decision = examine(headers, settings, final=True)
        assert isinstance(decision, Refuse)
        assert decision.rule == "own-result"
    unmarked = [replace(one, made_here=False) for one in headers]
    decision = examine(unmarked, Settings(), final=True)
    assert isinstance(decision, Refuse)
    assert decision.rule == "not-flair", "also where somebody took the Contributing Equipment away"


def test_a_nearly_axial_scan_keeps_its_own_slices(tmp_path):
    for tilt, kept in ((0.0005, True), (0.02, False)):
        grid = affine(((-1, 0, 0), (0, -np.cos(tilt), -np.sin(tilt)), (0, -np.sin(tilt), np.cos(tilt))), (1, 1, 2))
        series = series_of(Volume(textured(SHAPE), grid), tmp_path / f"{tilt}")
        context = context_of(series, blobs(SHAPE))
        assert (resampled.encode(context) is None) == kept
        data, images = made(context)
        assert_comes_back(context, data, images)
