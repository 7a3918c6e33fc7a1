"""From probabilities on the network's grid to masks on the grid of the scan, by the release card's one definition of a lesion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from model.edges import EVERY_NEIGHBOUR, Edges, Mask, Window, edges_of, reach, widen
from model.preprocess import Inputs
from model.release import Card
from model.volume import Affine, Floats, Volume, resample

Labels = npt.NDArray[np.uint8]

BACKGROUND, LESION, TUMOUR_LIKE = 0, 1, 2
NEGLIGIBLE = 0.005  # probabilities below this are not carried to the scan's grid


@dataclass(frozen=True, eq=False)
class Masks:
    """What was found, all on the grid of the scan.

    Attributes
    ----------
    labels : uint8; 0 background, 1 lesion (white-matter hyper-intensity), 2 tumour-like hyper-intensity
    brain : bool
    lesion_probability : float32
    """

    labels: Labels
    brain: Mask
    lesion_probability: Floats


def masks(probability: Floats, inputs: Inputs, card: Card) -> Masks:
    """Carry probabilities to the scan's grid (linear), then threshold there and apply the lesion definition.

    Parameters
    ----------
    probability : shape (3, i, j, k) on the grid of `inputs`: lesion, tumour, brain
    """
    definition = card.lesion
    # around a brain-extracted scan there is nothing: what the brain head says of the background, it guesses
    seen = np.where(inputs.head, probability[2], np.float32(0)) if inputs.stripped else probability[2]
    whole = _one_brain(seen, definition.brain_threshold)
    brain = _to_source(whole, inputs) > definition.brain_threshold
    lesion_probability = _to_source(probability[0], inputs)
    lesion = (lesion_probability > definition.threshold) & brain
    peaks = lesion_probability > definition.peak_threshold
    tumour = (_to_source(probability[1], inputs) > definition.tumour_threshold) & brain
    labels = np.zeros(brain.shape, np.uint8)
    found = _window(lesion | tumour)
    if found is not None:
        window = widen(found, reach(inputs.source))
        smallest, smallest_tumour = (
            mm3 / (1000 * inputs.source.voxel_ml) for mm3 in (definition.smallest_mm3, definition.smallest_tumour_mm3)
        )
        touch = definition.tumour_touch_fraction
        edges = edges_of(inputs.source, window, brain, definition.edge_fraction)
        labels[window] = classify(lesion[window], tumour[window], smallest, touch, smallest_tumour, peaks[window], edges)
    return Masks(labels, brain, lesion_probability)


def classify(
    lesion: Mask,
    tumour: Mask,
    smallest_voxels: float,
    touch_fraction: float,
    smallest_tumour_voxels: float = 0.0,
    peaks: Mask | None = None,
    edges: Edges | None = None,
) -> Labels:
    """Lesions apart from hyper-intensity that is taken for tumour, or belongs to it.

    A connected lesion is tumour-like as a whole when at least `touch_fraction` of its voxels, and at least one, lie in the
    tumour class or next to it. Lesions are trimmed to their `edges`. What is then under `smallest_voxels` is dropped in either class,
    and so are lesions without a voxel of `peaks`.
    A component of the tumour class under `smallest_tumour_voxels` is as if it were not there: what of it is lesion stays lesion.
    """
    tumour = drop_small(tumour, max(smallest_voxels, smallest_tumour_voxels))
    near = ndimage.binary_dilation(tumour, EVERY_NEIGHBOUR) if tumour.any() else tumour
    components, count = ndimage.label(lesion, EVERY_NEIGHBOUR)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    touching = np.bincount(components[near].ravel(), minlength=count + 1)
    taken = (touching > 0) & (touching >= touch_fraction * sizes)
    taken[0] = False
    tumour_like = tumour | taken[components]
    labels = np.zeros(lesion.shape, np.uint8)
    white = lesion & ~tumour_like
    labels[drop_small(white if edges is None else edges.trim(white, tumour_like), smallest_voxels, peaks)] = LESION
    labels[drop_small(tumour_like, smallest_voxels)] = TUMOUR_LIKE
    return labels


def drop_small(mask: Mask, smallest_voxels: float, peaks: Mask | None = None) -> Mask:
    """Without the 26-connected components of fewer voxels, or without one of `peaks`."""
    components, count = ndimage.label(mask, EVERY_NEIGHBOUR)
    keep = np.bincount(components.ravel(), minlength=count + 1) >= smallest_voxels
    if peaks is not None:
        keep &= np.bincount(components[peaks], minlength=count + 1) > 0
    keep[0] = False
    return np.asarray(keep[components], bool)


def _one_brain(probability: Floats, threshold: float) -> Floats:
    """Only the largest component over the threshold, its holes filled with 1."""
    components, count = ndimage.label(probability > threshold)
    if count == 0:
        return np.zeros_like(probability)
    brain = components == 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    outside, _ = ndimage.label(np.pad(~brain, 1, constant_values=True))
    holes = (outside != outside[0, 0, 0])[1:-1, 1:-1, 1:-1] & ~brain
    # other components go; the soft edge just under the threshold stays, the resampling needs it
    edge = np.where((components > 0) & ~brain, 0, probability)
    edge[holes] = 1
    return np.asarray(edge, np.float32)


def _to_source(field: Floats, inputs: Inputs) -> Floats:
    """Linear resampling to the scan's grid, done only where the field is not negligible."""
    source = inputs.source
    out = np.zeros(source.shape, np.float32)
    window = _window(field > NEGLIGIBLE)
    if window is None:
        return out
    here = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in window)
    affine = _corner(inputs.affine_ras, [s.start for s in here])
    part = Volume(field[here[0], here[1], here[2]], affine)
    there = _covered(part, source)
    if there is not None:
        shape = tuple(s.stop - s.start for s in there)
        corner = _corner(source.affine_ras, [s.start for s in there])
        out[there] = resample(part, corner, (shape[0], shape[1], shape[2]), "linear")
    return out


def _corner(affine: Affine, start: list[int]) -> Affine:
    """The affine of a grid that begins at voxel `start`."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    return moved


def _covered(part: Volume, source: Volume) -> Window | None:
    """The window of the source grid that may hold something of `part`."""
    to_source = np.linalg.inv(source.affine_ras) @ part.affine_ras
    reach = [(-1.0, float(n)) for n in part.shape]
    corners = np.asarray([[a, b, c, 1.0] for a in reach[0] for b in reach[1] for c in reach[2]]) @ to_source.T
    low = np.maximum(0, np.floor(corners[:, :3].min(axis=0))).astype(int)
    high = np.minimum(source.shape, np.ceil(corners[:, :3].max(axis=0)) + 1).astype(int)
    if np.any(high <= low):
        return None
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _window(mask: Mask) -> Window | None:
    """Bounding box of what is set."""
    slices = []
    for axis in range(3):
        where = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not where.size:
            return None
        slices.append(slice(int(where[0]), int(where[-1]) + 1))
    return slices[0], slices[1], slices[2]
