"""Planes of a mask to polygons and back: holes, islands, lone pixels and corners."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.worker.encode.rasterising import encloses
from worker.encode.contours import fill, is_hole, trace

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "150"))
LONE = ["...", ".#.", "..."]
DIAGONAL = ["#.", ".#"]
RING_CLOSED_BY_A_CORNER = [".##", "#.#", "##."]
ISLAND_IN_A_HOLE = ["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"]
TWO_HOLES_ON_ONE_LINE = ["#######", "#.#.#.#", "#######"]
HOLE_LEFT_OF_A_HOLE = ["######", "#.####", "#.##.#", "######"]
EVERYTHING = ["###", "###"]
CHECKERED = ["#.#.#", ".#.#.", "#.#.#"]
SHAPES = [LONE, DIAGONAL, RING_CLOSED_BY_A_CORNER, ISLAND_IN_A_HOLE, TWO_HOLES_ON_ONE_LINE, HOLE_LEFT_OF_A_HOLE, EVERYTHING, CHECKERED]


def plane_of(drawing):
    return np.array([[letter == "#" for letter in line] for line in drawing])


@st.composite
def planes(draw):
    shape = draw(st.tuples(st.integers(1, 17), st.integers(1, 17)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    noise = rng.random(shape)
    if draw(st.booleans()):  # blobs with holes and islands rather than dust
        noise = ndimage.gaussian_filter(noise, draw(st.floats(0.3, 1.5)), mode="wrap")
    return noise > np.quantile(noise, draw(st.floats(0, 1)))


def places(shape):
    return np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1).astype(float)


def area(polygon):
    i, j = polygon.T
    return 0.5 * float(np.sum(i * np.roll(j, -1) - j * np.roll(i, -1)))


def comes_back(plane, holes):
    polygons = trace(plane, holes)
    seen = np.zeros(plane.shape, bool)
    for polygon in polygons:
        seen ^= encloses(polygon, places(plane.shape))
        assert len(polygon) >= 4
        assert len(np.unique(polygon, axis=0)) == len(polygon), "a polygon touches itself"
    assert np.array_equal(seen, plane)
    assert np.array_equal(fill(polygons, plane.shape), plane)
    enclosed = sum(map(area, polygons))
    assert 0.99 * plane.sum() - 1e-9 <= enclosed <= plane.sum(), "the area is that of the pixels"
    parts = ndimage.label(plane)[1]  # pixels that touch at a corner are apart
    outlines = [polygon for polygon in polygons if not is_hole(polygon)]
    assert len(outlines) == parts
    assert holes == "xor" or len(polygons) == parts


@pytest.mark.parametrize("holes", ["keyhole", "xor"])
@pytest.mark.parametrize("drawing", SHAPES, ids=" ".join)
def test_what_is_hard_comes_back(drawing, holes):
    comes_back(plane_of(drawing), holes)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(plane=planes(), holes=st.sampled_from(["keyhole", "xor"]))
def test_any_plane_comes_back(plane, holes):
    comes_back(plane, holes)


def test_a_hole_is_a_cut_or_a_polygon_of_its_own():
    ring = plane_of(ISLAND_IN_A_HOLE)
    assert len(trace(ring, "keyhole")) == 2  # the ring, and the island with a hole in it
    kinds = sorted(map(is_hole, trace(ring, "xor")))
    assert kinds == [False, False, True, True]


def test_polygons_cross_and_touch_nowhere():
    """Shared points or edges make a polygon invalid for many readers: parts at a corner and the sides of a cut lie apart."""
    for drawing in SHAPES:
        for holes in ("keyhole", "xor"):
            edges = [
                (polygon[n - 1], polygon[n], number, n, len(polygon))
                for number, polygon in enumerate(trace(plane_of(drawing), holes))
                for n in range(len(polygon))
            ]
            for first, (a, b, one, n, length) in enumerate(edges):
                for c, d, other, m, _ in edges[first + 1 :]:
                    neighbours = one == other and (abs(n - m) == 1 or {n, m} == {0, length - 1})
                    assert neighbours or not _boxes_meet(a, b, c, d), (drawing, holes)


def _boxes_meet(a, b, c, d):
    """Edges run along the axes: they meet where their boxes do."""
    return bool((np.maximum(np.minimum(a, b), np.minimum(c, d)) <= np.minimum(np.maximum(a, b), np.maximum(c, d))).all())


@pytest.mark.parametrize("holes", ["keyhole", "xor"])
def test_no_polygon_is_too_long_for_a_value(holes):
    """65,534 bytes are the most that explicit VR can say (PS3.5 7.1.2); noise makes outlines that have to be divided."""
    plane = np.random.default_rng(1).random((151, 90)) < 0.7
    polygons = trace(plane, holes)
    assert len(polygons) > 1
    assert 35 * max(map(len, polygons)) <= 65534
    assert np.array_equal(fill(polygons, plane.shape), plane)


def test_fill_takes_slanted_polygons_and_leaves_out_what_lies_outside():
    triangle = np.array([[-3.0, -0.5], [9.0, -0.5], [3.0, 11.0]])
    assert np.array_equal(fill([triangle], (7, 8)), encloses(triangle, places((7, 8))))
