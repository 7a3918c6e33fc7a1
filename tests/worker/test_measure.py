"""Lesions are numbered, counted and measured once, and alike wherever the scan comes from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from model.postprocess import LESION, TUMOUR_LIKE, Masks
from model.release import Architecture, Card, EngineLimits, InputPreparation, LesionDefinition
from model.volume import Volume
from service.errors import Rejected
from worker.measure import brain_flags, demand_brain, label_image, measure

SHAPE = (40, 50, 30)
# axis i to the patient's left, j to posterior, k up; 1 × 1 × 2 mm
AFFINE = np.array([[-1.0, 0, 0, 20], [0, -1.0, 0, 25], [0, 0, 2.0, -30], [0, 0, 0, 1]])
CARD = Card(
    name="test",
    version="0.0.1",
    summary="",
    architecture=Architecture(widths=(4, 8)),
    input=InputPreparation(shapes=((32, 32, 32),)),
    lesion=LesionDefinition(threshold=0.5, tumour_threshold=0.5, brain_threshold=0.5, smallest_mm3=0.0, tumour_touch_fraction=0.5),
    engine=EngineLimits(largest_probability_difference=1, mean_probability_difference=1, bytes_per_voxel=1),
    weights="none",
    sha256="",
    training={},
    figures={},
    intended_use="",
    limits=(),
)


def scan(*boxes, brain=True):
    labels = np.zeros(SHAPE, np.uint8)
    for (i, j, k), (di, dj, dk), value in boxes:
        labels[i : i + di, j : j + dj, k : k + dk] = value
    inside = np.zeros(SHAPE, bool)
    inside[5:36, 5:45, 3:27] = brain
    return Masks(labels, inside, labels.astype(np.float32)), Volume(np.zeros(SHAPE, np.float32), AFFINE)


def test_a_volume_is_rounded_once_so_that_every_output_says_the_same():
    masks, volume = scan(((10, 20, 10), (1, 1, 1), LESION), ((25, 10, 10), (1, 1, 1), TUMOUR_LIKE))
    stretched = AFFINE.copy()
    stretched[0, 0] = -634.996 / 2  # a voxel of 0.634996 ml: 0.63, but 0.64 where it was rounded to 0.635 before
    findings = measure(masks, replace(volume, affine_ras=stretched), CARD)
    alone = (findings.lesions[0].volume_ml, findings.tumour_like[0].volume_ml, findings.lesion_volume_ml, findings.tumour_like_volume_ml)
    assert alone == (0.635,) * 4 and findings.largest_lesion_ml == 0.635 and findings.total_hyperintensity_ml == 1.27
    assert {f"{value:.2f}" for value in alone} == {"0.64"}


def test_counts_volumes_sides_and_order():
    findings = measure(
        *scan(
            ((10, 20, 10), (2, 2, 2), LESION),
            ((28, 30, 20), (3, 3, 3), LESION),
            ((10, 30, 5), (1, 1, 1), LESION),
            ((25, 10, 10), (4, 4, 4), TUMOUR_LIKE),
        ),
        CARD,
    )
    assert [lesion.number for lesion in findings.lesions] == [1, 2, 3]
    np.testing.assert_allclose([lesion.volume_ml for lesion in findings.lesions], [0.054, 0.016, 0.002])
    assert [lesion.side for lesion in findings.lesions] == ["left", "right", "right"]
    assert findings.lesions[1].centroid_ijk == (10.5, 20.5, 10.5)
    np.testing.assert_allclose(findings.lesions[1].centroid_ras, (9.5, 4.5, -9.0))
    assert findings.lesion_count == 3
    assert findings.lesion_volume_ml == pytest.approx(0.072)
    assert findings.largest_lesion_ml == pytest.approx(0.054)
    assert findings.tumour_like_volume_ml == pytest.approx(0.128)
    assert [lesion.kind for lesion in findings.tumour_like] == ["tumour-like"]
    assert findings.total_hyperintensity_ml == pytest.approx(0.2)
    assert findings.brain_volume_ml == pytest.approx(31 * 40 * 24 * 0.002)
    assert findings.lesion_share_of_brain_percent == pytest.approx(100 * 0.072 / findings.brain_volume_ml)
    assert not findings.touches_edge


def test_corners_touch():
    masks, volume = scan(((10, 20, 10), (2, 2, 2), LESION), ((12, 22, 12), (2, 2, 2), LESION))
    assert measure(masks, volume, CARD).lesion_count == 1


def test_midline_is_where_the_brain_says():
    findings = measure(
        *scan(
            ((19, 20, 10), (2, 2, 2), LESION),  # centroid on the plane
            ((12, 30, 10), (13, 2, 2), LESION),  # reaches over it on both sides
            ((21, 40, 10), (9, 2, 2), LESION),  # begins at it, lies left of it
        ),
        CARD,
    )
    by_volume = {round(lesion.volume_ml, 3): lesion.side for lesion in findings.lesions}
    assert by_volume == {0.016: "midline", 0.104: "midline", 0.072: "left"}


def test_a_lesion_at_the_border_of_the_field_of_view_is_flagged():
    findings = measure(*scan(((10, 20, 28), (2, 2, 2), LESION), ((10, 20, 10), (2, 2, 2), LESION)), CARD)
    assert [lesion.touches_edge for lesion in findings.lesions] == [False, True]
    assert findings.touches_edge


def test_nothing_found_is_a_result():
    findings = measure(*scan(), CARD)
    assert (findings.lesions, findings.lesion_count, findings.lesion_volume_ml, findings.largest_lesion_ml) == ((), 0, 0.0, 0.0)
    assert findings.lesion_share_of_brain_percent == 0.0
    assert measure(*scan(brain=False), CARD).lesion_share_of_brain_percent is None


def test_findings_are_plain_json():
    findings = measure(*scan(((10, 20, 10), (2, 2, 2), LESION)), CARD)
    back = json.loads(json.dumps(findings.as_dict()))
    assert back["lesions"][0]["centroid_ijk"] == [10.5, 20.5, 10.5]
    assert back["lesion_count"] == 1


def test_a_brain_cut_by_the_stack_is_flagged():
    masks, volume = scan()
    usual = replace(measure(masks, volume, CARD), brain_volume_ml=1300.0)
    assert brain_flags(masks, usual) == ()
    cut = Masks(masks.labels[:, :, :20], masks.brain[:, :, :20], masks.lesion_probability[:, :, :20])
    assert brain_flags(cut, usual) == ("coverage: the brain is cut at the last slice",)
    small = replace(usual, brain_volume_ml=240.4)
    assert brain_flags(masks, small) == ("brain-volume: 240 ml were taken for brain, 750 to 2000 ml are usual",)


def test_no_brain_is_no_healthy_brain():
    masks, _ = scan()
    demand_brain(masks)
    with pytest.raises(Rejected, match="no brain found"):
        demand_brain(Masks(masks.labels, np.zeros(SHAPE, bool), masks.lesion_probability))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.0, 0.3), order=st.sampled_from("CF"))
def test_label_image_is_the_26_connected_components_largest_first(seed, share, order):
    labels = (np.random.default_rng(seed).random((9, 7, 8)) < share).astype(np.uint8, order=order)
    numbered = label_image(labels)
    plain, count = ndimage.label(labels, np.ones((3, 3, 3)))
    assert numbered.max(initial=0) == count
    pairs = set(zip(plain.ravel().tolist(), numbered.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    sizes = np.bincount(numbered.ravel())[1:]
    assert np.all(np.diff(sizes) <= 0)
    first = [int(np.flatnonzero(numbered.ravel() == number)[0]) for number in range(1, count + 1)]
    assert all(first[n] < first[n + 1] for n in range(count - 1) if sizes[n] == sizes[n + 1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), axes=st.permutations(range(3)), flips=st.tuples(*[st.booleans()] * 3))
def test_findings_do_not_depend_on_how_the_grid_is_stored(seed, axes, flips):
    labels = (ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2) > 0.12).astype(np.uint8)
    masks, volume = scan()
    here = measure(Masks(labels, masks.brain, masks.lesion_probability), volume, CARD)
    turn = np.eye(4)[:, [*axes, 3]]
    turn[:3, 3] = [SHAPE[axis] - 1 if flips[axis] else 0 for axis in range(3)]
    turn[:3, :3] *= np.where(flips, -1, 1)[:, None]
    step = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    stored = [np.ascontiguousarray(field[step].transpose(axes)) for field in (labels, masks.brain)]
    there = measure(Masks(*stored, stored[0]), Volume(stored[0], AFFINE @ turn), CARD)
    assert there.lesion_volume_ml == pytest.approx(here.lesion_volume_ml)
    places = [
        sorted((round(l.volume_ml, 6), *np.round(l.centroid_ras, 6), l.side, l.touches_edge) for l in f.lesions) for f in (here, there)
    ]
    assert places[0] == places[1]
