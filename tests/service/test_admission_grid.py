"""Slices that stray from an even grid are held at admission, not taken first and refused by the worker later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.admission.completeness import BETWEEN_PLANES_TOLERANCE, IN_PLANE_TOLERANCE, check_geometry
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


def test_both_sides_allow_the_same() -> None:
    assert (IN_PLANE_TOLERANCE, BETWEEN_PLANES_TOLERANCE) == (convert._IN_PLANE_TOLERANCE, convert._BETWEEN_PLANES_TOLERANCE)


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


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 60), st.floats(0.5, 6), st.floats(0, 0.5), st.floats(0, 0.1), st.floats(0, 2e-3))
def test_what_admission_lets_through_the_worker_takes(
    seed: int, count: int, spacing: float, sideways: float, along: float, turned: float
) -> None:
    chance = np.random.default_rng(seed)
    offsets = chance.uniform(-1, 1, (count, 3)) * [sideways, sideways, along]
    headers = moved(stack(count, spacing=spacing), offsets, chance.uniform(-1, 1, count) * turned)
    chance.shuffle(headers)  # type: ignore[arg-type]
    if check_geometry(headers).problem is None:
        assert worker_refuses(headers) is None


@pytest.mark.parametrize("sideways", [0.0, 0.29])
def test_the_property_is_not_empty(sideways: float) -> None:
    offsets = np.zeros((COUNT, 3))
    offsets[5, 0] = sideways
    assert worker_refuses(moved(stack(COUNT), offsets)) is None
    offsets[5, 0] = 0.31
    assert worker_refuses(moved(stack(COUNT), offsets)) is not None
