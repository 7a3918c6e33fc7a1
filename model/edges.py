"""Where a lesion ends: half way between what surrounds it and what is bright in it.

A network's threshold draws the outline where its training said so, and moves with every training and every scanner; the half maximum is
where the edge of a blurred thing lies, whoever looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.volume import Floats, Volume

Mask = npt.NDArray[np.bool_]
Window = tuple[slice, slice, slice]

EVERY_NEIGHBOUR = np.ones((3, 3, 3), bool)  # 26-connectivity
SURROUNDINGS_MM = 4.0
FEWEST_AROUND = 10
BRIGHT = 90.0


@dataclass(frozen=True, eq=False)
class Edges:
    """What is needed to say where a lesion ends; all of one shape (i, j, k).

    Attributes
    ----------
    image : the scan, any unit
    brain : what surrounds a lesion is looked for in it
    fraction : of the way from the median of what surrounds a lesion to its 90th percentile; darker voxels are none of it. 0: no trimming
    reach : voxels along i, j, k that count as surroundings
    """

    image: Floats
    brain: Mask
    fraction: float
    reach: tuple[int, int, int]

    def trim(self, lesions: Mask, other: Mask) -> Mask:
        """Each 26-connected lesion without its voxels under the edge.

        Parameters
        ----------
        other : disease of another kind, which is no surroundings
        """
        if self.fraction == 0.0 or not lesions.any():
            return lesions
        healthy = self.brain & ~other & ~ndimage.binary_dilation(lesions, EVERY_NEIGHBOUR)
        components, _ = ndimage.label(lesions, EVERY_NEIGHBOUR)
        kept = np.zeros(lesions.shape, bool)
        for number, box in enumerate(ndimage.find_objects(components), 1):
            near = widen(box, self.reach)
            kept[near] |= self._trim_one(components[near] == number, self.image[near], healthy[near])
        return kept

    def _trim_one(self, lesion: Mask, image: Floats, healthy: Mask) -> Mask:
        around = ndimage.maximum_filter(lesion, [2 * n + 1 for n in self.reach]) & healthy
        if np.count_nonzero(around) < FEWEST_AROUND:
            return lesion
        tissue, bright = float(np.median(image[around])), float(np.percentile(image[lesion], BRIGHT))
        return np.asarray(lesion & (image >= tissue + self.fraction * (bright - tissue)))


def edges_of(scan: Volume, window: Window, brain: Mask, fraction: float) -> Edges:
    """The edges in a window of a scan. `brain` is on the scan's grid."""
    return Edges(np.asarray(scan.data[window], np.float32), brain[window], fraction, reach(scan))


def widen(box: Window, voxels: tuple[int, int, int]) -> Window:
    """A box and so many voxels around it, none before the first."""
    i, j, k = (slice(max(0, s.start - n), s.stop + n) for s, n in zip(box, voxels, strict=True))
    return i, j, k


def reach(scan: Volume) -> tuple[int, int, int]:
    """Voxels along i, j, k to look at around a lesion: `SURROUNDINGS_MM`, and one at least."""
    i, j, k = (max(1, round(SURROUNDINGS_MM / mm)) for mm in scan.spacing_mm)
    return i, j, k
