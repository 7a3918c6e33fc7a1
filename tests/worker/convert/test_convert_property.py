"""Whatever the orientation, signs, angles, spacings, sizes and slice order: the same values at the same places in the patient."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from model.volume import Volume
from service.errors import Rejected
from worker.convert import Series, read_series
from worker.phantom import write_series

ANGLE = st.floats(-40, 40)
SPACING = st.floats(0.35, 6.0)
OFFSET = st.floats(-250, 250)


@st.composite
def volumes(draw, slices=(3, 9)):
    shape = (draw(st.integers(5, 19)), draw(st.integers(5, 19)), draw(st.integers(*slices)))
    axes = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    turn = Rotation.from_euler("xyz", draw(st.tuples(ANGLE, ANGLE, ANGLE)), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ (np.eye(3)[:, list(axes)] * signs) * draw(st.tuples(SPACING, SPACING, SPACING))
    affine[:3, 3] = draw(st.tuples(OFFSET, OFFSET, OFFSET))
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, draw(st.sampled_from([900, 65536])), shape)
    return Volume(values.astype(np.uint16), affine)


def assert_same_scan(series: Series, volume: Volume) -> None:
    to_volume = np.linalg.inv(volume.affine_ras) @ series.volume.affine_ras
    flipped = to_volume[2, 2] < 0
    expected = np.diag([1.0, 1.0, -1.0 if flipped else 1.0, 1.0])
    expected[2, 3] = volume.shape[2] - 1 if flipped else 0
    np.testing.assert_allclose(to_volume, expected, atol=1e-6)
    np.testing.assert_array_equal(series.volume.data, volume.data[:, :, ::-1] if flipped else volume.data)
    assert np.linalg.det(series.volume.affine_ras[:3, :3]) > 0
    assert [frame.k for frame in series.frames] == list(range(volume.shape[2]))


@settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(volume=volumes(), data=st.data())
def test_classic_series_keeps_every_voxel_in_its_place(volume, data):
    order = data.draw(st.permutations(range(volume.shape[2])))
    repeat = data.draw(st.lists(st.sampled_from(order), max_size=2, unique=True))
    with tempfile.TemporaryDirectory() as folder:
        files = write_series(volume, Path(folder), order=order, repeat=repeat)
        series = read_series(data.draw(st.permutations(files)))
    assert_same_scan(series, volume)
    for dataset, frame in zip(series.datasets, series.frames, strict=True):
        position_ras = np.array(dataset.ImagePositionPatient, dtype=float) * (-1, -1, 1)
        np.testing.assert_allclose(position_ras, (series.volume.affine_ras @ [0, 0, frame.k, 1])[:3], atol=1e-6)
        assert (frame.sop_instance_uid, frame.frame_number) == (dataset.SOPInstanceUID, None)
        assert "PixelData" not in dataset


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(volume=volumes(), data=st.data())
def test_enhanced_series_keeps_every_voxel_in_its_place(volume, data):
    order = data.draw(st.permutations(range(volume.shape[2])))
    with tempfile.TemporaryDirectory() as folder:
        series = read_series(write_series(volume, Path(folder), enhanced=True, order=order))
    assert_same_scan(series, volume)
    (dataset,) = series.datasets
    for frame in series.frames:
        groups = dataset.PerFrameFunctionalGroupsSequence[frame.frame_number - 1]
        position_ras = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float) * (-1, -1, 1)
        np.testing.assert_allclose(position_ras, (series.volume.affine_ras @ [0, 0, frame.k, 1])[:3], atol=1e-6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(volume=volumes(slices=(5, 9)), enhanced=st.booleans(), data=st.data())
def test_a_missing_inner_slice_is_never_bridged(volume, enhanced, data):
    order = list(range(volume.shape[2]))
    order.remove(data.draw(st.integers(1, volume.shape[2] - 2)))
    with tempfile.TemporaryDirectory() as folder:
        files = write_series(volume, Path(folder), order=data.draw(st.permutations(order)), enhanced=enhanced)
        with pytest.raises(Rejected, match="gap after slice"):
            read_series(files)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(volume=volumes(slices=(4, 8)), enhanced=st.booleans(), degrees=st.floats(10, 40), along=st.integers(0, 1))
def test_a_sheared_stack_is_refused(volume, enhanced, degrees, along):
    # up to half a millimetre over the stack is let through, as in admission; the affine follows it
    assume((volume.shape[2] - 1) * volume.spacing_mm[2] * np.tan(np.radians(degrees)) > 0.6)
    directions = volume.affine_ras[:3, :3] / volume.spacing_mm
    sheared = volume.affine_ras.copy()
    sheared[:3, 2] += directions[:, along] * volume.spacing_mm[2] * np.tan(np.radians(degrees))
    with tempfile.TemporaryDirectory() as folder:
        files = write_series(Volume(volume.data, sheared), Path(folder), enhanced=enhanced)
        with pytest.raises(Rejected, match="sheared"):
            read_series(files)
