"""A mask's plane as closed polygons along its pixels' edges, and polygons as a mask again.

Edges and not an iso-contour: a polygon along edges encloses the area of its pixels, a lone one's too, and every pixel's centre lies half
a pixel inside or outside of it, out of reach of rounding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

HoleMethod = Literal["keyhole", "xor"]
Mask = npt.NDArray[np.bool_]
Polygon = npt.NDArray[np.float64]

# 35 characters a point at most, in the 65,534 bytes that a value of Explicit VR Little Endian can have (PS3.3 C.8.8.6, Contour Data)
MOST_POINTS = 1800
# Pixels. Parts that touch at a corner and the two sides of a keyhole's cut lie apart, so that polygons are simple, and readers that
# round to whole pixels (OpenCV's) round to those of the mask; a lone pixel's area shrinks by 0.8 %.
_INSET = 0.002
# along +a, +b, -a, -b; the mask is on the left hand of every edge
_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
_NONE = -1


def trace(plane: Mask, holes: HoleMethod = "keyhole") -> list[Polygon]:
    """Draw a plane of a mask as closed polygons; pixels that touch only at a corner are apart, islands in holes are polygons of their own.

    Parameters
    ----------
    plane : shape (i, j)
    holes : "keyhole" leads a narrow cut along pixel edges from a hole to what lies left of it, so that a connected part is one polygon;
        "xor" gives holes as polygons of their own

    Returns
    -------
    float64, shape (n, 2) each, without repeating the first point; pixel coordinates (i, j), centres at whole numbers. Polygons of the
    mask run from +i to +j, holes the other way. None is longer than `MOST_POINTS`: a plane with longer ones is drawn in halves.

    References
    ----------
    PS3.3 C.8.8.6.3 (inner and outer contours)
    """
    polygons = _Edges(plane).polygons(keyholes=holes == "keyhole")
    if all(len(polygon) <= MOST_POINTS for polygon in polygons):
        return polygons
    axis = int(np.argmax(plane.shape))
    middle = plane.shape[axis] // 2
    first, second = np.split(plane, [middle], axis=axis)
    offset = np.where(np.arange(2) == axis, middle, 0)
    return trace(first, holes) + [polygon + offset for polygon in trace(second, holes)]


def is_hole(polygon: Polygon) -> bool:
    """Tell by its direction whether a polygon of `trace` goes around background."""
    i, j = polygon.T
    return bool(np.sum(i * (np.roll(j, -1) - np.roll(j, 1))) < 0)


def fill(polygons: list[Polygon], shape: tuple[int, int]) -> Mask:
    """Give the pixels whose centre the polygons surround an odd number of times: right for keyholes, XOR and parts that are apart.

    Parameters
    ----------
    polygons : pixel coordinates as of `trace`, any direction; what lies outside of `shape` is left out
    """
    crossings = np.zeros((shape[0] + 1, shape[1]), np.int32)
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        low = np.ceil(np.clip(np.minimum(start[:, 1], end[:, 1]), 0, shape[1])).astype(np.intp)
        high = np.ceil(np.clip(np.maximum(start[:, 1], end[:, 1]), 0, shape[1])).astype(np.intp)
        edge = np.repeat(np.arange(len(polygon)), high - low)
        j = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[edge]
        (i0, j0), (i1, j1) = start[edge].T, end[edge].T
        crossing = i0 + (j - j0) * (i1 - i0) / (j1 - j0)
        np.add.at(crossings, (np.clip(np.floor(crossing) + 1, 0, shape[0]).astype(np.intp), j), 1)
    return np.asarray(np.cumsum(crossings[:-1], axis=0) % 2, np.bool_)


class _Edges:
    """The directed pixel edges between a mask and its background, each knowing the one that follows it.

    Corner (a, b) is the lower corner of pixel (a, b).
    """

    def __init__(self, plane: Mask) -> None:
        padded = np.pad(plane.astype(np.bool_), 1)
        before_both, before_i, before_j, here = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
        self._two_right = before_j & here
        leaving = np.stack([here & ~before_j, before_i & ~here, before_both & ~before_i, before_j & ~before_both])
        direction, a, b = np.nonzero(leaving)
        self._number = np.full(leaving.shape, _NONE)
        self._number[direction, a, b] = np.arange(len(a))
        self._corner = np.stack([a, b], axis=1)
        self._next = self._followers(direction)
        self._area = self._corner[:, 0] * _STEPS[direction, 1]  # under each edge: a ring's sum is negative around a hole

    def _followers(self, direction: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Turn left where there is a choice: around the pixel that the edge belongs to, so that corners do not connect."""
        a, b = (self._corner + _STEPS[direction]).T
        left, straight, right = (self._number[(direction + turn) % 4, a, b] for turn in (1, 0, 3))
        return np.asarray(np.where(left != _NONE, left, np.where(straight != _NONE, straight, right)))

    def polygons(self, *, keyholes: bool) -> list[Polygon]:
        following = self._next.tolist()
        rings = _rings(following)
        if keyholes:
            area = self._area.tolist()
            holes = [ring for ring in rings if sum(area[edge] for edge in ring) < 0]
            if holes:
                rings = _rings(self._splice(holes, following))
        turns, points = _draw_in(self._corner, following)
        return [points[ring][turns[ring]] for ring in rings]

    def _splice(self, holes: list[list[int]], following: list[int]) -> list[int]:
        """Join each hole to the ring it meets on the way left: that ring reaches further left, so no two are joined twice."""
        previous = np.argsort(self._next).tolist()
        corner = self._corner.tolist()
        for ring in holes:
            entry = min(ring, key=corner.__getitem__)
            a, b = corner[entry]
            a -= 1
            while a > 0 and self._two_right[a - 1, b]:  # both pixels left of the corner are in the mask: the way goes on between them
                a -= 1
            leave = int(self._number[:, a, b].max())
            outward, back = len(following), len(following) + 1
            corner += [[a, b], corner[entry]]
            following[previous[leave]], following[previous[entry]] = outward, back
            following += [entry, leave]
            previous += [previous[leave], previous[entry]]
            previous[leave], previous[entry] = back, outward
        self._corner = np.array(corner)
        return following


def _rings(following: list[int]) -> list[list[int]]:
    seen = bytearray(len(following))
    rings = []
    for first in range(len(following)):
        if seen[first]:
            continue
        ring = []
        at = first
        while not seen[at]:
            seen[at] = 1
            ring.append(at)
            at = following[at]
        rings.append(ring)
    return rings


def _draw_in(corner: npt.NDArray[np.intp], following: list[int]) -> tuple[Mask, Polygon]:
    """Tell where the way turns, and give pixel coordinates of the corners, drawn in to the side of the mask."""
    after = np.array(following, np.intp)
    leaving = np.sign(corner[after] - corner)
    arriving = np.empty_like(leaving)
    arriving[after] = leaving
    inwards = (arriving + leaving)[:, ::-1] * (-1, 1)
    return np.asarray((arriving != leaving).any(axis=1)), np.asarray(corner - 0.5 + _INSET * inwards)
