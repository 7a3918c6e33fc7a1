"""Slices that stray from an even grid are held at admission, not taken first and refused by the worker later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.admission.completeness import check_geometry
from service.errors import Rejected
from service.headers import Header
from tests.service.test_admission_completeness import stack
from worker import convert
from worker.geometry import Planes, arrange, demand_alike

COUNT = 40


def moved(headers: list[Header], offsets: np.ndarray[Any, Any], turn: np.ndarray[Any, Any] | None = None) -> list[Header]:
    """The same slices a little off their places, and turned a little in their planes (radians)."""
    found = []
    for k, header in enumerate(headers):
        frame = header.frames[0]
        position = np.asarray(frame.position_lps) + offsets[k]
        row, column = np.asarray(frame.orientation_lps).reshape(2, 3)
        angle = 0.0 if turn is None else turn[k]
        axes = np.concatenate([row * np.cos(angle) + column * np.sin(angle), column * np.cos(angle) - row * np.sin(angle)])
        found.append(replace(header, frames=(replace(frame, position_lps=tuple(position.tolist()), orientation_lps=tuple(axes.tolist())),)))
    return found


def test_a_slice_to_the_side_is_told() -> None:
    offsets = np.zeros((COUNT, 3))
    offsets[17, 0] = 0.4
    assert check_geometry(moved(stack(COUNT), offsets)).problem == "slice 18 lies 0.40 voxels to the side of its place on an even grid"
    offsets[17, 0] = 0.2
    assert check_geometry(moved(stack(COUNT), offsets)).problem is None


def test_small_steps_that_add_up_are_told() -> None:
    offsets = np.zeros((COUNT, 3))
    offsets[:, 2] = 0.04 * np.minimum(np.arange(COUNT), COUNT - 1 - np.arange(COUNT))  # wide steps first, narrow ones after
    problem = check_geometry(moved(stack(COUNT), offsets)).problem
    assert problem is not None
    assert "before or behind its place on an even grid" in problem


def test_a_slow_turn_is_told_although_each_cosine_is_within_rounding() -> None:
    turn = np.linspace(0, 1.8e-3, COUNT)
    assert check_geometry(moved(stack(COUNT), np.zeros((COUNT, 3)), turn)).problem is not None
    assert check_geometry(moved(stack(COUNT), np.zeros((COUNT, 3)), turn / 4)).problem is None


def sheared(count: int, spacing: float, *drift: float) -> np.ndarray[Any, Any]:
    """How far each slice is shifted along x and y, by shares of its distance from the first."""
    return spacing * np.arange(count)[:, np.newaxis] * [*drift, 0.0]


@pytest.mark.parametrize(("share", "taken"), [(0.0069, True), (0.008, False)])
def test_a_diagonal_shear_is_held_and_not_rejected(share: float, taken: bool) -> None:
    """The norm counts: 0.8 % along each axis are 1.1 % of the distance."""
    headers = moved(stack(COUNT, spacing=4.0), sheared(COUNT, 4.0, share, -share))
    assert (check_geometry(headers).problem is None, worker_refuses(headers) is None) == (taken, taken)


def test_cosines_that_are_rounded_are_taken_by_both_in_whatever_order_the_slices_come() -> None:
    turn = np.where(np.arange(COUNT) % 2, 1.2e-3, -1.2e-3)
    odd = moved(stack(COUNT, columns=26, rows=26), np.zeros((COUNT, 3)), turn)
    assert (check_geometry(odd).problem, worker_refuses(odd)) == (None, None)


def worker_refuses(headers: list[Header]) -> str | None:
    """What the worker's own check of the same planes says."""
    frames = [header.frames[0] for header in headers]
    cosines = np.array([frame.orientation_lps for frame in frames])
    planes = Planes(
        np.array([frame.position_lps for frame in frames]),
        cosines[:, :3],
        cosines[:, 3:],
        np.array([frame.spacing_mm for frame in frames])[:, ::-1],
        np.array([(header.columns, header.rows) for header in headers]),
    )
    try:
        demand_alike(planes)
        grid = arrange(planes)
        convert._match(planes, grid, grid.affine_ras)
    except Rejected as error:
        return error.reason
    return None


drifts = st.tuples(st.floats(-0.012, 0.012), st.floats(-0.012, 0.012))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 60), st.floats(0.5, 6), st.floats(0, 0.5), st.floats(0, 0.1), st.floats(0, 2e-3), drifts)
def test_what_admission_lets_through_the_worker_takes(
    seed: int, count: int, spacing: float, sideways: float, along: float, turned: float, drift: tuple[float, float]
) -> None:
    """Each slice a little off by itself, and all of them shifted further and further (a gantry's tilt), by shares of the distance."""
    chance = np.random.default_rng(seed)
    offsets = chance.uniform(-1, 1, (count, 3)) * [sideways, sideways, along] + sheared(count, spacing, *drift)
    headers = moved(stack(count, spacing=spacing), offsets, chance.uniform(-1, 1, count) * turned)
    chance.shuffle(headers)  # type: ignore[arg-type]
    if check_geometry(headers).problem is None:
        assert worker_refuses(headers) is None


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(4, 60), st.floats(0.3, 6), drifts, st.floats(0, 6e-5), st.floats(0, 2.2e-3), st.floats(0, 0.05)
)
def test_a_stack_that_only_drifts_is_judged_alike_by_both(
    seed: int, count: int, spacing: float, drift: tuple[float, float], rounding: float, turned: float, along: float
) -> None:
    chance = np.random.default_rng(seed)
    offsets = sheared(count, spacing, *drift) + chance.uniform(-1, 1, (count, 3)) * [rounding, rounding, along * spacing / 2]
    headers = moved(stack(count, spacing=spacing), offsets, chance.uniform(-1, 1, count) * turned / 256)
    chance.shuffle(headers)  # type: ignore[arg-type]
    assert (check_geometry(headers).problem is None) == (worker_refuses(headers) is None)


@pytest.mark.parametrize("sideways", [0.0, 0.29])
def test_the_property_is_not_empty(sideways: float) -> None:
    offsets = np.zeros((COUNT, 3))
    offsets[5, 0] = sideways
    fair = moved(stack(COUNT), offsets)
    assert (check_geometry(fair).problem, worker_refuses(fair)) == (None, None)
    offsets[5, 0] = 0.31
    unfair = moved(stack(COUNT), offsets)
    assert check_geometry(unfair).problem is not None and worker_refuses(unfair) is not None
