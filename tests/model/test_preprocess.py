"""The head is found in what comes, and what is no head is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from model.phantom import Phantom
from model.preprocess import prepare, resample_to
from model.release import InputPreparation
from model.volume import UnusableVolume, Volume
from tests.model.conftest import FormulaHead, grid_around
from tests.tiny import SMALL


def test_a_whole_head_and_its_brain_alone_look_alike_to_the_network(phantom: Phantom) -> None:
    whole = prepare(phantom.flair, InputPreparation())
    alone = prepare(phantom.flair.with_data(phantom.flair.data * phantom.brain.data), InputPreparation())
    assert whole.head.shape == alone.head.shape == (160, 192, 160)
    assert alone.stripped and not whole.stripped
    medians = []
    for inputs in (whole, alone):
        values = inputs.data[0, 0]
        lesions, brain = resample_to(inputs, phantom.lesions) > 0, resample_to(inputs, phantom.brain) > 0
        assert brain.sum() * 1.0 >= 0.98 * phantom.brain.data.sum() * phantom.brain.voxel_ml * 1000
        assert values[lesions].mean() > 1.0
        assert not values[~inputs.head].any()
        medians.append(float(np.median(values[brain & ~lesions])))
    assert abs(medians[0]) < 0.3 and abs(medians[0] - medians[1]) < 0.25


def test_neither_scale_nor_offset_of_the_intensities_matters(head: FormulaHead) -> None:
    shape = (75, 90, 44)
    scan = head.scan(shape, grid_around(head, np.eye(3), np.asarray([2.4, 2.2, 4.0]), shape))
    expected = prepare(scan, SMALL).data
    for data in (scan.data * 7.5, scan.data.astype(np.float64) - 200, scan.data.astype(np.float32) / 1e4):
        np.testing.assert_allclose(prepare(scan.with_data(data), SMALL).data, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.zeros((1, 1, 1)), "too few voxels"),
        (np.ones((64, 64, 30)), "same intensity"),
        (np.full((64, 64, 30), np.nan), "not all finite"),
        (np.pad(np.full((60, 60, 28), np.inf), 1), "not all finite"),
        (np.pad(np.full((9, 9, 9), 100.0), 20), "no head found"),
        (np.zeros((40, 40, 10), [("R", "u1"), ("G", "u1")]), "not plain numbers"),
    ],
)
def test_what_is_no_head_is_refused(data: np.ndarray, reason: str) -> None:
    with pytest.raises(UnusableVolume, match=reason):
        prepare(Volume(data, np.diag([2.0, 2.0, 4.0, 1.0])), SMALL)


def test_one_bad_voxel_is_enough_to_refuse(head: FormulaHead) -> None:
    shape = (75, 90, 44)
    scan = head.scan(shape, grid_around(head, np.eye(3), np.asarray([2.4, 2.2, 4.0]), shape))
    data = scan.data.astype(np.float32)
    data[30, 30, 20] = np.nan
    with pytest.raises(UnusableVolume, match="finite"):
        prepare(scan.with_data(data), SMALL)


def test_noise_without_a_head_and_a_grid_without_volume_are_refused() -> None:
    noise = np.random.default_rng(0).rayleigh(5, (20, 20, 20))
    with pytest.raises(UnusableVolume, match="no head"):
        prepare(Volume(noise, np.diag([2.0, 2.0, 2.0, 1.0])), SMALL)
    with pytest.raises(UnusableVolume, match="no volume"):
        prepare(Volume(noise, np.diag([2.0, 2.0, 0.0, 1.0])), SMALL)


def test_limits_of_a_scan_are_said(head: FormulaHead) -> None:
    shape = (75, 90, 12)
    affine = grid_around(head, np.eye(3), np.asarray([2.4, 2.2, 6.0]), shape)
    scan = head.scan(shape, affine)
    said = " ".join(prepare(scan.with_data(np.minimum(scan.data, 330)), SMALL).quality)
    for word in ("coarse-spacing: ", "thick-slices: ", "coverage: only", "saturation: "):
        assert word in said


def test_a_head_larger_than_every_shape_of_the_card_is_said(head: FormulaHead) -> None:
    shape = (75, 90, 44)
    scan = head.scan(shape, grid_around(head, np.eye(3), np.asarray([2.4, 2.2, 4.0]), shape))
    assert not any("field" in flag for flag in prepare(scan, SMALL).quality)
    tight = SMALL.model_copy(update={"shapes": ((64, 64, 64),)})
    assert any("larger than the network's field by" in flag for flag in prepare(scan, tight).quality)


@pytest.mark.parametrize(
    "file",
    [
        "brats2021/BraTS2021_01480/BraTS2021_01480_flair.nii.gz",
        "open_ms/cross_sectional/MNI/patient07/FLAIR_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz",
        "open_ms/longitudinal/patient20/study2_FLAIR.nii.gz",
        "open_ms/longitudinal/patient19/study1_FLAIR.nii.gz",
    ],
)
def test_real_scans_fit_the_smallest_shape(shared_data: Path, file: str) -> None:
    image = nibabel.load(shared_data / file)  # type: ignore[attr-defined]
    inputs = prepare(Volume(np.asarray(image.dataobj), image.affine), InputPreparation())
    assert inputs.head.shape == (160, 192, 160)
    values = inputs.data[0, 0]
    centre = values[60:100, 76:116, 70:100]
    assert abs(float(np.median(centre[centre > -1.5]))) < 0.6
    assert 1000 < inputs.head.sum() / 1000 < 3600
