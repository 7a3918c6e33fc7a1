from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import torch

from model.training.metrics import dice, hausdorff, lesion_wise, score

SPACING = np.asarray([1.0, 1.5, 3.0])


def _random_pair(seed):
    random = np.random.default_rng(seed)
    field = random.normal(size=(20, 22, 12))
    for axis in range(3):
        field = field + np.roll(field, 1, axis) + np.roll(field, -1, axis)
    return field > 3.0, field + random.normal(0, 2, field.shape) > 4.0


@pytest.mark.filterwarnings("ignore::FutureWarning:monai.*", "ignore:monai:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_monai(seed):
    from monai.metrics import compute_dice, compute_hausdorff_distance

    truth, found = _random_pair(seed)
    a, b = (torch.from_numpy(mask)[None, None].float() for mask in (truth, found))
    assert dice(truth, found) == pytest.approx(float(compute_dice(b, a)), abs=1e-6)
    far, far95 = hausdorff(truth, found, SPACING)
    for percentile, ours in ((None, far), (95, far95)):
        theirs = compute_hausdorff_distance(b, a, include_background=True, percentile=percentile, spacing=SPACING.tolist())
        assert ours == pytest.approx(float(theirs), abs=1e-4)


def _itk(mask):
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.pad(mask, 1).transpose(2, 1, 0).astype(np.uint8))
    image.SetSpacing(SPACING.tolist())
    return image


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_simpleitk_on_an_anisotropic_grid(seed):
    import SimpleITK

    truth, found = _random_pair(seed)
    a, b = _itk(truth), _itk(found)
    scores = score(truth, found, SPACING)
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(b, a)  # its target, the second, is the truth
    assert scores.dice == pytest.approx(overlap.GetDiceCoefficient())
    assert scores.sensitivity == pytest.approx(1 - overlap.GetFalseNegativeError())
    assert scores.precision == pytest.approx(1 - overlap.GetFalseDiscoveryRate())
    distance = SimpleITK.HausdorffDistanceImageFilter()
    distance.Execute(SimpleITK.BinaryContour(a, False, 0, 1), SimpleITK.BinaryContour(b, False, 0, 1))
    assert scores.hausdorff_mm == pytest.approx(distance.GetHausdorffDistance(), rel=1e-5)
    shape = SimpleITK.LabelShapeStatisticsImageFilter()
    shape.Execute(b)
    assert scores.found_ml == pytest.approx(shape.GetPhysicalSize(1) / 1000)


@pytest.mark.parametrize("seed", range(4))
def test_lesion_wise_scores_are_those_of_the_wmh_challenge(seed):
    import SimpleITK

    truth, found = _random_pair(seed)
    a, b = _itk(truth), _itk(found)
    shares = []
    for one, other in ((a, b), (b, a)):
        lesions = SimpleITK.ConnectedComponent(one, True)
        met = SimpleITK.GetArrayFromImage(SimpleITK.Mask(lesions, other))
        shares.append((len(np.unique(met)) - 1) / int(SimpleITK.GetArrayFromImage(lesions).max()))
    f1, sensitivity, precision, _, _ = lesion_wise(truth, found)
    assert (sensitivity, precision) == pytest.approx(shares)
    assert f1 == pytest.approx(2 * shares[0] * shares[1] / sum(shares))


def test_distances_are_in_millimetres_along_every_axis():
    truth, found = (np.zeros((6, 6, 6), bool) for _ in range(2))
    truth[1, 2, 3] = found[3, 3, 4] = True
    assert hausdorff(truth, found, SPACING) == pytest.approx((np.sqrt(2**2 + 1.5**2 + 3**2),) * 2)


def test_the_95th_percentile_is_taken_in_each_direction():
    truth, found = (np.zeros((20, 3, 3), bool) for _ in range(2))
    truth[0, 1, 1] = True
    found[:, 1, 1] = True
    assert hausdorff(truth, found, np.asarray([2.0, 1.0, 1.0])) == pytest.approx((38.0, 0.95 * 38.0))


def test_distances_are_between_surfaces_not_volumes():
    truth, found = (np.zeros((9, 9, 9), bool) for _ in range(2))
    truth[1:8, 1:8, 1:8] = True
    found[4, 4, 4] = True
    far, _ = hausdorff(found, truth, np.ones(3))
    assert far == pytest.approx(np.sqrt(27))
    assert hausdorff(truth, found, np.ones(3))[0] == far


def test_two_empty_masks_are_a_correct_negative_and_not_a_number():
    empty = np.zeros((4, 5, 6), bool)
    scores = score(empty, empty, SPACING)
    assert scores.correct_negative
    assert all(isnan(v) for v in (scores.dice, scores.lesion_f1, scores.hausdorff_mm, scores.sensitivity, scores.precision))
    assert scores.as_dict()["dice"] is None


@pytest.mark.parametrize("missed", [True, False])
def test_a_miss_or_a_false_alarm_alone_is_never_dropped(missed):
    empty = np.zeros((4, 5, 6), bool)
    some = empty.copy()
    some[1, 2, 3] = True
    scores = score(some, empty, SPACING) if missed else score(empty, some, SPACING)
    assert scores.dice == scores.lesion_f1 == scores.sensitivity == scores.precision == 0
    assert scores.hausdorff_mm == scores.hausdorff95_mm == pytest.approx(np.linalg.norm([4, 7.5, 18]))


def test_golden_case():
    truth, found = (np.zeros((10, 10, 10), bool) for _ in range(2))
    truth[1:3, 1:3, 1:3] = True
    truth[6:8, 6:8, 6:8] = True
    found[1:3, 1:3, 1:2] = True
    found[9, 0, 9] = True
    scores = score(truth, found, np.ones(3))
    assert scores.dice == pytest.approx(2 * 4 / (16 + 5))
    assert scores.sensitivity == 0.25
    assert scores.precision == 0.8
    assert (scores.lesion_sensitivity, scores.lesion_precision, scores.lesion_f1) == (0.5, 0.5, 0.5)
    assert scores.volume_difference_ml == pytest.approx(-0.011)


def test_one_found_lesion_over_two_true_ones_hits_both():
    truth, found = (np.zeros((12, 5, 5), bool) for _ in range(2))
    truth[1:3, 2, 2] = truth[5:7, 2, 2] = truth[10, 2, 2] = True
    found[2:6, 2, 2] = True
    found[0, 0, 4] = found[8, 4, 0] = found[11, 0, 0] = True
    f1, sensitivity, precision, true_count, found_count = lesion_wise(truth, found)
    assert (sensitivity, precision) == pytest.approx((2 / 3, 1 / 4))
    assert f1 == pytest.approx(4 / 11)
    assert (true_count, found_count) == (3, 4)


def test_lesions_touching_by_a_corner_are_one():
    truth = np.zeros((4, 4, 4), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True
    assert lesion_wise(truth, truth)[3] == 1
