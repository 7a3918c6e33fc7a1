"""Planes → grid, by the headers alone."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import Rejected
from worker.geometry import Planes, arrange, demand_alike, place


def axial(heights, along_row=(1.0, 0.0, 0.0), along_column=(0.0, 1.0, 0.0), offset=(0.0, 0.0)) -> Planes:
    n = len(heights)
    position = np.array([[-100.0 + offset[0] * h, -80.0 + offset[1] * h, h] for h in heights])
    return Planes(
        position,
        np.tile(along_row, (n, 1)),
        np.tile(along_column, (n, 1)),
        np.tile([0.5, 0.75], (n, 1)),
        np.tile([200, 160], (n, 1)),
    )


def test_axial_planes_in_any_order_give_the_lps_grid_in_ras():
    grid = arrange(axial([6.0, 0.0, 2.0, 4.0]))
    np.testing.assert_array_equal(grid.order, [1, 2, 3, 0])
    expected = [[-0.5, 0, 0, 100], [0, -0.75, 0, 80], [0, 0, 2, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(grid.affine_ras, expected)
    assert (grid.step_mm, grid.unevenness_mm) == (2.0, 0.0)


def test_k_ascends_along_the_normal_even_when_that_points_down():
    grid = arrange(axial([0.0, 2.0, 4.0], along_column=(0.0, -1.0, 0.0)))
    np.testing.assert_array_equal(grid.order, [2, 1, 0])
    np.testing.assert_allclose(grid.affine_ras[:3, 2], [0, 0, -2])


def test_every_plane_is_found_on_its_grid():
    planes = axial([6.0, 0.0, 2.0, 4.0])
    corners = place(planes, arrange(planes).affine_ras)
    np.testing.assert_allclose(corners[:, 0], [[0, 0, 3], [0, 0, 0], [0, 0, 1], [0, 0, 2]], atol=1e-9)
    np.testing.assert_allclose(corners[1], [[0, 0, 0], [199, 0, 0], [0, 159, 0]], atol=1e-9)


@pytest.mark.parametrize(
    ("heights", "reason"),
    [
        ([0, 1, 2, 5, 6], "gap after slice 3: 3.0 mm, expected 1.0 mm"),
        ([0, 1, 3], "gap after slice 2: 2.0 mm, expected 1.0 mm"),
        ([0, 1, 2, 2, 3], "two slices at one position: slices 3 and 4 along the normal"),
        ([0, 2, 4, 4.8, 6.8], "uneven spacing after slice 3: 0.8 mm, expected 2.0 mm"),
    ],
)
def test_gaps_repeats_and_uneven_steps_are_refused(heights, reason):
    with pytest.raises(Rejected) as caught:
        arrange(axial(heights))
    assert caught.value.reason == reason


def test_rounding_is_no_unevenness_but_is_told():
    grid = arrange(axial([0.0, 1.21, 2.4, 3.6, 4.8]))
    assert grid.step_mm == pytest.approx(1.2)
    assert grid.unevenness_mm == pytest.approx(0.01)


def test_shear_is_refused_and_its_size_told():
    with pytest.raises(Rejected, match="shifted sideways by up to 2\\.0 mm"):
        arrange(axial([0, 5, 10, 15, 20], offset=(0.0, 0.1)))
    grid = arrange(axial([0, 5, 10, 15, 20], offset=(0.0, 0.02)))  # 0.4 mm in all, as admission lets through
    np.testing.assert_allclose(grid.affine_ras[:3, 2], [0, -0.1, 5])


def test_planes_that_cannot_be_one_stack():
    alike = axial([0, 1, 2])
    demand_alike(alike)
    sizes = alike.size.copy()
    sizes[1] = [199, 160]
    with pytest.raises(Rejected, match="different sizes in one series: 199 × 160, 200 × 160"):
        demand_alike(Planes(alike.position_lps, alike.along_row_lps, alike.along_column_lps, alike.spacing_mm, sizes))
    with pytest.raises(Rejected, match="not positive"):
        demand_alike(Planes(alike.position_lps, alike.along_row_lps, alike.along_column_lps, alike.spacing_mm * 0, alike.size))
    with pytest.raises(Rejected, match="perpendicular unit vectors"):
        demand_alike(Planes(alike.position_lps, alike.along_row_lps, alike.along_row_lps, alike.spacing_mm, alike.size))
