"""Whatever grid a scan is stored on, a lesion comes back where it is in the patient."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from model.postprocess import masks
from model.preprocess import Inputs, prepare, resample_to
from model.release import Card, InputPreparation
from model.volume import Volume, canonical, resample
from tests.model.conftest import FormulaHead, dice, grid_around
from tests.tiny import SMALL


def perfect(inputs: Inputs, head: FormulaHead) -> np.ndarray:
    """What a network that makes no mistake says, computed from the formulas at the points of the network's grid."""
    shape = inputs.head.shape
    lesion, brain = head.lesion(shape, inputs.affine_ras), head.brain(shape, inputs.affine_ras)
    return np.stack([lesion, np.zeros_like(lesion), brain]).astype(np.float32)


spacings = st.tuples(st.floats(1.8, 3.2), st.floats(1.8, 3.2), st.floats(2.0, 6.0))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    turn=st.tuples(*[st.floats(-14, 14)] * 3),
    spacing=spacings,
    air=st.sampled_from([0.0, -3.0]),
)
def test_a_lesion_comes_back_to_its_place_from_any_grid(
    order: list[int], signs: tuple[int, ...], turn: tuple[float, ...], spacing: tuple[float, ...], air: float, card: Card
) -> None:
    head = FormulaHead()
    axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ (np.eye(3)[:, order] * signs)
    shape = tuple(int(np.ceil(215 / s)) | 1 for s in spacing)
    affine = grid_around(head, axes, np.asarray(spacing), shape)
    scan = head.scan(shape, affine, air)

    inputs = prepare(scan, SMALL)
    found = masks(perfect(inputs, head), inputs, card)

    assert np.allclose(inputs.affine_ras[:3, :3] / 2.0, canonical(scan).affine_ras[:3, :3] / canonical(scan).spacing_mm, atol=0.03)
    assert dice(found.labels == 1, head.lesion(shape, affine)) > 0.88
    assert dice(found.brain, head.brain(shape, affine)) > 0.95
    here = inputs.head.shape
    assert dice(inputs.head, head.brain(here, inputs.affine_ras)) > 0.93
    bright = (inputs.data[0, 0] > 1.5) & inputs.head
    assert dice(bright, head.lesion(here, inputs.affine_ras)) > 0.75
    painted = resample_to(inputs, Volume(head.lesion(shape, affine), affine), linear=True) > 0.5
    assert dice(painted, head.lesion(here, inputs.affine_ras)) > 0.85


def test_all_48_ways_to_store_a_scan_give_the_same_masks(head: FormulaHead, card: Card) -> None:
    coarse = InputPreparation(spacing_mm=3.0, shapes=((48, 64, 48),))
    shape, spacing = (60, 75, 40), np.asarray([2.7, 2.6, 4.0])
    straight = head.scan(shape, grid_around(head, np.eye(3), spacing, shape))
    wanted = prepare(straight, coarse)
    expected = masks(perfect(wanted, head), wanted, card)
    assert (expected.labels == 1).any()
    for order, flips in product(permutations(range(3)), product([False, True], repeat=3)):
        turned = np.eye(4)
        turned[:3, :3] = np.eye(3)[:, order] * np.where(flips, -1, 1)
        turned[:3, 3] = np.asarray([(shape[a] - 1) * f for a, f in zip(order, flips, strict=True)]) @ np.eye(3)[:, order].T
        store = [axis for axis in range(3) if flips[axis]]
        stored = Volume(np.flip(straight.data.transpose(order), store), straight.affine_ras @ turned)
        inputs = prepare(stored, coarse)
        np.testing.assert_array_equal(inputs.data, wanted.data)
        np.testing.assert_allclose(inputs.affine_ras, wanted.affine_ras, atol=1e-9)
        found = masks(perfect(wanted, head), inputs, card)
        back = np.flip(found.labels, store).transpose(np.argsort(order))
        np.testing.assert_array_equal(back, expected.labels)


def test_a_scan_of_the_network_spacing_is_cropped_not_interpolated(head: FormulaHead) -> None:
    shape = (90, 110, 95)
    affine = grid_around(head, np.eye(3) * [-1, -1, 1], np.full(3, 2.0), shape)
    scan = head.scan(shape, affine)
    inputs = prepare(scan, SMALL)
    offset = np.linalg.inv(canonical(scan).affine_ras) @ inputs.affine_ras
    np.testing.assert_allclose(offset[:3, 3], np.round(offset[:3, 3]), atol=1e-6)
    values = np.unique(inputs.data[0, 0][inputs.head & (inputs.data[0, 0] < 3.9)])
    assert values.size <= np.unique(scan.data).size + 1


@pytest.mark.parametrize(("kernel", "order"), [("nearest", 0), ("linear", 1)])
def test_parallel_resampling_is_scipy_s(kernel: str, order: int) -> None:
    volume = Volume(np.random.default_rng(0).standard_normal((20, 24, 18)).astype(np.float32), np.eye(4))
    affine = np.asarray([[0, 0, 1.3, 2.07], [-1.1, 0, 0, 21.33], [0, 0.7, 0, 3.13], [0, 0, 0, 1]])
    ours = resample(volume, affine, (9, 12, 10), kernel)  # type: ignore[arg-type]
    theirs = ndimage.affine_transform(volume.data, affine[:3, :3], affine[:3, 3], (9, 12, 10), order=order, mode="nearest")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_cubic_resampling_is_exact_for_parabolas_and_nothing_is_invented_outside() -> None:
    i, j, k = np.indices((20, 24, 18)).astype(np.float32)
    affine = np.diag([0.63, 1.0, 0.5, 1.0])
    affine[:3, 3] = 2.2, 2.0, 3.3
    ours = resample(Volume(i**2 + 0.3 * j + k, np.eye(4)), affine, (20, 12, 16), "cubic")
    a, b, c = (affine[n, n] * g + affine[n, 3] for n, g in enumerate(np.indices((20, 12, 16))))
    np.testing.assert_allclose(ours, a**2 + 0.3 * b + c, rtol=1e-4)
    affine[:3, 3] = 100
    assert not resample(Volume(i + 1, np.eye(4)), affine, (5, 5, 5), "cubic").any()
