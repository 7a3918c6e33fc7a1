"""A lesion ends at half of its contrast, wherever the threshold drew it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from model.edges import Edges, edges_of, reach
from model.postprocess import LESION, TUMOUR_LIKE, classify, masks
from model.preprocess import Inputs
from model.release import Card
from model.volume import Volume

SHAPE = (48, 40, 40)
NOTHING = np.zeros(SHAPE, bool)


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) < radius**2


def scan_of(*lesions: tuple[np.ndarray, float]) -> np.ndarray:
    """Tissue of 100, lesions that much brighter, seen through a blur, with noise."""
    image = np.full(SHAPE, 100.0)
    for mask, contrast in lesions:
        image[mask] += contrast
    noise = np.random.default_rng(1).normal(0, 2, SHAPE)
    return (ndimage.gaussian_filter(image, 1.0) + noise).astype(np.float32)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("grown", [1, 2, 3])
def test_the_edge_does_not_move_with_the_threshold(grown: int) -> None:
    bright, faint = ball((14, 20, 20), 7), ball((34, 20, 20), 5)
    image = scan_of((bright, 80), (faint, 30))
    drawn = ndimage.binary_dilation(bright | faint, iterations=grown)
    assert dice(drawn, bright | faint) < 0.85
    trimmed = Edges(image, ~NOTHING, 0.5, (4, 4, 4)).trim(drawn, NOTHING)
    for lesion, part in ((bright, np.s_[:25]), (faint, np.s_[25:])):
        assert dice(trimmed[part], lesion[part]) > 0.93
    assert not (trimmed & ~drawn).any()


def test_a_share_of_nothing_trims_nothing_and_a_larger_one_more() -> None:
    lesion = ball((24, 20, 20), 8)
    image, drawn = scan_of((lesion, 60)), ndimage.binary_dilation(lesion, iterations=2)
    sizes = [int(Edges(image, ~NOTHING, share, (4, 4, 4)).trim(drawn, NOTHING).sum()) for share in (0.0, 0.3, 0.5, 0.8)]
    assert sizes[0] == drawn.sum() and sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4


def test_other_disease_and_what_lies_outside_the_brain_are_no_surroundings() -> None:
    lesion, rest = ball((24, 20, 20), 5), ~ball((24, 20, 20), 8)
    image = scan_of((lesion, 60))
    image[rest] = 400.0
    drawn = ndimage.binary_dilation(lesion, iterations=1)
    for edges, other in ((Edges(image, ~rest, 0.5, (4, 4, 4)), NOTHING), (Edges(image, ~NOTHING, 0.5, (4, 4, 4)), rest)):
        assert dice(edges.trim(drawn, other), lesion) > 0.95
    assert not Edges(image, ~NOTHING, 0.5, (4, 4, 4)).trim(drawn, NOTHING).any()  # what it would be without


def test_without_surroundings_a_lesion_stays_as_it_was() -> None:
    lesion = ball((24, 20, 20), 6)
    assert np.array_equal(Edges(scan_of((lesion, 60)), lesion, 0.5, (4, 4, 4)).trim(lesion, NOTHING), lesion)


def test_thick_slices_are_looked_beyond_by_one() -> None:
    scan = Volume(np.zeros((4, 4, 4), np.float32), np.diag([0.5, 0.9, 5.0, 1.0]))
    assert reach(scan) == (8, 4, 1)


def test_a_trimmed_lesion_is_still_asked_for_its_size_and_its_peak() -> None:
    lesion = ball((24, 20, 20), 6)
    drawn, edges = ndimage.binary_dilation(lesion, iterations=2), Edges(scan_of((lesion, 60)), ~NOTHING, 0.5, (4, 4, 4))
    kept = classify(drawn, NOTHING, 5, 0.5, peaks=lesion, edges=edges) == LESION
    assert dice(kept, lesion) > 0.93
    assert not classify(drawn, NOTHING, float(kept.sum() + 1), 0.5, peaks=lesion, edges=edges).any()
    assert not classify(drawn, NOTHING, 5, 0.5, peaks=drawn & ~ndimage.binary_dilation(lesion), edges=edges).any()


def test_tumour_is_not_trimmed() -> None:
    lesion, tumour = ball((12, 20, 20), 5), ball((34, 20, 20), 9)
    edges = Edges(scan_of((lesion, 60), (tumour, 20)), ~NOTHING, 0.5, (4, 4, 4))
    drawn = ndimage.binary_dilation(tumour)
    assert np.array_equal(classify(lesion, drawn, 5, 0.5, edges=edges) == TUMOUR_LIKE, drawn)


def test_the_window_that_is_served_makes_no_difference(card: Card) -> None:
    lesion = ball((24, 20, 20), 5)
    scan = Volume(scan_of((lesion, 60)), np.eye(4))
    card = card.model_copy(update={"lesion": card.lesion.model_copy(update={"edge_fraction": 0.5, "peak_threshold": 0.0})})
    drawn = ndimage.binary_dilation(lesion, iterations=2)
    fields = np.stack([drawn * np.float32(0.99), np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)])
    found = masks(fields, Inputs(np.zeros((1, 1, *SHAPE), np.float32), np.eye(4), ~NOTHING, scan, ()), card)
    whole = np.s_[:, :, :]
    assert np.array_equal(found.labels, classify(drawn, NOTHING, 1, 0.5, edges=edges_of(scan, whole, found.brain, 0.5)))
    assert dice(found.labels == LESION, lesion) > 0.93
