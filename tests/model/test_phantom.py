"""The phantom's truth is true, and its grid is a scanner's."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from model.phantom import BRAIN_SD, Phantom, make_phantom
from model.volume import canonical


def test_lesions_are_bright_white_matter_inside_the_brain(phantom: Phantom) -> None:
    lesions, brain = phantom.lesions.data > 0, phantom.brain.data.astype(bool)
    image = phantom.flair.data.astype(float) / 4
    assert not (lesions & ~brain).any()
    inside = np.median(image[brain & ~lesions])
    assert image[lesions].mean() > inside + 0.8 * BRAIN_SD
    assert 1000 < brain.sum() * phantom.brain.voxel_ml < 1700
    assert phantom.flair.data.dtype == np.int16
    np.testing.assert_array_equal(phantom.flair.affine_ras, phantom.lesions.affine_ras)


def test_volumes_are_those_asked_for_and_a_seed_gives_the_same_head_with_and_without_skull() -> None:
    wanted = [6.0, 2.0, 0.5, 0.2]
    arguments = {"plane": "sagittal", "lesions_ml": wanted}
    first = make_phantom(11, **arguments)  # type: ignore[arg-type]
    assert first.flair.shape == (256, 256, 176)
    components, count = ndimage.label(first.lesions.data, np.ones((3, 3, 3)))
    assert count == len(wanted)
    found = sorted(np.bincount(components.ravel())[1:] * first.lesions.voxel_ml, reverse=True)
    np.testing.assert_allclose(found, wanted, rtol=0.25)
    alone = make_phantom(11, skull=False, **arguments)  # type: ignore[arg-type]
    np.testing.assert_array_equal(alone.flair.data, first.flair.data * first.brain.data)


def test_planes_are_stored_as_scanners_do_and_obliquely(phantom: Phantom) -> None:
    directions = phantom.flair.affine_ras[:3, :3] / phantom.flair.spacing_mm
    assert np.sign(np.diag(directions)).tolist() == [-1, -1, 1]
    assert 0.9 < abs(directions[2, 2]) < 0.999
    assert phantom.flair.shape == (160, 200, 40)
    np.testing.assert_allclose(phantom.flair.spacing_mm, (1.2, 1.2, 4.0))


def test_left_and_right_differ(phantom: Phantom) -> None:
    brain = canonical(phantom.brain).data.astype(bool)
    mirrored = brain[::-1]
    assert (brain ^ mirrored).sum() > 0.02 * brain.sum()
