"""Completeness by geometry, over all orientations, orders, signs and spacings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.admission.completeness import check_geometry
from service.headers import Frame, Header

PLAIN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def stack(
    count: int, *, spacing: float = 1.0, rotation: np.ndarray[Any, Any] | None = None, flip: bool = False, **changes: Any
) -> list[Header]:
    """A gap-free stack of single-frame headers."""
    axes = np.eye(3) if rotation is None else rotation
    normal = np.cross(axes[0], axes[1]) * (-1 if flip else 1)
    return [_header(k, np.array([10.0, -20.0, 30.0]) + k * spacing * normal, axes, **changes) for k in range(count)]


def _header(k: int, position: np.ndarray[Any, Any], axes: np.ndarray[Any, Any], **changes: Any) -> Header:
    # DS holds 16 characters: positions come with a few decimals
    frame = Frame(tuple(np.round(position, 4).tolist()), tuple(np.round(axes[:2].ravel(), 6).tolist()), (1.0, 1.0))
    values: dict[str, Any] = {
        "rows": 256,
        "columns": 256,
        "instance_number": k + 1,
        "has_pixels": True,
        "modality": "MR",
        "frames": (frame,),
    }
    return Header("1.2.840.10008.5.1.4.1.1.4", f"1.2.{k + 1}", "1.3", "1.4", "1.2.840.10008.1.2.1", **values | changes)


@st.composite
def rotations(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Any orthonormal frame of axes, and the six that scanners use most."""
    if draw(st.booleans()):
        order = draw(st.permutations([0, 1, 2]))
        signs = draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
        return np.array([np.eye(3)[axis] * sign for axis, sign in zip(order, signs, strict=True)])
    seed = draw(st.integers(0, 2**32 - 1))
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


stacks = st.fixed_dictionaries(
    {"count": st.integers(4, 60), "spacing": st.floats(0.4, 8.0), "rotation": rotations(), "flip": st.booleans()}
)


@PLAIN
@given(stacks, st.randoms())
def test_a_whole_stack_is_whole_in_any_order_and_orientation(parts: dict[str, Any], random: Any) -> None:
    headers = stack(**parts)
    random.shuffle(headers)
    found = check_geometry(headers)
    assert found.problem is None
    assert found.doubts == ()
    assert found.spacing_mm == pytest.approx(parts["spacing"], abs=1e-3)
    assert found.slices == parts["count"]


@PLAIN
@given(stacks, st.data())
def test_a_missing_inner_slice_is_a_gap_in_its_place(parts: dict[str, Any], data: st.DataObject) -> None:
    headers = stack(**parts)
    missing = data.draw(st.integers(1, parts["count"] - 2))
    del headers[missing]
    problem = check_geometry(headers).problem
    assert problem is not None
    if parts["count"] > 5:
        first = missing if not parts["flip"] else parts["count"] - 1 - missing
        assert problem.startswith(f"gap after slice {first}: ")


@PLAIN
@given(stacks, st.data())
def test_two_slices_at_one_place_are_told(parts: dict[str, Any], data: st.DataObject) -> None:
    headers = stack(**parts)
    twice = data.draw(st.integers(0, parts["count"] - 1))
    headers.append(replace(headers[twice], sop_instance_uid="1.2.999"))
    assert check_geometry(headers).problem is not None
    assert str(check_geometry(headers).problem).startswith("two slices at one place")


@PLAIN
@given(stacks, st.data())
def test_a_missing_end_slice_cannot_be_told_by_geometry(parts: dict[str, Any], data: st.DataObject) -> None:
    headers = stack(**parts)
    del headers[data.draw(st.sampled_from([0, -1]))]
    assert check_geometry(headers).problem is None


@PLAIN
@given(stacks, st.floats(0.2, 3.0))
def test_a_slice_off_its_place_is_told(parts: dict[str, Any], tilt: float) -> None:
    headers = stack(**parts)
    (frame,) = headers[2].frames
    assert frame.orientation_lps is not None
    turned = np.array(frame.orientation_lps) + tilt * np.array([0.1, 0.2, 0.3, -0.1, 0.2, -0.3])
    headers[2] = replace(headers[2], frames=(replace(frame, orientation_lps=tuple(turned.tolist())),))
    assert check_geometry(headers).problem is not None


def test_the_words_of_the_contract() -> None:
    headers = stack(176)
    del headers[83:85]
    assert check_geometry(headers).problem == "gap after slice 83: 3.0 mm, expected 1.0 mm"


def test_every_second_slice_is_uniform_but_not_what_was_declared() -> None:
    headers = stack(40, spacing_between_slices_mm=1.0)[::2]
    assert check_geometry(headers).problem == "gap after slice 1: 2.0 mm, expected 1.0 mm"


def test_every_second_slice_without_a_declaration_is_doubted() -> None:
    assert check_geometry(stack(40)[::2]).doubts == ("instance-numbers: 1 to 39, 20 came",)
    doubts = check_geometry(stack(40, acquisition_type="3D", slice_thickness_mm=1.0, instance_number=None)[::2]).doubts
    assert doubts == ("sparse-3d: slices of 1.0 mm every 2.0 mm in a 3D acquisition",)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rows": 128}, "slices of 2 sizes: 256 × 256 and 256 × 128"),
        ({"number_of_frames": 3}, "3 frames announced, positions for 1"),
        ({"frames": (Frame(),)}, "a slice without position, orientation or pixel spacing"),
        ({"frames": (Frame((10.0, -20.0, 33.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (2.0, 2.0)),)}, "slices of more than one pixel spacing"),
        (
            {"frames": (Frame((10.0, -20.0, 33.0), (1.0, 0.0, 0.0, 1.0, 0.0, 0.0), (1.0, 1.0)),)},
            "direction cosines that are no right angle",
        ),
        (
            {"frames": (Frame((14.0, -20.0, 33.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0)),)},
            "slice 4 lies 4.0 mm to the side of the first",
        ),
    ],
)
def test_one_slice_that_does_not_fit(changes: dict[str, Any], problem: str) -> None:
    headers = stack(12)
    headers[3] = replace(headers[3], **changes)
    assert check_geometry(headers).problem == problem


def test_one_slice_is_no_volume() -> None:
    assert check_geometry(stack(1)).problem == "one slice is no volume"


def test_the_frames_of_one_enhanced_object_are_slices_too() -> None:
    frames = tuple(frame for header in stack(24) for frame in header.frames)
    (first, *_) = stack(1)
    whole = replace(first, number_of_frames=24, frames=frames[::-1])
    assert check_geometry([whole]).slices == 24
    assert check_geometry([whole]).problem is None
    assert check_geometry([replace(whole, frames=frames[:10] + frames[11:], number_of_frames=23)]).problem is not None
