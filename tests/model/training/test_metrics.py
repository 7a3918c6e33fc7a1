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


def test_lesions_touching_by_a_corner_are_one():
    truth = np.zeros((4, 4, 4), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True
    assert lesion_wise(truth, truth)[3] == 1
