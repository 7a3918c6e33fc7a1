from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from model.training.skull import _stretched, add_head
from model.volume import Volume


@pytest.fixture(scope="module")
def ball():
    axes = [np.arange(n) - n / 2 for n in (70, 80, 60)]
    brain = (axes[0][:, None, None] / 28) ** 2 + (axes[1][:, None] / 33) ** 2 + (axes[2] / 24) ** 2 < 1
    data = np.where(brain, 100 + 5 * np.random.default_rng(0).normal(size=brain.shape), 0).astype(np.float32)
    return Volume(data, np.diag([1.0, 1.0, 1.0, 1.0])), brain


def test_a_head_grows_around_a_brain_that_stays_as_it_was_and_where_it_was(ball):
    scan, brain = ball
    head, mask = add_head(scan, brain, 3)
    assert np.array_equal(head.data[mask], scan.data[brain])
    centre = [head.affine_ras[:3, :3] @ np.argwhere(mask).mean(0) + head.affine_ras[:3, 3], np.argwhere(brain).mean(0)]
    assert np.allclose(centre[0], centre[1])


def test_bone_is_dark_scalp_bright_and_beyond_is_faint_noise(ball):
    scan, brain = ball
    for seed in (1, 2, 3):
        head, mask = add_head(scan, brain, seed)
        distance = ndimage.distance_transform_edt(~mask)
        upper = np.zeros_like(mask)
        upper[:, :, 60 + 38 :] = True  # the face is below
        layers = [np.median(head.data[upper & (distance > low) & (distance < low + 1)]) for low in range(1, 22)]
        assert min(layers[3:9]) < 0.5 * max(layers[6:20])
        far = head.data[upper & (distance > 25)]
        assert 0 < far.mean() < 10
        assert far.min() >= 0
        assert far.std() / far.mean() == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.05)  # Rayleigh, as a magnitude image has it


def test_a_seed_gives_one_head_and_another_seed_another(ball):
    scan, brain = ball
    first, again, other = (add_head(scan, brain, seed)[0].data for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_field_is_stretched_as_scipy_zooms_it():
    field = torch.randn(5, 7, 4).numpy()
    wanted = ndimage.zoom(field, (18 / 5, 21 / 7, 13 / 4), order=1)
    assert np.allclose(_stretched(field, (18, 21, 13)).numpy(), wanted, atol=1e-5)
